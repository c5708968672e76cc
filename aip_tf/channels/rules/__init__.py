"""One small rule per operation type: which channels it makes, unifies, moves or mixes.

A rule is a function `rule(call, *args, **kwargs) -> identity arrays`, called with the arguments of
the operation in which identity arrays stand for tensors. It returns the identity arrays of the
outputs and declares on `call` (see `aip_tf.channels.call.Call`) which variables, configuration
entries and arguments change with the channels. An operation without a rule keeps all it touches.
"""

import importlib

from aip_tf.channels.rules.ready_made import channelwise, elementwise, moves_nothing
from aip_tf.channels.rules.table import has_rule, register_channel_rule, run_rule

__all__ = [
    "channelwise",
    "elementwise",
    "has_rule",
    "moves_nothing",
    "register_channel_rule",
    "run_rule",
]

for _family in (
    "attention",
    "contraction",
    "convolution",
    "movement",
    "normalization",
    "parts",
    "pointwise",
    "recurrent",
    "reduction",
    "resizing",
    "whole",
    "wrappers",
):
    importlib.import_module(f"{__name__}.{_family}")
