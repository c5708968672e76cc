"""From pictures with boxes to what an SSD trains on and is measured on."""

import tensorflow as tf

from aip_tf.datasets import Data
from aip_tf.datasets.augment import color_jitter
from aip_tf.datasets.pipeline import finish, with_seeds
from aip_tf.detection import augment
from aip_tf.detection.anchors import default_boxes, encode, feature_sizes


def ssd_data(data, input_size=300, batch_size=32, *, jitter=0.4, seed=0):
    """Images with encoded targets, as an SSD of this size trains on them.

    Training images are zoomed out, cropped, mirrored (`augment.random_patch`) and coloured anew in
    every epoch, from the seed. Objects marked difficult are trained on like the others, as in
    Caffe's SSD. Test images are shown whole.

    Args:
        data: single examples `(image, {"boxes", "labels", "difficult"})` as `datasets.voc` gives
            them.
        input_size: side of the model's images, pixels.
        batch_size: images in a batch.
        jitter: strength of the colour changes, in [0, 1); 0 for none.
        seed: two calls with one seed give the same batches, epoch by epoch.

    Returns:
        `Data` with batches of `(images, {"boxes": (batch, num_anchors, 5), "classes": (batch,
        num_anchors)})`, see `encode`.

    Raises:
        ValueError: if the number of examples is not known.
    """
    anchors = default_boxes(feature_sizes(input_size))
    return Data(
        train=_training_batches(data.train, anchors, input_size, batch_size, jitter, seed),
        test=_test_batches(data.test, anchors, input_size, batch_size),
        input_shape=(input_size, input_size, 3),
        num_classes=data.num_classes,
        class_names=data.class_names,
        skipped=data.skipped,
        class_counts=data.class_counts,
    )


def ground_truth(data, input_size=300, batch_size=32, part="test"):
    """Whole images with their objects: what average precision is measured on.

    Args:
        data: as `datasets.voc` gives it.
        input_size: side of the model's images, pixels.
        batch_size: images in a batch.
        part: "test", or "train" for the training images without any augmentation.

    Returns:
        Dataset of `(images, {"boxes": (batch, n, 4), "labels": (batch, n), "difficult": (batch,
        n)})`; labels are -1 in the padding.

    Raises:
        ValueError: if the number of examples is not known, or the part is not there.
    """
    if part not in ("train", "test"):
        raise ValueError(f"Received part={part!r}. Expected 'train' or 'test'.")
    examples = getattr(data, part)

    def prepare(image, objects):
        return augment.show(image, augment.WHOLE, input_size), {
            "boxes": tf.cast(objects["boxes"], "float32"),
            "labels": tf.cast(objects["labels"], "int32"),
            "difficult": tf.cast(objects["difficult"], "bool"),
        }

    shapes = {"boxes": (None, 4), "labels": (None,), "difficult": (None,)}
    padding = {"boxes": 0.0, "labels": -1, "difficult": False}
    batches = examples.map(prepare, num_parallel_calls=tf.data.AUTOTUNE).padded_batch(
        batch_size, ((input_size, input_size, 3), shapes), (0.0, padding)
    )
    return finish(batches, -(-_count(examples) // batch_size))


def _training_batches(examples, anchors, input_size, batch_size, jitter, seed):
    def prepare(example, image_seed):
        image, objects = example
        patch = augment.random_patch(objects["boxes"], image_seed)
        boxes, labels = _shown_objects(objects, patch)
        return augment.show(image, patch, input_size), encode(boxes, labels, anchors)

    count = _count(examples)
    batch_size = min(batch_size, count)
    batches = with_seeds(examples, seed).map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
    batches = batches.batch(batch_size, drop_remainder=True)
    if jitter:
        change = color_jitter(jitter)
        batches = with_seeds(batches, seed + 1).map(
            lambda batch, batch_seed: (change(batch[0], batch_seed), batch[1]),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
    return finish(batches, count // batch_size)


def _test_batches(examples, anchors, input_size, batch_size):
    def prepare(image, objects):
        targets = encode(objects["boxes"], objects["labels"], anchors)
        return augment.show(image, augment.WHOLE, input_size), targets

    batches = examples.map(prepare, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size)
    return finish(batches, -(-_count(examples) // batch_size))


def _shown_objects(objects, patch):
    boxes = augment.move_into(objects["boxes"], patch)
    is_kept = augment.is_centered_in(boxes, [augment.WHOLE])[0]
    boxes = tf.clip_by_value(tf.boolean_mask(boxes, is_kept), 0.0, 1.0)
    return boxes, tf.boolean_mask(objects["labels"], is_kept)


def _count(examples):
    count = int(examples.cardinality())
    if count < 1:
        raise ValueError(
            f"The number of examples must be known. Received: a dataset of cardinality {count}. "
            "Expected: apply tf.data.experimental.assert_cardinality(number)."
        )
    return count
