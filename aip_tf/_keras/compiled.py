"""What a model was compiled with, and what Keras makes of it: losses, metrics, names of outputs."""

import functools
import operator

import keras
from keras import tree
from keras.src.trainers.compile_utils import CompileLoss, CompileMetrics

from aip_tf._keras.graph import flat_inputs, graph_of, is_graph


def compile_arguments(model):
    """The losses and metrics that `model` was compiled with, as `compile` takes them; {} without.

    What was not given is left out: "loss", "loss_weights", "metrics", "weighted_metrics".
    """
    if not model.compiled:
        return {}
    loss, metrics = model._compile_loss, model._compile_metrics
    given = {
        "loss": model.loss,
        "loss_weights": loss and loss._user_loss_weights,
        "metrics": metrics and metrics._user_metrics,
        "weighted_metrics": metrics and metrics._user_weighted_metrics,
    }
    return {name: value for name, value in given.items() if value is not None}


def output_specs(model, inputs):
    """Symbolic outputs of `model`, in the structure of its answers, for a batch of inputs."""
    if is_graph(model):
        return model.compute_output_spec(graph_of(model).structure)
    symbols = tree.map_structure(
        lambda x: keras.KerasTensor((None, *x.shape[1:]), keras.backend.standardize_dtype(x.dtype)),
        inputs,
    )
    return model.compute_output_spec(symbols)


def cast_inputs(model, inputs):
    """A batch of inputs, in its structure, cast as `model(inputs)` casts it: bytes too."""
    if not is_graph(model):
        return inputs
    graph = graph_of(model)
    types = {id(x): y.dtype for x, y in zip(flat_inputs(graph, inputs), graph.inputs, strict=True)}
    return tree.map_structure(lambda x: keras.ops.cast(x, types.get(id(x), x.dtype)), inputs)


def names_of_outputs(model, answers):
    """A name for each of the flattened `answers` of `model`, those that `fit` logs under."""
    count = len(tree.flatten(answers))
    if isinstance(answers, dict) and len(answers) == count:
        return [path[0] for path, _ in tree.flatten_with_path(answers)]
    given = list(getattr(model, "output_names", None) or [])
    if len(given) == count:
        return given
    last = [x.name for x in getattr(model, "layers", [])[-1:]]
    return last if count == 1 and last else [f"output_{i}" for i in range(count)]


def joined_loss(loss, loss_weights, output_names):
    """`loss(labels, outputs, sample_weight) -> scalar`, as a model compiled with these has it."""
    return CompileLoss(loss, loss_weights, output_names=output_names)


def loss_of_some(compiled, places, y, y_pred, sample_weight):
    """What the compiled loss says of some outputs alone, and whether it says nothing of others.

    Args:
        compiled: a model's compiled loss, which has been called before.
        places: of these outputs among all, flattened.
        y, y_pred, sample_weight: as it is called with.
    """
    numbers = tree.pack_sequence_as(
        compiled._y_pred_build_structure, list(range(len(tree.flatten(y_pred))))
    )
    terms = compiled._flat_losses
    of_terms = [functools.reduce(operator.getitem, term.path, numbers) for term in terms]
    are_chosen = [set(tree.flatten(found)) <= set(places) for found in of_terms]
    compiled._flat_losses = [
        term if is_chosen else term._replace(loss=lambda *_: keras.ops.zeros(()))
        for term, is_chosen in zip(terms, are_chosen, strict=True)
    ]
    try:
        return compiled(y, y_pred, sample_weight), all(are_chosen)
    finally:
        compiled._flat_losses = terms


def fresh_metric(metric):
    """A new metric like `metric`; itself if it is a name, a function, or cannot be made again."""
    if not isinstance(metric, keras.metrics.Metric):
        return metric
    try:
        return type(metric).from_config(metric.get_config())
    except (TypeError, ValueError, NotImplementedError):
        return metric


def metric_directions(metrics, weighted_metrics, output_names, labels, outputs):
    """{name as `fit` logs it: whether more is better}, in order; by name if Keras has no word."""
    compiled = CompileMetrics(metrics, weighted_metrics, output_names=output_names)
    compiled.build(labels, outputs)
    directions = {}
    for group in compiled._flat_metrics + compiled._flat_weighted_metrics:
        for metric in group.metrics if group else ():
            prefix = f"{group.output_name}_" if group.output_name else ""
            rises = {"up": True, "down": False}.get(getattr(metric, "_direction", None))
            directions[prefix + metric.name] = (
                not metric.name.endswith(("loss", "error")) if rises is None else rises
            )
    return directions
