"""Every pipeline: what it yields, that it is deterministic, that a damaged file is not fatal."""

import csv
import json
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from aip_tf import datasets
from aip_tf.datasets import augment
from aip_tf.datasets.pipeline import evaluation_batches, training_batches

SEED = tf.constant([3, 5], tf.int64)


def arrays_of(dataset):
    return [(np.asarray(images), np.asarray(labels)) for images, labels in dataset]


def same(left, right):
    return len(left) == len(right) and all(
        np.array_equal(ours, theirs)
        for a, b in zip(left, right, strict=True)
        for ours, theirs in zip(a, b, strict=True)
    )


def numbered_images(num, size=8, channels=3):
    """Constant images: every pixel of image i is i."""
    images = np.ones((num, size, size, channels), np.uint8)
    return images * np.arange(num, dtype=np.uint8)[:, None, None, None]


# Digits and arrays


def test_digits_are_split_once_and_whole():
    data, other = datasets.digits(seed=0), datasets.digits(seed=1, augment=False)
    assert data.input_shape == (8, 8, 1)
    assert data.num_classes == 10 == len(data.class_names)
    test = arrays_of(data.test)
    assert sum(len(labels) for _, labels in test) == 450
    assert same(test, arrays_of(other.test))
    train = np.concatenate([images for images, _ in arrays_of(datasets.digits(1).train)])
    assert len(train) == 1347
    images = np.concatenate([images for images, _ in test])
    assert images.min() == 0 and images.max() == 1
    plain = np.concatenate(
        [images for images, _ in arrays_of(datasets.digits(1, augment=False).train)]
    )
    in_both = {image.tobytes() for image in plain} & {image.tobytes() for image in images}
    assert not in_both


@pytest.mark.parametrize("augmented", [True, False])
def test_a_seed_fixes_every_batch_of_every_epoch(augmented):
    ours, same_seed, other_seed = (
        datasets.digits(100, augment=augmented, seed=s) for s in (0, 0, 1)
    )
    first, second = arrays_of(ours.train), arrays_of(ours.train)
    assert same(first, arrays_of(same_seed.train))
    assert same(second, arrays_of(same_seed.train))
    assert not same(first, second)
    assert not same(first, arrays_of(other_seed.train))


def test_incomplete_batches_are_dropped_in_training_only_and_cardinality_is_known():
    images, labels = numbered_images(10), np.arange(10)
    data = datasets.from_arrays((images, labels), (images, labels), batch_size=4)
    assert [len(batch) for batch, _ in arrays_of(data.train)] == [4, 4]
    assert [len(batch) for batch, _ in arrays_of(data.test)] == [4, 4, 2]
    assert int(data.train.cardinality()) == 2
    assert int(data.test.cardinality()) == 3
    assert np.concatenate([labels for _, labels in arrays_of(data.test)]).tolist() == list(
        range(10)
    )


def test_a_batch_larger_than_the_data_is_the_data():
    images, labels = numbered_images(3), np.arange(3)
    data = datasets.from_arrays((images, labels), (images, labels), batch_size=100)
    assert [len(batch) for batch, _ in arrays_of(data.train)] == [3]


def test_images_keep_their_labels_and_integers_become_fractions():
    images, labels = numbered_images(12), np.arange(12)
    data = datasets.from_arrays((images, labels), (images / 255.0, labels), batch_size=4)
    for dataset in (data.train, data.test):
        for batch, batch_labels in arrays_of(dataset):
            assert batch.dtype == np.float32 and batch_labels.dtype == np.int32
            np.testing.assert_allclose(batch[:, 0, 0, 0] * 255, batch_labels, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": (np.zeros((4, 8, 8)), np.arange(4))}, "missing axis"),
        ({"train": (np.zeros((4, 8, 8, 1)), np.arange(3))}, "one integer for each of the 4"),
        ({"train": (np.zeros((4, 8, 8, 1)), np.eye(4))}, "argmax"),
        ({"train": (np.zeros((4, 8, 8, 1)), -np.arange(4))}, "from 0 upwards"),
        ({"test": (np.zeros((4, 9, 9, 1)), np.arange(4))}, "one shape"),
        ({"class_names": ["a", "b"]}, "class_names"),
        ({"batch_size": 0}, "batch_size=0. Expected an integer of at least 1"),
    ],
)
def test_unhappy_arrays(change, message):
    good = (np.zeros((4, 8, 8, 1)), np.arange(4))
    with pytest.raises(ValueError, match=message):
        datasets.from_arrays(**{"train": good, "test": good, **change})


