"""The game of teacher, student and discriminator that recovers a cut network (arXiv 2108.13591)."""

from aip_tf.game.discriminator import AdversarialTransfer, build_discriminator
from aip_tf.game.distiller import AdversarialDistiller
from aip_tf.game.inner_transfers import AttentionTransfer, FeatureTransfer
from aip_tf.game.taps import Reading, find_taps
from aip_tf.game.transfers import Move, OutputTransfer, Transfer

__all__ = [
    "AdversarialDistiller",
    "AdversarialTransfer",
    "AttentionTransfer",
    "FeatureTransfer",
    "Move",
    "OutputTransfer",
    "Reading",
    "Transfer",
    "build_discriminator",
    "find_taps",
]
