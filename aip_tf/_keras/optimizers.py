"""Copies of optimizers: new state, the settings of the original, whoever set them and how."""

import inspect
import re

import keras
from keras import tree
from keras.src.optimizers.base_optimizer import BaseOptimizer
from keras.src.optimizers.multi_optimizer import MultiOptimizer, OptimizerMap

_ARGUMENTS = set(inspect.signature(BaseOptimizer.__init__).parameters) - {"self", "learning_rate"}
_CACHE = "_exclude_from_weight_decay_cache"


def fresh_optimizer(optimizer, decay=lambda rate: rate):
    """An optimizer without state like `optimizer`, which is not touched.

    Keras' own way, `from_config(get_config())`, forgets what methods set
    (`exclude_from_weight_decay`) and needs a schedule of the user's own to be registered. Here
    every attribute travels as the object it is; only variables are made anew, under the strategy in
    scope.

    Args:
        optimizer: a `keras.optimizers.Optimizer`; one that wraps others (loss scaling) has those
            copied too.
        decay: `decay(rate) -> rate or schedule`, applied to every learning rate that is a number.
    """
    if isinstance(optimizer, MultiOptimizer):
        return _fresh_multi(optimizer, decay)
    fresh = type(optimizer).__new__(type(optimizer))
    rate = optimizer._learning_rate
    if isinstance(rate, keras.Variable):
        # What wraps another optimizer has a rate that nothing reads: its own is the inner one's.
        rate = 0.0 if hasattr(optimizer, "inner_optimizer") else decay(float(rate.numpy()))
    keras.optimizers.Optimizer.__init__(fresh, learning_rate=rate, name=optimizer.name)
    made = vars(fresh).keys() - _ARGUMENTS
    for name, value in vars(optimizer).items():
        if name not in made | {_CACHE} and not name.startswith("_self_") and not _is_state(value):
            setattr(fresh, name, _copied(value, decay))
    return fresh


def _fresh_multi(optimizer, decay):
    """Several optimizers by variable: those of a map are copied, a function makes its own."""
    chosen = optimizer._optimizer_map
    if isinstance(chosen, OptimizerMap):
        copies = {id(x): fresh_optimizer(x, decay) for x in optimizer.optimizers}
        inner = {key: copies[id(x)] for key, x in chosen._optimizer_map.items()}
        chosen = OptimizerMap(copies[id(chosen.default_optimizer)], inner)
    return type(optimizer)(chosen, optimizer.loss_scale_factor, optimizer.name)


def _is_state(value):
    return any(isinstance(x, keras.Variable) for x in tree.flatten(value))


def _copied(value, decay):
    """Containers and inner optimizers are the copy's own; anything else is shared."""
    if isinstance(value, keras.optimizers.Optimizer):
        return fresh_optimizer(value, decay)
    for kind in (list, dict, set):
        if isinstance(value, kind):
            return kind(value)
    return value


def carry_exclusions(optimizer, source, target):
    """Let an optimizer whose weight decay spares variables of `source` spare those of `target`.

    `exclude_from_weight_decay(var_list=...)` names variables of one model; those of a copy have the
    same paths.

    Args:
        optimizer: a fresh optimizer; changed in place.
        source, target: lists of variables.
    """
    for inner in (optimizer, getattr(optimizer, "inner_optimizer", None)):
        spared = getattr(inner, "_exclude_from_weight_decay", None)
        if spared:
            paths = {v.path for v in source if inner._var_key(v) in spared}
            inner._exclude_from_weight_decay = spared | {
                inner._var_key(v) for v in target if v.path in paths
            }


def optimizer_settings(optimizer):
    """All that an optimizer was told, by its arguments and by its methods: {name: value}, no None.

    Which variables weight decay spares is told by their names; of those given as objects only the
    number is.
    """
    rate = optimizer._learning_rate
    settings = {"learning_rate": float(rate.numpy()) if isinstance(rate, keras.Variable) else rate}
    managed = vars(keras.optimizers.Optimizer(0.0)).keys() - _ARGUMENTS | {_CACHE, "name"}
    for name, value in vars(optimizer).items():
        if name not in managed and not name.startswith("_self_") and not _is_state(value):
            settings[name.strip("_")] = _pattern(value) if isinstance(value, re.Pattern) else value
    if spared := settings.pop("exclude_from_weight_decay", None):
        settings["num_spared"] = len(spared)
    return {name: value for name, value in settings.items() if value is not None}


def _pattern(pattern):
    """Alternatives in order: Keras joins them out of a set, in another order in every process."""
    return sorted(pattern.pattern.split("|"))


def has_schedule(optimizer):
    """Whether the learning rate of an optimizer (or of the one it wraps) is no plain number."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    rate = getattr(inner, "_learning_rate", None)
    return rate is not None and not isinstance(rate, keras.Variable)
