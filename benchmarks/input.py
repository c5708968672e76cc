"""Does the input keep up? Every pipeline's rate against the training that it feeds.

    python benchmarks/input.py            # about four minutes on 2 idle cores
    python benchmarks/input.py --quick    # about a minute; fewer batches

Table 1: images a second that each pipeline yields, and that a training step of the smallest network
of its kind consumes; their ratio should be at least 5, so that training never waits. Table 2: the
rate per core (images per second of processor time) of ImageNet's stages, beside tensorflow-datasets
reading the same records alone. ImageNet itself is not here: the 1,000 real images of
../shared/data/imagenet_sample are written as records in its layout, in a temporary folder.
Pipelines whose data is absent are left out, with a note.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import tensorflow as tf

from aip_tf import datasets, zoo

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def measure(dataset, seconds):
    """(images per second, images per second of processor time) after a warm first pass."""
    for _ in dataset.take(20):
        pass
    count, start, start_processor = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        for images, *_ in dataset:
            count += images.shape[0] if images.shape.rank == 4 else 1
            if time.perf_counter() - start > seconds:
                break
    wall, processor = time.perf_counter() - start, time.process_time() - start_processor
    return count / wall, count / processor


def training_rate(model, data, steps):
    """Images per second of `fit` on one batch that is already in memory."""
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    images, labels = next(iter(data.train))
    batch = tf.data.Dataset.from_tensors((images, labels)).repeat(steps)
    model.fit(batch.take(2), verbose=0, shuffle=False)
    start = time.perf_counter()
    model.fit(batch, verbose=0, shuffle=False)
    return steps * len(labels) / (time.perf_counter() - start)


def write_records(directory):
    """The sample as four files of records of imagenet2012, and a tenth of it as validation."""
    import tensorflow_datasets as tfds

    sample = SHARED / "imagenet_sample"
    rows = json.loads((sample / "labels.json").read_text(encoding="utf-8"))
    examples = [
        {"image": str(sample / row["file"]), "label": row["label"], "file_name": row["file"]}
        for row in rows
    ]
    info = tfds.builder("imagenet2012", data_dir=directory).info
    Path(info.data_dir).mkdir(parents=True)
    info.features.save_config(info.data_dir)
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=250)
    writer.initialize_splits(["train", "validation"])
    writer.add_examples({"train": examples, "validation": examples[::10]})
    writer.close_all()


def pipelines(records):
    """(name, data, network it feeds) of every pipeline whose data is here."""
    yield "digits", datasets.digits(), zoo.digits_resnet()
    if not SHARED.is_dir():
        print("../shared/data is absent: cifar10, image_folder and imagenet2012 are left out\n")
        return
    cifar10 = datasets.cifar10(SHARED / "tensorflow_datasets")
    yield "cifar10", cifar10, zoo.resnet20()
    network = zoo.application("MobileNet", alpha=0.25)
    folder = datasets.image_folder(SHARED / "imagenet_sample", validation_fraction=0.1)
    yield "image_folder", folder, network
    imagenet = datasets.imagenet2012(records, batch_size=32)
    yield "imagenet2012 (MobileNet 0.25)", imagenet, network
    yield "imagenet2012 (ResNet-18)", imagenet, zoo.resnet18()


def stages(records):
    """(name, dataset) of ImageNet's way from records to batches."""
    import tensorflow_datasets as tfds

    def load(**arguments):
        # The sample would fit into memory, decoded; the real data does not.
        config = tfds.ReadConfig(try_autocache=False)
        return tfds.load(
            "imagenet2012", split="train", data_dir=records, as_supervised=True, download=False,
            read_config=config, **arguments,
        )  # fmt: skip

    skip = {"image": tfds.decode.SkipDecoding()}
    yield "tfds: read records, not decoded", load(decoders=skip)
    yield "tfds: read records, decoded whole", load()
    for colour, jitter in (("", 0), (" colour,", 0.4)):
        views = datasets.Views(min_area=0.08, color_jitter=jitter)
        data = datasets.imagenet2012(records, 32, views=views)
        yield f"read, crop, mirror,{colour} batch", data.train


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer batches")
    quick = parser.parse_args().quick
    seconds, steps = (3, 5) if quick else (10, 20)
    with tempfile.TemporaryDirectory() as records:
        if SHARED.is_dir():
            write_records(records)
        print("| pipeline | images/s | training, images/s | ratio |\n|---|---|---|---|")
        for name, data, network in pipelines(records):
            rate, _ = measure(data.train, seconds)
            training = training_rate(network, data, steps)
            print(f"| {name} | {rate:,.0f} | {training:,.0f} | {rate / training:.1f} |", flush=True)
        if SHARED.is_dir():
            print("\n| ImageNet's stage | images/s per core |\n|---|---|")
            for name, dataset in stages(records):
                print(f"| {name} | {measure(dataset, seconds)[1]:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