# Augmentation


def test_pad_crop_shifts_each_image_by_its_own_amount():
    images = np.random.default_rng(0).random((64, 6, 6, 2), np.float32)
    shifted = np.asarray(augment.pad_crop(1)(tf.constant(images), SEED))
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    offsets = set()
    for image, source in zip(shifted, padded, strict=True):
        found = [
            (top, left)
            for top in range(3)
            for left in range(3)
            if np.array_equal(image, source[top : top + 6, left : left + 6])
        ]
        assert len(found) == 1
        offsets.update(found)
    assert len(offsets) == 9


@pytest.mark.parametrize("change", [augment.flip, augment.pad_crop_flip(0)])
def test_flip_mirrors_about_half(change):
    images = np.random.default_rng(0).random((400, 2, 3, 1), np.float32)
    flipped = np.asarray(change(tf.constant(images), SEED))
    is_flipped = np.array(
        [np.array_equal(a[:, ::-1], b) for a, b in zip(images, flipped, strict=True)]
    )
    is_kept = np.array([np.array_equal(a, b) for a, b in zip(images, flipped, strict=True)])
    assert np.all(is_flipped ^ is_kept)
    assert 0.4 < is_flipped.mean() < 0.6


@pytest.mark.parametrize("change", ["degrees", "scale", "shift"])
def test_affine_changes_each_image_within_its_bounds(change):
    """Where pixels hold their own place, moved ones say where they came from, matrix and all."""
    rows, columns = np.meshgrid(np.arange(-8.0, 7), np.arange(-10.0, 11), indexing="ij")
    rows += 1  # the middle of 15 rows and 21 columns is at 0, 0
    images = tf.constant(np.tile(np.stack([rows, columns], -1), (50, 1, 1, 1)), tf.float32)
    bounds = {"degrees": 0, "scale": 0, "shift": 0} | {change: {"degrees": 20}.get(change, 0.25)}
    moved = np.asarray(augment.affine(**bounds)(images, SEED))
    middle = moved[:, 7, 10]
    by_row, by_column = moved[:, 8, 10] - middle, moved[:, 7, 11] - middle
    angles = np.degrees(np.arctan2(by_row[:, 1], by_row[:, 0]))
    factors = np.hypot(*by_row.T), np.hypot(*by_column.T)
    found = {"degrees": angles, "scale": np.log(factors).ravel(), "shift": middle.ravel()}
    for name, values in found.items():
        assert np.abs(values).max() <= bounds[name] + 1e-5
    assert np.abs(found[change]).max() > 0.8 * bounds[change]
    assert len(np.unique(found[change].round(6))) == found[change].size  # each image its own
    np.testing.assert_allclose((by_row * by_column).sum(1), 0, atol=1e-5)  # no shear


def test_color_jitter_changes_each_image_within_its_bounds():
    images = tf.fill((50, 2, 2, 3), 0.5)
    changed = np.asarray(augment.color_jitter(0.4)(images, SEED))
    assert np.ptp(changed, axis=(1, 2, 3)).max() < 1e-6  # uniform grey stays uniform grey
    assert changed.min() >= 0.3 and changed.max() <= 0.7
    assert len(np.unique(changed[:, 0, 0, 0])) == 50
    colorful = tf.constant(np.random.default_rng(0).random((50, 2, 2, 3), np.float32))
    changed = np.asarray(augment.color_jitter(0.4)(colorful, SEED))
    assert changed.min() >= 0 and changed.max() <= 1
    unchanged = np.asarray(augment.color_jitter(0.0)(colorful, SEED))
    np.testing.assert_allclose(unchanged, colorful, atol=1e-6)


def test_augmentations_repeat_with_their_seed_and_only_then():
    images = tf.constant(np.random.default_rng(0).random((16, 8, 8, 3), np.float32))
    for change in (augment.pad_crop_flip(4), augment.color_jitter(0.3), augment.affine(9, 0.1, 1)):
        first = np.asarray(change(images, SEED))
        np.testing.assert_array_equal(first, change(images, SEED))
        assert not np.array_equal(first, change(images, SEED + 1))


# Sharding


