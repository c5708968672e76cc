"""Signatures of Keras' own operations, worked out once.

Whenever Keras makes an operation it asks Python twice for the signature of the class's `__init__`:
a quarter of the time of a symbolic `x + y`, and layers of many operations are opened by making each
of them several times. Python takes the answer from `__signature__` where it stands.
"""

import functools
import inspect


@functools.cache
def remember_signature(cls):
    """Note the signature of the `__init__` of a class of Keras: what Python would find each time.

    Of other classes nothing is noted.
    """
    init = cls.__init__
    if inspect.isfunction(init) and str(init.__module__).startswith("keras."):
        init.__signature__ = inspect.signature(init)
