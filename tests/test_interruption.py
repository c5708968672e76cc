"""Ctrl-C and SIGTERM are noted, and answered where nothing is lost."""

import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from aip_tf import interruption
from aip_tf.run_state import Status
from aip_tf.training import _Keeper

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


def send(number):
    """Send this process a signal and give Python the time to handle it."""
    os.kill(os.getpid(), number)
    time.sleep(0.05)


def say_nothing(sentence):
    pass


@SIGNALS
def test_without_training_a_signal_interrupts_as_always(number):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), interruption.noted(say_nothing):
        interruption.answer()
        send(number)
    assert signal.getsignal(number) is before
    assert interruption.is_requested()
    interruption.answer()  # the next training of this process is not concerned
    with interruption.noted(say_nothing):
        assert not interruption.is_requested()


class Swallower(keras.callbacks.Callback):
    """Sends a signal during a batch and swallows whatever is raised there."""

    def __init__(self, number):
        super().__init__()
        self.number, self.seen = number, []

    def on_train_batch_end(self, batch, logs=None):
        try:
            if batch == 1:
                send(self.number)
        except BaseException:
            self.seen.append("an exception")
        self.seen.append(batch)

    def on_test_batch_end(self, batch, logs=None):
        if self.seen == [0, 1, 2, 3]:
            send(self.number)
        self.seen.append("test")


def fit(user, *, epochs=1, **arguments):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.ones((8, 2)), np.ones(8)
    callbacks = [user, interruption.answering()]
    model.fit(x, y, 2, epochs, verbose=0, callbacks=callbacks, **arguments)


@SIGNALS
def test_training_ends_after_the_batch_whoever_swallows(number):
    user, told = Swallower(number), []
    with pytest.raises(KeyboardInterrupt), interruption.noted(told.append):
        fit(user)
    assert user.seen == [0, 1]
    assert len(told) == 1


def test_a_signal_in_the_validation_lets_the_epoch_be_measured_and_saved():
    class Saver(Swallower):
        def on_train_batch_end(self, batch, logs=None):
            self.seen.append(batch)

        def on_epoch_end(self, epoch, logs=None):
            self.seen.append("saved")

    user = Saver(signal.SIGINT)
    data = (np.ones((4, 2)), np.ones(4))
    with pytest.raises(KeyboardInterrupt), interruption.noted(say_nothing):
        fit(user, epochs=3, validation_data=data, validation_batch_size=2)
    assert user.seen == [0, 1, 2, 3, "test", "test", "saved"]


def test_nothing_changes_in_other_threads_and_without_the_command_line():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with interruption.noted(say_nothing):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    fit(Swallower(signal.SIGUSR1), epochs=0)
    assert seen == [before] == [signal.getsignal(signal.SIGINT)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_signals_of_a_forked_worker_do_not_count_for_its_parent():
    told = []
    with interruption.noted(told.append):
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGINT)
            os._exit(7)
        _, status = os.waitpid(child, 0)
        time.sleep(0.05)
        assert os.waitstatus_to_exitcode(status) == 7
        assert not interruption.is_requested() and told == []


@SIGNALS
def test_a_signal_while_python_shuts_down_does_not_change_how_a_run_ended(number):
    code = (
        "import atexit, os; from aip_tf import cli\n"
        f"atexit.register(os.kill, os.getpid(), {int(number)})\n"
        "raise SystemExit(cli.program())"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"aip_run makes")


def test_a_second_ctrl_c_ends_a_process_that_is_not_in_python():
    script = """if True:
        import hashlib
        from aip_tf import interruption
        with interruption.noted(lambda sentence: print(sentence, flush=True)):
            while True:
                try:
                    print("started", flush=True)
                    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**8)  # a minute, not in Python
                except KeyboardInterrupt:
                    pass
    """
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=10)
    assert (process.returncode, error) == (130, "")


def test_a_signal_while_batches_pass_by_saves_no_earlier_place(monkeypatch):
    """They were trained on before the snapshot that a run goes on from, which stays the last."""

    def requested():
        raise KeyboardInterrupt

    monkeypatch.setattr(interruption, "answer", requested)
    saved, status = [], Status(step=5)
    keeper = _Keeper(status, SimpleNamespace(data=(), save=lambda *_: saved.append(1)), print)
    keeper.on_train_batch_end(2)
    assert (status.step, saved) == (5, [])
