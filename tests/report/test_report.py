import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from prunelab.figures import figures
from prunelab.pruning.methods import METHODS
from prunelab.report import rows, style
from prunelab.report.tables import few, table


def measured(accuracy: float, sparsity: float) -> dict:
    return {
        "accuracy": accuracy, "accuracy_ci95": 0.01, "accuracy_pruned": accuracy / 2, "accuracy_pruned_ci95": 0.6,
        "accuracy_drop": 0.99 - accuracy, "accuracy_drop_ci95": 0.02, "sparsity": sparsity, "seeds": 3,
        "params": 1000, "params_nonzero": round(1000 * (1 - sparsity)), "params_ratio": 1.0, "macs": 5000,
        "macs_ratio": 1.0, "size_bytes": 4000, "size_compressed_bytes": 3000,
    }  # fmt: skip


DENSE = measured(0.99, 0.0) | {"kept": 1.0}
SHOWN = list(METHODS)[::5]  # as many as a picture can bear, of all families
CELLS = [(method, ratio, f"{method}-{ratio}") for method in SHOWN for ratio in (0.5, 0.9)]
MEASURED = [measured(0.99 - ratio / 10, ratio) for _, ratio, _ in CELLS]
POINTS = rows.tradeoff_rows(CELLS, MEASURED, {key: [] for *_, key in CELLS})
HISTORY = [
    {
        "seed": seed,
        "epoch": e,
        "loss": 1 / e,
        "validation_loss": 2 / e,
        "accuracy": 0.5,
        "validation_accuracy": 0.4,
    }
    for seed in (0, 1)
    for e in (1, 2, 3)
]


def drawings() -> dict:
    curves = [figures.Curve("dense", "dense", "black", rows.mean_history(HISTORY))]
    curves += [
        figures.Curve(method, "ratio 0.5", "red", rows.mean_history(HISTORY)) for method in SHOWN
    ]
    curves += [figures.Curve("nothing", "ratio 0.9", "blue", [])]
    matrix, names = np.diag([5, 0, 7]), ["cat", "dog", "a_very long name"]
    return {
        "tradeoff": figures.tradeoff(POINTS, DENSE, "title"),
        "training": figures.training(curves, "title"),
        "confusion": figures.confusion(matrix, names, "title"),
        "focus": figures.focus(rows.mean_history(HISTORY), matrix, names, "title", "red"),
    }


@pytest.mark.parametrize("name", drawings())
def test_every_picture_is_the_same_to_the_byte_when_drawn_again(name, tmp_path):
    for folder in ("a", "b"):
        style.save(drawings()[name], tmp_path / folder / name)
    for suffix in (".svg", ".png"):
        first, again = (
            (tmp_path / folder / name).with_suffix(suffix).read_bytes() for folder in "ab"
        )
        assert first == again
        assert len(first) > 5000


@pytest.mark.parametrize("name", drawings())
def test_numbers_are_words_and_no_formulas(name):
    """Text is drawn as it stands, since names may hold a $; so no tick may be a formula."""
    figure = drawings()[name]
    FigureCanvasAgg(figure).draw()
    ticks = [
        label.get_text()
        for axis in figure.axes
        for label in (*axis.get_xticklabels(), *axis.get_yticklabels())
    ]
    assert any(ticks)
    assert not [tick for tick in ticks if "$" in tick]


def test_the_trade_off_names_its_axes_and_logs_its_costs_and_stays_within_what_an_accuracy_can_be():
    figure = drawings()["tradeoff"]
    axes = np.array(figure.axes).reshape(2, 3)
    assert [axis.get_xlabel() for axis in axes[1]] == [label for _, label, _ in figures.AGAINST]
    assert all(axis.get_xscale() == "log" for axis in figure.axes)
    assert all("test accuracy" in axis.get_ylabel() for axis in axes[:, 0])
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {*SHOWN, "dense"}
    for axis in figure.axes:
        low, high = axis.get_ylim()
        assert low > -0.1
        assert high < 1.1


@pytest.mark.parametrize("name", ["tradeoff", "training"])
def test_legends_lie_inside_the_picture(name):
    figure = drawings()[name]
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = figure.legends[0].get_window_extent(canvas.get_renderer())
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1


def test_controls_look_like_controls_and_colours_are_distinct_and_stable():
    controls = [method for method in METHODS if style.is_control(method)]
    assert controls == [method for method in METHODS if method.startswith("random")] != []
    assert all(style.line_style(method) == ":" for method in controls)
    assert all(style.line_style(method) == "-" for method in METHODS if method not in controls)
    assert len(set(style.COLOURS.values())) == len(style.COLOURS)
    assert (
        style.colour("a_method_to_come") == style.colour("a_method_to_come") in style.OTHER_COLOURS
    )


def test_the_table_has_one_line_per_configuration_and_says_what_was_asked_and_achieved():
    lines = table(DENSE, POINTS, "title", imported=False).splitlines()
    body = [line for line in lines if line.startswith("| ")]
    assert len(body) == 1 + 1 + len(POINTS)
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert f"| {SHOWN[0]} | 0.9 | 90.0 % | 100 |" in "\n".join(body)
    assert "90.00 ± 1.00 | 9.00 ± 2.00 |" in "\n".join(body)


def test_the_table_says_where_no_difference_was_shown():
    small, large = (
        {"accuracy_drop": 0.01, "accuracy_drop_ci95": 0.02},
        {"accuracy_drop": 0.03, "same_as": "l2_channel"},
    )
    body = table(
        DENSE, [POINTS[0] | small, POINTS[0] | large], "title", imported=False
    ).splitlines()[5:7]
    assert "| 1.00 ± 2.00 = |  |" in body[0]
    assert "| 3.00 ± 2.00 | l2_channel |" in body[1]


def test_many_methods_that_are_alike_are_counted_and_few_are_named():
    names = ", ".join(METHODS)
    (row,) = table(DENSE, [POINTS[0] | {"same_as": names}], "title", imported=False).splitlines()[
        5:6
    ]
    said = row.split(" | ")[-2].split(" and ")
    assert names.startswith(said[0])
    assert len(said[0].split(", ")) + int(said[1].split()[0]) == len(METHODS)
    assert few("a, b") == "a, b"


def test_a_name_with_dollars_is_a_name_and_no_formula():
    names = ["$\\no_such_command$", "5$ or 6$", "<b>"]
    figure = figures.confusion(np.diag([5, 0, 7]), names, "$\\title$")
    FigureCanvasAgg(figure).draw()
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == names


def test_imported_weights_are_flagged():
    assert "imported" in table(DENSE, POINTS, "title", imported=True)
    assert "imported" not in table(DENSE, POINTS, "title", imported=False)


def test_histories_are_averaged_over_seeds():
    history = [
        {"seed": 0, "epoch": 2, "loss": 1.0},
        {"seed": 0, "epoch": 1, "loss": 2.0},
        {"seed": 1, "epoch": 1, "loss": 4.0},
        {"seed": 1, "epoch": 2, "loss": 2.0},
    ]
    assert rows.mean_history(history) == [{"epoch": 1, "loss": 3.0}, {"epoch": 2, "loss": 1.5}]


def test_a_matrix_comes_back_from_its_rows():
    matrix = rows.matrix_of(
        [{"actual": 0, "predicted": 1, "count": 4}, {"actual": 2, "predicted": 2, "count": 1}], 3
    )
    np.testing.assert_array_equal(matrix, [[0, 4, 0], [0, 0, 0], [0, 0, 1]])
