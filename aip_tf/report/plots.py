"""The plots of the HTML page, as SVG text. matplotlib is imported here, when it is needed."""

import contextlib
import io

from aip_tf.report import tables

DARK, LIGHT, ACCENT = "#1d5b79", "#bcd7e3", "#d1603d"
_STYLE = {
    "svg.fonttype": "none",  # text stays text: smaller, and in the reader's font
    "svg.hashsalt": "aip_tf",  # the same report always gives the same page
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.prop_cycle": "cycler('color', ['1d5b79','d1603d','5f9e6e','8a6bb0','c9a227','555555'])",
}
_MOST_NAMES = 48


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
            axes.axhline(teacher, color="#888888", linewidth=1, linestyle=":", label="teacher")
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


def widths_before_and_after(report) -> str | None:
    """Returns the channels of every group, original behind kept; None without groups."""
    groups = tables.final_groups(report)
    if not groups:
        return None
    places = range(len(groups))
    with _figure() as (figure, axes):
        original = [group.num_channels for group in groups]
        axes.bar(places, original, width=0.8, color=LIGHT, label="original")
        kept = [group.kept for group in groups]
        axes.bar(places, kept, width=0.8, color=DARK, label="kept")
        axes.set_ylabel("channels")
        axes.margins(x=0.01)
        if len(groups) <= _MOST_NAMES:
            names = [_short_name(group.name) for group in groups]
            axes.set_xticks(places, names, rotation=90, fontsize=7)
        else:
            axes.set_xticks([])
            axes.set_xlabel(f"{len(groups)} channel groups, from input to output")
        axes.legend(frameon=False, loc="upper left", ncols=2)
    return figure.svg


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
        figure = Figure(figsize=(7.2, 3.2), layout="constrained")
        yield holder, figure.add_subplot()
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    holder.svg = text[text.index("<svg") :]


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


def _label(axes, name):
    axes.set_xlabel("epoch")
    axes.set_ylabel(name)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.figure.legend(frameon=False, loc="outside right upper", fontsize=8)


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
            fontsize=7,
            va="bottom",
        )


def _short_name(name, length=24):
    return name if len(name) <= length else "..." + name[3 - length :]
