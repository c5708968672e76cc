"""What a teacher hands over to its student, and the game that trains it: what `game` has public.

>>> from aip_tf.transfers import OutputTransfer
>>> OutputTransfer(temperature=4.0).name
'output'
"""

from aip_tf.game import *  # noqa: F403
from aip_tf.game import __all__ as __all__
