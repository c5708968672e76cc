"""aip_tf: adversarial iterative pruning with knowledge transfer for Keras 3.

The public surface. Everything is loaded when it is first used, so that `import aip_tf` is quick
and brings in neither gin, absl flags, matplotlib, tensorflow_datasets nor tfmot.
"""

import importlib

__version__ = "0.1.0"

_MODULES = {
    "channels": (
        "ChannelGraph",
        "ChannelGroup",
        "find_channel_groups",
        "mask_channels",
        "prune_channels",
        "register_channel_rule",
    ),
    "cost": ("count_macs", "count_parameters"),
    "criteria": (),
    "datasets": (),
    "detection": (),
    "deploy": ("compare_files", "export_model"),
    "game": ("AdversarialDistiller",),
    "layer_times": ("measure_layers",),
    "latency": ("compare_latency", "measure_latency"),
    "losses": (),
    "overview": ("summary",),
    "preview": ("trade_off",),
    "pruner": ("Recovery", "prune"),
    "report": ("PruningReport", "compare_runs"),
    "schedules": (),
    "selection": ("select_channels",),
    "task": ("Task",),
    "teacher": ("load_model", "train_teacher"),
    "transfers": (),
    "zoo": (),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}
_PUBLIC_MODULES = (
    "criteria",
    "datasets",
    "deploy",
    "detection",
    "losses",
    "schedules",
    "selection",
    "transfers",
    "zoo",
)

__all__ = sorted([*_HOME, *_PUBLIC_MODULES])


def __getattr__(name):
    if name in _PUBLIC_MODULES:
        return importlib.import_module(f"aip_tf.{name}")
    elif name in _HOME:
        value = getattr(importlib.import_module(f"aip_tf.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module 'aip_tf' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__():
    return [*__all__, "__version__"]
