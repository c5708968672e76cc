"""Average precision by hand, and as pycocotools computes it."""

import numpy as np
import pytest

from aip_tf import detection


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


def by_pycocotools(objects, found, label):
    """Average precision of one class: COCO's evaluation, read at every recall there is."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def rows(boxes, labels, scores=None, ignored=None):
        for image, k in np.argwhere(labels == label):
            ymin, xmin, ymax, xmax = map(float, 1000 * boxes[image, k])
            box = [xmin, ymin, xmax - xmin, ymax - ymin]
            row = {"image_id": int(image), "category_id": 1, "bbox": box, "iscrowd": 0}
            # An object beyond the range of areas is ignored, as VOC ignores a difficult one.
            row["area"] = 1e9 if ignored is not None and ignored[image, k] else box[2] * box[3]
            yield row if scores is None else {**row, "score": float(scores[image, k])}

    truth = list(rows(objects["boxes"], objects["labels"], ignored=objects["difficult"]))
    truth = [{**row, "id": k} for k, row in enumerate(truth, start=1)]
    coco = COCO()
    images = [{"id": image} for image in range(len(objects["labels"]))]
    coco.dataset = {"images": images, "annotations": truth, "categories": [{"id": 1}], "info": {}}
    coco.createIndex()
    evaluation = COCOeval(coco, coco.loadRes(list(rows(*found[::2], scores=found[1]))), "bbox")
    count = sum(row["area"] < 1e9 for row in truth)
    parameters = evaluation.params
    parameters.iouThrs, parameters.maxDets = np.array([0.5]), [1000]
    parameters.areaRng, parameters.areaRngLbl = [[0, 1e8]], ["all"]
    # The area below a curve of `count` equal steps is the mean of its heights.
    parameters.recThrs = np.arange(1, count + 1) / count
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"].mean()


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_equals_pycocotools(seed):
    """Objects apart from each other: where two overlap by half, COCO and VOC match otherwise."""
    pytest.importorskip("pycocotools")
    rng = np.random.default_rng(seed)
    num_images, num_classes, shape = 12, 3, (12, 9)
    corner = np.stack(np.meshgrid(*[np.arange(3) / 3] * 2), -1).reshape(1, 9, 2)
    low = corner + 0.1 * rng.random((num_images, 9, 2))
    boxes = np.concatenate([low, low + 0.1 + 0.1 * rng.random((num_images, 9, 2))], -1)
    labels = rng.integers(-1, num_classes, shape)
    difficult = rng.random(shape) < 0.15
    shifted = boxes + rng.normal(size=boxes.shape) * 0.02
    found_labels = np.where(rng.random(shape) < 0.8, labels, rng.integers(0, num_classes, shape))
    again = np.where(difficult, -1, found_labels)  # found twice: COCO forgives that but once
    found = (
        np.concatenate([shifted, boxes + 0.01], 1),
        rng.random((num_images, 18)),
        np.concatenate([found_labels, again], 1),
    )
    objects = {"boxes": boxes, "labels": labels, "difficult": difficult}
    metric = detection.MeanAveragePrecision(num_classes)
    metric.update_state(objects, found)
    expected = [by_pycocotools(objects, found, label) for label in range(num_classes)]
    assert 0.1 < min(expected) < max(expected) < 0.9
    np.testing.assert_allclose(metric.per_class(), expected, atol=1e-6)
