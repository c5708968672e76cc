"""Decoding, evaluation, and `prune` on a detector."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from detectors import (
    ANCHORS,
    DEVKIT,
    drawn_data,
    needs_voc,
    outputs_for,
    small_data,
    tiny_detector,
)

import aip_tf
from aip_tf import datasets, detection


def test_bad_arguments_are_errors():
    with pytest.raises(ValueError, match="num_classes >= 1"):
        detection.ssd_vgg16(num_classes=0, input_size=64)
    with pytest.raises(ValueError, match="negatives_per_positive"):
        detection.multibox_loss(negatives_per_positive=0)
    with pytest.raises(ValueError, match="weight=-1"):
        detection.multibox_loss(localization_weight=-1)
    with pytest.raises(ValueError, match="eleven_points"):
        detection.average_precision([1.0], [1.0], method="voc")


def test_perfect_outputs_give_the_objects():
    boxes = np.array([[0.1, 0.2, 0.4, 0.5], [0.3, 0.3, 0.9, 0.8]], "float32")
    found = detection.detect(outputs_for((boxes, [2, 0]), ANCHORS, 3), ANCHORS)
    count = int(found.num_detections[0])
    strong = found.scores[0, :count].numpy() > 0.5
    assert strong.sum() == 2, "duplicates of one object are suppressed"
    labels = found.labels[0, :count].numpy()[strong]
    order = np.argsort(-labels)
    assert labels[order].tolist() == [2, 0]
    np.testing.assert_allclose(found.boxes[0, :count].numpy()[strong][order], boxes, atol=1e-5)
    assert set(found.labels[0, count:].numpy().tolist()) <= {-1}


def test_suppression_is_per_class():
    anchors = np.array([[0.5, 0.5, 0.4, 0.4], [0.51, 0.5, 0.4, 0.4]], "float32")
    offsets = tf.zeros((1, 2, 4))
    same = tf.constant([[[0.0, 8.0, 0.0], [0.0, 6.0, 0.0]]])
    other = tf.constant([[[0.0, 8.0, 0.0], [0.0, 0.0, 6.0]]])
    found = [detection.detect({"boxes": offsets, "classes": x}, anchors) for x in (same, other)]
    assert [np.sum(x.scores.numpy() > 0.5) for x in found] == [1, 2]


def test_anchors_of_another_size_are_an_error():
    model = tiny_detector()
    outputs = model(np.zeros((1, 64, 64, 3), "float32"))
    with pytest.raises(ValueError, match="do not belong together"):
        detection.detect(outputs, ANCHORS[:-1])


def test_loss_falls_and_average_precision_is_logged():
    detector = tiny_detector()
    data = small_data()
    model = detection.compile_detector(detector, keras.optimizers.Adam(1e-2))
    truth = detection.ground_truth(drawn_data(), 64, batch_size=3)
    evaluation = detection.DetectionEvaluation(truth, ANCHORS, frequency=4)
    history = model.fit(
        data.test, epochs=8, verbose=0, shuffle=False, callbacks=[evaluation]
    ).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert {"boxes_loss", "classes_loss", "classes_matched_accuracy"} < set(history)
    measured = history["val_mean_average_precision"]
    assert len(measured) == 2 and 0 <= min(measured) <= max(measured) <= 1


def test_nothing_to_evaluate_on_is_an_error():
    model = tiny_detector()
    with pytest.raises(ValueError, match="nothing to evaluate"):
        detection.evaluate_detector(model, [], ANCHORS)
    with pytest.raises(ValueError, match="at least 1"):
        detection.DetectionEvaluation([], ANCHORS, frequency=0)


@pytest.mark.parametrize(
    "size, wrong, message",
    [(64, {"anchors": ANCHORS[1:]}, "anchors. Expected as many"), (96, {}, "input_size")],
)
def test_a_task_that_does_not_belong_to_the_model_is_known_at_once(size, wrong, message):
    detector, batch = tiny_detector(), next(iter(small_data().test))
    truth = detection.ground_truth(drawn_data(), size, batch_size=3)
    task = detection.DetectionTask(**{"examples": truth, "anchors": ANCHORS, **wrong})
    with pytest.raises(ValueError, match=message):
        task.read(detection.compile_detector(detector), batch)
    with pytest.raises(ValueError, match="without anchors"):
        detection.DetectionTask(examples=truth)


def test_prune_cuts_and_recovers_a_detector():
    detector = tiny_detector()
    data = small_data()
    teacher = detection.compile_detector(detector)

    def truth():
        return detection.ground_truth(drawn_data(), 64, batch_size=3)

    recovery = aip_tf.Recovery(
        epochs=2,
        optimizer="adam",
        transfers=[detection.DetectionTransfer()],
        task=detection.DetectionTask(examples=truth, anchors=ANCHORS),
        callbacks=(detection.DetectionEvaluation(truth, ANCHORS),),
    )

    def cut_once(epoch):
        return epoch == 0, 0.4

    student, report = aip_tf.prune(
        teacher,
        data.train,
        data.test,
        schedule=cut_once,
        criterion="taylor",
        recovery=recovery,
    )
    assert report.student.macs <= 0.6 * report.teacher.macs
    for metrics in (
        report.teacher.metrics,
        report.rounds[0].metrics_before,
        report.student.metrics,
    ):
        assert {"classes_matched_accuracy", "mean_average_precision"} < set(metrics)
    found = recovery.task.measure(lambda images: student(images, training=False))
    assert found == {k: report.student.metrics[k] for k in ("mean_average_precision",)}
    assert student.output["boxes"].shape == teacher.output["boxes"].shape
    assert "mean_average_precision" in report.render().splitlines()[3]
    who = ["ground truth", "teacher", "student after the last cut", "student, recovered"]
    assert list(report.pictures["found"]) == who
    assert [len(boxes) for boxes in report.pictures["found"]["ground truth"]] == [1, 1, 1]
    assert aip_tf.PruningReport.from_json(report.to_json()).to_html().count("<svg viewBox") == 12


@needs_voc
@pytest.mark.slow
def test_a_small_ssd_learns_real_images_by_heart():
    """Four photographs, 100 steps: the loss falls hundredfold, every object is found."""
    keras.utils.set_random_seed(0)
    data = datasets.voc(DEVKIT, train=("2012/train",), test=("2012/trainval",))
    few = datasets.Data(data.test.take(4), data.test.take(4), data.input_shape, data.num_classes)
    batches = detection.ssd_data(few, input_size=64, batch_size=4).test.cache()
    truth = detection.ground_truth(few, 64)
    anchors = detection.default_boxes(detection.feature_sizes(64))
    model = detection.ssd_vgg16(num_classes=20, input_size=64, width=1 / 8)
    detection.compile_detector(model, keras.optimizers.Adam(1e-3))
    before = detection.evaluate_detector(model, truth, anchors).result()
    history = model.fit(batches, epochs=100, verbose=0, shuffle=False).history
    after = detection.evaluate_detector(model, truth, anchors).result()
    assert history["loss"][-1] < 0.02 * history["loss"][0]
    assert before < 0.1 and after > 0.9
