"""README's table of layer kinds, made from the rules.

To bring README up to date after a change of rules:

    .venv/bin/python tests/support_matrix.py
"""

import inspect
from pathlib import Path

from keras import layers

from aip_tf.channels.rules import whole
from aip_tf.channels.rules.table import known_rules

README = Path(__file__).resolve().parents[1] / "README.md"
START = "<!-- made by tests/support_matrix.py -->\n"
END = "<!-- end of the table -->"
# Classes that no rule of their own decides.
CELLS = ["GRUCell", "LSTMCell", "SimpleRNNCell", "StackedRNNCells"]
OPENED = ["Lambda", "Pipeline"]
ABSTRACT = ["InputLayer", "Layer", "Wrapper"]


def stock_layers():
    """{name: class} of everything in `keras.layers` that is a layer, aliases once."""
    found = {n: x for n, x in sorted(vars(layers).items()) if inspect.isclass(x)}
    names = {x: n for n, x in found.items() if issubclass(x, layers.Layer)}
    names |= {x: x.__name__ for x in names if x.__name__ in found}
    return {n: x for x, n in names.items() if n not in ABSTRACT}


def rows():
    """(layer kinds, verdict, why) for every rule that decides a layer of `keras.layers`."""
    rules, kinds = known_rules(), {}
    for name, layer in stock_layers().items():
        if layer in rules:
            kinds.setdefault(rules[layer], []).append(name)
    for rule, names in kinds.items():
        verdict = "kept" if rule.__module__ == whole.__name__ else "cut"
        yield names, verdict, inspect.getdoc(rule).splitlines()[0]
    yield CELLS, "cut", "Inside `RNN`, also in stacks and in `Bidirectional`."
    yield OPENED, "opened", "What is inside decides, as for layers and models of your own."


def table():
    """The table as it stands in README."""
    lines = ["| layers | | how, or why not |", "|---|---|---|"]
    for names, verdict, why in rows():
        lines.append(f"| {', '.join(names)} | {verdict} | {why} |")
    return "\n".join(lines) + "\n"


def in_readme(text):
    """README's text with the table of today."""
    before, rest = text.split(START)
    return before + START + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    README.write_text(in_readme(README.read_text(encoding="utf-8")), encoding="utf-8")
