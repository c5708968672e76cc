"""SSD: anchors, matching, loss, decoding, average precision, augmentation, and the real images."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import laws
import numpy as np
import pytest
import tensorflow as tf

import aip_tf
from aip_tf import datasets, detection
from aip_tf.channels import find_channel_groups, prune_channels
from aip_tf.detection import anchors as boxes_module
from aip_tf.detection import augment
from aip_tf.game import (
    AdversarialDistiller,
    AdversarialTransfer,
    AttentionTransfer,
    OutputTransfer,
    Reading,
)

ROOT = Path(__file__).parents[1]
DEVKIT = ROOT.parent / "shared" / "data" / "VOCdevkit"
needs_voc = pytest.mark.skipif(not DEVKIT.is_dir(), reason=f"no real images at {DEVKIT}")

SMALL = {"num_classes": 3, "input_size": 64, "width": 1 / 16}


@pytest.fixture(scope="module")
def small_anchors():
    return detection.default_boxes(detection.feature_sizes(64))


@pytest.fixture(scope="module")
def small_model():
    keras.utils.set_random_seed(0)
    return detection.ssd_vgg16(**SMALL, batch_norm=True)


@pytest.fixture
def tiny_detector():
    """A detector of five convolutions with the anchors of `small_model`: quick to trace."""
    keras.utils.set_random_seed(0)
    image = keras.Input((64, 64, 3), name="image")
    x, sources = image, []
    for k, stride in enumerate((4, 2, 1, 2, 2)):
        x = keras.layers.Conv2D(16, 3, stride, "same", name=f"conv{k}")(x)
        x = keras.layers.ReLU(name=f"relu{k}")(keras.layers.BatchNormalization(name=f"bn{k}")(x))
        sources.append(x)
    return keras.Model(image, detection.multibox_heads(sources[2:], num_classes=3))


# --- anchors and matching -----------------------------------------------------------------------


def test_ssd300_has_the_papers_anchors():
    found = detection.default_boxes(detection.feature_sizes(300))
    assert found.shape == (8732, 4) and found.dtype == np.float32
    # First cell of the finest map: 0.1 squared, the geometric mean of 0.1 and 0.2, ratios 2, 1/2.
    np.testing.assert_allclose(found[:4, :2], 0.5 / 38, rtol=1e-6)
    wide = [0.1 / 2**0.5, 0.1 * 2**0.5]
    shapes = [[0.1, 0.1], [0.02**0.5] * 2, wide, wide[::-1]]
    np.testing.assert_allclose(found[:4, 2:], shapes, rtol=1e-6)
    # Rows before columns: the second cell lies to the right of the first.
    np.testing.assert_allclose(found[4, :2], [0.5 / 38, 1.5 / 38], rtol=1e-6)
    np.testing.assert_allclose(found[-4], [0.5, 0.5, 0.88, 0.88], rtol=1e-6)


def test_too_few_maps_is_an_error():
    with pytest.raises(ValueError, match="at least 33 pixels"):
        detection.feature_sizes(32)
    with pytest.raises(ValueError, match="at least three maps"):
        detection.default_boxes((4, 2))


@pytest.mark.parametrize("size", [33, 48, 64, 100, 128])
def test_model_and_anchors_agree_on_their_number(size):
    model = detection.ssd_vgg16(num_classes=2, input_size=size, width=1 / 64)
    num_anchors = len(detection.default_boxes(detection.feature_sizes(size)))
    assert model.output["boxes"].shape == (None, num_anchors, 4)
    assert model.output["classes"].shape == (None, num_anchors, 3)


def test_order_of_outputs_is_the_order_of_anchors():
    """Heads that copy a map of cell positions give every anchor its own position."""
    sizes = (5, 3, 2)
    sources = [keras.Input((size, size, 1)) for size in sizes]
    model = keras.Model(sources, detection.multibox_heads(sources, num_classes=1))
    positions = []
    for size in sizes:
        cy, cx = np.meshgrid(*[(np.arange(size) + 0.5) / size] * 2, indexing="ij")
        positions.append((10 * cy + cx)[None, :, :, None])
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            kernel = np.zeros(layer.kernel.shape)
            kernel[1, 1] = 1.0
            layer.set_weights([kernel, 100.0 * np.arange(layer.filters)])
    anchors = detection.default_boxes(sizes)
    expected = 10 * anchors[:, 0] + anchors[:, 1]
    cell = np.concatenate(
        [np.tile(np.arange(n), s * s) for n, s in zip((4, 4, 4), sizes, strict=True)]
    )
    for key, depth in (("boxes", 4), ("classes", 2)):
        found = model(positions)[key][0].numpy()
        channel = cell[:, None] * depth + np.arange(depth)
        np.testing.assert_allclose(found, expected[:, None] + 100.0 * channel, rtol=1e-5)


def test_intersection_over_union_by_hand():
    overlap = boxes_module.intersection_over_union(
        [[0.0, 0.0, 0.5, 0.5], [0.2, 0.2, 0.2, 0.4]], [[0.25, 0.0, 0.75, 0.5], [0.5, 0.5, 1.0, 1.0]]
    )
    np.testing.assert_allclose(overlap, [[1 / 3, 0], [0, 0]], atol=1e-6)


def test_two_objects_on_one_anchor_both_get_one():
    anchors = np.array(
        [[0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.9, 0.9], [0.1, 0.1, 0.1, 0.1]], "float32"
    )
    boxes = [[0.31, 0.31, 0.7, 0.7], [0.3, 0.3, 0.7, 0.7]]
    assert detection.match(boxes, anchors).numpy().tolist() == [1, 0, -1]


def test_an_object_keeps_its_best_anchor_below_the_threshold():
    anchors = np.array([[0.2, 0.2, 0.2, 0.2], [0.8, 0.8, 0.2, 0.2]], "float32")
    assert detection.match([[0.75, 0.75, 0.8, 0.8]], anchors).numpy().tolist() == [-1, 0]


def test_a_box_without_area_is_nobodys():
    anchors = detection.default_boxes((3, 2, 1))
    assert detection.match([[0.5, 0.5, 0.5, 0.5]], anchors).numpy().max() == -1


def test_encoded_targets_decode_to_the_objects(small_anchors):
    boxes = np.array([[0.1, 0.2, 0.4, 0.5], [0.3, 0.3, 0.9, 0.8]], "float32")
    targets = detection.encode(boxes, [2, 0], small_anchors)
    decoded = detection.decode_offsets(targets["boxes"][:, :4], small_anchors).numpy()
    classes = targets["classes"].numpy()
    np.testing.assert_array_equal(targets["boxes"][:, 4], classes > 0)
    for label, box in ((3, boxes[0]), (1, boxes[1])):
        assert (classes == label).any()
        np.testing.assert_allclose(decoded[classes == label] - box, 0, atol=1e-6)
    assert not targets["boxes"].numpy()[classes == 0].any()


def test_an_image_without_objects_is_all_background(small_anchors):
    targets = detection.encode(np.zeros((0, 4)), np.zeros(0, int), small_anchors)
    assert not targets["boxes"].numpy().any() and not targets["classes"].numpy().any()


# --- model --------------------------------------------------------------------------------------


def test_ssd300_has_the_published_size():
    model = detection.ssd300_vgg16(num_classes=20)
    assert model.count_params() == 26_285_486
    assert model.output["boxes"].shape == (None, 8732, 4)
    assert model.output["classes"].shape == (None, 8732, 21)


@pytest.fixture
def narrow_vgg16():
    """The layers of `keras.applications.VGG16` at 1/16 of the width."""
    layers = keras.layers
    vgg = keras.Sequential([keras.Input((14, 14, 3))])
    for block, (depth, filters) in enumerate(((2, 4), (2, 8), (3, 16), (3, 32), (3, 32)), start=1):
        for k in range(1, depth + 1):
            name = f"block{block}_conv{k}"
            vgg.add(layers.Conv2D(filters, 3, padding="same", name=name))
    for layer in (layers.MaxPooling2D(2), layers.Flatten()):
        vgg.add(layer)
    for name in ("fc1", "fc2"):
        vgg.add(layers.Dense(256, name=name))
    return vgg


def test_weights_of_vgg16_are_taken_over(narrow_vgg16, monkeypatch):
    monkeypatch.setattr(keras.applications, "VGG16", lambda weights: narrow_vgg16)
    model = detection.ssd_vgg16(1, input_size=64, width=1 / 16, weights="imagenet")

    def kernel(network, name):
        return network.get_layer(name).kernel.numpy()

    first = kernel(narrow_vgg16, "block1_conv1")
    np.testing.assert_array_equal(kernel(model, "block1_conv1"), first[:, :, ::-1])
    last = kernel(narrow_vgg16, "block5_conv3")
    np.testing.assert_array_equal(kernel(model, "block5_conv3"), last)
    fc1 = kernel(narrow_vgg16, "fc1").reshape(7, 7, 32, 256)
    np.testing.assert_array_equal(kernel(model, "fc6")[1, 2, :, 5], fc1[3, 6, :, 20])
    fc2 = kernel(narrow_vgg16, "fc2")
    np.testing.assert_array_equal(kernel(model, "fc7")[0, 0, 3, 4], fc2[12, 16])
    wider = detection.ssd_vgg16(num_classes=1, input_size=64, width=1 / 8)
    with pytest.raises(ValueError, match="do not fit layer 'block1_conv1'"):
        detection.copy_vgg16_weights(wider, narrow_vgg16)


def test_bad_arguments_are_errors():
    with pytest.raises(ValueError, match="num_classes >= 1"):
        detection.ssd_vgg16(num_classes=0, input_size=64)
    with pytest.raises(ValueError, match="negatives_per_positive"):
        detection.multibox_loss(negatives_per_positive=0)
    with pytest.raises(ValueError, match="weight=-1"):
        detection.multibox_loss(localization_weight=-1)
    with pytest.raises(ValueError, match="eleven_points"):
        detection.average_precision([1.0], [1.0], method="voc")


def test_model_is_saved_and_loaded(small_model, tmp_path):
    small_model.save(tmp_path / "ssd.keras")
    loaded = keras.models.load_model(tmp_path / "ssd.keras")
    image = np.random.default_rng(0).random((1, 64, 64, 3), "float32")
    for key, value in small_model(image).items():
        np.testing.assert_array_equal(loaded(image)[key], value)


# --- loss ---------------------------------------------------------------------------------------


def reference_loss(targets, outputs, ratio=3):
    """The MultiBox loss in plain loops."""
    localization = confidence = num_matched = 0.0
    for image in range(len(targets["classes"])):
        labels = targets["classes"][image]
        logits = outputs["classes"][image]
        entropy = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(labels)), labels]
        positive = labels > 0
        hardest = np.sort(entropy[~positive])[::-1][: ratio * positive.sum()]
        confidence += entropy[positive].sum() + hardest.sum()
        distance = np.abs(targets["boxes"][image, positive, :4] - outputs["boxes"][image, positive])
        localization += np.where(distance < 1, distance**2 / 2, distance - 0.5).sum()
        num_matched += positive.sum()
    return localization / num_matched, confidence / num_matched


def random_case(rng, batch=3, num_anchors=40, num_classes=4):
    labels = rng.integers(1, num_classes, (batch, num_anchors)) * (
        rng.random((batch, num_anchors)) < [[0.1], [0.6], [0.0]]
    )
    offsets = rng.normal(size=(batch, num_anchors, 4)) * (labels > 0)[..., None]
    matched = (labels > 0).astype("float32")[..., None]
    return (
        {"boxes": np.concatenate([offsets, matched], -1).astype("float32"), "classes": labels},
        {
            "boxes": rng.normal(size=(batch, num_anchors, 4)).astype("float32"),
            "classes": rng.normal(size=(batch, num_anchors, num_classes)).astype("float32"),
        },
    )


@pytest.mark.parametrize("seed", range(5))
def test_loss_equals_plain_loops(seed):
    """Among the images: few matched, so many that negatives run out, none matched."""
    targets, outputs = random_case(np.random.default_rng(seed))
    losses = detection.multibox_loss()
    found = [float(losses[key](targets[key], outputs[key])) for key in ("boxes", "classes")]
    np.testing.assert_allclose(found, reference_loss(targets, outputs), rtol=1e-5)


def test_loss_of_a_batch_without_objects_is_zero():
    targets, outputs = random_case(np.random.default_rng(0))
    losses = detection.multibox_loss()
    for key, loss in losses.items():
        assert float(loss(np.zeros_like(targets[key]), outputs[key])) == 0.0


def test_only_the_hardest_negatives_have_a_gradient():
    logits = tf.Variable([[[0.0, 0.0], [0.0, 3.0], [0.0, 1.0], [0.0, 2.0]]])
    with tf.GradientTape() as tape:
        loss = detection.ConfidenceLoss(negatives_per_positive=2)(np.array([[1, 0, 0, 0]]), logits)
    moved = np.abs(tape.gradient(loss, logits)).sum(-1)[0] > 0
    assert moved.tolist() == [True, True, False, True]


def test_losses_survive_serialization():
    for loss in detection.multibox_loss(2.0, 0.5).values():
        config = keras.saving.serialize_keras_object(loss)
        again = keras.saving.deserialize_keras_object(config)
        assert again.get_config() == loss.get_config()


def test_matched_accuracy_ignores_background():
    metric = detection.MatchedAccuracy()
    metric.update_state([[1, 2, 0, 0]], [[[0, 5.0, 0], [0, 5.0, 0], [9.0, 0, 0], [0, 9.0, 0]]])
    assert float(metric.result()) == 0.5


# --- decoding -----------------------------------------------------------------------------------


def outputs_for(objects, anchors, num_classes, confidence=9.0):
    """What a perfect model would return for one image."""
    targets = detection.encode(*objects, anchors)
    logits = confidence * tf.one_hot(targets["classes"], num_classes + 1)
    return {"boxes": targets["boxes"][None, :, :4], "classes": logits[None]}


def test_perfect_outputs_give_the_objects(small_anchors):
    boxes = np.array([[0.1, 0.2, 0.4, 0.5], [0.3, 0.3, 0.9, 0.8]], "float32")
    found = detection.detect(outputs_for((boxes, [2, 0]), small_anchors, 3), small_anchors)
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


def test_anchors_of_another_size_are_an_error(small_model, small_anchors):
    outputs = small_model(np.zeros((1, 64, 64, 3), "float32"))
    with pytest.raises(ValueError, match="do not belong together"):
        detection.detect(outputs, small_anchors[:-1])


# --- average precision --------------------------------------------------------------------------


def unit_box(k):
    return [0.1 * k, 0.0, 0.1 * k + 0.1, 0.1]


def measured(objects, found, method="area", num_classes=1):
    """objects: (box, label, difficult) in one image; found: (box, score, label)."""
    metric = detection.MeanAveragePrecision(num_classes, method)
    boxes, labels, difficult = zip(*objects, strict=True)
    found_boxes, scores, found_labels = zip(*found, strict=True)
    metric.update_state(
        {"boxes": [boxes], "labels": [labels], "difficult": [difficult]},
        ([found_boxes], [scores], [found_labels]),
    )
    return metric


def test_average_precision_by_hand():
    """Right, wrong, right, of three objects: precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3."""
    objects = [(unit_box(k), 0, False) for k in range(3)]
    found = [(unit_box(0), 0.9, 0), (unit_box(7), 0.8, 0), (unit_box(1), 0.7, 0)]
    assert measured(objects, found).result() == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3)
    # Recalls 0 to 0.3 see precision 1, recalls 0.4 to 0.6 see 2/3, the other four see nothing.
    by_points = measured(objects, found, "eleven_points").result()
    assert by_points == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)


def test_a_second_detection_of_one_object_is_wrong():
    objects = [(unit_box(0), 0, False), (unit_box(1), 0, False)]
    found = [(unit_box(0), 0.9, 0), (unit_box(0), 0.8, 0), (unit_box(1), 0.7, 0)]
    assert measured(objects, found).result() == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_difficult_objects_count_neither_way():
    objects = [(unit_box(0), 0, False), (unit_box(1), 0, True), (unit_box(2), 0, True)]
    found = [(unit_box(1), 0.9, 0), (unit_box(1), 0.85, 0), (unit_box(0), 0.8, 0)]
    assert measured(objects, found).result() == 1.0


def test_an_object_of_another_class_is_not_found():
    objects = [(unit_box(0), 0, False), (unit_box(1), 1, False)]
    metric = measured(objects, [(unit_box(0), 0.9, 1), (unit_box(1), 0.8, 1)], num_classes=3)
    per_class = metric.per_class()
    np.testing.assert_allclose(per_class[:2], [0.0, 0.5])
    assert np.isnan(per_class[2]), "a class without objects has no average precision"
    assert metric.result() == 0.25


def test_overlap_decides_at_the_threshold():
    objects = [([0.0, 0.0, 0.5, 0.5], 0, False)]
    assert measured(objects, [([0.0, 0.0, 0.5, 0.25], 0.9, 0)]).result() == 1.0
    assert measured(objects, [([0.0, 0.0, 0.5, 0.24], 0.9, 0)]).result() == 0.0


def test_padding_is_ignored_and_state_is_reset():
    objects = [(unit_box(0), 0, False), ([0, 0, 0, 0], -1, False)]
    metric = measured(objects, [(unit_box(0), 0.9, 0), ([0, 0, 0, 0], 0.0, -1)])
    assert metric.result() == 1.0
    metric.reset_state()
    assert np.isnan(metric.result())


def test_order_of_images_and_detections_does_not_matter():
    rng = np.random.default_rng(0)
    corner = rng.random((4, 6, 2)) * 0.8
    boxes = np.concatenate([corner, corner + 0.2], -1)
    objects = {"boxes": boxes, "labels": rng.integers(0, 2, (4, 6))}
    shifted = boxes + rng.normal(size=boxes.shape) * 0.02
    found = (shifted, rng.random((4, 6)), rng.integers(0, 2, (4, 6)))
    order, inner = rng.permutation(4), rng.permutation(6)
    one, other = detection.MeanAveragePrecision(2), detection.MeanAveragePrecision(2)
    one.update_state(objects, found)
    for k in order:
        other.update_state(
            {key: value[k : k + 1] for key, value in objects.items()},
            tuple(part[k : k + 1][:, inner] for part in found),
        )
    assert 0.05 < one.result() < 0.95
    assert one.result() == pytest.approx(other.result(), abs=1e-12)


# --- augmentation -------------------------------------------------------------------------------


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


# --- data ---------------------------------------------------------------------------------------


def drawn_examples(count=6):
    """Bright rectangles on dark images of different sizes, with their boxes; the last is empty."""
    rng = np.random.default_rng(0)
    images, objects = [], []
    for k in range(count):
        height, width = rng.integers(60, 90, 2)
        image = rng.uniform(0, 0.2, (height, width, 3)).astype("float32")
        boxes = (
            np.zeros((0, 4), "float32") if k == count - 1 else np.float32([[0.2, 0.3, 0.7, 0.8]])
        )
        for ymin, xmin, ymax, xmax in boxes:
            rows = slice(round(ymin * height), round(ymax * height))
            image[rows, round(xmin * width) : round(xmax * width)] = 1.0
        images.append(image)
        labels = np.full(len(boxes), k % 3, "int32")
        objects.append({"boxes": boxes, "labels": labels, "difficult": labels == 1})
    signature = (
        tf.TensorSpec((None, None, 3)),
        {
            "boxes": tf.TensorSpec((None, 4)),
            "labels": tf.TensorSpec((None,), tf.int32),
            "difficult": tf.TensorSpec((None,), tf.bool),
        },
    )
    examples = tf.data.Dataset.from_generator(
        lambda: zip(images, objects, strict=True), output_signature=signature
    )
    return examples.apply(tf.data.experimental.assert_cardinality(count))


def drawn_data():
    examples = drawn_examples()
    return datasets.Data(examples, examples, input_shape=(None, None, 3), num_classes=3)


@pytest.fixture(scope="module")
def small_data():
    return detection.ssd_data(drawn_data(), input_size=64, batch_size=3, seed=5)


def test_data_fits_the_model(small_data, small_anchors):
    assert small_data.input_shape == (64, 64, 3) and small_data.num_classes == 3
    for batches, expected in ((small_data.train, 2), (small_data.test, 2)):
        assert int(batches.cardinality()) == expected
        images, targets = next(iter(batches))
        assert images.shape == (3, 64, 64, 3) and images.dtype == tf.float32
        assert float(tf.reduce_min(images)) >= 0 and float(tf.reduce_max(images)) <= 1
        assert targets["boxes"].shape == (3, len(small_anchors), 5)
        assert targets["classes"].shape == (3, len(small_anchors))


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


# --- training -----------------------------------------------------------------------------------


def test_loss_falls_and_average_precision_is_logged(small_data, tiny_detector, small_anchors):
    model = detection.compile_detector(tiny_detector, keras.optimizers.Adam(1e-2))
    truth = detection.ground_truth(drawn_data(), 64, batch_size=3)
    evaluation = detection.DetectionEvaluation(truth, small_anchors, frequency=4)
    history = model.fit(
        small_data.test, epochs=8, verbose=0, shuffle=False, callbacks=[evaluation]
    ).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert {"boxes_loss", "classes_loss", "classes_matched_accuracy"} < set(history)
    measured = history["val_mean_average_precision"]
    assert len(measured) == 2 and 0 <= min(measured) <= max(measured) <= 1


def test_nothing_to_evaluate_on_is_an_error(small_model, small_anchors):
    with pytest.raises(ValueError, match="nothing to evaluate"):
        detection.evaluate_detector(small_model, [], small_anchors)
    with pytest.raises(ValueError, match="at least 1"):
        detection.DetectionEvaluation([], small_anchors, frequency=0)


def test_loss_is_the_same_on_two_replicas():
    """Losses and gradients on two logical devices equal those of one, though one has no objects."""
    script = """
        import keras, numpy as np, tensorflow as tf
        device = tf.config.LogicalDeviceConfiguration()
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [device] * 2)
        from aip_tf import detection
        from keras.layers import Dense, Flatten, Reshape

        rng = np.random.default_rng(0)
        labels = rng.integers(0, 3, (4, 12)) * [[1], [1], [0], [0]]
        offsets = np.concatenate([rng.normal(size=(4, 12, 4)), labels[..., None] > 0], -1)
        targets = {"boxes": offsets.astype("float32"), "classes": labels}
        images = rng.random((4, 6, 6, 2)).astype("float32")

        def train(strategy):
            with strategy.scope():
                keras.utils.set_random_seed(0)
                image = keras.Input((6, 6, 2))
                flat = Flatten()(image)
                outputs = {
                    "boxes": Reshape((12, 4), name="boxes")(Dense(48)(flat)),
                    "classes": Reshape((12, 3), name="classes")(Dense(36)(flat)),
                }
                model = detection.compile_detector(keras.Model(image, outputs), "sgd")
                batches = tf.data.Dataset.from_tensor_slices((images, targets)).batch(4)
                model.fit(batches, epochs=3, verbose=0)
                return np.concatenate([w.ravel() for w in model.get_weights()])

        one = train(tf.distribute.get_strategy())
        two = train(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
        print("difference", np.abs(one - two).max())
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert float(result.stdout.split("difference")[1]) < 1e-5


# --- pruning and the game -----------------------------------------------------------------------


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_cut_detector_equals_the_masked_one(batch_norm):
    rng = np.random.default_rng(0)
    model = detection.ssd_vgg16(num_classes=3, input_size=64, width=1 / 16, batch_norm=batch_norm)
    batch = rng.random((3, 64, 64, 3)).astype("float32")
    laws.randomize(model, rng, batch)
    groups = find_channel_groups(model)
    masks = laws.random_masks(groups, rng)
    assert len(masks) == 17, "every convolution of backbone and extra layers can be cut"
    error, cut = laws.masked_is_cut(model, masks, batch)
    assert error <= laws.TOLERANCE
    expected = laws.run(cut, batch)
    assert laws.any_control(model, masks, batch, expected, rng) >= laws.SENSITIVITY
    assert {k: v.shape for k, v in cut.output.items()} == {
        k: v.shape for k, v in model.output.items()
    }


def transfers():
    return [
        detection.DetectionTransfer(),
        AttentionTransfer("auto"),
        AdversarialTransfer(outputs="classes"),
    ]


def halved(model):
    rng = np.random.default_rng(0)
    return prune_channels(model, laws.random_masks(find_channel_groups(model), rng))


def test_the_whole_game_plays_on_detectors(small_data, tiny_detector, small_anchors):
    student = halved(tiny_detector)
    game = AdversarialDistiller(tiny_detector, student, transfers())
    detection.compile_detector(game, keras.optimizers.Adam(1e-3))
    truth = detection.ground_truth(drawn_data(), 64, batch_size=3)
    evaluation = detection.DetectionEvaluation(truth, small_anchors)
    history = game.fit(
        small_data.test, epochs=3, verbose=0, shuffle=False, callbacks=[evaluation]
    ).history
    assert history["detection_loss"][-1] < history["detection_loss"][0]
    assert {"attention_loss", "adversarial_loss", "val_mean_average_precision"} < set(history)
    assert np.isfinite(keras.tree.flatten(history)).all()


def test_output_transfer_reads_the_classes_alone(tiny_detector):
    student = halved(tiny_detector)
    transfer = OutputTransfer(outputs="classes").bind(tiny_detector, student)
    readings = [tiny_detector(np.ones((1, 64, 64, 3), "float32"))] * 2
    first, second = (Reading(keras.tree.flatten(x)) for x in readings)
    assert float(transfer.loss(first, second)) == pytest.approx(0.0, abs=1e-5)
    moved = Reading([first.outputs[0] + 1.0, first.outputs[1]])
    assert float(transfer.loss(first, moved)) == pytest.approx(0.0, abs=1e-5)


def test_detection_transfer_counts_anchors_with_objects(tiny_detector):
    transfer = detection.DetectionTransfer(temperature=1.0).bind(
        tiny_detector, halved(tiny_detector)
    )
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


def test_bad_detection_transfers_are_errors():
    with pytest.raises(ValueError, match="temperature > 0"):
        detection.DetectionTransfer(temperature=0)
    classifier = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="'boxes' and 'classes'"):
        detection.DetectionTransfer().bind(classifier, classifier)


def test_prune_cuts_and_recovers_a_detector(small_data, small_anchors, tiny_detector):
    teacher = detection.compile_detector(tiny_detector)

    def truth():
        return detection.ground_truth(drawn_data(), 64, batch_size=3)

    recovery = aip_tf.Recovery(
        epochs=2,
        optimizer="adam",
        transfers=[detection.DetectionTransfer()],
        task=detection.DetectionTask(examples=truth, anchors=small_anchors),
        callbacks=(detection.DetectionEvaluation(truth, small_anchors),),
    )

    def cut_once(epoch):
        return epoch == 0, 0.4

    student, report = aip_tf.prune(
        teacher,
        small_data.train,
        small_data.test,
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
    assert student.output["boxes"].shape == teacher.output["boxes"].shape


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
