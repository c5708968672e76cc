"""What a layer loses with its inputs, and how far the inputs that stay can make up for it.

`solving` is the algebra, `linear` says what layers of every kind multiply, `moments` observes their
inputs, `study` refits them behind a cut, in order (`refitting`) and for what streams lack (`sums`),
`trial` measures what a cut would do to the outputs.
"""

from aip_tf.reconstruction.batches import divide, first_inputs, num_inputs_of, num_of_some
from aip_tf.reconstruction.solving import System, removal_order
from aip_tf.reconstruction.study import Refit, Study
from aip_tf.reconstruction.trial import Change, Trial

__all__ = [
    "Change",
    "Refit",
    "Study",
    "System",
    "Trial",
    "divide",
    "first_inputs",
    "num_inputs_of",
    "num_of_some",
    "removal_order",
]
