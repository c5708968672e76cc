"""The report as one self-contained HTML page."""

import base64
import os
from html import escape
from pathlib import Path

from aip_tf.report import bars, metrics, pictures, plots, tables, terms
from aip_tf.report.artefacts import artefact_table

_STYLE = """
:root{color-scheme:light dark;--ink:#222;--faint:#666;--line:#e4e4e4;--blue:#1d5b79;--pale:#bcd7e3;
--card:#f2f7f9;--page:#fff;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#ddd;--faint:#9a9a9a;--line:#3a3a3a;--blue:#6fb3d6;
--pale:#2d4450;--card:#1d2a31;--page:#14181b;--bad:#ff8a80}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:68rem;
margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2.2rem 0 .5rem}
a{color:var(--blue)}
.note{color:var(--faint);margin:.2rem 0 1.2rem}
.bad{color:var(--bad);border-left:4px solid var(--bad);padding:.3rem .9rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:.8rem}
.card{background:var(--card);border-top:3px solid var(--blue);padding:.6rem .9rem}
.card b{display:block;font-size:1.35rem;line-height:1.3;font-variant-numeric:tabular-nums}
.card span{color:var(--faint);font-size:.85rem;display:block}
.card em{font-style:normal;color:var(--blue);font-size:.85rem;text-transform:uppercase;
letter-spacing:.04em}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(24rem,100%),1fr));
gap:1rem 2rem;margin-top:1.5rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{border-bottom:2px solid var(--blue)}
th:first-child,td:first-child{text-align:left}
.left th,.left td{text-align:left;white-space:normal;vertical-align:top}
.left td:first-child{white-space:nowrap}
figure{margin:0}figcaption{color:var(--faint);font-size:.85rem}img{width:100%;max-width:36rem}
pre{font-size:.8rem}summary{cursor:pointer;font-weight:600;margin-top:1rem}
@media(max-width:30rem){.left tr{display:flex;flex-wrap:wrap;border-bottom:1px solid var(--line)}
.left thead tr{border-bottom:2px solid var(--blue)}.left th,.left td{border:0}
.left th:first-child,.left td:first-child{flex:1;font-weight:600;white-space:normal}
.left th:last-child,.left td:last-child{flex-basis:100%}}
@media print{html{font-size:11px}body{margin:0;padding:0;max-width:none;font-size:11px}
h2{break-after:avoid}.scroll{overflow:visible}
figure,.card,tr{break-inside:avoid}.cards{grid-template-columns:repeat(5,1fr)}
.charts{grid-template-columns:1fr 1fr}}
"""
_PLOTS = (
    (plots.accuracy_over_epochs, "Quality over the epochs; dashed lines are cuts."),
    (plots.quality_against_macs, "Quality against cost, from the teacher over the rounds."),
    (
        plots.quality_against_latency,
        "Quality against time, of every file; open circles are the teacher's, dots the rounds'.",
    ),
    (plots.losses_over_epochs, "Training losses over the epochs; dashed lines are cuts."),
)


def render(report) -> str:
    """Returns the page: what was gained, files, charts, layers, channels, rounds, what ran."""
    metric = tables.main_metric(report)
    header = [name.format(metric=metric) for name in tables.ROUND_HEADER]
    charts = "".join(figure(draw(report), caption) for draw, caption in _PLOTS)
    body = [
        "<h1>Pruning report</h1>",
        f'<p class="note">{escape(tables.headline(report))}</p>',
        _cards(report),
        *(f'<p class="bad">{escape(text)}</p>' for text in _failures(report)),
        _section("Exported files", _deliveries(report)),
        f'<div class="charts">{charts}</div>' if charts else "",
        _section("Pictures", pictures.render(report.pictures, report.run.get("class names", ()))),
        _section("Rounds", table(header, tables.round_rows(report))),
        _section("Metrics", _metrics(report)),
        _section("What every layer computes", _layers(report)),
        _section("Channels", _channels(report)),
        _section("Kept whole, and why", _whole(report)),
        _section("Terms of the loss", _terms(report)),
        _section("What ran", _pairs(("name", "value"), tables.facts(report))),
        _details("Settings", _pairs(("name", "value"), report.settings)),
        _details("Files", _pairs(("name", "path"), report.artefacts)),
        _details("Configuration", _text(report.run.get("configuration"))),
    ]
    return document("Pruning report", body)


