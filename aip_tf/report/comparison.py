"""Several runs beside each other: one table, and quality against cost and time."""

import dataclasses
import os
from pathlib import Path

from aip_tf import files
from aip_tf.report import page, plots, tables
from aip_tf.report.report import PruningReport
from aip_tf.text import text_table

_HEADER = (
    "{metric}",
    "change",
    "MACs",
    "parameters",
    "bytes",
    "milliseconds",
    "faster",
    "file",
    "seconds",
)


@dataclasses.dataclass(frozen=True)
class RunComparison:
    """The reports of several runs, by name.

    Attributes:
        reports: `{name of the run: PruningReport}`, in the order given.
    """

    reports: dict[str, PruningReport]

    def render(self) -> str:
        """Returns a table: quality, MACs, parameters, bytes and milliseconds of every student."""
        return text_table(*cells("run", self.reports), align="<>>>>>>><>")

    def to_html(self) -> str:
        """Returns the table and a chart of quality against MACs and milliseconds, as one page."""
        body = [
            f"<h1>{len(self.reports)} runs</h1>",
            page.table(*cells("run", self.reports)),
            charts(self.reports, "of one file of each run"),
        ]
        return page.document("Runs compared", body)


def cells(what, reports):
    """Header and rows of a table of reports: quality, size, time; `what` heads their names."""
    metrics = dict.fromkeys(tables.main_metric(report) for report in reports.values())
    header = [cell.format(metric=" or ".join(metrics)) for cell in (what, *_HEADER)]
    return header, [(name, *tables.run_row(report)) for name, report in reports.items()]


def charts(reports, of_what, are_steps=False):
    """Quality against MACs and against time, as HTML.

    Args:
        reports: `{name: PruningReport}`.
        of_what: whose time it is.
        are_steps: whether each follows from the one before, so that a line leads through them.
    """
    drawings = (
        (plots.runs_against_macs, "Quality against the MACs that are kept."),
        (plots.runs_against_latency, f"Quality against time, {of_what}."),
    )
    found = "".join(page.figure(draw(reports, are_steps), text) for draw, text in drawings)
    return f'<div class="charts">{found}</div>' if found else ""


def compare_runs(folders) -> RunComparison:
    """Put the reports of several runs beside each other.

    Args:
        folders: run directories, each with a `report.json`, or paths of such files.

    Raises:
        ValueError: for no folder, one without a report, or a report of another version.

    >>> compare_runs(["runs/nothing"])
    Traceback (most recent call last):
    ValueError: Received 'runs/nothing', in which there is no report.json. Expected the run ...
    """
    folders = [Path(folder).expanduser() for folder in folders]
    if not folders:
        raise ValueError("Received no run to compare. Expected run directories: runs/a runs/b.")
    return RunComparison({name: _read(x) for name, x in zip(_names(folders), folders, strict=True)})


def _read(folder):
    path = folder if folder.is_file() else folder / "report.json"
    files.check_regular(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f"Received '{folder}', in which there is no report.json. Expected the run directory "
            "of a run that is complete: start that run again, or leave it out."
        ) from error
    try:
        return PruningReport.from_json(text)
    except ValueError as error:
        raise ValueError(f"Received '{folder}'. {error}") from error


def _names(folders):
    """The folders' names, with as much of the path as tells them apart."""
    paths = [str(folder.parent if folder.name == "report.json" else folder) for folder in folders]
    common = os.path.commonpath([os.path.abspath(path) for path in paths])
    short = [os.path.relpath(os.path.abspath(path), common) for path in paths]
    return [name if name != "." else Path(paths[0]).name for name in short]