def shard(dataset, num_workers, index):
    """What tf.distribute does to a dataset on each of several machines."""
    from tensorflow.python.data.experimental.ops import distribute

    return distribute._AutoShardDataset(dataset, num_workers, index)


def test_workers_share_each_epoch_without_overlap():
    images, labels = numbered_images(16), np.arange(16)
    data = datasets.from_arrays((images, labels), (images, labels), batch_size=4)
    whole = [labels for _, labels in arrays_of(data.test)]
    parts = [[labels for _, labels in arrays_of(shard(data.test, 2, index))] for index in (0, 1)]
    assert sorted(np.concatenate(parts[0] + parts[1])) == sorted(np.concatenate(whole))
    assert len(parts[0]) == len(parts[1]) == 2


# Folders


def write_image(path, value=100, size=(20, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


@pytest.fixture
def class_folders(tmp_path):
    for index in range(6):
        write_image(tmp_path / "cat" / f"{index}.png", 10 * index)
        write_image(tmp_path / "dog" / "deeper" / f"{index}.jpg", 100 + 10 * index, (9, 30))
    return tmp_path


def labels_of(dataset):
    return np.concatenate([labels for _, labels in arrays_of(dataset)])


PLAIN = datasets.Views(min_area=1, color_jitter=0, flip=False)


def test_a_directory_for_each_class(class_folders):
    data = datasets.image_folder(class_folders, input_shape=(8, 8, 3), batch_size=3, views=PLAIN)
    assert data.class_names == ("cat", "dog")
    assert data.num_classes == 2
    train, test = arrays_of(data.train), arrays_of(data.test)
    assert sum(len(labels) for _, labels in train) == 9  # of 10
    assert sum(len(labels) for _, labels in test) == 2
    for images, labels in train + test:
        assert images.shape[1:] == (8, 8, 3)
        values = images[:, 0, 0, 0] * 255
        assert np.array_equal(values > 75, labels == 1)


def test_the_split_follows_the_seed(class_folders):
    def held_out(seed):
        data = datasets.image_folder(
            class_folders, input_shape=(4, 4, 3), validation_fraction=0.5, seed=seed
        )
        return np.concatenate([images[:, 0, 0, 0] for images, _ in arrays_of(data.test)])

    assert np.array_equal(held_out(0), held_out(0))
    assert not np.array_equal(held_out(0), held_out(1))


def test_a_split_that_the_folder_brings_is_used(tmp_path):
    for part, count in (("train", 4), ("val", 2)):
        for name in ("a", "b"):
            for index in range(count):
                write_image(tmp_path / part / name / f"{index}.png")
    data = datasets.image_folder(tmp_path, input_shape=(4, 4, 3), batch_size=8)
    assert data.class_names == ("a", "b")
    assert labels_of(data.train).tolist().count(0) == 4
    assert labels_of(data.test).tolist() == [0, 0, 1, 1]
    write_image(tmp_path / "val" / "c" / "0.png")
    with pytest.raises(ValueError, match=r"lacks: \['c'\]"):
        datasets.image_folder(tmp_path)


def test_unreadable_files_are_listed_and_skipped(class_folders, caplog):
    encoded = (class_folders / "dog" / "deeper" / "0.jpg").read_bytes()
    (class_folders / "dog" / "cut.jpg").write_bytes(encoded[: len(encoded) // 2])
    (class_folders / "cat" / "notes.txt").write_text("no image")
    (class_folders / "cat" / "empty.png").touch()
    (class_folders / "cat" / ".hidden").write_text("not even looked at")
    with caplog.at_level(logging.WARNING):
        data = datasets.image_folder(class_folders, input_shape=(8, 8, 3), batch_size=2)
    names = sorted(path.rsplit("/", 1)[-1] for path in data.skipped)
    assert names == ["cut.jpg", "empty.png", "notes.txt"]
    assert "3 unreadable files" in caplog.text and "cut.jpg" in caplog.text
    assert len(labels_of(data.train)) + len(labels_of(data.test)) == 12


def list_of_labels(folder, kind):
    rows = [
        ("cat/0.png", "7", "kitten"),
        ("cat/1.png", "7", "kitten"),
        ("dog/deeper/1.jpg", "0", "d"),
    ]
    if kind == "names.csv":
        rows = [(file, name, name) for file, _, name in rows]
    records = [{"file": file, "label": label, "name": name} for file, label, name in rows]
    path = folder / kind
    if kind.endswith(".csv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["file", "label", "name"])
            writer.writeheader()
            writer.writerows(records)
    elif kind == "mapping.json":
        path.write_text(json.dumps({row["file"]: int(row["label"]) for row in records}))
    else:
        path.write_text(json.dumps([{**row, "label": int(row["label"])} for row in records]))
    return kind


@pytest.mark.parametrize(
    ("kind", "labels", "num_classes", "class_names"),
    [
        ("labels.csv", {0, 7}, 8, None),
        ("labels.json", {0, 7}, 8, None),
        ("mapping.json", {0, 7}, 8, None),
        ("names.csv", {0, 1}, 2, ("d", "kitten")),
    ],
)
def test_lists_of_labels(class_folders, kind, labels, num_classes, class_names):
    list_of_labels(class_folders, kind)
    given = None if kind.startswith("labels") else kind
    data = datasets.image_folder(class_folders, given, input_shape=(4, 4, 3), batch_size=1)
    found = np.concatenate([labels_of(data.train), labels_of(data.test)])
    assert set(found.tolist()) == labels and len(found) == 3
    assert data.num_classes == num_classes
    assert data.class_names == class_names


def test_integer_labels_take_their_names_from_the_list(class_folders):
    records = [
        {"file": "cat/0.png", "label": 1, "name": "cat"},
        {"file": "dog/deeper/0.jpg", "label": 0, "name": "dog"},
    ]
    (class_folders / "labels.json").write_text(json.dumps(records))
    data = datasets.image_folder(class_folders, input_shape=(4, 4, 3), validation_fraction=0.5)
    assert data.class_names == ("dog", "cat")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"directory": "nowhere"}, "existing folder"),
        ({"labels": "nowhere.csv"}, "name a file"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"input_shape": (224, 224)}, "input_shape"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_unhappy_folders(class_folders, change, message):
    with pytest.raises(ValueError, match=message):
        datasets.image_folder(**{"directory": class_folders, **change})


def test_folders_without_classes_or_images_or_columns_say_so(tmp_path):
    with pytest.raises(ValueError, match="at least two classes"):
        datasets.image_folder(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jpg").write_text("no image")
    with pytest.raises(ValueError, match="2 files could not be read"):
        datasets.image_folder(tmp_path)
    (tmp_path / "labels.csv").write_text("path,class\na/x.jpg,0\n")
    with pytest.raises(ValueError, match="rename the columns"):
        datasets.image_folder(tmp_path)


def test_a_folder_without_a_readable_image_is_no_class(class_folders, caplog):
    (class_folders / "empty").mkdir()
    (class_folders / "notes").mkdir()
    (class_folders / "notes" / "readme.txt").write_text("no image")
    data = datasets.image_folder(class_folders, input_shape=(4, 4, 3), validation_fraction=0.5)
    assert data.class_names == ("cat", "dog")
    assert data.num_classes == 2
    assert sum(data.class_counts) == 6 and set(labels_of(data.test)) <= {0, 1}


def test_training_examples_are_counted_by_class(class_folders, tmp_path):
    labels = np.array([0, 2, 2, 2])
    arrays = (np.zeros((4, 2, 2, 1)), labels)
    assert datasets.from_arrays(arrays, arrays).class_counts == (1, 0, 3)
    assert sum(datasets.digits().class_counts) == 1347
    data = datasets.image_folder(class_folders, input_shape=(4, 4, 3), batch_size=1)
    assert list(data.class_counts) == np.bincount(labels_of(data.train)).tolist()


def test_images_take_the_size_of_the_model_where_none_is_said(class_folders):
    def shape(**given):
        return datasets.image_folder(class_folders, **given).input_shape

    def model(*size):
        return keras.Sequential([keras.Input(size), keras.layers.Conv2D(1, 3)])

    assert shape() == (224, 224, 3)
    assert shape(model=model(12, 10, 1)) == (12, 10, 1)
    assert shape(model=model(None, None, 1)) == (224, 224, 1)
    assert shape(model=model(12, 10, 1), input_shape=(4, 4, 3)) == (4, 4, 3)
    flat = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match=r"input_shape must be given.*\(None, 5\)"):
        shape(model=flat)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labels.json", '{"cat/0.png": 0, "cat/1.png": 1000000000000}', "entry 2 .*1000000000000"),
        ("labels.json", '{"cat/0.png": 0, "cat/1.png": -1}', "entry 2 .*label -1.*from 0"),
        ("labels.json", '{"cat/0.png": 0, "cat/1.png": null}', "entry 2 .*None"),
        ("labels.json", '{"cat/0.png": 0, "cat/1.png": true}', "entry 2 .*True"),
        ("labels.json", '{"cat/0.png": 0, "cat/1.png": 1.5}', "entry 2 .*1.5"),
        ("labels.json", '{"cat/0.png": 0,', "is no list of labels"),
        ("labels.json", "[" * 100000, "is no list of labels"),
        ("labels.json", "3", "holds int 3"),
        ("labels.json", "[]", "holds list"),
        ("labels.json", "[[1, 2]]", "must have `file` and `label`"),
        ("labels.json", '[{"file": null, "label": 1}]', "entry 1 .*None"),
        ("labels.csv", "file,label\ncat/0.png\n", "entry 1 .*'cat/0.png' and None"),
        ("labels.csv", b"\xff\xfefile,label", "is no list of labels"),
    ],
)  # fmt: skip
def test_a_list_of_labels_is_not_trusted(class_folders, name, content, message):
    path = class_folders / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        datasets.image_folder(class_folders, input_shape=(4, 4, 3))
    assert name in str(caught.value) and len(str(caught.value)) < 600


def test_the_sample_of_imagenet(shared_data):
    data = datasets.image_folder(shared_data / "imagenet_sample", validation_fraction=0.05)
    assert data.num_classes == 1000
    assert data.class_names[0] == "tench"
    assert data.skipped == ()
    images, labels = next(iter(data.test))
    assert images.shape == (32, 224, 224, 3)
    assert int(data.train.cardinality()) == 950 // 32
    assert labels.dtype == tf.int32


# Views


def encoded_gradient(height, width, file_format):
    """Red grows from top to bottom, green from left to right."""
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([255 * rows / (height - 1), 255 * columns / (width - 1), 0 * rows], axis=-1)
    encode = {"png": tf.io.encode_png, "jpeg": tf.io.encode_jpeg}[file_format]
    return encode(tf.constant(pixels.round().astype(np.uint8)))


@pytest.mark.parametrize("file_format", ["png", "jpeg"])
def test_the_central_crop_keeps_its_share_of_the_shorter_side(file_format):
    encoded = encoded_gradient(64, 128, file_format)
    for fraction in (0.5, 1.0):
        crop = datasets.Views(crop_fraction=fraction).test_view(encoded, (16, 16, 3))
        rows, columns = np.ptp(crop[..., 0]), np.ptp(crop[..., 1])
        assert rows == pytest.approx(fraction, abs=0.08)  # bilinear: up to one pixel of 16
        assert columns == pytest.approx(fraction / 2, abs=0.06)
        assert np.mean(crop[..., 0]) == pytest.approx(0.5, abs=0.03)
        assert np.mean(crop[..., 1]) == pytest.approx(0.5, abs=0.03)


def test_a_crop_of_224_from_a_resize_to_256_is_the_default():
    """Equal, up to resampling, to the two separate steps."""
    random = np.random.default_rng(0)
    coarse = tf.constant(random.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    photo = tf.image.resize(coarse, (384, 512), method="bicubic")
    photo = tf.cast(tf.clip_by_value(photo, 0, 255), tf.uint8)
    resized = tf.image.resize(photo, (256, 341)) / 255
    expected = tf.image.resize_with_crop_or_pad(resized, 224, 224)
    crop = datasets.Views().test_view(tf.io.encode_png(photo), (224, 224, 3))
    assert np.abs(crop - expected).mean() < 0.01


@pytest.mark.parametrize("file_format", ["png", "jpeg"])
def test_random_crops_cover_the_wanted_share_at_the_wanted_aspect(file_format):
    encoded = encoded_gradient(128, 128, file_format)
    views = datasets.Views(min_area=0.25, color_jitter=0, flip=False)
    crops = [
        np.asarray(views.training_view(encoded, (16, 16, 3), tf.constant([1, n], tf.int64)))
        for n in range(60)
    ]
    rows, columns = (np.array([np.ptp(crop[..., c]) for crop in crops]) for c in (0, 1))
    area = rows * columns * (16 / 15) ** 2
    assert 0.15 < area.min() < 0.5 and 0.6 < area.max() < 1.15
    assert 0.55 < (rows / columns).min() < 0.95 and 1.05 < (rows / columns).max() < 1.8
    again = views.training_view(encoded, (16, 16, 3), tf.constant([1, 7], tf.int64))
    np.testing.assert_array_equal(again, crops[7])


def test_fused_decoding_gives_the_pixels_of_decoding_and_cropping():
    photo = encoded_gradient(128, 128, "jpeg")
    views = datasets.Views(min_area=0.3)
    pixels = tf.io.encode_png(tf.io.decode_jpeg(photo))
    for n in range(5):
        seed = tf.constant([n, n], tf.int64)
        fused, plain = (views.training_view(image, (32, 32, 3), seed) for image in (photo, pixels))
        np.testing.assert_allclose(fused, plain, atol=0.02)


@pytest.mark.parametrize(("low", "high"), [(-1, 1), (0, 255)])
def test_value_range(class_folders, low, high):
    views = datasets.Views(min_area=1, color_jitter=0, flip=False, value_range=(low, high))
    data = datasets.image_folder(class_folders, input_shape=(8, 8, 3), batch_size=2, views=views)
    plain = datasets.image_folder(class_folders, input_shape=(8, 8, 3), batch_size=2, views=PLAIN)
    for part in ("train", "test"):
        pairs = zip(arrays_of(getattr(data, part)), arrays_of(getattr(plain, part)), strict=True)
        for (images, _), (unit, _) in pairs:
            np.testing.assert_allclose(images, unit * (high - low) + low, rtol=1e-5, atol=1e-5)


def test_grey_images_stay_grey(class_folders):
    data = datasets.image_folder(class_folders, input_shape=(8, 8, 1), batch_size=2)
    assert next(iter(data.train))[0].shape == (2, 8, 8, 1)


@pytest.mark.parametrize(
    "argument",
    [{"crop_fraction": 0}, {"min_area": 1.5}, {"color_jitter": 1}, {"value_range": (1, 0)}],
)
def test_unhappy_views(argument):
    with pytest.raises(ValueError, match=next(iter(argument))):
        datasets.Views(**argument)


def test_folder_batches_repeat_with_their_seed(class_folders):
    first, again, other = (
        datasets.image_folder(
            class_folders, input_shape=(8, 8, 3), batch_size=4, seed=seed, validation_fraction=0.1
        )
        for seed in (0, 0, 1)
    )
    epochs = [arrays_of(first.train), arrays_of(first.train)]
    assert same(epochs[0], arrays_of(again.train))
    assert same(epochs[1], arrays_of(again.train))
    assert not same(epochs[0], epochs[1])
    assert not same(epochs[0], arrays_of(other.train))


# tensorflow-datasets


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "imagenet2012", "voc"])
def test_absent_data_says_how_to_get_it(name, tmp_path):
    with pytest.raises(ValueError, match=r"is not in .*download=True") as caught:
        getattr(datasets, name)(str(tmp_path))
    assert ("ILSVRC2012_img_train.tar" in str(caught.value)) == (name == "imagenet2012")


