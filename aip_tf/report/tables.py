"""The report as text. The HTML page shows the same cells."""

import re

from aip_tf.report.artefacts import artefact_lines, milliseconds, times_faster
from aip_tf.report.records import GroupRecord, ModelRecord, RoundRecord
from aip_tf.text import text_table, when

ROUND_HEADER = (
    "round",
    "epoch",
    "MACs",
    "parameters",
    "{metric} before",
    "{metric} after",
    "seconds",
)
GROUP_HEADER = ("channel group", "channels", "why kept whole")
_MOST_GROUP_ROWS = 40
_LONGEST_REASON = 72
_DISTANCES = re.compile("loss|error|mae|mse|entropy")  # numbers, not shares, also below 1


def render(report) -> str:
    """Returns summary, table of rounds, table of channel groups and list of artefacts."""
    metric = main_metric(report)
    parts = [
        "\n".join([headline(report), *(f"{name:<11} {text}" for name, text in gains(report))]),
        text_table([name.format(metric=metric) for name in ROUND_HEADER], round_rows(report)),
    ]
    groups = final_groups(report)
    if groups:
        rows = [(*counts, _shorten(reason)) for *counts, reason in group_rows(groups)]
        parts.append(text_table(GROUP_HEADER, rows, align="<><"))
    parts += [_pairs(pairs) for pairs in (facts(report), report.artefacts) if pairs]
    if report.deliveries:
        parts.append(artefact_lines(report.deliveries))
    if report.rounds:
        parts.append(f"Gained: {'; '.join(gained(report))}")
    return "\n\n".join(parts)


def describe_round(teacher: ModelRecord, record: RoundRecord) -> str:
    """Returns one line about a round: parameters, MACs, main metric, time.

    Args:
        teacher: the original model, which the percentages refer to.
        record: the round.
    """
    metric = _metric_name(teacher.metrics or record.metrics_before)
    quality = format_metric(record.metrics_before, metric)
    if record.metrics_after is not None:
        quality += f" -> {format_metric(record.metrics_after, metric)}"
    return (
        f"round {record.round}, {when(record.epoch)}: "
        f"MACs {_kept(record.macs, teacher.macs)}, "
        f"parameters {_kept(record.parameters, teacher.parameters)}, "
        f"{metric} {quality}, {record.seconds:.1f} s"
    )


def headline(report) -> str:
    """Returns one sentence on what was done."""
    cuts, epochs = len(report.rounds), len(report.history)
    return (
        f"{cuts} cut{'' if cuts == 1 else 's'} in {epochs} epoch{'' if epochs == 1 else 's'}, "
        f"{report.seconds:.1f} seconds"
    )


def facts(report) -> dict[str, str]:
    """Returns what ran, in a line for each fact; the configuration, which is long, is left out."""
    return {
        name: " ".join(in_words(value).split())
        for name, value in report.run.items()
        if name != "configuration"
    }


def gains(report) -> list[tuple[str, str]]:
    """Returns (name, teacher -> student) for MACs, parameters and the main metric."""
    teacher, student, metric = report.teacher, report.student, main_metric(report)
    rows = [
        ("MACs", _change(teacher.macs, student.macs)),
        ("parameters", _change(teacher.parameters, student.parameters)),
    ]
    if metric in teacher.metrics and metric in student.metrics:
        difference = student.metrics[metric] - teacher.metrics[metric]
        before, after = (format_metric(m.metrics, metric) for m in (teacher, student))
        rows.append((metric, f"{before} -> {after} ({difference:+.4f})"))
    return rows


def cards(report):
    """(what, the student's, the teacher's, the change) of what counts, as texts."""
    metric, teacher, student = main_metric(report), report.teacher, report.student
    found = []
    if metric in teacher.metrics and metric in student.metrics:
        before, after = teacher.metrics[metric], student.metrics[metric]
        change = points(report, before, after)
        found.append((metric, f"{after:.4f}", f"teacher {before:.4f}", change))
    artefact = representative(report)
    if artefact is not None:
        found += _cards_of(artefact)
    for name in ("macs", "parameters"):
        before, after = getattr(teacher, name), getattr(student, name)
        title = {"macs": "MACs"}.get(name, name)
        change = f"{_share(after, before)} kept, {_share(before - after, before)} removed"
        found.append((title, f"{after:,}", f"teacher {before:,}", change))
    return found


