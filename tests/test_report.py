import base64
import dataclasses
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest

from aip_tf.report import (
    Artefact,
    GroupRecord,
    LayerRecord,
    ModelRecord,
    PruningReport,
    RoundRecord,
    compare_runs,
    describe_round,
    plots,
    tables,
)
from aip_tf.report.artefacts import artefact_table


def make_groups(kept, num_free=2):
    free = [GroupRecord(f"block_{i}/conv", 16, kept) for i in range(num_free)]
    return (GroupRecord("stem", 8, 8, "reaches the output <as is>"), *free)


def make_artefact(**changes):
    latency = {"median": 0.5, "lower_quartile": 0.4, "upper_quartile": 0.6}
    metrics = {"loss": 0.2, "accuracy": 0.97}
    fields = {
        "format": "tflite",
        "path": "runs/a/export/model.tflite",
        "runtime": "LiteRT",
        "num_bytes": 1_000,
        "num_samples": 450,
        "metrics": metrics,
        "keras_metrics": metrics,
        "main_metric": "accuracy",
        "agreement": 0.998,
        "latency": latency,
        "speed_up": {"median": 2.0, "lower_quartile": 1.9, "upper_quartile": 2.1},
        "teacher": {"num_bytes": 4_000, "metrics": {"accuracy": 0.98}, "latency": latency},
    }
    return Artefact(**{**fields, **changes})


def make_delivered_report(**changes):
    layers = (LayerRecord("small", 10, 5), LayerRecord("large", 90, 30, "no rule for it"))
    files = {"report": "runs/a/report.html"}
    return make_report(
        **{"deliveries": (make_artefact(),), "layers": layers, "artefacts": files} | changes
    )


def make_report(**changes):
    rounds = tuple(
        RoundRecord(
            round=number,
            epoch=epoch,
            amount=1 - kept / 16,
            macs=1000 * kept,
            parameters=100 * kept,
            metrics_before={"loss": 1.5, "accuracy": 0.5},
            metrics_after={"loss": 0.2, "accuracy": 0.96} if number < 2 else None,
            seconds=1.25,
            check_error=3e-7,
            groups=make_groups(kept),
        )
        for number, epoch, kept in [(1, 0, 8), (2, 2, 4)]
    )
    history = tuple(
        {"epoch": e, "loss": 1 / (e + 1), "attention_loss": 0.1, "val_accuracy": 0.9 + e / 100}
        for e in range(4)
    )
    fields = {
        "teacher": ModelRecord(16_000, 1_600, {"loss": 0.1, "accuracy": 0.98}),
        "student": ModelRecord(4_000, 400, {"loss": 0.2, "accuracy": 0.9723}),
        "rounds": rounds,
        "history": history,
        "seconds": 12.5,
        "settings": {"schedule": 0.75, "selection": "macs"},
        "artefacts": {"student": "runs/a/student.keras"},
    }
    return PruningReport(**{**fields, **changes})


def images_of(html):
    found = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', html)
    return [base64.b64decode(data).decode() for data in found]


def test_json_round_trip_is_exact():
    report = make_delivered_report(seconds=0.1 + 0.2)
    text = report.to_json()
    assert PruningReport.from_json(text) == report
    assert PruningReport.from_json(text).to_json() == text
    assert PruningReport.from_json(text).rounds[1].groups[0].reason == "reaches the output <as is>"


def test_numpy_tuples_and_callables_become_plain_values_that_survive_json():
    report = make_report(
        settings={"amounts": (np.float32(0.1), np.int64(3)), "criterion": np.mean, 4: None},
        history=[{"epoch": np.int64(0), "loss": np.float32(0.1)}],
    )
    assert report.settings == {
        "amounts": [float(np.float32(0.1)), 3],
        "criterion": "mean",
        "4": None,
    }
    assert type(report.history[0]["loss"]) is float
    assert PruningReport.from_json(report.to_json()) == report


def test_non_finite_numbers_survive_in_standard_json():
    report = make_report(history=({"epoch": 0, "loss": math.nan, "best": -math.inf},))

    def refuse(name):
        raise AssertionError(name)

    json.loads(report.to_json(), parse_constant=refuse)
    logs = PruningReport.from_json(report.to_json()).history[0]
    assert math.isnan(logs["loss"])
    assert logs["best"] == -math.inf


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 99}', '{"version": 1}'])
def test_from_json_refuses_what_is_no_report(text):
    with pytest.raises(ValueError, match=r"Received .*Expected .*to_json"):
        PruningReport.from_json(text)


def test_from_json_refuses_unknown_fields():
    fields = json.loads(make_report().to_json())
    fields["rounds"][0]["surprise"] = 1
    with pytest.raises(ValueError, match="surprise"):
        PruningReport.from_json(json.dumps(fields))


