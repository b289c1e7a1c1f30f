"""Values written into params.yaml: comments, layout and everything else stay."""

from helpers.params import PROJECT

from prunelab.config.edit_params import with_values
from prunelab.config.safe_yaml import parse_yaml

SHIPPED = (PROJECT / "params.yaml").read_text()


def test_values_that_are_there_change_nothing():
    assert with_values(SHIPPED, parse_yaml(SHIPPED)) == SHIPPED


def test_a_value_changes_its_line_alone():
    written = with_values(SHIPPED, {"ratio": 0.123})

    pairs = zip(SHIPPED.splitlines(), written.splitlines(), strict=True)
    ((old, new),) = [(old, new) for old, new in pairs if old != new]
    value, comment = new.split("#")
    assert value.rstrip() == "ratio: 0.123"
    assert comment == old.split("#")[1]


def test_other_keys_of_a_section_stay():
    written = parse_yaml(with_values(SHIPPED, {"finetune": {"epochs": 77}}))

    expected = parse_yaml(SHIPPED)
    expected["finetune"]["epochs"] = 77
    assert written == expected


def test_nulls_are_written_as_the_file_writes_them():
    """`dvc exp run -S` writes them as nothing."""
    for null in ("null", ""):
        text = f"source: {null}".rstrip() + "\nratio: 0.5\n"
        assert with_values(text, {"ratio": 0.6}) == text.replace("0.5", "0.6")


def test_a_line_for_every_layer_is_added_and_removed():
    ratios = {"conv1": 0.25, "layer1.0.conv1": 0.5}

    written = with_values(SHIPPED, {"prune": {"layer_ratios": ratios}})

    lines = written.splitlines()
    added = ["    conv1: 0.25", "    layer1.0.conv1: 0.5"]
    place = lines.index(added[0])
    assert lines[place : place + 2] == added
    remaining = lines[:place] + lines[place + 2 :]
    pairs = zip(SHIPPED.splitlines(), remaining, strict=True)
    ((old, new),) = [(old, new) for old, new in pairs if old != new]
    assert old.startswith("  layer_ratios: {}")
    assert old.split("#")[1] == new.split("#")[1]

    assert with_values(written, {"prune": {"layer_ratios": {}}}) == SHIPPED
