"""Output that obeys Keras' own switch."""

from keras.src.utils import io_utils


def show(text):
    """Write to the standard output as Keras' progress bar does.

    After `keras.utils.disable_interactive_logging()` it goes to absl's log.
    """
    io_utils.print_msg(text, line_break=False)
