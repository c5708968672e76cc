"""Lists of bars in HTML: they wrap with the page, and stay readable at a hundred rows."""

from html import escape

STYLE = """
.bars{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(26rem,100%),1fr));gap:0 2rem}
.bar{display:grid;grid-template-columns:13rem 1fr 7.5rem;gap:.5rem;align-items:center;
font-size:.8rem;line-height:1.6;break-inside:avoid}
.bar span{overflow:hidden;text-overflow:ellipsis;white-space:nowrap;direction:rtl;text-align:left}
.bar b{font-weight:400;text-align:right;font-variant-numeric:tabular-nums}
.bar i{display:block;height:.7rem;background:var(--pale);width:calc(100%*var(--whole))}
.bar i::after{content:"";display:block;height:100%;background:var(--blue);
width:calc(100%*var(--kept))}
@media(max-width:40rem){.bar{grid-template-columns:1fr 7.5rem;gap:0 .5rem;margin-bottom:.3rem}
.bar div{grid-row:2;grid-column:1/3}.bar i{height:.45rem}}
"""


def render(rows, title=""):
    """Bars of what was and what is left.

    Args:
        rows: (name, before, after) each; a bar is as long as `before` is against the longest, and
            filled as far as `after` goes.
        title: of each number, for those who point at it.

    >>> "5 of 8" in render([("conv", 8, 5)])
    True
    """
    longest = max((before for _, before, _ in rows), default=0)
    return f'<div class="bars">{"".join(_bar(*row, longest, title) for row in rows)}</div>'


def _bar(name, before, after, longest, title):
    style = f"--whole:{before / max(longest, 1):.4f};--kept:{after / max(before, 1):.4f}"
    numbers = f"{after:,} of {before:,}"
    label = escape(name)
    return (
        f'<div class="bar" title="{label}: {numbers} {escape(title)}"><span>&lrm;{label}</span>'
        f'<div><i style="{style}"></i></div><b>{short(after)} of {short(before)}</b></div>'
    )


def short(number):
    """A number of at most four digits: 1,234,567 as "1.23M".

    >>> short(1_234_567), short(512)
    ('1.23M', '512')
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= size:
            return f"{number / (1e3 if unit == 'k' else size):.3g}{unit}"
    return f"{number:,}"
