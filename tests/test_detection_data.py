"""Augmentation, encoded batches and ground truth, on drawn and on real images."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from detectors import (
    ANCHORS,
    DEVKIT,
    drawn_data,
    drawn_examples,
    needs_voc,
    outputs_for,
    small_data,
)

from aip_tf import datasets, detection
from aip_tf.detection import augment


def test_the_whole_patch_is_a_plain_resize():
    image = tf.random.stateless_uniform((50, 70, 3), (1, 2))
    shown = augment.show(image, augment.WHOLE, 40)
    np.testing.assert_allclose(shown, tf.image.resize(image, (40, 40)), atol=1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_boxes_stay_on_their_objects(seed):
    """A bright rectangle is still where its box says, after any zoom, crop and flip."""
    box = np.array([0.3, 0.4, 0.7, 0.6], "float32")
    image = np.zeros((200, 100, 3), "float32")
    image[60:140, 40:60] = 1.0
    patch = augment.random_patch([box], (seed, 7))
    shown = augment.show(tf.constant(image), patch, 120).numpy()[..., 0]
    bright = np.argwhere(shown > 0.75)
    expected = np.clip(augment.move_into([box], patch)[0], 0, 1) * 120
    np.testing.assert_allclose(bright.min(axis=0), expected[:2], atol=1.6)
    np.testing.assert_allclose(bright.max(axis=0) + 1, expected[2:], atol=1.6)


def test_patches_vary_and_always_hold_an_object():
    box = np.array([[0.3, 0.4, 0.7, 0.6]], "float32")
    patches = np.array([augment.random_patch(box, (seed, 3)) for seed in range(60)])
    upright = np.concatenate(
        [np.minimum(patches[:, :2], patches[:, 2:]), np.maximum(patches[:, :2], patches[:, 2:])],
        axis=1,
    )
    assert augment.is_centered_in(box, upright).numpy().all()
    assert 10 < (patches[:, 1] > patches[:, 3]).sum() < 50, "about half are mirrored"
    extent = upright[:, 2] - upright[:, 0]
    assert (extent > 1.01).any() and (extent < 0.99).any()
    assert len(np.unique(patches.round(4), axis=0)) > 40


def test_data_fits_the_model():
    data = small_data()
    assert data.input_shape == (64, 64, 3) and data.num_classes == 3
    for batches, expected in ((data.train, 2), (data.test, 2)):
        assert int(batches.cardinality()) == expected
        images, targets = next(iter(batches))
        assert images.shape == (3, 64, 64, 3) and images.dtype == tf.float32
        assert float(tf.reduce_min(images)) >= 0 and float(tf.reduce_max(images)) <= 1
        assert targets["boxes"].shape == (3, len(ANCHORS), 5)
        assert targets["classes"].shape == (3, len(ANCHORS))


def test_augmentation_is_new_in_every_epoch_and_the_same_for_one_seed():
    data = drawn_data()

    def two_epochs(seed):
        train = detection.ssd_data(data, input_size=64, batch_size=3, seed=seed).train
        return [[(x.numpy(), y["boxes"].numpy()) for x, y in train] for _ in range(2)]

    first, again, other = two_epochs(5), two_epochs(5), two_epochs(6)
    for a, b in zip(keras.tree.flatten(first), keras.tree.flatten(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0][0][0], first[1][0][0])
    assert not np.array_equal(first[0][0][0], other[0][0][0])


def test_ground_truth_keeps_every_object():
    images, objects = next(iter(detection.ground_truth(drawn_data(), 64, batch_size=6)))
    assert images.shape == (6, 64, 64, 3)
    assert objects["labels"].numpy().ravel().tolist() == [0, 1, 2, 0, 1, -1]
    assert objects["difficult"].numpy().ravel().tolist() == [False, True, False, False, True, False]
    # The brightest part of each whole image is where the box says.
    bright = np.argwhere(images[0, ..., 0].numpy() > 0.6)
    np.testing.assert_allclose(bright.min(axis=0) / 64, objects["boxes"][0, 0, :2], atol=0.03)


def test_examples_of_unknown_number_are_an_error():
    examples = drawn_examples().filter(lambda *_: True)
    data = datasets.Data(examples, examples, input_shape=(None, None, 3), num_classes=3)
    for function in (detection.ground_truth, detection.ssd_data):
        with pytest.raises(ValueError, match="assert_cardinality"):
            function(data, 64)


@needs_voc
def test_every_real_object_has_an_anchor_and_a_perfect_detector_scores_one():
    """108 real images, through encoding, decoding, suppression and average precision."""
    sets = ("2012/train", "2012/val")
    data = datasets.voc(DEVKIT, train=sets, test=sets)
    anchors = detection.default_boxes(detection.feature_sizes(128))
    metric = detection.MeanAveragePrecision(20, "eleven_points")
    num_objects = 0
    for _, objects in data.test:
        outputs = outputs_for((objects["boxes"], objects["labels"]), anchors, 20)
        # The paper's 0.45 would merge objects of one class that truly overlap by more.
        found = detection.detect(outputs, anchors, iou_threshold=0.95)
        metric.update_state({k: v[None] for k, v in objects.items()}, found)
        num_objects += len(objects["labels"])
    assert num_objects == 284
    assert metric.result() > 0.99