@pytest.mark.parametrize(
    ("name", "num_classes", "shape"),
    [
        ("cifar10", 10, (32, 32, 3)),
        ("cifar100", 100, (32, 32, 3)),
        ("imagenet2012", 1000, (224, 224, 3)),
    ],
)
def test_classification_through_tensorflow_datasets(name, num_classes, shape):
    import tensorflow_datasets as tfds

    with tfds.testing.mock_data(num_examples=6):
        data = getattr(datasets, name)(batch_size=4)
        train, test = arrays_of(data.train), arrays_of(data.test)
    assert data.num_classes == num_classes == len(data.class_names)
    assert [images.shape for images, _ in train] == [(4, *shape)]
    assert [len(images) for images, _ in test] == [4, 2]
    for images, labels in train + test:
        assert images.dtype == np.float32 and labels.dtype == np.int32
        assert images.min() >= 0 and images.max() <= 1


def test_cifar_without_padding_is_mirrored_alone():
    import tensorflow_datasets as tfds

    with tfds.testing.mock_data(num_examples=6):
        plain = datasets.cifar10(batch_size=6, augment=False)
        mirrored = datasets.cifar10(batch_size=6, padding=0)
        (images, _), (changed, _) = arrays_of(plain.train)[0], arrays_of(mirrored.train)[0]
    allowed = {x.tobytes() for image in images for x in (image, image[:, ::-1])}
    assert {x.tobytes() for x in changed} <= allowed
    with pytest.raises(ValueError, match="padding=-1"):
        datasets.cifar10(padding=-1)


