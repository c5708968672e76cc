"""The report as one self-contained HTML page."""

import base64
from html import escape

from aip_tf.report import pictures, plots, tables

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}
.note{color:#666;margin:.2rem 0 1.2rem}
.gains{display:flex;flex-wrap:wrap;gap:.8rem}
.gain{flex:1 1 15rem;background:#f2f7f9;border-left:4px solid #1d5b79;padding:.6rem .9rem}
.gain b{display:block;color:#1d5b79}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #e4e4e4;white-space:nowrap}
th{border-bottom:2px solid #1d5b79}
tbody tr:first-child td{color:#666}
.left th,.left td{text-align:left;white-space:normal}
.left tbody tr:first-child td{color:inherit}
figure{margin:1rem 0}figcaption{color:#666;font-size:.85rem}img{width:100%;max-width:54rem}
"""
_PLOTS = (
    (plots.accuracy_over_epochs, "Quality over the epochs; dashed lines are cuts."),
    (plots.widths_before_and_after, "Channels of every group: original (light) and kept (dark)."),
    (plots.losses_over_epochs, "Training losses over the epochs; dashed lines are cuts."),
)


def render(report) -> str:
    """Returns the page: what was done, cost and gain, plots, tables, settings."""
    metric = tables.main_metric(report)
    header = [name.format(metric=metric) for name in tables.ROUND_HEADER]
    groups = tables.group_rows(tables.final_groups(report), most=None)
    body = [
        "<h1>Pruning report</h1>",
        f'<p class="note">{escape(tables.headline(report))}</p>',
        _gains(report),
        *map(_plot, [report] * len(_PLOTS), _PLOTS),
        _section("Pictures", pictures.render(report.pictures, report.run.get("class names", ()))),
        _section("Rounds", _table(header, tables.round_rows(report))),
        _section("Channel groups", groups and _table(tables.GROUP_HEADER, groups, "left")),
        _section("Files", _pairs(("name", "path"), report.artefacts)),
        _section("What ran", _pairs(("name", "value"), tables.facts(report))),
        _section("Settings", _pairs(("name", "value"), report.settings)),
        _section("Configuration", _text(report.run.get("configuration"))),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Pruning report</title><style>{_STYLE}{pictures.STYLE}</style></head>\n<body>\n"
        + "\n".join(filter(None, body))
        + "\n</body></html>\n"
    )


def _gains(report):
    cards = [
        f'<div class="gain"><b>{escape(name)}</b>{escape(text).replace("-&gt;", "&rarr;")}</div>'
        for name, text in tables.gains(report)
    ]
    return f'<div class="gains">{"".join(cards)}</div>'


def _plot(report, plot):
    draw, caption = plot
    svg = draw(report)
    if svg is None:
        return ""
    # As an image, not inline: the identifiers inside one SVG cannot clash with another's.
    data = base64.b64encode(svg.encode()).decode()
    caption = escape(caption)
    image = f'<img src="data:image/svg+xml;base64,{data}" alt="{caption}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _section(title, content):
    return f"<h2>{title}</h2>{content}" if content else ""


def _text(text):
    return f'<pre class="scroll">{escape(text)}</pre>' if text else ""


def _pairs(header, mapping):
    rows = [(name, str(value)) for name, value in mapping.items()]
    return _table(header, rows, "left") if rows else ""


def _table(header, rows, style=""):
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows
    )
    return (
        f'<div class="scroll"><table class="{style}"><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{body}</tbody></table></div>"
    )
