"""Does a game pay beside the teacher's own answers? ResNet-20, half of the MACs.

    python benchmarks/adversary.py                       # the queue; may be killed, goes on
    python benchmarks/adversary.py --only "pair critic"  # this arm of it
    python benchmarks/adversary.py --only "pair critic" --images 1000 --seed 1
    python benchmarks/adversary.py --summary             # the table from the lines at hand

Every arm is "no game" (answers, features and attention) and one thing more:

    default                   the paper's discriminator of answers
    adversarial temperature   the temperature of the answers' term trained by the reversed gradient,
                              between 1 and 21 (curriculum temperature, Li et al. 2023,
                              arXiv 2211.16231, without its curriculum)
    teacher's tail            the rest of the teacher behind the second stage answers to the
                              student's features: divergence from the teacher's answers, no game
    tail critic               that tail, frozen, as the trunk of a critic of the student's features;
                              only a small head on it learns, by hinge loss
    pair critic               small convolutions judge each patch of a pair: what the teacher's
                              block was asked, and the teacher's or the student's answer to it

--images 45000: training images in batches, mirrored (the lines in the file: cropped as well), two
epochs, labels; judged on the other 5,000. --images 1000: drawn as benchmarks/few.py draws them, no
labels, 40 epochs; judged on 5,000 others. Test images are never read. One JSON line for each run
goes to results/adversary.jsonl.
"""

import argparse

import few
import keras
import numpy as np
import recovery
from critics import AdversarialTemperature, PairCritic, Tail, TailCritic
from measured import read_lines, work_through

import aip_tf
from aip_tf import transfers
from aip_tf.datasets import augment, from_arrays

RESULTS = recovery.RESULTS.with_name("adversary.jsonl")
FEW, MANY = 1000, 45_000


def without_game(output, *more):
    inside = [transfers.FeatureTransfer(), transfers.AttentionTransfer()]
    return {"transfers": [output, *inside, *more]}, {}


recovery.ARMS |= {
    "adversarial temperature": lambda: without_game(AdversarialTemperature()),
    "teacher's tail": lambda: without_game(transfers.OutputTransfer(), Tail()),
    "tail critic": lambda: without_game(transfers.OutputTransfer(), TailCritic()),
    "pair critic": lambda: without_game(transfers.OutputTransfer(), PairCritic()),
}
ARMS = ("default", "no game", "tail critic", "pair critic", "teacher's tail")
ARMS += ("adversarial temperature",)


def run(arm, images, seed):
    """One run; returns what goes to its line."""
    if images == MANY:
        return recovery.run("resnet20", arm, 2, seed, validation=True)
    keras.utils.set_random_seed(seed)
    path = recovery.SHARED / "models" / "cifar10_resnet20_akamaster.keras"
    teacher = keras.saving.load_model(path)
    arrays = recovery.cifar10_arrays("train")
    order = np.random.default_rng(seed).permutation(50_000)
    parts = [tuple(x[chosen] for x in arrays) for chosen in (order[:images], order[-5000:])]
    data = from_arrays(*parts, augment=augment.pad_crop_flip(), seed=seed)
    options, others = recovery.ARMS[arm]()
    student, report = aip_tf.prune(
        teacher,
        data.train.map(lambda x, y: x),
        recovery=aip_tf.Recovery(epochs=few.EPOCHS[images], **options),
        run_dir=recovery.WORK / f"adversary-{arm}-{images}-{seed}",
        **others,
    )
    return {
        **recovery.compare(teacher, student, data.test),
        "last_epoch": {k: round(float(v), 4) for k, v in report.history[-1].items()},
        "macs_kept": round(report.student.macs / report.teacher.macs, 4),
        "parameters_kept": round(report.student.parameters / report.teacher.parameters, 4),
        "seconds": round(report.seconds, 1),
    }


def summary():
    groups = {}
    for line in read_lines(RESULTS):
        groups.setdefault((line["images"], line["arm"]), []).append(line)
    print("| images | labels | arm | seeds | accuracy | divergence | CPU seconds |")
    print("|---|---|---|---|---|---|---|")
    for (images, arm), lines in sorted(groups.items()):
        keys = "accuracy", "divergence", "cpu_seconds"
        accuracy, divergence, cpu = (np.mean([line[key] for line in lines]) for key in keys)
        seeds = " ".join(str(line["seed"]) for line in lines)
        print(
            f"| {images:,} | {'yes' if images == MANY else 'no'} | {arm} | {seeds} "
            f"| {100 * accuracy:.2f} | {divergence:.4f} | {cpu:.0f} |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=ARMS, metavar="ARM")
    parser.add_argument("--images", type=int, choices=(FEW, MANY))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--summary", action="store_true")
    told = parser.parse_args()
    if told.summary:
        summary()
        return
    arms = [told.only] if told.only else ARMS
    sizes = [told.images] if told.images else (FEW, MANY)
    keys = [{"arm": arm, "images": images, "seed": told.seed} for images in sizes for arm in arms]
    work_through(RESULTS, keys, run)


if __name__ == "__main__":
    main()