def _cards_of(artefact):
    latency, teacher = artefact.latency, artefact.teacher
    if latency:
        before = f"teacher {teacher['latency']['median']:.3g} ms" if teacher else ""
        faster = artefact.speed_up
        change = f"{faster['median']:.2f} times faster" if faster else ""
        yield f"latency, {artefact.format}", f"{latency['median']:.3g} ms", before, change
    before = f"teacher {teacher['num_bytes']:,}" if teacher else ""
    change = f"{_share(artefact.num_bytes, teacher['num_bytes'])} kept" if teacher else ""
    yield f"bytes, {artefact.format}", f"{artefact.num_bytes:,}", before, change


def whole_rows(report):
    """(names, channels or MACs, why) of what nothing was cut of, one row for each reason."""
    groups = [x for x in final_groups(report) if x.reason and x.kept == x.num_channels]
    rows = [_group_row(group)[:3] for group in _merge(groups)]
    known = {group.name for group in groups}
    total = max(1, sum(x.kept for x in report.layers))
    layers = [x for x in report.layers if x.reason and x.name not in known]
    rows += [
        (
            _first_of(same),
            f"{_share(sum(x.kept for x in same), total)} kept of the student's MACs",
            why,
        )
        for why, same in _by_reason(layers).items()
    ]
    return rows


def _merge(groups):
    return [_merged(reason, members) for reason, members in _by_reason(groups).items()]


def _by_reason(records):
    """{reason: records}."""
    found = {}
    for record in records:
        found.setdefault(record.reason, []).append(record)
    return found


def _first_of(records):
    more = f" and {len(records) - 1} more" if len(records) > 1 else ""
    return records[0].name + more


def gained(report):
    """What a run gained, in a few words each: quality, MACs, bytes and milliseconds."""
    metric, teacher, student = main_metric(report), report.teacher, report.student
    words = []
    if metric in teacher.metrics and metric in student.metrics:
        change = points(report, teacher.metrics[metric], student.metrics[metric])
        before, after = (format_metric(m.metrics, metric) for m in (teacher, student))
        words.append(f"{metric} {before} -> {after} ({change})")
    words.append(f"MACs {teacher.macs:,} -> {_kept(student.macs, teacher.macs)}")
    artefact = representative(report)
    if artefact is not None and artefact.teacher:
        before = artefact.teacher["num_bytes"]
        kept = _kept(artefact.num_bytes, before)
        words.append(f"{artefact.format} {before:,} -> {kept} bytes")
        if artefact.speed_up:
            before = artefact.teacher["latency"]["median"]
            words.append(
                f"{before:.3g} -> {artefact.latency['median']:.3g} ms "
                f"({artefact.speed_up['median']:.2f} times faster)"
            )
    return words


def run_row(report):
    """The cells of one run among others: what its student is, does and takes."""
    metric, teacher, student = main_metric(report), report.teacher, report.student
    change = ""
    if metric in teacher.metrics and metric in student.metrics:
        change = points(report, teacher.metrics[metric], student.metrics[metric]).split(",")[0]
    artefact = representative(report)
    kept = [
        f"{_share(getattr(student, name), getattr(teacher, name))} kept"
        for name in ("macs", "parameters")
    ]
    return (
        format_metric(student.metrics, metric),
        change,
        *kept,
        f"{artefact.num_bytes:,}" if artefact else "",
        milliseconds(artefact.latency) if artefact else "",
        times_faster(artefact.speed_up) if artefact else "",
        artefact.format if artefact else "",
        f"{report.seconds:.0f}",
    )


def representative(report):
    """The artefact that stands for all: the first for LiteRT, or else the first; None without."""
    passed = [artefact for artefact in report.deliveries if artefact.passed]
    first = [artefact for artefact in passed if artefact.runtime == "LiteRT"]
    return next(iter(first or passed), None)


def points(report, before, after):
    """A change of an accuracy in points and in samples, of another metric as a number."""
    is_share = 0 <= before <= 1 and 0 <= after <= 1
    if not is_share or _DISTANCES.search(main_metric(report)):
        return f"{after - before:+.4f}"
    text = f"{100 * (after - before):+.2f} points"
    number = max((artefact.num_samples for artefact in report.deliveries), default=0)
    if number and "accuracy" in main_metric(report):
        text += f", {round(number * abs(after - before))} of {number:,} samples"
    return text


