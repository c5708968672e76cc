"""Photographs with boxes: what is on them, and what the networks of a run find there."""

from html import escape

STYLE = """
.pictures{display:grid;gap:.5rem}
.pictures b{font-size:.85rem;color:var(--blue)}
.pictures svg{width:100%;border-radius:3px;background:var(--line)}
.pictures text{font:600 5px system-ui,sans-serif;fill:#fff}
"""
_COLORS = ("#d1603d", "#1d5b79", "#2f7d46", "#8a4fa3", "#a67c00", "#b3264f", "#3d6cc9", "#4f5b66")
_SIZE = 100  # units of an SVG's coordinates along each side


def render(pictures, class_names=()):
    """The photographs as a grid in HTML: a row for each, a column for each who found something.

    Args:
        pictures: `{"photographs": [data URI], "found": {who: boxes}, "caption": text}`, boxes a
            list for each photograph of `[ymin, xmin, ymax, xmax, label, score]` in fractions of
            the image; `{}` gives "".
        class_names: names by label; numbers stand for names that are not there.

    >>> found = {"teacher": [[[0.0, 0.0, 1.0, 0.5, 1, 0.9]]]}
    >>> pictures = {"photographs": ["data:,"], "found": found, "caption": "A cat."}
    >>> "cat 0.90" in render(pictures, ["dog", "cat"])
    True
    """
    if not pictures:
        return ""
    columns = pictures["found"]
    cells = [f"<b>{escape(who)}</b>" for who in columns]
    for row, photograph in enumerate(pictures["photographs"]):
        for place, boxes in enumerate(columns.values()):
            name = f"photograph{row}"
            # The data are in the page once; the other cells of a row refer to it.
            image = f'<use href="#{name}"/>' if place else _image(name, photograph)
            cells.append(_picture(image, boxes[row], class_names))
    style = f"grid-template-columns:repeat({len(columns)},1fr)"
    caption = f'<p class="note">{escape(pictures["caption"])}</p>'
    return f'{caption}<div class="pictures" style="{style}">{"".join(cells)}</div>'


def _image(name, photograph):
    return f'<image id="{name}" width="{_SIZE}" height="{_SIZE}" href="{escape(photograph)}"/>'


def _picture(image, boxes, class_names):
    # The surest last, on top of the others.
    marks = [_mark(box, class_names) for box in sorted(boxes, key=lambda box: box[-1])]
    return f'<svg viewBox="0 0 {_SIZE} {_SIZE}">{image}{"".join(marks)}</svg>'


def _mark(box, class_names):
    """A box with its class, and how sure that is where it is not given."""
    ymin, xmin, ymax, xmax = (_SIZE * edge for edge in box[:4])
    label, score = int(box[4]), box[5]
    name = class_names[label] if label < len(class_names) else str(label)
    text = name if score == 1 else f"{name} {score:.2f}"
    color = _COLORS[label % len(_COLORS)]
    width, top = 3.2 * len(text) + 2, min(max(ymin, 0), _SIZE - 6)
    left = min(max(xmin, 0), max(0, _SIZE - width))
    return (
        f'<rect x="{xmin:.1f}" y="{ymin:.1f}" width="{xmax - xmin:.1f}" '
        f'height="{ymax - ymin:.1f}" fill="none" stroke="{color}" stroke-width="1"/>'
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="6" fill="{color}"/>'
        f'<text x="{left + 1:.1f}" y="{top + 4.6:.1f}">{escape(text)}</text>'
    )
