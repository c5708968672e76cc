"""Lists of labels beside images, CSV or JSON: made by anybody, so nothing is taken for granted."""

import csv
import json

_MOST_CLASSES = 100_000


def read_list(path):
    """Read a list of labels; see `image_folder`.

    Args:
        path: of a `.csv` or `.json` file.

    Returns:
        `(examples, names)`: a list of (file name, label); labels are all names, or all integers
        from 0. Beside integers `names` has the class names where the list gives all, else None.

    Raises:
        ValueError: if it cannot be understood; names the file, and the entry where it is one.
    """
    rows = _rows(path)
    for number, row in enumerate(rows, start=1):
        _check_row(path, number, row)
    labels = [_label(row["label"]) for row in rows]
    names = None
    if all(isinstance(label, int) for label in labels):
        _check_numbers(path, labels)
        names = _names(labels, rows)
    else:
        labels = [str(label) for label in labels]
    return list(zip((row["file"] for row in rows), labels, strict=True)), names


def _rows(path):
    """The entries as dicts with `file` and `label`."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file)) if path.suffix == ".csv" else json.load(file)
    except (ValueError, csv.Error, RecursionError) as error:
        raise ValueError(
            f"'{path}' is no list of labels: {error}. Expected CSV with the columns `file` and "
            "`label`, or JSON, in UTF-8."
        ) from error
    if isinstance(rows, dict):
        rows = [{"file": name, "label": label} for name, label in rows.items()]
    if not isinstance(rows, list) or not rows:
        raise ValueError(
            f"'{path}' is no list of labels: it holds {type(rows).__name__} {str(rows)[:60]}. "
            "Expected at least one entry with `file` and `label`."
        )
    return rows


def _check_row(path, number, row):
    columns = sorted(map(str, row)) if isinstance(row, dict) else row
    if not isinstance(row, dict) or not {"file", "label"} <= set(row):
        raise ValueError(
            f"every entry of '{path}' must have `file` and `label`, received {columns} as entry "
            f"{number}; rename the columns."
        )
    label = row["label"]
    is_label = isinstance(label, str | int) and not isinstance(label, bool)
    if not is_label or not isinstance(row["file"], str) or str(label).strip() == "":
        raise ValueError(
            f"entry {number} of '{path}' must have a file name and as label a name or an integer, "
            f"received {row['file']!r} and {label!r}."
        )


def _label(value):
    """An integer, also where it is written as text, or a name."""
    text = str(value).strip()
    return int(text) if text.removeprefix("-").isdecimal() else text


def _check_numbers(path, labels):
    for number, label in enumerate(labels, start=1):
        if not 0 <= label < _MOST_CLASSES:
            raise ValueError(
                f"entry {number} of '{path}' has the label {label}. Expected integers from 0, one "
                f"for each class, below {_MOST_CLASSES:,}: number the classes from 0, or write "
                "names."
            )


def _names(labels, rows):
    """The class names where every class from 0 has one beside its label, else None."""
    found = {label: row.get("name") for label, row in zip(labels, rows, strict=True)}
    names = tuple(found.get(label) for label in range(max(found) + 1))
    return names if all(names) else None