def document(title, body):
    """A whole page out of pieces of HTML; empty ones are left out."""
    styles = _STYLE + bars.STYLE + pictures.STYLE
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{styles}</style></head>\n<body>\n"
        + "\n".join(filter(None, body))
        + "\n</body></html>\n"
    )


def _metrics(report):
    rows = metrics.rows(report)
    return rows and table(metrics.header(report), rows)


def _cards(report):
    cards = [
        f'<div class="card"><em>{escape(name)}</em><b>{escape(after)}</b>'
        f"<span>{escape(before)}</span><span>{escape(change)}</span></div>"
        for name, after, before, change in tables.cards(report)
    ]
    return f'<div class="cards">{"".join(cards)}</div>'


def _failures(report):
    for artefact in report.deliveries:
        if not artefact.passed:
            yield f"{artefact.format} failed. {' '.join(artefact.faults)}"
    if report.run.get("export failed") and not report.deliveries:
        yield report.run["export failed"]


def _deliveries(report):
    """The table of artefacts, their names as links."""
    if not report.deliveries:
        return ""
    header, rows = artefact_table(report.deliveries)
    links = [_link(report, artefact.path) for artefact in report.deliveries]
    first = report.deliveries[0]
    note = (
        f"Each file was run by its own runtime on {first.num_samples:,} samples. "
        "Same answer: share of the decisions that are the Keras model's. Difference: the largest, "
        "relative to the largest output. Milliseconds: median and quartiles, in turns with the "
        "teacher's file of the same format."
    )
    return f'{table(header, rows, links=links)}<p class="note">{note}</p>'


def _link(report, path):
    """The way from the page to a file; a page that stands nowhere yet names the path."""
    page = report.artefacts.get("report")
    place = os.path.relpath(path, Path(page).parent) if page else path
    return Path(place).as_posix()


def _layers(report):
    """Layers by what they cost before, the dearest first."""
    layers = sorted(report.layers, key=lambda layer: -layer.macs)
    return bars.render([(x.name, x.macs, x.kept) for x in layers], "MACs") if layers else ""


def _channels(report):
    groups = tables.final_groups(report)
    return bars.render([(x.name, x.num_channels, x.kept) for x in groups], "kept") if groups else ""


def _whole(report):
    """Channel groups and layers that nothing was cut of, those with one reason in one row."""
    rows = tables.whole_rows(report)
    return table(("what", "channels", "why"), rows, "left") if rows else ""


def _terms(report):
    rows = terms.rows(report.history)
    header = ("term", "first epoch", "last epoch", "what it is")
    return table(header, rows, "left") if rows else ""


def figure(svg, caption):
    """A drawing with its caption; "" for None."""
    if svg is None:
        return ""
    # As an image, not inline: the identifiers inside one SVG cannot clash with another's.
    data = base64.b64encode(svg.encode()).decode()
    caption = escape(caption)
    image = f'<img src="data:image/svg+xml;base64,{data}" alt="{caption}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _details(title, content):
    return f"<details><summary>{title}</summary>{content}</details>" if content else ""


def _section(title, content):
    return f"<h2>{title}</h2>{content}" if content else ""


def _text(text):
    return f'<pre class="scroll">{escape(text)}</pre>' if text else ""


def _pairs(header, mapping):
    rows = [(name, str(value)) for name, value in mapping.items()]
    return table(header, rows, "left") if rows else ""


def table(header, rows, style="", links=()):
    """An HTML table; `links` are the addresses of the last cells of the rows."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    cells = [[escape(cell) for cell in row] for row in rows]
    for row in cells if style == "left" else ():
        row[0] = row[0].replace("_", "_<wbr/>")  # a narrow screen breaks long names there
    for row, address in zip(cells, links, strict=False):
        row[-1] = f'<a href="{escape(address)}">{row[-1]}</a>'
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>\n" for row in cells)
    return (
        f'<div class="scroll"><table class="{style}"><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{body}</tbody></table></div>"
    )
