"""Can foreign models be cut, exactly, and how much of them?

    python benchmarks/wild.py                       # all; goes on where it stopped
    python benchmarks/wild.py --only ViTBackbone    # these; --table prints what is there
    python benchmarks/wild.py --times --only ...    # only the times of rows that are there, anew

One JSON line per model goes to `benchmarks/results/wild.jsonl`. Models come from `wild_models/`:
keras-hub, other packages (skipped, and named, where they are not installed) and programs like those
of keras.io, written here. Sizes are tiny, weights random, statistics calibrated; half of every
group goes at random. A model is *exact* if three errors are at most 1e-5, each relative to the
largest output: `copy` (the model against its uncut copy), `error` (the masked twin against the cut
model, law 1) and `reload` (the cut model against its `.keras` file, loaded by plain Keras; "as the
original" if the package's own layers do not come back from such a file either, which counts as
exact). `control` is how far the output moves if one kept channel is swapped for a removed one.
`reachable` is the share of the parameters that goes if every group is cut to one channel.
`trace ms` is what opening and tracing take, `opened` what tracing takes for an uncut copy, in which
everything is open, `one call` what Keras alone takes to call the opened layers on symbols once: all
the best of three, of the processor's time. Each model has a time limit, and runs in a process that
may die.
"""

import argparse
import collections
import gc
import importlib.metadata
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
import traceback
import zipfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

import keras  # noqa: E402
import laws  # noqa: E402
import numpy as np  # noqa: E402
import wild_floor  # noqa: E402
import wild_models  # noqa: E402
from measured import append, read_lines  # noqa: E402

import aip_tf  # noqa: E402
from aip_tf.cost import Cost, whole_layers  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "wild.jsonl"
LIMIT = 400  # seconds for one model
NUM_CONTROLS = 30
REPEATS = 3
LEAST = "one channel of each group stays"
PYPI = {"tcn": "keras-tcn"}  # import name: name on PyPI, where they differ by more than "-"
COLUMNS = ("model", "source", "layers", "groups (prunable)", "reachable parameters", "copy")
COLUMNS += ("error", "reload", "control", "trace ms", "opened", "one call", "cut s")
COLUMNS += ("kept whole: share, reason",)
SUMMARY = """{rows} models: {wrong} wrong, {crashed} crashed, {exact:.1%} exact;
in {deaf} no wrong channel that was tried moved the output by 1e-3;
{reachable:.1%} of the models have more than half of their parameters in reach.
Where something is opened, tracing takes {opening:.1f} times what it takes without opening (median;
{most:.1f} at most).
In {slow} models opening itself takes more than twice the tracing; in {bound} of them Keras alone
takes more than the tracing for one call of the opened layers, which opening makes at least
twice."""


# --- one model ---------------------------------------------------------------------------------


def measure(wild, before=None):
    """One row of the table; if there is one `before`, that with new times."""
    keras.utils.clear_session()
    gc.collect()
    rng = np.random.default_rng(sum(wild.name.encode()))
    model, batch = prepare(wild, rng)
    shapes = keras.tree.map_structure(lambda x: tuple(x.shape[1:]), batch)
    if before:
        return before | times(aip_tf.ChannelGraph(model, shapes), shapes)
    row = {
        "model": wild.name,
        "source": wild.source,
        "layers": len(model.layers),
        "parameters": model.count_params(),
    }
    try:
        return row | hold(model, batch, shapes, rng)
    except Exception as problem:
        frames = traceback.extract_tb(problem.__traceback__)[-3:]
        where = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames]
        return row | {"crash": f"{type(problem).__name__}: {problem}"[:600], "where": where}


def prepare(wild, rng):
    """The model with weights under which channels matter, and a batch."""
    built = wild.build()
    model, batch = built if isinstance(built, tuple) else (built, None)
    if batch is None:
        batch = laws.random_batch(model, rng, wild_models.BATCH_SIZE)
    model(batch, training=False)
    old = model.get_weights()
    laws.randomize(model, rng, batch)
    if not all(np.isfinite(x).all() for x in laws.run(model, batch)):
        model.set_weights(old)  # as the package starts it: constant gains of one
    return model, batch


def hold(model, batch, shapes, rng):
    """Cut the model at random and hold the laws against the cut."""
    expected = laws.run(model, batch)
    graph = aip_tf.ChannelGraph(model, shapes)
    masks = laws.random_masks(graph.groups, rng)
    start = time.perf_counter()
    cut = aip_tf.prune_channels(graph, masks)
    done = time.perf_counter()
    copy = aip_tf.prune_channels(graph, {})
    least = aip_tf.prune_channels(graph, laws.least_masks(graph.groups))
    cost = Cost(graph)
    return {
        "groups": len(graph.groups),
        "prunable": len(laws.cuttable(graph.groups)),
        "reachable": 1 - least.count_params() / model.count_params(),
        "half": cut.count_params() / model.count_params(),
        "costs_agree": cost.parameters(masks) == cut.count_params(),
        "copy": laws.relative_error(laws.run(copy, batch), expected),
        "error": law_1(graph, cut, masks, batch),
        "reload": reload_error(model, cut, batch),
        "control": control(graph, masks, batch, laws.run(cut, batch), rng),
        "cut_seconds": done - start,
        "reasons": reasons(graph, least),
    } | times(graph, shapes)