def test_table_of_rounds_has_the_teacher_first_and_the_student_last():
    lines = make_report().render().splitlines()
    start = next(i for i, line in enumerate(lines) if line.lstrip().startswith("round"))
    header, teacher, first, second, student = (lines[start], *lines[start + 2 : start + 6])
    for word in ("epoch", "MACs", "parameters", "accuracy before", "accuracy after", "seconds"):
        assert word in header
    assert " ".join(teacher.split()) == "teacher 16,000 (100.0% kept) 1,600 (100.0% kept) 0.9800"
    assert " ".join(first.split()) == "1 0 8,000 (50.0% kept) 800 (50.0% kept) 0.5000 0.9600 1.2"
    assert second.split()[-3:] == ["0.5000", "-", "1.2"]
    assert " ".join(student.split()) == "student 4,000 (25.0% kept) 400 (25.0% kept) 0.9723 12.5"
    assert len({len(line) for line in (header, first, second, student)}) == 1


def test_every_percentage_says_kept_or_removed():
    report = make_delivered_report()
    texts = report.render(), describe_round(report.teacher, report.rounds[0])
    page = re.sub(r"<style>.*?</style>", "", report.to_html(), flags=re.DOTALL)
    for text in (*texts, page):
        assert re.findall(r"[\d.]+%", text)
        assert not re.search(r"\d%(?! kept| removed)", text)


def test_summary_says_what_was_gained():
    text = make_report().render()
    assert "2 cuts in 4 epochs, 12.5 seconds" in text
    assert "16,000 -> 4,000 (25.0% kept, 75.0% removed)" in text
    assert "0.9800 -> 0.9723 (-0.0077)" in text
    assert "student  runs/a/student.keras" in text


def test_groups_show_kept_of_original_and_the_reason_of_those_kept_whole():
    text = make_report().render()
    assert re.search(r"stem +8 of 8 kept +reaches the output <as is>", text)
    assert re.search(r"block_0/conv +4 of 16 kept\n", text)


def test_long_group_tables_are_shortened_and_count_what_they_leave_out():
    whole = tuple(GroupRecord(f"sum_{i}", 8, 8, "residual sum") for i in range(100))
    cut = tuple(GroupRecord(f"conv_{i}", 8, i % 8 + 1) for i in range(200))
    record = RoundRecord(round=1, epoch=0, amount=0.5, macs=1, parameters=1, groups=whole + cut)
    text = make_report(rounds=(record,)).render()
    table = text[text.index("channel group") :].split("\n\n")[0].splitlines()[2:]
    assert len(table) <= 42
    assert re.search(r"sum_0 and 99 more +800 of 800 kept +residual sum", text)
    left_out = int(re.search(r"\.\.\. (\d+) more in the JSON report", text)[1])
    assert left_out + sum(line.startswith("conv_") for line in table) == 200


def test_main_metric_is_an_accuracy_whatever_its_name():
    metrics = {"loss": 1.0, "top_5": 0.9, "sparse_categorical_accuracy": 0.7}
    report = make_report(teacher=ModelRecord(2, 2, metrics), student=ModelRecord(1, 1, metrics))
    assert "sparse_categorical_accuracy before" in report.render()
    only_loss = ModelRecord(2, 2, {"loss": 1.25})
    report = make_report(teacher=only_loss, student=only_loss, rounds=())
    assert "loss before" in report.render()
    assert "1.2500" in report.render()


def test_a_distance_changes_by_a_number_and_a_share_by_points():
    for name, change in (("mae", "+0.1000"), ("accuracy", "+10.00 points")):
        report = make_report(
            teacher=ModelRecord(2, 2, {name: 0.2}),
            student=ModelRecord(1, 1, {name: 0.3}),
            rounds=(),
        )
        assert tables.run_row(report)[1] == change


def test_a_round_is_described_in_one_line():
    report = make_report()
    line = describe_round(report.teacher, report.rounds[0])
    assert line == (
        "round 1, after epoch 0: MACs 8,000 (50.0% kept), parameters 800 (50.0% kept), "
        "accuracy 0.5000 -> 0.9600, 1.2 s"
    )


