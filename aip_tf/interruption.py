"""Ctrl-C and SIGTERM: noted at once, answered where nothing is lost."""

import signal
import threading

_SIGNALS = (signal.SIGINT, signal.SIGTERM)  # Slurm and Kubernetes send SIGTERM


class Interruption:
    """Inside the `with` block a first signal is only noted; a second one interrupts at once.

    Whoever trains looks at `requested` after every batch, saves, and calls `answer`. Outside the
    main thread, where Python allows no handlers, nothing changes.

    Attributes:
        requested: whether SIGINT or SIGTERM has come.

    >>> with Interruption() as interruption:
    ...     interruption.requested
    False
    """

    def __init__(self):
        self.requested = False
        self._before = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def answer(self):
        """Interrupt now, if that was requested.

        Raises:
            KeyboardInterrupt: that; the message says that all is saved.
        """
        if self.requested:
            raise KeyboardInterrupt("Interrupted after a finished batch.")

    def _note(self, number, frame):
        if self.requested:
            raise KeyboardInterrupt("Interrupted twice.")
        self.requested = True
