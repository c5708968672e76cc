"""What is each term of the game worth? CIFAR-10, ResNet-20, half of the MACs, two epochs.

    python benchmarks/recovery.py              # works through the queue; may be killed, goes on
    python benchmarks/recovery.py --summary    # the table from the lines that are there

Every arm starts from one and the same cut of the pretrained ResNet-20 (91.73%): half of the MACs
kept, inner channels only, those that the convolution behind them misses least when the others may
make up for them; its kernel refitted so, by least squares; BatchNormalization measured anew. Then
two epochs on the complete CIFAR-10: batch 128, SGD with momentum 0.9, cosine to zero, crop from
4 pixels of padding and flip drawn for each image. Accuracy is on all 10,000 test images.

One JSON line for each (arm, seed, settings) goes to results/recovery.jsonl; lines that are there
are not run again; a run that was killed goes on behind its last epoch. Several processes may work
on one queue: a lock on a file, which ends with its process, says who runs what. An epoch takes
85 to 170 s on two cores.
"""

import argparse
import fcntl
import hashlib
import json
import os
import platform
import resource
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from aip_tf import channels, cost, game, recovery  # noqa: E402
from aip_tf.datasets import cifar10  # noqa: E402
from aip_tf.selection import Macs, select_channels  # noqa: E402

SHARED = HERE.parents[1] / "shared" / "data"
TEACHER = SHARED / "models" / "cifar10_resnet20_akamaster.keras"
RESULTS = HERE / "results" / "recovery.jsonl"
WORK = HERE / "runs" / "recovery"  # checkpoints and locks; not kept
EPOCHS, BATCH = 2, 128
PEER = (88.23, 88.48, 88.28)  # Torch-Pruning, group L2, best learning rate, same budget

# Weight of each term; 0 leaves it out. Chosen on seed 0, see the README.
BLOCKS = [f"layer{stage}_{block}_relu2" for stage in (1, 2, 3) for block in range(3)]
START = {"learning_rate": 0.015, "max_sparsity": {"layer3.*": 0.15, ".*": 0.75}}
OUTPUT = {"output": 0.9, "temperature": 4.0}
ATTENTION, FEATURES = {"attention": 50.0, "taps": BLOCKS}, {"features": 16.0, "taps": BLOCKS}
ADVERSARIAL = {"adversarial": 0.1}
NONE = {"output": 0.0, "attention": 0.0, "adversarial": 0.0}
ARMS = {
    "full + features": {**START, **OUTPUT, **ATTENTION, **ADVERSARIAL, **FEATURES},
    "output": {**START, **NONE, **OUTPUT},
    "fine-tune": {**START, **NONE, "learning_rate": 0.05},
    "full": {**START, **OUTPUT, **ATTENTION, **ADVERSARIAL},
    "output + features": {**START, **NONE, **OUTPUT, **FEATURES},
    "output + attention": {**START, **NONE, **OUTPUT, **ATTENTION},
    "output + adversarial": {**START, **NONE, **OUTPUT, **ADVERSARIAL},
}
QUEUE = [(arm, seed) for arm in list(ARMS)[:3] for seed in (0, 1, 2)]
QUEUE += [(arm, 0) for arm in list(ARMS)[3:]] + [("full", 1), ("full", 2)]


# The cut -----------------------------------------------------------------------------------------


def make_student(teacher, max_sparsity):
    """The cut that all arms share; deterministic, from training images as training shows them."""
    data = cifar10(SHARED / "tensorflow_datasets", 256, seed=0).train
    inner = [g for g in channels.find_channel_groups(teacher) if g.prunable and not g.residual]
    readers = {g.name: _Reader(teacher, g) for g in inner}
    _observe(teacher, list(readers.values()), data.take(4))
    images = next(iter(data.skip(4).unbatch().batch(1024)))[0]
    masks = choose(teacher, readers, images, max_sparsity)
    student = refitted(teacher, readers, masks)
    recovery.recalibrate(student, data, 20)
    return student


