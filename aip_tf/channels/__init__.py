"""Channels: tracing them through a model, grouping them, and cutting them out."""

from aip_tf.channels.graph import ChannelGraph, find_channel_groups
from aip_tf.channels.groups import ChannelGroup, Member
from aip_tf.channels.rules import register_channel_rule
from aip_tf.channels.surgery import check_copy, check_cut, mask_channels, prune_channels

__all__ = [
    "ChannelGraph",
    "ChannelGroup",
    "Member",
    "check_copy",
    "check_cut",
    "find_channel_groups",
    "mask_channels",
    "prune_channels",
    "register_channel_rule",
]
