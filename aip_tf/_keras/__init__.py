"""The only door to Keras' internals: graph nodes, private classes, private attributes.

Everything here answers a question that Keras' public interface does not: in which order do the
operations of a model run (`graph`), what is inside of a layer made of layers (`opening`), how is a
layer copied (`copies`), also with another width (`resizing`), what does a function compute
(`functions`), what was a model compiled with (`compiled`), how do steps run on several machines
(`training`, `workers`).
"""

from aip_tf._keras.compiled import (
    cast_inputs,
    compile_arguments,
    fresh_metric,
    joined_loss,
    metric_directions,
    names_of_outputs,
    output_specs,
)
from aip_tf._keras.copies import (
    build_at_once,
    clone,
    copy_input,
    copy_ops,
    copy_sequential,
    copy_variable,
    copying,
    fill,
    input_layer,
    is_filled,
    layer_attributes,
    new_operation,
    rename,
    set_flags,
    take_policy,
)
from aip_tf._keras.data import (
    is_seeded,
)
from aip_tf._keras.display import (
    show,
)
from aip_tf._keras.functions import (
    called_graph,
    forgetting_gradients,
    recorded_graph,
)
from aip_tf._keras.graph import (
    Graph,
    flat_inputs,
    given_tensors,
    graph_inside,
    graph_of,
    is_graph,
    layer_at,
    mask_of,
    masks_given,
    output_shapes,
    run_graph,
    run_operation,
    standardized,
    tensor_places,
    walk,
    with_mask_of,
)
from aip_tf._keras.held import (
    Given,
    Held,
    give,
    hold,
)
from aip_tf._keras.layers import (
    all_layers,
    application_layers,
    attention_projections,
    batch_normalizations,
    built_shapes,
    further_arguments,
    operation_type,
    random_states,
    sublayers,
)
from aip_tf._keras.nodes import (
    CannotOpenError,
)
from aip_tf._keras.opening import (
    Openings,
)
from aip_tf._keras.optimizers import (
    carry_exclusions,
    fresh_optimizer,
    has_schedule,
    optimizer_settings,
)
from aip_tf._keras.own_calls import (
    call_on_symbols,
    has_own_call,
)
from aip_tf._keras.randomness import (
    explicit_seed,
    keeping_random_states,
    random_state,
    set_random_state,
)
from aip_tf._keras.resizing import (
    graft,
    layer_pairs,
    own_pairs,
    resize,
    with_smaller_arrays,
)
from aip_tf._keras.running import (
    GivenInputs,
    TappedModel,
    answer,
    observe,
    quiet,
)
from aip_tf._keras.shares import (
    Share,
    add,
    share_of,
)
from aip_tf._keras.sharing import (
    dissolve_sharing,
)
from aip_tf._keras.sizes import (
    first_samples,
    fixed_batch,
)
from aip_tf._keras.training import (
    TOTAL,
    ReplicaModel,
    build_metrics,
)
from aip_tf._keras.workers import (
    essence,
    is_multi_worker,
    multi_worker_strategy,
)

__all__ = [
    "TOTAL",
    "CannotOpenError",
    "Given",
    "GivenInputs",
    "Graph",
    "Held",
    "Openings",
    "ReplicaModel",
    "Share",
    "TappedModel",
    "add",
    "all_layers",
    "answer",
    "application_layers",
    "attention_projections",
    "batch_normalizations",
    "build_at_once",
    "build_metrics",
    "built_shapes",
    "call_on_symbols",
    "called_graph",
    "carry_exclusions",
    "cast_inputs",
    "clone",
    "compile_arguments",
    "copy_input",
    "copy_ops",
    "copy_sequential",
    "copy_variable",
    "copying",
    "dissolve_sharing",
    "essence",
    "explicit_seed",
    "fill",
    "first_samples",
    "fixed_batch",
    "flat_inputs",
    "forgetting_gradients",
    "fresh_metric",
    "fresh_optimizer",
    "further_arguments",
    "give",
    "given_tensors",
    "graft",
    "graph_inside",
    "graph_of",
    "has_own_call",
    "has_schedule",
    "hold",
    "input_layer",
    "is_filled",
    "is_graph",
    "is_multi_worker",
    "is_seeded",
    "joined_loss",
    "keeping_random_states",
    "layer_at",
    "layer_attributes",
    "layer_pairs",
    "mask_of",
    "masks_given",
    "metric_directions",
    "multi_worker_strategy",
    "names_of_outputs",
    "new_operation",
    "observe",
    "operation_type",
    "optimizer_settings",
    "output_shapes",
    "output_specs",
    "own_pairs",
    "quiet",
    "random_state",
    "random_states",
    "recorded_graph",
    "rename",
    "resize",
    "run_graph",
    "run_operation",
    "set_flags",
    "set_random_state",
    "share_of",
    "show",
    "standardized",
    "sublayers",
    "take_policy",
    "tensor_places",
    "walk",
    "with_mask_of",
    "with_smaller_arrays",
]
