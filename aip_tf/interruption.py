"""Ctrl-C and SIGTERM: noted at once, answered where nothing is lost.

    with interruption.noted(tell): ...      the command line, around everything it does
    model.fit(callbacks=[*, interruption.answering()])      whoever trains, as the last callback

A first signal waits for the end of a training batch, or of an epoch whose last batch is done: that
epoch is still measured and saved. Nothing is raised while a batch runs, so nothing (a callback of
the user's, Keras, tf.data) can swallow it, and the request stays until it is answered. Where no
training runs it interrupts Python as always. A second Ctrl-C ends the process on the spot, also
inside of TensorFlow: the signal itself wakes a thread.

Without `noted`, as in a notebook, nothing changes: KeyboardInterrupt comes as Python raises it.
This file imports neither Keras nor TensorFlow, so that an interruption of their import is quiet.
"""

import contextlib
import os
import signal
import socket
import threading
from types import SimpleNamespace

EXIT_CODE = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM)  # Slurm and Kubernetes send SIGTERM
# A process has one set of signals. `is_answered`: some training will answer the request.
_state = SimpleNamespace(is_noted=False, is_requested=False, is_answered=False)


def is_requested():
    """Whether SIGINT or SIGTERM has come; inside the last `noted`, also after its end."""
    return _state.is_requested


def answer():
    """Interrupt now, if that was requested.

    Raises:
        KeyboardInterrupt: that.
    """
    if _state.is_noted and _state.is_requested:
        raise KeyboardInterrupt


def answering():
    """A Keras callback that answers a request after each batch and epoch; put it last.

    >>> answering().on_train_batch_end(0)   # nothing was requested
    """
    import keras

    def watch(is_answered):
        _state.is_answered = is_answered

    return keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: watch(True),
        on_train_batch_end=lambda batch, logs: answer(),
        on_epoch_end=lambda epoch, logs: answer(),
        on_train_end=lambda logs: watch(False),
    )


def ignore():
    """From now on signals change nothing: all is done and saved, Python shuts down."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def noted(tell):
    """Inside, SIGINT and SIGTERM are noted. Does nothing outside of the main thread.

    Args:
        tell: called with a sentence for the user, from another thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _state.is_requested = _state.is_answered = False
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    thread = threading.Thread(target=_watch, args=(reader, tell), daemon=True)
    thread.start()
    handlers = {number: signal.signal(number, _note) for number in _SIGNALS}
    descriptor = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    _state.is_noted = True
    try:
        yield
    finally:
        _state.is_noted = False
        signal.set_wakeup_fd(descriptor)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        writer.close()  # ends the thread
        thread.join()
        reader.close()


def _note(number, frame):
    """Python's handler: runs in the main thread, as soon as that is back in Python."""
    _state.is_requested = True
    if not _state.is_answered:
        raise KeyboardInterrupt


def _watch(reader, tell):
    """Read the numbers of signals, which the system writes whatever Python is doing."""
    is_first = True
    while number := reader.recv(1):
        if is_first and number[0] in _SIGNALS:
            is_first, _state.is_requested = False, True
            if _state.is_answered:
                tell("Interrupted: ends after this batch; a second Ctrl-C ends at once.")
        elif number[0] == signal.SIGINT:
            os._exit(EXIT_CODE)


def _leave_to_parent():
    """In a forked child (workers of a PyDataset): its signals must not count for its parent."""
    if _state.is_noted:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to both
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_leave_to_parent)