class _Reader:
    """The convolution that reads a group of inner channels, and the patches it sees.

    It puts out y = W x for patches x of covariance H. With only the inputs k left, the best kernel
    is W' = argmin E|W' x_k - y|^2 = (H_kk)^-1 H_k W (least squares; He et al. 2017, 1707.06168):
    one pass of the teacher gives H, and H is all that choosing and refitting take.
    """

    def __init__(self, model, group, ridge=1e-3):
        self.layer = model.get_layer(group.consumers[0])
        self.producer = group.name
        self.ridge = ridge
        self.kernel = np.asarray(self.layer.kernel, np.float64)
        self.width = self.kernel.shape[2]
        self.flat = self.kernel.reshape(-1, self.kernel.shape[3])

    def observe(self, patches):
        covariance = np.cov(patches.astype(np.float64).T, ddof=0)
        size = self.ridge * np.trace(covariance) / len(covariance)
        self.covariance = covariance + size * np.eye(len(covariance))

    def entries(self, channels):
        """Rows of the flat kernel that belong to channels."""
        places = np.arange(len(self.flat) // self.width)[:, None] * self.width
        return (places + np.atleast_1d(channels)).ravel()

    def refit(self, keep):
        index = self.entries(np.flatnonzero(keep))
        cross = self.covariance[index] @ self.flat
        return np.linalg.solve(self.covariance[np.ix_(index, index)], cross)

    def order(self, output_weights):
        """Channels from the least to the most missed, and the error (behind BN) as each goes.

        Optimal Brain Surgeon on blocks: without channel c, and with the others refitted, the error
        grows by w_c^T ((H^-1)_cc)^-1 w_c.
        """
        inverse, kernel = np.linalg.inv(self.covariance), self.flat.copy()
        alive, order, errors = list(range(self.width)), [], []
        while alive:
            costs = []
            for channel in alive:
                e = self.entries(channel)
                block = np.linalg.inv(inverse[np.ix_(e, e)])
                costs.append(np.sum((kernel[e].T @ block) * kernel[e].T, axis=1) @ output_weights)
            best = int(np.argmin(costs))
            order.append(alive.pop(best))
            errors.append(costs[best])
            e = self.entries(order[-1])
            block = np.linalg.inv(inverse[np.ix_(e, e)])
            kernel = kernel - inverse[:, e] @ block @ kernel[e]
            inverse = inverse - inverse[:, e] @ block @ inverse[e]
            kernel[e] = 0
        return np.array(order), np.array(errors)


def _observe(model, readers, data, samples=24_000):
    taps = keras.Model(model.inputs, [reader.layer.input for reader in readers])
    rows, draw = [[] for _ in readers], np.random.default_rng(0)
    for images, _ in data:
        for reader, found, inputs in zip(readers, rows, taps(images, training=False), strict=True):
            count = samples // int(data.cardinality())
            found.append(_some_patches(reader.layer, inputs, count, draw))
    for reader, found in zip(readers, rows, strict=True):
        reader.observe(np.concatenate(found))


def _some_patches(layer, inputs, count, draw):
    """Random patches of an unpadded convolution's inputs: (count, kernel entries)."""
    inputs, (rows, columns) = np.asarray(inputs), layer.kernel_size
    sizes = (len(inputs), inputs.shape[1] - rows + 1, inputs.shape[2] - columns + 1)
    image, row, column = (draw.integers(0, size, count) for size in sizes)
    patches = [inputs[image, row + i, column + j] for i in range(rows) for j in range(columns)]
    return np.concatenate(patches, axis=1)


def choose(teacher, readers, images, max_sparsity, amount=0.5):
    """Keep masks: what is least missed for each MAC goes first.

    Errors of different layers are made comparable by measurement: the divergence of the outputs
    when half of one layer's channels are gone, over the error that the layer then makes.
    """
    followers = {f"{b}_conv2": f"{b}_bn2" for b in (n.rsplit("_", 1)[0] for n in readers)}
    expected = tf.nn.log_softmax(teacher(images, training=False))
    counts, scores = cost.Cost(teacher), {}
    for name, reader in readers.items():
        bn = teacher.get_layer(followers[reader.layer.name])
        weights = np.asarray(bn.gamma) ** 2 / (np.asarray(bn.moving_variance) + bn.epsilon)
        order, errors = reader.order(weights)
        half = {name: np.isin(np.arange(reader.width), order[reader.width // 2 :])}
        found = tf.nn.log_softmax(refitted(teacher, readers, half)(images, training=False))
        divergence = tf.reduce_sum(tf.exp(expected) * (expected - found), axis=-1)
        sensitivity = float(tf.reduce_mean(divergence)) / errors[: reader.width // 2].sum()
        one = {name: np.arange(reader.width) > 0}
        macs = counts.macs() - counts.macs(one)
        scores[name] = np.empty(reader.width, np.float32)
        scores[name][order] = np.maximum.accumulate(errors) * sensitivity / macs * 1e6
    rest = {g.name: np.ones(g.num_channels) for g in channels.find_channel_groups(teacher)}
    selection = Macs(scope="inner", max_sparsity=max_sparsity)
    criterion = lambda *_: {**rest, **scores}  # noqa: E731
    return select_channels(teacher, amount, selection=selection, criterion=criterion)


def refitted(teacher, readers, masks):
    """The cut teacher, with the kernels that read cut channels refitted."""
    student = channels.prune_channels(teacher, masks)
    for name, reader in readers.items():
        if name in masks and not masks[name].all():
            kernel = student.get_layer(reader.layer.name).kernel
            kernel.assign(reader.refit(masks[name]).reshape(kernel.shape))
    return student


# One run -----------------------------------------------------------------------------------------


def transfers(settings):
    terms = []
    if settings["output"]:
        terms.append(game.OutputTransfer(settings["temperature"], settings["output"]))
    if settings["attention"]:
        terms.append(game.AttentionTransfer(settings.get("taps", "auto"), settings["attention"]))
    if settings.get("features"):
        terms.append(game.FeatureTransfer(settings["taps"], settings["features"]))
    if settings["adversarial"]:
        terms.append(game.AdversarialTransfer(settings["adversarial"]))
    return terms


def run(teacher, student, settings, seed, test, checkpoint):
    """Recover and return the record's numbers; goes on from `checkpoint` where it exists."""
    keras.utils.set_random_seed(seed)
    sgd = keras.optimizers.SGD(settings["learning_rate"], momentum=0.9)
    how = recovery.Recovery(
        epochs=EPOCHS,
        optimizer=sgd,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        transfers=transfers(settings),
    )
    distiller = how.distiller(teacher, student, EPOCHS * (50_000 // BATCH))
    distiller.optimizer.build(distiller.trainable_variables)
    state = _load(checkpoint, distiller)
    for epoch in range(len(state["accuracy"]), EPOCHS):
        started, cpu = time.monotonic(), _cpu_seconds()
        # A stream of its own for every epoch: a run that goes on sees what it would have seen.
        data = cifar10(SHARED / "tensorflow_datasets", BATCH, seed=1000 * seed + epoch)
        history = distiller.fit(data.train, epochs=epoch + 1, initial_epoch=epoch, verbose=2)
        state["seconds"].append(round(time.monotonic() - started, 1))
        state["cpu_seconds"].append(round(_cpu_seconds() - cpu, 1))
        state["accuracy"].append(accuracy(student, test))
        state["logs"] = {k: round(float(v[-1]), 4) for k, v in history.history.items()}
        print(time.strftime("%H:%M:%S"), state, flush=True)
        _save(checkpoint, distiller, state)
    return state


def accuracy(model, data):
    predict = tf.function(lambda x: model(x, training=False))
    hits = [np.argmax(predict(x), -1) == y for x, y in data.as_numpy_iterator()]
    return round(float(np.mean(np.concatenate(hits))), 4)


def _cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _variables(distiller):
    players = [distiller.student, distiller.optimizer]
    players += [*distiller.discriminators, *distiller.discriminator_optimizers]
    return [variable for player in players for variable in player.variables]


def _save(path, distiller, state):
    values = {str(i): np.asarray(v) for i, v in enumerate(_variables(distiller))}
    temporary = path.with_suffix(".tmp.npz")
    np.savez(temporary, state=json.dumps(state), **values)
    temporary.replace(path)


def _load(path, distiller):
    if not path.exists():
        return {"accuracy": [], "seconds": [], "cpu_seconds": [], "logs": {}}
    with np.load(path) as saved:
        for i, variable in enumerate(_variables(distiller)):
            variable.assign(saved[str(i)])
        return json.loads(str(saved["state"]))


# The queue ---------------------------------------------------------------------------------------


def key_of(record):
    return json.dumps([record["arm"], record["seed"], record["settings"]], sort_keys=True)


def read_results():
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return [json.loads(line) for line in lines]


def work_through(queue):
    WORK.mkdir(parents=True, exist_ok=True)
    teacher, start, before = None, None, None
    for arm, seed, settings in queue:
        record = {"arm": arm, "seed": seed, "settings": settings}
        if key_of(record) in map(key_of, read_results()):
            continue
        name = f"{arm.replace(' ', '')}-{seed}-{_digest(settings)}"
        with (WORK / f"{name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # another process is at it
            if key_of(record) in map(key_of, read_results()):
                continue
            print(time.strftime("%H:%M:%S"), name, settings, flush=True)
            if teacher is None:  # all runs of one process start from one cut
                test = cifar10(SHARED / "tensorflow_datasets", 250).test
                teacher, start, before = _start(test, settings["max_sparsity"])
            student = channels.prune_channels(start, {})
            state = run(teacher, student, settings, seed, test, WORK / f"{name}.npz")
            _append({**record, **_surroundings(teacher, start), "after_cut": before, **state})


def _start(test, max_sparsity):
    """Teacher, the shared student and its accuracy; the student is made once and kept."""
    teacher = keras.saving.load_model(TEACHER)
    path = WORK / f"student-{_digest(max_sparsity)}.keras"
    with (path.with_suffix(".lock")).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            student = make_student(teacher, max_sparsity)
            student.save(WORK / "new.keras")
            path.with_suffix(".json").write_text(json.dumps(accuracy(student, test)))
            (WORK / "new.keras").replace(path)
    before = json.loads(path.with_suffix(".json").read_text())
    print("after the cut", before, flush=True)
    return teacher, keras.saving.load_model(path), before


def _surroundings(teacher, student):
    return {
        "macs_kept": round(cost.count_macs(student) / cost.count_macs(teacher), 4),
        "parameters_kept": round(cost.count_parameters(student) / teacher.count_params(), 4),
        "widths": [layer.filters for layer in student.layers if hasattr(layer, "filters")],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}",
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
    }


def _append(record):
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(record) + "\n")


def _digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def summary(records):
    """Markdown: one row for each arm and its settings, in percent."""
    rows = {}
    for record in records:
        settings = json.dumps(record["settings"], sort_keys=True)
        rows.setdefault((record["arm"], settings), []).append(record)
    lines = ["| arm | settings | seeds | after the cut | epoch 1 | epoch 2 | spread |"]
    lines.append("|---|---|---|---|---|---|---|")
    peer = f"{np.mean(PEER):.2f} | {min(PEER)} to {max(PEER)}"
    lines.append(f"| Torch-Pruning, fine-tuning | learning rate 0.05 | 3 | 13.95 | | {peer} |")
    for (arm, settings), group in rows.items():
        settings = {k: v for k, v in json.loads(settings).items() if v}
        first, last = (np.array([100 * r["accuracy"][e] for r in group]) for e in (0, 1))
        shown = ", ".join(f"{k.replace('_', ' ')} {_shown(v)}" for k, v in settings.items())
        lines.append(
            f"| {arm} | {shown} | {len(group)} | {100 * group[0]['after_cut']:.2f} | "
            f"{first.mean():.2f} | {last.mean():.2f} | {last.min():.2f} to {last.max():.2f} |"
        )
    return "\n".join(lines)


def _shown(value):
    if isinstance(value, dict):
        return "`" + ", ".join(f"{k}: {v:g}" for k, v in value.items()) + "`"
    if isinstance(value, list):
        return f"{len(value)} layers"
    return value if isinstance(value, str) else f"{value:g}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--summary", action="store_true", help="print the table and stop")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--arm", help="with --set: one run of this arm instead of the queue")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", default="{}", help="JSON of settings that differ from the arm's")
    arguments = parser.parse_args()
    if arguments.summary:
        print(summary(read_results()))
        return
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(arguments.threads)
    queue = [(arm, seed, ARMS[arm]) for arm, seed in QUEUE]
    if arguments.arm:
        settings = {**ARMS[arguments.arm], **json.loads(arguments.set)}
        queue = [(arguments.arm, arguments.seed, settings)]
    work_through(queue)


if __name__ == "__main__":
    main()
