"""How long the layers of a network take at any width, from times measured once.

A network is taken apart into the pieces that LiteRT fuses (`segments`). Each is timed at a few
widths, and what was timed is kept in a file of this machine (`table`). Between the widths a law
with four parts holds for each piece: a constant, what is read, what is written, and the
multiplications in whole tiles (`model`).
"""

from aip_tf.layer_times.conversion import converted
from aip_tf.layer_times.model import LayerTimes, check_measurable, measure_layers
from aip_tf.layer_times.table import Table, default_path, machine

__all__ = [
    "LayerTimes",
    "Table",
    "check_measurable",
    "converted",
    "default_path",
    "machine",
    "measure_layers",
]