def test_the_whole_of_cifar10(shared_data):
    data = datasets.cifar10(shared_data / "tensorflow_datasets", batch_size=1000)
    assert int(data.train.cardinality()) == 50
    labels = labels_of(data.test)
    assert np.bincount(labels).tolist() == [1000] * 10


# VOC


def test_voc_from_a_development_kit(shared_data):
    data = datasets.voc(shared_data / "VOCdevkit", train=("2012/train",), test=("2012/val",))
    assert data.num_classes == 20 == len(data.class_names)
    examples = {}
    for part in ("train", "test"):
        for image, objects in getattr(data, part):
            assert image.dtype == tf.float32 and image.shape[-1] == 3
            boxes = objects["boxes"].numpy()
            assert boxes.shape == (len(objects["labels"]), 4) == (len(objects["difficult"]), 4)
            assert boxes.min() >= 0 and boxes.max() <= 1
            assert np.all(boxes[:, :2] < boxes[:, 2:])
            examples[image.shape[0], image.shape[1], boxes.tobytes()] = objects
    assert len(examples) == 108
    assert sum(len(objects["labels"]) for objects in examples.values()) == 284
    labels = np.concatenate([objects["labels"] for objects in examples.values()])
    assert set(labels.tolist()) == set(range(20))
    # 2007_000027: one person, 174..349 of 486 across, 101..351 of 500 down.
    person = np.float32([[101 / 500, 174 / 486, 351 / 500, 349 / 486]])
    assert examples[500, 486, person.tobytes()]["labels"].numpy().tolist() == [14]


