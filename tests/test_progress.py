"""An epoch is one line, its loss compares with the validation's, the terms come on demand."""

import itertools
import logging
import re

import keras
import numpy as np
import pytest

from aip_tf import AdversarialDistiller, progress
from aip_tf.progress import Progress

X, Y = np.random.default_rng(0).random((12, 6, 6, 1), "float32"), np.arange(12) % 3


def network(width=4):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(width, 3, name="conv"),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


def fit(model, epochs=2, **arguments):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, metrics=["sparse_categorical_accuracy"])
    data = {"validation_data": (X, Y), "batch_size": 4, "verbose": 0}
    callbacks = [Progress(epochs=30)]
    return model.fit(X, Y, epochs=epochs, callbacks=callbacks, **data, **arguments).history


@pytest.fixture(autouse=True)
def interactive():
    """Keras' own switch is on, whatever other tests left behind, and is put back."""
    was_on = keras.utils.is_interactive_logging_enabled()
    keras.utils.enable_interactive_logging()
    yield
    if not was_on:
        keras.utils.disable_interactive_logging()


@pytest.fixture(params=[False, True], ids=["file", "terminal"])
def shown(request, capsys, monkeypatch):
    """What stays on the screen of a terminal, or in a file: a list of lines."""
    monkeypatch.setattr(progress, "is_terminal", lambda: request.param)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(progress, "_SECONDS", 0.0)

    def read():
        *lines, rest = capsys.readouterr().out.split("\n")
        assert rest == ""
        return [line.split("\r")[-1].rstrip() for line in lines]

    return read


def test_an_epoch_is_one_line_of_a_hundred_columns_that_counts_to_the_end_of_the_run(shown):
    distiller = AdversarialDistiller(network(), network())
    fit(distiller, epochs=10, initial_epoch=8)
    lines = shown()
    assert [line[:12] for line in lines] == ["Epoch  9/30 ", "Epoch 10/30 "]
    assert max(map(len, lines)) <= 100
    for line in lines:
        assert re.search(r"  loss \d\.\d+  val_loss \d\.\d+  val_sparse_c\w+ \d\.\d+$", line)
        assert "adversarial" not in line


def test_parts_of_a_loss_come_behind_what_counts():
    logs = {"a_loss": 1, "b_loss": 2, "loss": 3, "val_a_loss": 4, "val_b_loss": 5, "val_loss": 6}
    order = list(Progress(epochs=1)._main({**logs, "val_map": 7, "map": 8}))
    assert order[:4] == ["loss", "val_loss", "val_map", "map"]


def test_every_frame_of_a_terminal_fits_and_wipes_out_the_one_before(capsys, monkeypatch):
    monkeypatch.setattr(progress, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    fit(AdversarialDistiller(network(), network()), epochs=1)
    _, *frames = capsys.readouterr().out.split("\r")
    assert len(frames) == 4, "three batches and the end"
    assert max(len(frame.rstrip("\n")) for frame in frames) < 60
    assert all(len(before) <= len(after) for before, after in itertools.pairwise(frames))


@pytest.mark.parametrize("is_game", [True, False], ids=["game", "plain"])
def test_the_loss_shown_is_that_of_the_log(is_game, shown):
    history = fit(AdversarialDistiller(network(), network()) if is_game else network(), epochs=1)
    (line,) = shown()
    assert f"  loss {history['loss'][0]:.4f}" in line


def test_the_terms_of_the_loss_come_on_demand(shown, caplog):
    caplog.set_level(logging.DEBUG, "aip_tf")
    history = fit(AdversarialDistiller(network(), network()), epochs=1)
    _, terms = shown()
    for name in ("adversarial_loss", "attention_loss", "output_loss", "discriminator_accuracy"):
        assert f"{name} {history[name][0]:.4f}" in terms
    assert f"total_loss {history['total_loss'][0]:.4f}" in terms


def test_keras_own_switch_silences_it(shown):
    keras.utils.disable_interactive_logging()
    fit(network(), epochs=1)
    assert shown() == []
