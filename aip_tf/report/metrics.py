"""Every metric of a run: of the teacher, behind every cut, and recovered."""


def header(report) -> tuple[str, ...]:
    """Returns the names of all metrics that were measured, behind an empty cell."""
    names = {name: None for _, metrics in _stages(report) for name in metrics}
    return ("", *names)


def rows(report) -> list[tuple[str, ...]]:
    """Returns a row for each measurement; no more than one metric gives none.

    >>> from aip_tf.report import ModelRecord, PruningReport
    >>> model = ModelRecord(macs=10, parameters=5, metrics={"loss": 0.5, "accuracy": 0.75})
    >>> rows(PruningReport(teacher=model, student=model))
    [('teacher', '0.5000', '0.7500'), ('student', '0.5000', '0.7500')]
    """
    names = header(report)[1:]
    if len(names) < 2:
        return []
    return [
        (who, *(f"{metrics[name]:.4f}" if name in metrics else "-" for name in names))
        for who, metrics in _stages(report)
    ]


def _stages(report):
    yield "teacher", report.teacher.metrics
    for record in report.rounds:
        yield f"cut {record.round}", record.metrics_before
        yield f"recovered {record.round}", record.metrics_after or {}
    yield "student", report.student.metrics