def test_voc_holds_out_images_by_seed(shared_data):
    def parts(seed):
        data = datasets.voc(
            shared_data / "VOCdevkit",
            train=("2012/trainval",),
            test=None,
            validation_fraction=0.26,
            seed=seed,
        )
        sets = [
            {objects["boxes"].numpy().tobytes() for _, objects in part}
            for part in (data.train, data.test)
        ]
        return (int(data.train.cardinality()), int(data.test.cardinality())), sets

    sizes, (train, test) = parts(seed=0)
    assert sizes == (80, 28) and not train & test
    assert parts(seed=0)[1] == [train, test] != parts(seed=1)[1]


def test_voc_through_tensorflow_datasets_has_the_same_form(shared_data):
    import tensorflow_datasets as tfds

    kit = datasets.voc(shared_data / "VOCdevkit", train=("2012/train",), test=("2012/val",))
    with tfds.testing.mock_data(num_examples=3):
        data = datasets.voc()
    assert data.train.element_spec == kit.train.element_spec
    assert int(data.train.cardinality()) == 6
    assert int(data.test.cardinality()) == 3


def test_unhappy_voc(shared_data):
    with pytest.raises(ValueError, match="'2012/train'"):
        datasets.voc(train=("2012",))
    with pytest.raises(
        ValueError, match=r"no set '2007/trainval'.*voc\.test.*2012/val.*test = None"
    ):
        datasets.voc(shared_data / "VOCdevkit")
    with pytest.raises(ValueError, match=r"voc\.test = None.*no VOCdevkit"):
        datasets.voc(test=None)
    for train in ((), "2012/train"):
        with pytest.raises(ValueError, match=r"voc\.train must be a tuple of at least one set"):
            datasets.voc(shared_data / "VOCdevkit", train=train)


# Steps


def test_caching_reads_the_source_once():
    reads = []

    def read():
        reads.append(len(reads))
        yield from ((np.zeros((2, 2, 1), np.uint8), label) for label in range(4))

    signature = (tf.TensorSpec((2, 2, 1), tf.uint8), tf.TensorSpec((), tf.int32))
    source = tf.data.Dataset.from_generator(read, output_signature=signature)
    for make in (training_batches, evaluation_batches):
        reads.clear()
        cached = make(source, 4, 2, cached=True)
        assert len(arrays_of(cached)) == len(arrays_of(cached)) == 2
        assert len(reads) == 1