def round_rows(report) -> list[tuple[str, ...]]:
    """Returns the cells of the table of rounds: teacher first, student last."""
    metric, teacher, student = main_metric(report), report.teacher, report.student
    rows = [("teacher", "", *_sizes(teacher, teacher), "", _cell(teacher.metrics, metric), "")]
    for record in report.rounds:
        rows.append(
            (
                str(record.round),
                str(record.epoch) if record.epoch >= 0 else "start",
                *_sizes(record, teacher),
                _cell(record.metrics_before, metric),
                _cell(record.metrics_after, metric),
                f"{record.seconds:.1f}",
            )
        )
    last = (_cell(student.metrics, metric), f"{report.seconds:.1f}")
    return [*rows, ("student", "", *_sizes(student, teacher), "", *last)]


def final_groups(report) -> tuple[GroupRecord, ...]:
    """Returns the channel groups after the last cut."""
    return report.rounds[-1].groups if report.rounds else ()


def group_rows(
    groups: tuple[GroupRecord, ...], most: int | None = _MOST_GROUP_ROWS
) -> list[tuple[str, str, str]]:
    """Returns the cells of the table of channel groups.

    Args:
        groups: the channel groups.
        most: longer tables are shortened: groups kept whole for the same reason share a row,
            and of what is left the middle is dropped. None shows everything.
    """
    if most is None or len(groups) <= most:
        return [_group_row(group) for group in groups]
    rows = [_group_row(group) for group in groups if not group.reason]
    whole = list(map(_group_row, _merge(group for group in groups if group.reason)))
    room = max(2, most - len(whole))
    if len(rows) > room:
        left_out = len(rows) - room
        middle = (f"... {left_out} more in the JSON report", "", "")
        rows = [*rows[: room // 2], middle, *rows[len(rows) - (room - room // 2) :]]
    return rows + whole


def main_metric(report) -> str:
    """Returns the metric that the tables show: the task's, an accuracy, or what is no loss."""
    named = report.run.get("main metric")
    if named in report.teacher.metrics:
        return named
    rounds = [record.metrics_before for record in report.rounds]
    candidates = [report.teacher.metrics, report.student.metrics, *rounds]
    return _metric_name(next(filter(None, candidates), {}))


def format_metric(metrics: dict | None, metric: str) -> str:
    """Returns a metric with four digits, or "-" where it was not measured."""
    value = (metrics or {}).get(metric)
    return "-" if value is None else f"{value:.4f}"


def _metric_name(metrics):
    accuracies = [name for name in metrics if "accuracy" in name]
    others = [name for name in metrics if not name.endswith("loss")]
    return next(iter(accuracies or others or metrics), "accuracy")


def in_words(value):
    """A plain value as words: objects by their class, with what tells them apart."""
    if isinstance(value, dict):
        name = value.get("class", "")
        told = {k: v for k, v in value.items() if k != "class" and v is not None}
        inner = ", ".join(f"{k} {in_words(v)}" for k, v in told.items())
        return f"{name} ({inner})" if name and inner else name or inner
    if isinstance(value, list):
        return ", ".join(map(in_words, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _pairs(pairs):
    width = max(map(len, pairs))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in pairs.items())


def _cell(metrics, metric):
    return format_metric(metrics, metric)


def _sizes(record, teacher):
    return _kept(record.macs, teacher.macs), _kept(record.parameters, teacher.parameters)


def _kept(count, original):
    return f"{count:,} ({_share(count, original)} kept)"


def _change(before, after):
    removed = _share(before - after, before)
    return f"{before:,} -> {after:,} ({_share(after, before)} kept, {removed} removed)"


def _share(part, whole):
    return f"{100 * part / whole:.1f}%" if whole else "100.0%"


def _group_row(group):
    whole = group.reason if group.kept == group.num_channels else ""
    return group.name, f"{group.kept:,} of {group.num_channels:,} kept", whole


def _merged(reason, members):
    """Groups that are kept whole for one reason, as one."""
    if len(members) == 1:
        return members[0]
    kept = sum(group.kept for group in members)
    total = sum(group.num_channels for group in members)
    return GroupRecord(_first_of(members), total, kept, reason)


def _shorten(reason):
    return reason if len(reason) <= _LONGEST_REASON else reason[: _LONGEST_REASON - 3] + "..."
