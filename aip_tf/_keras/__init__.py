"""The only door to Keras' internals: graph nodes, private classes, private attributes.

Everything here answers a question that Keras' public interface does not: in which order do the
operations of a Functional model run, how is one of them copied with another width.
"""

from aip_tf._keras.compiled import (
    compile_arguments,
    fresh_metric,
    joined_loss,
    metric_directions,
    names_of_outputs,
    output_specs,
)
from aip_tf._keras.copies import (
    copy_flags,
    copy_input,
    copy_operation,
    copy_sequential,
    copy_wrapper,
    copying,
    new_operation,
)
from aip_tf._keras.data import (
    is_seeded,
)
from aip_tf._keras.display import (
    show,
)
from aip_tf._keras.functions import (
    called_graph,
    recorded_graph,
)
from aip_tf._keras.graph import (
    TappedModel,
    all_layers,
    application_layers,
    attention_projections,
    flat_inputs,
    graph_of,
    input_structure,
    is_graph,
    layer_at,
    observe,
    operation_type,
    output_shapes,
    random_states,
    run_graph,
    variables_by_training,
    walk,
)
from aip_tf._keras.optimizers import (
    carry_exclusions,
    fresh_optimizer,
    has_schedule,
)
from aip_tf._keras.randomness import (
    explicit_seed,
    random_state,
    set_random_state,
)
from aip_tf._keras.shares import add, num_samples, share_of
from aip_tf._keras.training import ReplicaModel, build_metrics
from aip_tf._keras.workers import is_multi_worker, multi_worker_strategy

__all__ = [
    "ReplicaModel",
    "TappedModel",
    "add",
    "all_layers",
    "application_layers",
    "attention_projections",
    "build_metrics",
    "called_graph",
    "carry_exclusions",
    "compile_arguments",
    "copy_flags",
    "copy_input",
    "copy_operation",
    "copy_sequential",
    "copy_wrapper",
    "copying",
    "explicit_seed",
    "flat_inputs",
    "fresh_metric",
    "fresh_optimizer",
    "graph_of",
    "has_schedule",
    "input_structure",
    "is_graph",
    "is_multi_worker",
    "is_seeded",
    "joined_loss",
    "layer_at",
    "metric_directions",
    "multi_worker_strategy",
    "names_of_outputs",
    "new_operation",
    "num_samples",
    "observe",
    "operation_type",
    "output_shapes",
    "output_specs",
    "random_state",
    "random_states",
    "recorded_graph",
    "run_graph",
    "set_random_state",
    "share_of",
    "show",
    "variables_by_training",
    "walk",
]
