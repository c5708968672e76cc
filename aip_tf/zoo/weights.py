"""Weights for a freshly built network: Keras files, or PyTorch state dictionaries as `.npz`."""

import numpy as np

from aip_tf import files

# PyTorch's names for the variables of a layer, by Keras' names.
_TORCH_NAMES = {
    "kernel": "weight",
    "gamma": "weight",
    "bias": "bias",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def load_weights(model, path):
    """Loads `path` into `model` and returns the model; `path=None` leaves it as built.

    Args:
        model: a Keras model.
        path: `.weights.h5` or `.keras` written by Keras, or an `.npz` that holds a PyTorch state
            dictionary, see `load_state_dict`.

    Raises:
        ValueError: if the file does not exist, has another ending or does not fit the model.
    """
    if path is None:
        return model
    path = files.expand(path)
    if not path.exists():
        raise ValueError(
            f"weights must name an existing file, received '{path}'; "
            "leave weights out (None) to start from random values."
        )
    if path.suffix == ".npz":
        with np.load(path) as state:
            return load_state_dict(model, dict(state))
    if path.suffix not in (".h5", ".keras"):
        raise ValueError(
            f"weights must end in .weights.h5, .keras or .npz, received '{path}'; "
            "a PyTorch .pth becomes .npz by np.savez(file, **{k: v.numpy() for k, v in "
            "state_dict.items()})."
        )
    try:
        model.load_weights(path)
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"the weights in '{path}' do not fit {model.name}: {error}\n"
            "Build the network with the arguments it was saved with."
        ) from error
    return model


def load_state_dict(model, state):
    """Fills `model` from a PyTorch state dictionary; returns the model.

    A layer named `layer1_0_conv1` takes the entries `layer1.0.conv1.*`. Convolutions go from OIHW
    to HWIO, depthwise kernels likewise, Dense kernels are transposed, batch normalisation takes its
    running statistics. A leading `module.` (from DataParallel) is ignored, and so is
    `num_batches_tracked`.

    Args:
        model: a network whose layer names follow the rule above, e.g. any of the zoo's ResNets.
        state: mapping from parameter name to array.

    Raises:
        ValueError: naming what is missing, left over or of another shape. The model is unchanged
            then.
    """
    entries = {
        name.removeprefix("module.").replace(".", "_"): np.asarray(value)
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")
    }
    variables = {
        f"{layer.name}_{_TORCH_NAMES.get(variable.name, variable.name)}": (layer, variable)
        for layer in model.layers
        for variable in layer.weights
    }
    _check_names(model, variables, entries)
    values = {name: _to_keras(entries[name], variable) for name, (_, variable) in variables.items()}
    for name, (_, variable) in variables.items():
        if tuple(variable.shape) != values[name].shape:
            raise ValueError(
                f"'{name}' must have shape {tuple(variable.shape)} in {model.name}, received "
                f"{values[name].shape} (as Keras lays it out); build the network with the widths "
                "and the number of classes of the state dictionary."
            )
    for name, (_, variable) in variables.items():
        variable.assign(values[name])
    return model


def _check_names(model, variables, entries):
    missing = sorted(variables.keys() - entries.keys())
    unused = sorted(entries.keys() - variables.keys())
    if missing or unused:
        raise ValueError(
            f"the state dictionary does not fit {model.name}: it lacks {missing[:5]} "
            f"({len(missing)} in all) and has no use for {unused[:5]} ({len(unused)} in all); "
            "depth and shortcut option must be those it was trained with."
        )


def _to_keras(value, variable):
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)  # OIHW -> HWIO
    return value.T if value.ndim == 2 else value
