"""aip_tf: adversarial iterative pruning with knowledge transfer for Keras 3."""

__version__ = "0.1.0"
