"""Average precision as PASCAL VOC defines it (Everingham et al., development kits 2007 and 2010).

Detections are taken best first. One that overlaps an object of its class by at least 0.5 finds it;
a second one on the same object is a mistake; one on an object marked "difficult" counts neither
way, and such objects need not be found. Overlap is computed on fractions of the image, without the
development kit's extra pixel (its boxes include their last pixel); VOC's boxes are large enough
that this moves almost no match.
"""

import numpy as np

METHODS = ("area", "eleven_points")


def precision_recall(scores, is_correct, num_objects):
    """Precision and recall as detections are accepted, best first.

    Args:
        scores: (n,) float.
        is_correct: (n,) bool, whether each detection found an object.
        num_objects: objects that should be found, at least 1.

    Returns:
        Two float64 arrays (n,): precision and recall.

    >>> precision, recall = precision_recall([0.9, 0.8], [True, False], 2)
    >>> precision.tolist(), recall.tolist()
    ([1.0, 0.5], [0.5, 0.5])
    """
    order = np.argsort(-np.asarray(scores, "float64"), kind="stable")
    hits = np.cumsum(np.asarray(is_correct, bool)[order])
    return hits / np.arange(1, len(hits) + 1), hits / num_objects


def average_precision(precision, recall, method="area"):
    """Area under the precision-recall curve.

    Args:
        precision: (n,) in [0, 1].
        recall: (n,) in [0, 1], ascending.
        method: `"area"` (VOC 2010 and later: the exact area below the curve made monotone) or
            `"eleven_points"` (VOC 2007: mean of the best precision at recalls 0, 0.1, ..., 1).

    Returns:
        Float in [0, 1].

    Raises:
        ValueError: if the method is unknown.

    >>> average_precision([1.0, 0.5], [0.5, 0.5])
    0.5
    """
    _check_method(method)
    precision, recall = np.asarray(precision, "float64"), np.asarray(recall, "float64")
    # best[k]: the highest precision reached at this recall or any later one; 0 beyond the end.
    best = np.maximum.accumulate(np.append(precision, 0.0)[::-1])[::-1]
    if method == "eleven_points":
        first = np.searchsorted(recall, np.linspace(0, 1, 11) - 1e-9)
        return float(best[first].mean())
    return float(np.sum(np.diff(recall, prepend=0.0) * best[:-1]))


class MeanAveragePrecision:
    """Mean over classes of the average precision; the verbs are those of a Keras metric.

    State is kept on the host, since its size grows with the number of detections. Classes without
    objects are left out of the mean.

    Args:
        num_classes: number of object classes.
        method: `"area"` or `"eleven_points"`, see `average_precision`.
        iou_threshold: overlap from which on a detection finds an object, in (0, 1).

    >>> metric = MeanAveragePrecision(num_classes=1)
    >>> box = [[[0.0, 0.0, 0.5, 0.5]]]
    >>> metric.update_state({"boxes": box, "labels": [[0]]}, (box, [[0.9]], [[0]]))
    >>> metric.result()
    1.0
    """

    def __init__(
        self, num_classes, method="area", iou_threshold=0.5, name="mean_average_precision"
    ):
        _check_method(method)
        self.num_classes = num_classes
        self.method = method
        self.iou_threshold = iou_threshold
        self.name = name
        self.reset_state()

    def reset_state(self):
        """Forget all images."""
        self._scores = [[] for _ in range(self.num_classes)]
        self._is_correct = [[] for _ in range(self.num_classes)]
        self._num_objects = np.zeros(self.num_classes, int)

    def update_state(self, objects, detections):
        """Add a batch of images.

        Args:
            objects: `{"boxes": (batch, n, 4), "labels": (batch, n), "difficult": (batch, n)}`;
                labels count from 0, -1 marks padding; "difficult" may be left out.
            detections: boxes, scores and labels, (batch, m, 4), (batch, m), (batch, m), the same
                way; or a `Detections`.
        """
        boxes, labels = np.asarray(objects["boxes"]), np.asarray(objects["labels"])
        difficult = np.asarray(objects.get("difficult", np.zeros_like(labels)), bool)
        found_boxes, scores, found_labels = (np.asarray(part) for part in tuple(detections)[:3])
        for image in range(len(labels)):
            for label in np.union1d(labels[image], found_labels[image]):
                if label < 0:
                    continue
                here, there = labels[image] == label, found_labels[image] == label
                self._add(
                    int(label),
                    (boxes[image, here], difficult[image, here]),
                    (found_boxes[image, there], scores[image, there]),
                )

    def _add(self, label, objects, detections):
        boxes, difficult = objects
        found, scores = detections
        is_correct, counts = _judge(boxes, difficult, found, scores, self.iou_threshold)
        self._num_objects[label] += np.sum(~difficult)
        self._scores[label].extend(scores[counts])
        self._is_correct[label].extend(is_correct[counts])

    def per_class(self):
        """float64 array (num_classes,): average precision; NaN for classes without objects."""
        return np.array([self._of_class(label) for label in range(self.num_classes)])

    def _of_class(self, label):
        if not self._num_objects[label]:
            return float("nan")
        curve = precision_recall(
            self._scores[label], self._is_correct[label], self._num_objects[label]
        )
        return average_precision(*curve, self.method)

    def result(self):
        """Mean average precision in [0, 1]; NaN before the first object."""
        values = self.per_class()
        values = values[~np.isnan(values)]
        return float(values.mean()) if len(values) else float("nan")


def _judge(boxes, difficult, found, scores, iou_threshold):
    """For each detection of one class in one image: is it correct, and does it count at all?"""
    is_correct, counts = np.zeros(len(found), bool), np.ones(len(found), bool)
    if not len(boxes):
        return is_correct, counts
    overlap = _overlap(found, boxes)
    is_found = np.zeros(len(boxes), bool)
    for k in np.argsort(-scores, kind="stable"):
        best = np.argmax(overlap[k])
        if overlap[k, best] < iou_threshold:
            continue
        if difficult[best]:
            counts[k] = False
        elif not is_found[best]:
            is_found[best] = is_correct[k] = True
    return is_correct, counts


def _overlap(boxes, others):
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=-1)
    union = _area(boxes)[:, None] + _area(others)[None, :] - shared
    return shared / np.maximum(union, 1e-12)


def _area(boxes):
    return np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=-1)


def _check_method(method):
    if method not in METHODS:
        raise ValueError(
            f"Unknown way to average precision. Received: method={method!r}. "
            f"Expected: one of {METHODS}."
        )