class TagChecker(HTMLParser):
    """Keeps the open elements, so that an unclosed or crossed one is seen."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html_is_self_contained_escaped_and_well_formed():
    html = make_report(settings={"<b>name</b>": "<script>"}).to_html()
    checker = TagChecker()
    checker.feed(html)
    assert checker.open == []
    assert checker.seen.count("table") == 6
    assert "script" not in checker.seen
    assert not re.search(r"(?:src|href)=.?(?!data:)[^>]*http", html)
    assert "reaches the output &lt;as is&gt;" in html
    assert len(html) < 300_000


def test_html_plots_show_accuracy_cuts_widths_and_losses():
    accuracy, macs, latency, losses = images_of(make_delivered_report().to_html())
    for svg in (accuracy, macs, latency, losses):
        ElementTree.fromstring(svg)
    assert "val_accuracy" in accuracy
    assert "cut 1" in accuracy
    assert "cut 2" in losses
    assert "right after the cut" in macs
    assert "tflite" in latency
    assert all("prefers-color-scheme:dark" in svg for svg in (accuracy, macs, latency, losses))
    assert "attention_loss" in losses


def test_the_rounds_that_were_timed_lie_between_teacher_and_student_on_the_chart_of_time():
    report = make_delivered_report()
    timed = [
        dataclasses.replace(record, latency={"median": 0.7}, metrics_after={"accuracy": 0.96})
        for record in report.rounds[:1]
    ]
    between = dataclasses.replace(report, rounds=(*timed, *report.rounds[1:]))
    assert PruningReport.from_json(between.to_json()) == between
    ElementTree.fromstring(images_of(between.to_html())[2])
    assert plots._between(between, make_artefact()) == [(0.7, 0.96)]
    assert plots._between(between, make_artefact(format="tflite_int8")) == []


def test_without_a_teacher_there_are_no_columns_for_it():
    alone = make_artefact(teacher={}, speed_up={})
    header, rows = artefact_table((alone,))
    assert list(header) == [
        *("format", "bytes", "accuracy", "same answer", "difference", "milliseconds", "file")
    ]
    assert len(rows) == 1 and all(rows[0])
    assert len(artefact_table((make_artefact(), alone))[0]) == 9


def test_times_that_are_near_each_other_have_numbers_at_their_axis():
    times = [dict.fromkeys(("median", "lower_quartile", "upper_quartile"), ms) for ms in (80, 89)]
    artefacts = [make_artefact(latency=time) for time in times]
    runs = {str(i): make_delivered_report(deliveries=(x,)) for i, x in enumerate(artefacts)}
    assert len(re.findall(r">8\d(?:\.\d)?<", plots.runs_against_latency(runs))) > 2


def test_cards_links_and_the_last_line_say_what_was_gained():
    report = make_delivered_report()
    html = report.to_html()
    assert '<a href="export/model.tflite">model.tflite</a>' in html
    assert "-0.77 points, 3 of 450 samples" in html
    for text in ("0.5 ms", "2.00 times faster", "1,000", "teacher 4,000"):
        assert text in html
    assert report.render().splitlines()[-1] == (
        "Gained: accuracy 0.9800 -> 0.9723 (-0.77 points, 3 of 450 samples); MACs 16,000 -> 4,000 "
        "(25.0% kept); tflite 4,000 -> 1,000 (25.0% kept) bytes; 0.5 -> 0.5 ms (2.00 times faster)"
    )


def test_an_artefact_that_failed_is_named_first():
    html = make_delivered_report(deliveries=(make_artefact(faults=("It lies.",)),)).to_html()
    assert '<p class="bad">tflite failed. It lies.</p>' in html
    assert "times faster" not in html


def test_layers_are_sorted_by_cost_and_terms_have_a_sentence():
    html = make_delivered_report().to_html()
    assert html.index("large: 30 of 90 MACs") < html.index("small: 5 of 10 MACs")
    assert "no rule for it" in html
    assert "How far the places that its feature maps attend to" in html


def make_run(folder, report):
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(report.to_json())
    return folder


def test_runs_are_compared_in_one_table_and_one_page(tmp_path):
    worse = ModelRecord(2_000, 200, {"accuracy": 0.9})
    first = make_run(tmp_path / "a" / "seed_0", make_delivered_report())
    second = make_run(tmp_path / "b" / "seed_0", make_report(student=worse))
    comparison = compare_runs([first, second / "report.json"])
    header, _, one, two = comparison.render().splitlines()
    assert header.split()[:3] == ["run", "accuracy", "change"]
    assert one.split()[:4] == ["a/seed_0", "0.9723", "-0.77", "points"]
    assert "2.00x (1.90 to 2.10)" in one and "1,000" in one
    assert two.split()[:2] == ["b/seed_0", "0.9000"]
    assert "12.5% kept" in two
    macs, latency = images_of(comparison.to_html())
    assert "a/seed_0" in macs and "b/seed_0" in macs
    assert "a/seed_0" in latency and "b/seed_0" not in latency


def test_what_is_no_run_is_not_compared(tmp_path):
    with pytest.raises(ValueError, match="no run to compare"):
        compare_runs([])
    with pytest.raises(ValueError, match=r"in which there is no report\.json"):
        compare_runs([tmp_path])
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(ValueError, match="no pruning report"):
        compare_runs([tmp_path])


def test_html_is_the_same_for_the_same_report():
    assert make_report().to_html() == make_report().to_html()


def test_an_empty_run_still_renders():
    model = ModelRecord(10, 10)
    report = PruningReport(teacher=model, student=model)
    assert "0 cuts in 0 epochs" in report.render()
    assert images_of(report.to_html()) == []
    assert PruningReport.from_json(report.to_json()) == report


def test_plots_of_a_diverged_run_do_not_fail():
    history = [{"epoch": e, "loss": math.nan, "val_accuracy": math.nan} for e in range(3)]
    assert len(images_of(make_report(history=history).to_html())) == 3


def test_plots_leave_the_users_matplotlib_settings_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    make_report().to_html()
    assert dict(matplotlib.rcParams) == before
