"""The plots of the HTML page, as SVG text. matplotlib is imported here, when it is needed."""

import contextlib
import io

from aip_tf.report import tables

DARK, LIGHT, ACCENT = "#1d5b79", "#bcd7e3", "#d1603d"
_INK, _LINE = "#222222", "#888888"
_SERIES = ("1d5b79", "d1603d", "5f9e6e", "8a6bb0", "c9a227", "555555")
# What is drawn in a color on white, and the color that replaces it on black.
_BY_NIGHT = {
    _INK: "#dddddd",
    _LINE: "#999999",
    **dict(
        zip(
            (f"#{color}" for color in _SERIES),
            ("#6fb3d6", "#f08c6c", "#8fd0a0", "#b79bdc", "#e6c74f", "#aaaaaa"),
            strict=True,
        )
    ),
}
_STYLE = {
    "svg.fonttype": "none",  # text stays text: smaller, and in the reader's font
    "svg.hashsalt": "aip_tf",  # the same report always gives the same page
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _LINE,
    "axes.prop_cycle": f"cycler('linestyle', ['-', '--']) * cycler('color', {list(_SERIES)})",
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


def accuracy_over_epochs(report) -> str | None:
    """Returns the main metric of every epoch with the cuts marked; None without a history."""
    metric = tables.main_metric(report)
    names = [f"val_{metric}", metric]
    if not any(name in logs for logs in report.history for name in names):
        return None
    with _figure() as (figure, axes):
        _plot_logs(axes, report, names)
        teacher = report.teacher.metrics.get(metric)
        if teacher is not None:
            axes.axhline(teacher, color=_LINE, linewidth=1, linestyle=":", label="teacher")
        _mark_cuts(axes, report)
        _label(axes, metric)
    return figure.svg


def losses_over_epochs(report) -> str | None:
    """Returns every training loss of every epoch; None without one."""
    logged = {name: None for logs in report.history for name in logs}
    names = [name for name in logged if "loss" in name and not name.startswith("val_")]
    if not names:
        return None
    with _figure() as (figure, axes):
        _plot_logs(axes, report, names)
        _mark_cuts(axes, report)
        values = [logs[name] for logs in report.history for name in names if name in logs]
        if min(values) > 0:
            axes.set_yscale("log")
        _label(axes, "loss")
    return figure.svg


def quality_against_macs(report) -> str | None:
    """Returns the main metric against MACs, from the teacher over every round; None without one."""
    metric = tables.main_metric(report)
    steps = [("teacher", report.teacher.macs, None, report.teacher.metrics.get(metric))]
    for record in report.rounds:
        after = record.metrics_after or {}
        before = record.metrics_before.get(metric)
        steps.append((f"{record.round}", record.macs, before, after.get(metric)))
    steps = [step for step in steps if step[3] is not None]
    if len(steps) < 2:
        return None
    with _figure() as (figure, axes):
        axes.plot([x[1] for x in steps], [x[3] for x in steps], marker="o", ms=4, label="recovered")
        cuts = [x for x in steps if x[2] is not None]
        axes.plot(
            [x[1] for x in cuts], [x[2] for x in cuts], "v", ms=4, label="right after the cut"
        )
        for name, macs, _, quality in steps:
            _name(axes, name, (macs, quality))
        axes.margins(x=0.08, y=0.15)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(_short_number)
        _label(axes, metric, "MACs for one sample")
    return figure.svg


def quality_against_latency(report) -> str | None:
    """Returns every artefact's metric against its milliseconds, the teacher's too.

    Where the students of the rounds between were timed, the line leads through them.
    """
    timed = [x for x in report.deliveries if x.latency and x.quality is not None]
    if not timed:
        return None
    with _figure() as (figure, axes):
        for artefact in timed:
            metrics = artefact.teacher.get("metrics", {})
            points = [(artefact.latency["median"], artefact.quality)]
            if artefact.main_metric in metrics and artefact.teacher["latency"]:
                before = artefact.teacher["latency"]["median"], metrics[artefact.main_metric]
                points = [before, *_between(report, artefact), *points]
            (line,) = axes.plot(*zip(*points, strict=True), label=artefact.format, linewidth=1)
            color = line.get_color()
            axes.plot(*points[-1], "o", ms=5, color=color)
            for point in points[1:-1]:
                axes.plot(*point, ".", ms=5, color=color)
            if len(points) > 1:
                axes.plot(*points[0], "o", ms=5, color=color, fillstyle="none")
        _log_axis(axes)
        axes.margins(0.1)
        _label(axes, timed[0].main_metric, "milliseconds for one inference")
    return figure.svg


def _between(report, artefact):
    """Time and quality of the rounds' students before the last one, as files of this format."""
    if artefact.format != "tflite":
        return []
    return [
        (record.latency["median"], record.metrics_after[artefact.main_metric])
        for record in report.rounds
        if record.latency and artefact.main_metric in (record.metrics_after or {})
    ]


def runs_against_macs(reports, are_steps=False) -> str | None:
    """Returns the quality of several runs' students against the share of MACs that they keep.

    Args:
        reports: `{name: PruningReport}`.
        are_steps: whether a line leads through them, with their names beside it.
    """
    places = {
        name: (report.student.macs / max(1, report.teacher.macs), _quality(report))
        for name, report in reports.items()
    }
    return _points(places, _metrics(reports), "share of the MACs that is kept", are_steps)


def runs_against_latency(reports, are_steps=False) -> str | None:
    """Returns the quality of several runs' students against their milliseconds; see above."""
    places = {}
    for name, report in reports.items():
        artefact = tables.representative(report)
        if artefact is not None and artefact.latency:
            places[name] = artefact.latency["median"], _quality(report)
    quality, cost = _metrics(reports), "milliseconds for one inference"
    return _points(places, quality, cost, are_steps, is_log=not are_steps)


def _metrics(reports):
    return " or ".join(dict.fromkeys(map(tables.main_metric, reports.values())))


def _quality(report):
    return report.student.metrics.get(tables.main_metric(report))


def _points(places, quality, cost, are_steps, is_log=False):
    places = {name: place for name, place in places.items() if place[1] is not None}
    if not places:
        return None
    with _figure() as (figure, axes):
        if are_steps:
            axes.plot(*zip(*places.values(), strict=True), marker="o", ms=5, linewidth=1.5)
            for name, place in places.items():  # where no line is that rises to the right
                below = {"xytext": (5, -11), "textcoords": "offset points"}
                axes.annotate(name, place, **below)
            axes.set_xlim(left=0)
        else:
            for name, place in places.items():
                axes.plot(*place, "o", ms=6, label=name)
        if is_log:
            _log_axis(axes)
        axes.margins(0.15)
        _label(axes, quality, cost)
    return figure.svg


def _name(axes, name, place):
    """Words above a point."""
    above = {"xytext": (0, 5), "textcoords": "offset points", "ha": "center"}
    axes.annotate(name, place, **above)


def _log_axis(axes):
    """Powers of ten that are read as plain numbers, where the values span some."""
    low, high = axes.dataLim.intervalx
    if high < 10 * low:
        return
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: "")