def times(graph, shapes):
    """Seconds of opening and tracing, and where something is opened of each alone."""
    found = {"trace_seconds": trace_seconds(graph.model, shapes)}
    if graph.trace.opened:
        found["opened_seconds"] = trace_seconds(graph.prune({}), shapes)
        found["floor_seconds"] = wild_floor.floor_seconds(graph)
    return found


def trace_seconds(model, shapes):
    """The processor's: other work on the machine counts less."""
    times = []
    for _ in range(REPEATS):
        gc.collect()
        start = time.process_time()
        aip_tf.ChannelGraph(model, shapes)
        times.append(time.process_time() - start)
    return min(times)


def law_1(graph, cut, masks, batch):
    masked = aip_tf.mask_channels(graph, masks)
    error = laws.relative_error(laws.run(cut, batch), laws.run(masked, batch))
    return error if error <= laws.TOLERANCE else aip_tf.channels.check_cut(graph, cut, masks, batch)


def reload_error(model, cut, batch):
    """Law 6; None where the model's own layers do not survive a plain Keras file either."""
    try:
        error = laws.relative_error(laws.run(reloaded(cut), batch), laws.run(cut, batch))
    except Exception:
        if survives(model, batch) and all(map(comes_back, cut._flatten_layers())):
            raise
        return None
    return error if error <= laws.TOLERANCE or survives(model, batch) else None


def comes_back(layer):
    """Whether a layer's class accepts its own configuration, as a file holds it: in JSON."""
    try:
        config = json.dumps(keras.saving.serialize_keras_object(layer))
        return bool(keras.saving.deserialize_keras_object(json.loads(config)))
    except Exception:
        return type(layer).__module__.startswith("keras.")


def survives(model, batch):
    """Whether the layers that were given come back without the class of the whole model, which may
    make them anew by itself."""
    try:
        if type(model) is not keras.Sequential and getattr(model, "inputs", None):
            model = keras.Model(model.input, model.output)
        outputs = laws.run(reloaded(model), batch)
    except Exception:
        return False
    return laws.relative_error(outputs, laws.run(model, batch)) <= laws.TOLERANCE


def reloaded(model):
    """The model from its file, as a user without this package would load it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cut.keras"
        model.save(path)
        with zipfile.ZipFile(path) as archive:
            if '"aip_tf' in archive.read("config.json").decode():
                raise ValueError("the file of the cut model needs aip_tf to load")
        return keras.saving.load_model(path, compile=False)


def control(graph, masks, batch, outputs, rng):
    """How far one wrong channel moves the output, the best of a few groups; None without any."""
    heard = [g.name for g in graph.groups if g.name in masks and g.producers and g.consumers]
    if not heard:
        return None
    return laws.any_control(graph, masks, batch, outputs, rng, heard, NUM_CONTROLS)


def reasons(graph, least):
    """{reason: share of the parameters that are left where all else is cut to one channel}.

    A layer's parameters go to the reason why it is whole, or in equal parts to those of the groups
    that it makes or reads."""
    whys = collections.defaultdict(set)
    for group in graph.groups:
        for path in () if group.prunable else (*group.producers, *group.consumers):
            parts = path.split("/")
            for n in range(1, len(parts) + 1):
                whys["/".join(parts[:n])].add(group.reason)
    whys |= {path: {reason} for path, _, _, reason in whole_layers(Cost(graph))}
    shares = collections.Counter()
    total = graph.model.count_params()
    for path, layer in leaves(least):
        found = whys.get(path, {LEAST})
        for why in found:
            shares[why] += layer.count_params() / total / len(found)
    return {why: round(share, 4) for why, share in shares.most_common() if share >= 0.001}


def leaves(model, prefix=""):
    """(path, layer) of every layer that is no model."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from leaves(layer, f"{prefix}{layer.name}/")
        else:
            yield prefix + layer.name, layer


# --- all of them, each in a process that may die -----------------------------------------------


def rows(todo, before):
    """Rows of the models `todo`; a worker that dies or takes too long costs one row."""
    todo = list(todo)
    while todo:
        here, there = multiprocessing.get_context("spawn").Pipe()
        names = [wild.name for wild in todo]
        worker = multiprocessing.get_context("spawn").Process(
            target=work, args=(there, names, before)
        )
        worker.start()
        there.close()
        row = True
        while todo and row:
            wild = todo.pop(0)
            row = receive(here)
            yield row or {
                "model": wild.name,
                "source": wild.source,
                "crash": f"no answer within {LIMIT} s, or the process died",
            }
        worker.kill()
        worker.join()


