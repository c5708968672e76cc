"""What a model is called on while it is traced: its symbolic inputs and their sizes."""

import numbers

import keras
from keras import tree

from aip_tf import _keras


def root_graph(model, openings, input_shape=None):
    """The `Graph` of a model, with what is in it opened; also a subclassed model is opened.

    Args:
        model: a `keras.Model`.
        openings: `_keras.Openings`.
        input_shape: see `trace`.

    Raises:
        ValueError: if the model cannot be opened, with the reason.
    """
    if _keras.is_graph(model):
        return openings.enter(model)
    if not isinstance(model, keras.Model) or _is_plain_sequential(model):
        return _keras.graph_of(model)  # raises
    inputs = _symbols(model, input_shape)
    if not model.built:
        _build(model, inputs, input_shape)
    try:
        graph = openings.open_model(model, inputs)
    except _keras.CannotOpenError as error:
        raise ValueError(
            f"Received the subclassed model {model.name!r}, which cannot be opened: {error}. "
            "Expected a model whose call gives one graph of layers and operations; put what it "
            "does itself into a layer of its own, or build it with keras.Input and "
            "keras.Model(inputs, outputs)."
        ) from error
    _check_outputs(model, graph)
    _name_inputs(graph, inputs)
    return graph


def _is_plain_sequential(model):
    return type(model).call is keras.Sequential.call and not _keras.has_own_call(model)


def _check_outputs(model, graph):
    """What a model with a graph returns: tensors, alone or several in a list or dict."""
    found = tree.flatten_with_path(graph.outputs)
    strange = [
        f"output {'/'.join(map(str, path))!r} is {x!r:.80}"
        for path, x in found
        if not isinstance(x, keras.KerasTensor | numbers.Number) and not hasattr(x, "shape")
    ]
    if isinstance(graph.outputs, list | tuple) and len(graph.outputs) == 1:
        strange.append("output stands alone in a list")  # Keras would take it out
    if strange:
        raise ValueError(
            f"Received the subclassed model {model.name!r}, whose {strange[0]}. Expected tensors "
            "and numbers, one alone or several in a list or dict: other outputs do not survive in "
            "a model that loads without its class. Change what its call returns."
        )


def in_form(input_shape):
    """`input_shape`, every shape in it a tuple of Python's integers (None where one is open).

    Raises:
        ValueError: if it is neither a shape nor a list or dict of shapes.
    """
    if input_shape is None:
        return None
    if _is_shape(input_shape):
        return tuple(size if size is None else int(size) for size in input_shape)
    if isinstance(input_shape, dict) and None not in input_shape.values():
        return {key: in_form(part) for key, part in input_shape.items()}
    if isinstance(input_shape, list | tuple) and None not in input_shape:
        return [in_form(part) for part in input_shape]
    raise ValueError(
        f"Received {input_shape!r} as `input_shape` or in it. Expected a shape without the batch "
        "size, such as (224, 224, 3), or for several inputs a list or dict of shapes."
    )


def _is_shape(x):
    return isinstance(x, list | tuple) and all(
        size is None or (isinstance(size, numbers.Integral) and size >= 0) for size in x
    )


def _symbols(model, input_shape):
    """Symbolic inputs of a subclassed model, in the structure in which it takes them."""
    built = _keras.built_shapes(model)
    further = _keras.further_arguments(model, with_optional=input_shape is None)
    if further:  # Keras does not note whether they were given
        raise ValueError(
            f"Received the subclassed model {model.name!r}, whose call takes {further[0]!r} beside "
            "its first argument. Expected all inputs in the first argument, as `fit` gives them: a "
            "list or dict of tensors. Where it may be None and is, say so by `input_shape=`, the "
            f"shape of the first argument without the batch size, such as {built or (224, 224, 3)}."
        )
    if input_shape is None and built is None:
        raise ValueError(
            f"Received the subclassed model {model.name!r}, whose input is not known. Expected a "
            "model that was called on data once (of one whose call fails on symbols Keras notes no "
            "shape), or `input_shape=` without the batch size, such as (224, 224, 3); a list or "
            "dict of shapes for several inputs."
        )
    return tree.map_shape_structure(
        lambda shape: keras.KerasTensor((None, *shape), model.compute_dtype),
        built if input_shape is None else input_shape,
    )


def _build(model, inputs, input_shape):
    """Call a model for the first time, on zeros."""
    zeros = tree.map_structure(lambda x: keras.ops.zeros((1, *x.shape[1:]), x.dtype), inputs)
    try:
        model(zeros)
    except Exception as error:
        raise ValueError(
            f"Received input_shape={input_shape} for the subclassed model {model.name!r}, whose "
            f"call fails on zeros of that shape ({type(error).__name__}). Expected the shapes of "
            "its inputs without the batch size, in the list or dict in which its call takes them."
        ) from error


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
    shapes = [x.shape[1:] for x in inputs] if input_shape is None else _flat(graph, input_shape)
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


def _flat(graph, input_shape):
    """Shapes in the order of a graph's inputs; those of a dict go by the inputs' names or keys."""
    names, structure = [x.name for x in graph.inputs], graph.structure
    by_key = isinstance(structure, dict) and {*structure} == {*input_shape}
    if isinstance(input_shape, dict) and not by_key:
        if {*names} - {*input_shape}:  # data may have more than the model takes, as in `fit`
            raise ValueError(
                f"Received as `input_shape` a dict of {list(input_shape)}. Expected one shape "
                f"without the batch size for each of {names}."
            )
        return [input_shape[name] for name in names]
    symbols = tree.map_shape_structure(lambda s: keras.KerasTensor((None, *s)), input_shape)
    return [x.shape[1:] for x in tree.flatten(symbols)]
