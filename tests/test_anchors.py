"""Default boxes of SSD: their order, matching, encoding."""

import keras
import numpy as np
import pytest
from detectors import ANCHORS

from aip_tf import detection
from aip_tf.detection import anchors as boxes_module


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


def test_encoded_targets_decode_to_the_objects():
    boxes = np.array([[0.1, 0.2, 0.4, 0.5], [0.3, 0.3, 0.9, 0.8]], "float32")
    targets = detection.encode(boxes, [2, 0], ANCHORS)
    decoded = detection.decode_offsets(targets["boxes"][:, :4], ANCHORS).numpy()
    classes = targets["classes"].numpy()
    np.testing.assert_array_equal(targets["boxes"][:, 4], classes > 0)
    for label, box in ((3, boxes[0]), (1, boxes[1])):
        assert (classes == label).any()
        np.testing.assert_allclose(decoded[classes == label] - box, 0, atol=1e-6)
    assert not targets["boxes"].numpy()[classes == 0].any()


def test_an_image_without_objects_is_all_background():
    targets = detection.encode(np.zeros((0, 4)), np.zeros(0, int), ANCHORS)
    assert not targets["boxes"].numpy().any() and not targets["classes"].numpy().any()
