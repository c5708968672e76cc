"""README's table of layer kinds is what the rules say."""

import support_matrix

from aip_tf.channels.rules.table import known_rules


def test_readme_has_the_table_that_the_rules_make():
    text = support_matrix.README.read_text(encoding="utf-8")
    assert support_matrix.in_readme(text) == text, "run tests/support_matrix.py"


def test_every_stock_layer_is_decided():
    decided = {n for names, _, _ in support_matrix.rows() for n in names}
    missing = {
        name
        for name, layer in support_matrix.stock_layers().items()
        if layer not in known_rules() and name not in decided
    }
    assert not missing


def test_why_is_a_sentence():
    for names, _, why in support_matrix.rows():
        assert why and why[0].isupper() and why.endswith("."), names
