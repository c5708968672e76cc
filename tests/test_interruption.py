"""Ctrl-C and SIGTERM are noted, and answered where nothing is lost."""

import os
import signal
import threading

import pytest

from aip_tf.interruption import Interruption


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_answered_later(number):
    before = signal.getsignal(number)
    with Interruption() as interruption:
        interruption.answer()
        os.kill(os.getpid(), number)
        assert interruption.requested
        with pytest.raises(KeyboardInterrupt, match="finished batch"):
            interruption.answer()
    assert signal.getsignal(number) is before


def test_a_second_signal_interrupts_at_once():
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt, match="twice"):
            os.kill(os.getpid(), signal.SIGINT)
        assert interruption.requested


def test_other_threads_change_nothing():
    seen = []

    def work():
        with Interruption() as interruption:
            seen.append((interruption.requested, signal.getsignal(signal.SIGINT)))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
