"""What a gin file may name: registered from the outside, under the module in which it stands."""

import importlib
import inspect

import gin
from gin import config as gin_config

from aip_tf import experiment

RUN = "aip_tf.run"
COMPARE = "aip_tf.deploy.compare_files"  # all that a run file asks for which binds nothing of `run`
_ROOMS = (
    "aip_tf.criteria",
    "aip_tf.datasets",
    "aip_tf.detection",
    "aip_tf.deploy",
    "aip_tf.game",
    "aip_tf.preview",
    "aip_tf.pruner",
    "aip_tf.schedules",
    "aip_tf.selection",
    "aip_tf.task",
    "aip_tf.teacher",
    "aip_tf.zoo",
    "keras.optimizers",
)
# Arguments that `run` passes itself: binding them is an error, not a binding silently overruled.
HANDED_OVER = {
    "export_model": [
        "model",
        "directory",
        "check_data",
        "calibration_data",
        "teacher",
        "check_only",
    ],
    "image_folder": ["model"],
    "imagenet2012": ["model"],
    "prune": ["model", "train_data", "validation_data", "run_dir", "check_only", "overwrite"],
    "run": ["run_dir", "configuration", "overwrite"],
    "trade_off": ["model", "data", "validation_data", "check_only"],
    "train_teacher": ["data", "checkpoint_dir", "check", "check_only", "overwrite"],
}


def _register():
    """Make `run` and what the library offers known to gin; returns the names of it all."""
    offered = {("aip_tf", "run"): experiment.run}
    for room in _ROOMS:
        offered |= {(room, name): item for name, item in _public(importlib.import_module(room))}
    for (room, name), item in offered.items():
        gin.external_configurable(item, name, module=room, denylist=HANDED_OVER.get(name))
    return sorted({name for _, name in offered})


def _public(module):
    """The functions and classes of a module: its `__all__`, or what is defined in its package."""
    package = "keras" if module.__name__.startswith("keras.") else module.__name__
    names = getattr(module, "__all__", None) or [
        name
        for name, item in vars(module).items()
        if getattr(item, "__module__", None) and item.__module__.startswith(package)
    ]
    for name in names:
        item = getattr(module, name)
        if not name.startswith("_") and (inspect.isfunction(item) or inspect.isclass(item)):
            yield name, item


NAMES = _register()


def callable_of(selector):
    """The function or class behind a selector: gin's wrapping of a class hides its arguments."""
    return gin_config.ConfigurableReference(selector, False).configurable.wrapped
