"""Words and tables for terminals, and tables in Markdown."""


def when(epoch) -> str:
    """When a cut comes: after an epoch (zero-based), or before the first one for -1.

    >>> when(3)
    'after epoch 3'
    """
    return "before the first epoch" if epoch < 0 else f"after epoch {epoch}"


def text_table(header, rows, align: str | None = None) -> str:
    """Returns aligned columns under a ruled header.

    Args:
        header: names of the columns.
        rows: tuples of strings.
        align: "<" or ">" for each column; by default all to the right.
    """
    cells = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    align = align or ">" * len(widths)
    lines = [
        "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(row, align, widths, strict=True)
        ).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])


def markdown_table(header, rows):
    """Returns a Markdown table of strings."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
