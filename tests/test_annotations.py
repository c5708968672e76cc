"""VOC's annotation files are not trusted: what cannot be used is left out, and named."""

import logging

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from aip_tf import datasets
from aip_tf.detection import ssd_data

HEIGHT, WIDTH = 50, 100
DOG = (10, 5, 60, 40)  # xmin, ymin, xmax, ymax


def object_of(name="dog", box=DOG, extra=""):
    edges = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    tags = "".join(f"<{edge}>{value}</{edge}>" for edge, value in edges)
    return f"<object><name>{name}</name>{extra}<bndbox>{tags}</bndbox></object>"


def annotation(*objects, size="<size><width>100</width><height>50</height></size>"):
    return f"<annotation>{size}{''.join(objects)}</annotation>"


@pytest.fixture
def kit(tmp_path):
    """Writes a development kit from {name: text of the annotation}; returns its folder."""

    def write(annotations):
        folder = tmp_path / "VOC2007"
        for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        for name, text in annotations.items():
            (folder / "Annotations" / f"{name}.xml").write_text(text)
            Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "JPEGImages" / f"{name}.jpg")
        for part in ("trainval", "test"):
            (folder / f"ImageSets/Main/{part}.txt").write_text("\n".join(annotations))
        return tmp_path

    return write


def read(folder):
    return datasets.voc(folder, train=("2007/trainval",), test=("2007/test",))


def objects_of(data):
    return [
        {key: value.numpy().tolist() for key, value in objects.items()} for _, objects in data.test
    ]


PART = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin></bndbox></part>"
RIGHT = [40 / HEIGHT, 60 / WIDTH]


@pytest.mark.parametrize(
    "text",
    [
        annotation(object_of(extra=PART)),
        annotation(object_of(), size=""),
        annotation(object_of(), size="<size><width>0</width><height>0</height></size>"),
        annotation(object_of(), size="<size><width>50</width><height>100</height></size>"),
    ],
    ids=["parts", "no size", "size 0", "sides swapped"],
)
def test_a_box_is_measured_on_the_image_itself(kit, text, caplog):
    (objects,) = objects_of(read(kit({"a": text})))
    np.testing.assert_allclose(objects["boxes"], [[5 / HEIGHT, 10 / WIDTH, *RIGHT]], rtol=1e-6)
    assert objects["labels"] == [datasets.VOC_CLASSES.index("dog")]
    assert caplog.text == ""


def test_fractions_of_pixels_are_read_and_boxes_are_clipped_to_the_image(kit):
    (objects,) = objects_of(read(kit({"a": annotation(object_of(box=(-3.5, 5.25, 160, 40)))})))
    np.testing.assert_allclose(objects["boxes"], [[5.25 / HEIGHT, 0, 40 / HEIGHT, 1]], rtol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (object_of(name="scooter"), "unknown class 'scooter'"),
        (object_of(box=(60, 40, 10, 5)), "no area inside"),
        (object_of(box=(200, 5, 300, 40)), "no area inside"),
        (object_of(box=("nan", 5, 60, 40)), "no area inside"),
        (object_of(box=("left", 5, 60, 40)), "without a box"),
        ("<object><name>dog</name></object>", "without a box"),
        ("<object></object>", "unknown class ''"),
    ],
)
def test_an_object_that_cannot_be_used_is_left_out_alone(kit, wrong, reason, caplog):
    with caplog.at_level(logging.WARNING):
        data = read(kit({"a": annotation(object_of(), wrong), "b": annotation(object_of())}))
    assert [len(objects["labels"]) for objects in objects_of(data)] == [1, 1]
    assert data.skipped == ()
    assert data.class_counts[datasets.VOC_CLASSES.index("dog")] == 2 == sum(data.class_counts)
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith("0 images and 1 objects are left out: ")
    assert "Annotations/a.xml" in message and reason in message and "\n" not in message


def test_an_image_that_cannot_be_used_is_left_out_and_counted(kit, caplog):
    names = ("good", "broken", "absent", "no_image", "cut", "text")
    folder = kit({name: annotation(object_of()) for name in names})
    files = folder / "VOC2007"
    (files / "Annotations/broken.xml").write_text("<annotation><object>")
    (files / "Annotations/absent.xml").unlink()
    (files / "JPEGImages/no_image.jpg").unlink()
    whole = (files / "JPEGImages/cut.jpg").read_bytes()
    (files / "JPEGImages/cut.jpg").write_bytes(whole[:-200])
    (files / "JPEGImages/text.jpg").write_text("no image")
    with caplog.at_level(logging.WARNING):
        data = read(folder)
    assert len(objects_of(data)) == 1 == int(data.train.cardinality())
    assert [path.rsplit("/")[-1] for path in data.skipped] == [f"{name}.xml" for name in names[1:]]
    (record,) = caplog.records
    assert record.getMessage().startswith("5 images and 0 objects are left out: ")


def test_a_png_under_the_name_of_a_jpeg_is_read(kit):
    folder = kit({"a": annotation(object_of())})
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "VOC2007/JPEGImages/a.jpg", format="png")
    assert objects_of(read(folder))[0]["boxes"][0][2:] == pytest.approx(RIGHT)


def test_a_long_warning_is_cut_short(kit, caplog):
    wrong = {f"image_{i}": annotation(object_of(name="scooter")) for i in range(9)}
    with caplog.at_level(logging.WARNING):
        read(kit({"a": annotation(object_of()), **wrong}))
    message = caplog.records[0].getMessage()
    assert message.startswith("0 images and 9 objects") and message.endswith("and 4 more.")


def test_no_usable_image_is_an_error_that_names_one(kit):
    with pytest.raises(ValueError, match=r"no usable image in 2007/trainval: .*a\.xml"):
        read(kit({"a": "no XML"}))


def test_images_without_objects_train(kit):
    data = ssd_data(read(kit({"a": annotation(), "b": annotation()})), batch_size=2, seed=1)
    for batches in (data.train, data.test):
        ((images, targets),) = list(batches)
        assert images.shape == (2, 300, 300, 3)
        assert not np.any(targets["classes"]), "all background"


def test_images_are_read_when_they_are_asked_for(kit):
    folder = kit({"a": annotation(object_of())})
    data = read(folder)
    for value in (0, 255):  # a second pass reads anew: nothing is kept in memory
        image = tf.fill((HEIGHT, WIDTH, 3), tf.constant(value, tf.uint8))
        tf.io.write_file(str(folder / "VOC2007/JPEGImages/a.jpg"), tf.io.encode_jpeg(image))
        for dataset in (data.train, data.test):
            ((shown, _),) = list(dataset)
            np.testing.assert_allclose(shown, value / 255, atol=0.01)