def _short_number(value, _):
    """1,500,000 as "1.5M"."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


class _Svg:
    svg = ""


@contextlib.contextmanager
def _figure():
    """Yields a holder and axes; on leaving, the holder has the SVG.

    The object interface of matplotlib is used: it needs no display and leaves pyplot's
    state, which belongs to the user, alone.
    """
    import matplotlib
    from matplotlib.figure import Figure

    holder = _Svg()
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.4, 3.0), layout="constrained")
        yield holder, figure.add_subplot()
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    holder.svg = _with_night(text[text.index("<svg") :])


def _with_night(svg):
    """The drawing with colors that follow the reader's preference, light or dark."""
    names = {color: f"--c{number}" for number, color in enumerate(_BY_NIGHT)}
    for color, name in names.items():
        svg = svg.replace(color, f"var({name})")
    day = "".join(f"{name}:{color};" for color, name in names.items())
    night = "".join(f"{names[color]}:{other};" for color, other in _BY_NIGHT.items())
    style = f"svg{{{day}}}@media(prefers-color-scheme:dark){{svg{{{night}}}}}"
    style += "@media print{svg{" + day + "}}"
    start = svg.index(">") + 1
    return f"{svg[:start]}<style>{style}</style>{svg[start:]}"


def _plot_logs(axes, report, names):
    for name in names:
        points = [
            (logs.get("epoch", index), logs[name])
            for index, logs in enumerate(report.history)
            if name in logs
        ]
        if points:
            marker = "o" if len(points) < 40 else None
            axes.plot(*zip(*points, strict=True), label=name, linewidth=1.5, marker=marker, ms=3)


def _label(axes, name, below="epoch"):
    axes.set_xlabel(below)
    axes.set_ylabel(name)
    (_, highest), (low, high) = axes.dataLim.intervaly, axes.get_ylim()
    if 0 <= low < highest <= 1 < high:  # no share is above 1
        axes.set_ylim(top=1 + (1 - low) / 50)
    if below == "epoch":
        axes.xaxis.get_major_locator().set_params(integer=True)
    if axes.get_legend_handles_labels()[0]:
        axes.figure.legend(frameon=False, loc="outside upper center", ncols=2)


def _mark_cuts(axes, report):
    """A cut comes after its epoch's end, so its line stands between two epochs."""
    for record in report.rounds:
        axes.axvline(record.epoch + 0.5, color=ACCENT, linewidth=1, linestyle="--", alpha=0.7)
        axes.annotate(
            f"cut {record.round}",
            (record.epoch + 0.5, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(2, 0),
            textcoords="offset points",
            color=ACCENT,
            va="bottom",
        )
