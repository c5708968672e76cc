"""What a detector's teacher hands over."""

import keras
import laws
import numpy as np
import pytest
from detectors import ANCHORS, drawn_data, small_data, tiny_detector

from aip_tf import detection
from aip_tf.channels import find_channel_groups, prune_channels
from aip_tf.game import (
    AdversarialDistiller,
    AdversarialTransfer,
    AttentionTransfer,
    OutputTransfer,
    Reading,
)


def transfers():
    return [
        detection.DetectionTransfer(),
        AttentionTransfer("auto"),
        AdversarialTransfer(outputs="classes", name="everywhere"),
        detection.AdversarialDetectionTransfer(num_positions=8),
    ]


def halved(model):
    rng = np.random.default_rng(0)
    return prune_channels(model, laws.random_masks(find_channel_groups(model), rng))


def test_the_whole_game_plays_on_detectors():
    detector = tiny_detector()
    data = small_data()
    student = halved(detector)
    game = AdversarialDistiller(detector, student, transfers())
    detection.compile_detector(game, keras.optimizers.Adam(1e-3))
    truth = detection.ground_truth(drawn_data(), 64, batch_size=3)
    evaluation = detection.DetectionEvaluation(truth, ANCHORS)
    history = game.fit(
        data.test, epochs=3, verbose=0, shuffle=False, callbacks=[evaluation]
    ).history
    assert history["detection_loss"][-1] < history["detection_loss"][0]
    assert {"attention_loss", "adversarial_loss", "val_mean_average_precision"} < set(history)
    assert np.isfinite(keras.tree.flatten(history)).all()


def test_output_transfer_reads_the_classes_alone():
    detector = tiny_detector()
    student = halved(detector)
    transfer = OutputTransfer(outputs="classes").bind(detector, student)
    readings = [detector(np.ones((1, 64, 64, 3), "float32"))] * 2
    first, second = (Reading(keras.tree.flatten(x)) for x in readings)
    assert float(transfer.loss(first, second)) == pytest.approx(0.0, abs=1e-5)
    moved = Reading([first.outputs[0] + 1.0, first.outputs[1]])
    assert float(transfer.loss(first, moved)) == pytest.approx(0.0, abs=1e-5)


def test_detection_transfer_counts_anchors_with_objects():
    detector = tiny_detector()
    transfer = detection.DetectionTransfer(temperature=1.0).bind(detector, halved(detector))
    background, object_ = [20.0, 0.0, 0.0], [0.0, 20.0, 0.0]
    offsets = np.zeros((1, 2, 4), "float32")
    sees = Reading([offsets, np.float32([[object_, background]])])
    assert float(transfer.loss(sees, sees)) == pytest.approx(0.0, abs=1e-5)
    away = offsets.copy()
    away[0, 1] = 5.0  # boxes of background anchors are free
    assert float(transfer.loss(sees, Reading([away, sees.outputs[1]]))) < 1e-4
    away[0, 0, 0] = 2.0
    assert float(transfer.loss(sees, Reading([away, sees.outputs[1]]))) == pytest.approx(1.5)
    # An object that only the student imagines: KL of nearly 20 at one of two anchors that count.
    imagines = Reading([offsets, np.float32([[object_, object_]])])
    assert float(transfer.loss(sees, imagines)) == pytest.approx(10.0, rel=1e-3)


def test_the_discriminator_of_a_detector_sees_where_an_object_is():
    detector, student = tiny_detector(), tiny_detector()
    transfer = detection.AdversarialDetectionTransfer(num_positions=2).bind(detector, student)
    seen, show = [], transfer._show
    transfer._show = lambda views, reading: seen.append(views[0]) or show(views, reading)
    teacher_logits, student_logits = np.zeros((2, 1, 5, 4), "float32")
    teacher_logits[..., 0] = student_logits[..., 0] = 9.0
    teacher_logits[0, 3] = [0.0, 7.0, 0.0, 0.0]  # where the teacher sees something
    student_logits[0, 1] = [0.0, 0.0, 5.0, 0.0]  # where the student imagines something
    offsets = np.zeros((1, 5, 4), "float32")
    transfer.compile(None)
    transfer.play(Reading([offsets, teacher_logits]), Reading([offsets, student_logits]))
    for logits, shown in zip((teacher_logits, student_logits), seen, strict=True):
        np.testing.assert_array_equal(shown[0], logits[0, [3, 1]])
    again = detection.AdversarialDetectionTransfer.from_config(transfer.get_config())
    assert again.num_positions == 2


def test_bad_detection_transfers_are_errors():
    with pytest.raises(ValueError, match="temperature > 0"):
        detection.DetectionTransfer(temperature=0)
    with pytest.raises(ValueError, match="num_positions=0"):
        detection.AdversarialDetectionTransfer(num_positions=0)
    classifier = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="'boxes' and 'classes'"):
        detection.DetectionTransfer().bind(classifier, classifier)
