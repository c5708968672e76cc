"""What a model is called on while it is traced: its symbolic inputs and their sizes."""

import keras
from keras import tree

from aip_tf import _keras


def root_graph(model, openings, input_shape=None):
    """The `Graph` of a model; a subclassed model is opened.

    Args:
        model: a `keras.Model`.
        openings: `_keras.Openings`.
        input_shape: see `trace`.

    Raises:
        ValueError: if the model cannot be opened, with the reason.
    """
    graph = _keras.graph_inside(model)
    if graph is not None:
        return graph
    if not isinstance(model, keras.Model) or isinstance(model, keras.Sequential):
        return _keras.graph_of(model)  # raises
    inputs = _symbols(model, input_shape)
    if not model.built:
        model(tree.map_structure(lambda x: keras.ops.zeros((1, *x.shape[1:]), x.dtype), inputs))
    try:
        graph = openings.open_model(model, inputs)
    except _keras.CannotOpenError as error:
        raise ValueError(
            f"Received the subclassed model {model.name!r}, which cannot be opened: {error}. "
            "Expected a model whose call gives one graph of layers and operations; put what it "
            "does itself into a layer of its own, or build it with keras.Input and "
            "keras.Model(inputs, outputs)."
        ) from error
    _name_inputs(graph, inputs)
    return graph


def _symbols(model, input_shape):
    """Symbolic inputs of a subclassed model, in the structure in which it takes them."""
    if input_shape is None:
        input_shape = _keras.built_shapes(model)
    if input_shape is None:
        raise ValueError(
            f"Received the subclassed model {model.name!r}, whose input is not known. Expected a "
            "model that was called on data once, or `input_shape=` without the batch size, such "
            "as (224, 224, 3); a list or dict of shapes for several inputs."
        )
    return tree.map_shape_structure(
        lambda shape: keras.KerasTensor((None, *shape), model.compute_dtype), input_shape
    )


def _name_inputs(graph, inputs):
    """Names that are the same in every process: keys of a dict, or numbers."""
    paths = [path for path, _ in tree.flatten_with_path(inputs)]
    for x, path in zip(graph.inputs, paths, strict=True):
        named = [str(part) for part in path if isinstance(part, str)]
        x.name = named[-1] if named else "_".join(["input", *map(str, path)])


def input_shapes(graph, input_shape):
    """A definite shape without batch size for every input of a graph: list of tuples.

    Raises:
        ValueError: if a size is open, or `input_shape` does not fit.
    """
    inputs = graph.inputs
    if input_shape is None:
        shapes = [x.shape[1:] for x in inputs]
    elif isinstance(input_shape, dict):
        shapes = [tuple(input_shape[x.name]) for x in inputs]
    elif isinstance(input_shape[0], tuple | list):
        shapes = [tuple(s) for s in input_shape]
    else:
        shapes = [tuple(input_shape)]
    if len(shapes) != len(inputs):
        raise ValueError(
            f"Received {len(shapes)} shapes as `input_shape` for a model with {len(inputs)} "
            f"inputs. Expected one without the batch size for each of {[x.name for x in inputs]}."
        )
    for x, shape in zip(inputs, shapes, strict=True):
        built = x.shape[1:]
        fits = len(shape) == len(built) and all(
            b is None or b == s for b, s in zip(built, shape, strict=True)
        )
        if None in shape or not fits:
            raise ValueError(
                f"The input {x.name!r} of shape {built} needs a definite size to be traced; "
                f"received {shape}. Expected `input_shape=` with a number for every None, for "
                f"example {tuple(s or 224 for s in built)} (without the batch size)."
            )
    return shapes
