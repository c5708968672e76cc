"""What is each term of the game worth to a detector? 108 photographs, a small SSD, 40% of the MACs.

    bin/aip_run --gin_file=gin/ssd_voc_sample.gin --run_dir=runs/ssd_120 \
        --gin_param='train_teacher.epochs = 120'     # trains the teacher, once
    python benchmarks/detection.py --teacher runs/ssd_120/teacher.keras    # may be killed
    python benchmarks/detection.py --summary         # the table from the lines that are there

Every arm starts from one and the same cut of that run's teacher and recovers for 8 epochs of 80
photographs: batch 8, Adam at 5e-4 falling along a cosine, SSD's augmentation from the seed. Mean
average precision (IoU 0.5, area) is measured on the 80 photographs themselves and on the 28 that
were held out of everything. The latter are 28: a difference there is worth its spread over seeds.

One JSON line for each (arm, seed) goes to results/detection.jsonl; what is there is not run again.
"""

import argparse
import functools
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import keras  # noqa: E402
import numpy as np  # noqa: E402
from measured import cpu_seconds, read_lines, work_through  # noqa: E402

from aip_tf import cost, criteria, cutting, datasets, detection, game  # noqa: E402
from aip_tf.recovery import Recovery  # noqa: E402
from aip_tf.selection import Macs  # noqa: E402

DEVKIT = HERE.parents[1] / "shared" / "data" / "VOCdevkit"
TEACHER = HERE.parent / "runs" / "ssd_voc_sample" / "teacher.keras"
RESULTS = HERE / "results" / "detection.jsonl"
SIZE, EPOCHS, BATCH, AMOUNT, SEEDS = 192, 8, 8, 0.4, (0, 1, 2)
ANCHORS = detection.default_boxes(detection.feature_sizes(SIZE))
TAPS = [f"conv_pw_{k}_relu" for k in (3, 5, 11, 13)]

TERMS = {
    "detection": lambda: detection.DetectionTransfer(),
    "attention": lambda: game.AttentionTransfer(TAPS),
    "game": lambda: detection.AdversarialDetectionTransfer(),
    "game, all anchors": lambda: game.AdversarialTransfer(outputs=["classes"]),
}
FULL = ("detection", "attention", "game")
ARMS = {
    "labels alone": (),
    "full": FULL,
    "without detection": ("attention", "game"),
    "without attention": ("detection", "game"),
    "without the game": ("detection", "attention"),
    "full, game on all anchors": ("detection", "attention", "game, all anchors"),
}


PAIR = ("teacher", "cut")

# The dear one comes last.
QUEUE = [(arm, 0) for arm in PAIR]
QUEUE += [(arm, seed) for seed in SEEDS for arm in list(ARMS)[:-1]]
QUEUE += [(list(ARMS)[-1], seed) for seed in SEEDS]


def photographs(seed):
    """The sample, 80 and 28 photographs whatever the seed, as a teacher of seed 0 saw them."""
    split = {"train": ("2012/trainval",), "test": None, "validation_fraction": 0.26, "seed": 0}
    data = datasets.voc(DEVKIT, **split)
    return detection.ssd_data(data, SIZE, BATCH, seed=seed).train, [
        detection.ground_truth(data, SIZE, part=part).cache() for part in ("train", "test")
    ]


def cut(teacher, train):
    """The cut that all arms share: what the others make up for best, at most half of a layer."""
    images = next(iter(train))[0]
    graph, criterion = cutting.trace_on(teacher, images), criteria.get("reconstruction")
    selection = Macs(max_sparsity=0.5)
    masks = cutting.plan_cut(graph, AMOUNT, selection=selection, criterion=criterion, data=train)
    smaller, _ = cutting.apply_cut(graph, masks, images, data=train, refit=criterion.refit)
    return smaller.model


def measure(model, parts):
    found = [detection.evaluate_detector(model, part, ANCHORS).result() for part in parts]
    return dict(zip(("training_map", "held_out_map"), np.round(found, 4).tolist(), strict=True))


def recover(teacher, student, terms, seed, train):
    """Train a copy of the student with some terms; returns the copy."""
    keras.utils.set_random_seed(seed)
    copy = keras.models.clone_model(student)
    copy.set_weights(student.get_weights())
    how = Recovery(
        epochs=EPOCHS,
        optimizer=keras.optimizers.Adam(5e-4),
        transfers=[TERMS[term]() for term in terms],
        supervised_weight=1.0,
    ).for_model(teacher, next(iter(train)))
    distiller = how.distiller(teacher, copy, EPOCHS * int(train.cardinality()))
    distiller.fit(train, epochs=EPOCHS, verbose=0)
    return copy


@functools.cache
def pair():
    """The teacher, and the cut that all arms start from."""
    teacher = keras.saving.load_model(TEACHER)
    return teacher, cut(teacher, photographs(0)[0])


def run(arm, seed):
    """One run; returns what goes to its line."""
    teacher, student = pair()
    train, parts = photographs(seed)
    if arm in PAIR:
        model = (teacher, student)[PAIR.index(arm)]
        return {"macs": cost.count_macs(model), **measure(model, parts)}
    cpu = cpu_seconds()
    recovered = recover(teacher, student, ARMS[arm], seed, train)
    return {"cpu_seconds": round(cpu_seconds() - cpu, 1), **measure(recovered, parts)}


def summary():
    print("| | seeds | training mAP | held-out mAP | CPU s |\n|---|---|---|---|---|")
    for arm in (*PAIR, *ARMS):
        own = [line for line in read_lines(RESULTS) if line["arm"] == arm]
        if own:
            columns = [_mean(own, key) for key in ("training_map", "held_out_map", "cpu_seconds")]
            print(f"| {arm} | {len(own)} | {' | '.join(columns)} |")


def _mean(records, key):
    values = [record[key] for record in records if key in record]
    if not values:
        return ""
    if key == "cpu_seconds":
        return f"{np.mean(values):.0f}"
    spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--summary", action="store_true", help="print the table and stop")
    parser.add_argument("--teacher", type=Path, default=TEACHER, help="another detector to cut")
    options = parser.parse_args()
    TEACHER = options.teacher
    keys = [{"arm": arm, "seed": seed} for arm, seed in QUEUE]
    summary() if options.summary else work_through(RESULTS, keys, run)