def receive(connection):
    try:
        return connection.recv() if connection.poll(LIMIT) else None
    except EOFError:
        return None


def work(connection, names, before):
    models = wild_models.load()
    for name in names:
        try:
            row = measure(models[name], before.get(name))
        except Exception as problem:
            row = {"model": name, "source": models[name].source, "unbuilt": repr(problem)[:600]}
        connection.send(row)


# --- the table ---------------------------------------------------------------------------------


def status(row):
    """unbuilt (not our fault), crashed, wrong, or exact."""
    for name, word in (("unbuilt", "unbuilt"), ("crash", "crashed")):
        if name in row:
            return word
    errors = [row["copy"], row["error"], row["reload"] or 0]
    return "exact" if max(errors) <= laws.TOLERANCE else "wrong"


def is_deaf(row):
    return row.get("control") is not None and row["control"] < laws.SENSITIVITY


def is_reachable(row):
    return row.get("reachable", 0) > 0.5


def table(found):
    """Markdown."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for row in sorted(found, key=lambda r: (r["source"], r["model"])):
        flaw = {"exact": ""}.get(status(row), f" **{status(row)}**")
        lead = f"| {row['model']}{flaw} | {row['source']} | "
        if status(row) in ("crashed", "unbuilt"):
            why = (row.get("crash") or row["unbuilt"]).replace("|", "/").replace("\n", " ")
            lines.append(f"{lead}{row.get('layers', '')} | | 0% {'| ' * 9}| {why[:200]} |")
            continue
        heard = "none" if row["control"] is None else f"{row['control']:.0e}"
        loaded = "as the original" if row["reload"] is None else f"{row['reload']:.0e}"
        opened, floor = (
            f"{1e3 * row[key]:.0f}" if row.get(key) else ""
            for key in ("opened_seconds", "floor_seconds")
        )
        whys = "; ".join(f"{share:.1%} {why}" for why, share in row["reasons"].items())
        lines.append(
            f"{lead}{row['layers']} | {row['groups']} ({row['prunable']}) | {row['reachable']:.1%} "
            f"| {row['copy']:.0e} | {row['error']:.0e} | {loaded} | {heard} "
            f"| {1e3 * row['trace_seconds']:.0f} | {opened} | {floor} "
            f"| {row['cut_seconds']:.1f} | {whys} |"
        )
    return "\n".join([*lines, "", summary(found)])


def summary(found):
    kinds = collections.Counter(map(status, found))
    ratios = [r["trace_seconds"] / r["opened_seconds"] for r in found if r.get("opened_seconds")]
    counts = {
        "rows": len(found),
        "wrong": kinds["wrong"],
        "crashed": kinds["crashed"] + kinds["unbuilt"],
        "exact": kinds["exact"] / max(len(found), 1),
        "deaf": sum(map(is_deaf, found)),
        "reachable": sum(map(is_reachable, found)) / max(len(found), 1),
        "opening": statistics.median(ratios or [1]),
        "most": max(ratios or [1]),
        "slow": sum(map(wild_floor.is_slow, found)),
        "bound": sum(map(wild_floor.is_bound, found)),
    }
    return SUMMARY.format(**counts)


def versions(models):
    """One line: the packages of the table and the machine."""
    sources = sorted({wild.source for wild in models.values() if wild.is_installed})
    names = [PYPI.get(s, s) for s in sources if s != wild_models.EXAMPLES]
    found = [
        f"{name} {importlib.metadata.version(name)}" for name in ("tensorflow", "keras", *names)
    ]
    return f"{', '.join(found)}; {platform.machine()}, {os.cpu_count()} cores"


def load():
    """{model: its newest row}."""
    return {row["model"]: row for row in read_lines(RESULTS)}


def main():
    models = wild_models.load()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", default=list(models), help="names of models")
    parser.add_argument("--table", action="store_true", help="print the rows that are there")
    parser.add_argument("--times", action="store_true", help="measure the times of rows anew")
    options = parser.parse_args()
    done = load()
    absent = {w.source for w in models.values() if not w.is_installed}
    for source in sorted(absent):
        skipped = sum(w.source == source for w in models.values())
        print(f"{source} is not installed: {skipped} models are skipped", flush=True)
    settled = {name for name, row in done.items() if status(row) != "unbuilt"}
    before = {name: done[name] for name in settled} if options.times else {}
    todo = [n for n in options.only if models[n].is_installed and (n in settled) == options.times]
    for row in () if options.table else rows([models[n] for n in todo], before):
        done[row["model"]] = row
        append(RESULTS, row)
        print(f"{row['model']}: {status(row)}, {row.get('reachable', 0):.0%} reachable", flush=True)
    found = [row for name, row in done.items() if name in options.only]
    print(f"{versions(models)}\n\n{table(found)}")
    failed = [row["model"] for row in found if status(row) != "exact"]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
