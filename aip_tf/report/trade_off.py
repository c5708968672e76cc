"""What cuts would cost and gain before anybody trains: a table, and quality against cost."""

import dataclasses
import json

from aip_tf import files
from aip_tf.report import page, tables
from aip_tf.report.comparison import cells, charts
from aip_tf.report.report import PruningReport
from aip_tf.text import text_table


@dataclasses.dataclass(frozen=True)
class TradeOff:
    """Cuts of several amounts, each made of the original, measured and not trained.

    Attributes:
        reports: `{amount removed: PruningReport}`, rising; 0.0 is the original.
        tolerance: how much of the main metric may be lost; None: nobody asked.
        by_accuracy: the largest amount that loses no more; None where there is none.
    """

    reports: dict[float, PruningReport]
    tolerance: float | None = None
    by_accuracy: float | None = None

    @property
    def rows(self) -> list[dict]:
        """The figures of every cut as plain values, for a data frame say.

        Keys: `"amount"`, `"macs"`, `"parameters"`, every metric by its name, and where files were
        timed `"num_bytes"`, `"milliseconds"` and `"times_faster"`.
        """
        return [{"amount": amount, **_row(report)} for amount, report in self.reports.items()]

    def render(self) -> str:
        """Returns a table of the cuts, and a line on the largest within the tolerance."""
        table = text_table(*cells("amount", self._named()), align=">>>>>>>><>")
        return "\n\n".join(filter(None, (table, self._verdict())))

    def to_html(self) -> str:
        """Returns the table and charts of quality against MACs and milliseconds, as one page."""
        body = [
            "<h1>Trade-off</h1>",
            '<p class="note">Each cut is made of the original; nothing is trained.</p>',
            f"<p>{self._verdict()}</p>" if self._verdict() else "",
            page.table(*cells("amount", self._named())),
            charts(self._named(), "of a LiteRT file of each", are_steps=True),
        ]
        return page.document("Trade-off", body)

    def to_json(self) -> str:
        """Returns the rows, the tolerance and what it allows as JSON."""
        fields = {"tolerance": self.tolerance, "by_accuracy": self.by_accuracy, "rows": self.rows}
        return json.dumps(fields, indent=1)

    def save(self, path):
        """Write a page, or the figures, as the name of the file says: `.html` or `.json`.

        Raises:
            ValueError: for another name, or one that cannot be written.
        """
        path = files.expand(path)
        makers = {".html": self.to_html, ".json": self.to_json}
        if path.suffix not in makers:
            raise ValueError(
                f"Received the path '{path}'. Expected a name that ends in .html (table and "
                "charts) or .json (the figures)."
            )
        files.write_text(path, makers[path.suffix]())

    def _named(self):
        return {f"{amount:.4g}": report for amount, report in self.reports.items()}

    def _verdict(self):
        if self.tolerance is None:
            return ""
        metric = tables.main_metric(self.reports[0.0])
        if self.by_accuracy is None:
            return f"No amount that was tried loses at most {self.tolerance:g} of {metric}."
        value = self.reports[self.by_accuracy].student.metrics[metric]
        return (
            f"Largest amount found that loses at most {self.tolerance:g} of {metric}, untrained: "
            f"{self.by_accuracy:.4g} ({metric} {value:.4f})."
        )


def _row(report):
    student, artefact = report.student, tables.representative(report)
    figures = {"macs": student.macs, "parameters": student.parameters, **student.metrics}
    if artefact is not None:
        figures["num_bytes"] = artefact.num_bytes
        figures["milliseconds"] = artefact.latency.get("median")
        figures["times_faster"] = artefact.speed_up.get("median")
    return figures
