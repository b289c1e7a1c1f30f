"""Rows, tables and pictures of a study that is made up."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from prunelab.figures import figures, tradeoff_figures
from prunelab.figures.line_names import names_fit, spread
from prunelab.figures.save import save, save_as
from prunelab.pruning.methods import METHODS
from prunelab.report import rows, style
from prunelab.report.series import (
    Confusion,
    TrainingCurve,
    sensitivity_panels,
    training_curves,
    training_rows,
)
from prunelab.report.tables import same_as, table

PICTURES = ["tradeoff", "tradeoff_before", "overview", "training", "confusion", "focus"]


def measured(accuracy: float, sparsity: float) -> dict:
    return {
        "accuracy": accuracy,
        "accuracy_ci95": 0.01,
        "accuracy_pruned": accuracy / 2,
        "accuracy_pruned_ci95": 0.6,
        "accuracy_drop": 0.99 - accuracy,
        "accuracy_drop_ci95": 0.02,
        "sparsity": sparsity,
        "seeds": 3,
        "params": 1000,
        "params_nonzero": round(1000 * (1 - sparsity)),
        "params_ratio": 1.0,
        "macs": 5000,
        "macs_ratio": 1.0,
        "size_bytes": 4000,
        "size_compressed_bytes": 3000,
    }


DENSE = measured(0.99, 0.0) | {"kept": 1.0}
SHOWN = list(METHODS)[::5]  # of all families, and as many as fit a picture
CELLS = [(method, ratio, f"{method}-{ratio}") for method in SHOWN for ratio in (0.5, 0.9)]
MEASURED = [measured(0.99 - ratio / 10, ratio) for _, ratio, _ in CELLS]
POINTS = rows.tradeoff_rows(CELLS, MEASURED, {key: [] for *_, key in CELLS})


def history() -> list[dict]:
    """The training of two seeds over three epochs."""
    epochs = []
    for seed in (0, 1):
        for epoch in (1, 2, 3):
            row = {"seed": seed, "epoch": epoch, "accuracy": 0.5, "validation_accuracy": 0.4}
            epochs.append(row | {"loss": 1 / epoch, "validation_loss": 2 / epoch})
    return epochs


def curves() -> list[TrainingCurve]:
    mean = rows.mean_history(history())
    finetuning = [TrainingCurve(method, "ratio 0.5", mean) for method in SHOWN]
    return [
        TrainingCurve("dense", "dense", mean),
        *finetuning,
        TrainingCurve("without_epochs", "ratio 0.9", []),
    ]


def draw(name: str) -> Figure:
    if name == "tradeoff":
        return tradeoff_figures.tradeoff(POINTS, DENSE, "title", "accuracy")
    if name == "tradeoff_before":
        return tradeoff_figures.tradeoff(POINTS, DENSE, "title", "accuracy_pruned")
    if name == "overview":
        return tradeoff_figures.overview(POINTS, DENSE, "title")
    if name == "training":
        return figures.training(curves(), "title")

    confusion = Confusion(np.diag([5, 0, 7]), ["cat", "dog", "a_very long name"])
    if name == "confusion":
        return figures.confusion(confusion, "title")
    return figures.focus(rows.mean_history(history()), confusion, "title", "red")


def draw_all_methods() -> Figure:
    """A trade-off of more methods than there is room for names beside their lines."""
    points = [POINTS[0] | {"method": method} for method in METHODS]
    return tradeoff_figures.tradeoff(points, DENSE, "title", "accuracy")


@pytest.mark.parametrize("suffix", [".svg", ".png"])
@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_the_same_to_the_byte_when_drawn_again(name, suffix, tmp_path):
    first, second = tmp_path / f"first{suffix}", tmp_path / f"second{suffix}"

    save_as(draw(name), first)
    save_as(draw(name), second)

    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size > 5000


def test_saving_writes_both_formats(tmp_path):
    save(draw("confusion"), tmp_path / "folder/confusion")

    written = sorted(path.name for path in (tmp_path / "folder").iterdir())
    assert written == ["confusion.png", "confusion.svg"]


@pytest.mark.parametrize("name", PICTURES)
def test_ticks_contain_no_formulas(name):
    """Text is drawn as it is, since names may contain a $. So no tick may be a formula."""
    figure = draw(name)
    FigureCanvasAgg(figure).draw()

    ticks = []
    for axis in figure.axes:
        labels = [*axis.get_xticklabels(), *axis.get_yticklabels()]
        ticks += [label.get_text() for label in labels]

    assert any(ticks)
    assert not [tick for tick in ticks if "$" in tick]


def test_tradeoff_names_its_axes_and_methods():
    figure = draw_all_methods()
    against = [label for _, label, _ in tradeoff_figures.AGAINST]

    legend = {text.get_text() for text in figure.legends[0].get_texts()}

    assert legend == {*METHODS, "dense"}
    assert [axis.get_xlabel() for axis in figure.axes] == against
    assert figure.axes[0].get_ylabel() == "test accuracy\nafter fine-tuning"


@pytest.mark.parametrize("width", [0.5, 0.05, 0.01, 0.001])
def test_ticks_of_accuracies_are_named_by_what_they_are(width):
    """However close the accuracies are, no two ticks of an axis have one name."""
    close = [measured(0.9 - width * ratio, ratio) | {"accuracy_ci95": 0} for _, ratio, _ in CELLS]
    points = rows.tradeoff_rows(CELLS, close, {key: [] for *_, key in CELLS})
    figure = tradeoff_figures.tradeoff(
        points, DENSE | {"accuracy": 0.9, "accuracy_ci95": 0}, "title", "accuracy"
    )

    FigureCanvasAgg(figure).draw()

    axis = figure.axes[0]
    for place, label in zip(axis.get_yticks(), axis.get_yticklabels(), strict=True):
        assert float(label.get_text().rstrip("%")) == pytest.approx(100 * place, abs=1e-6)


def test_few_lines_have_their_names_beside_them_and_no_legend():
    points = [point for point in POINTS if point["method"] in SHOWN[:4]]

    figure = tradeoff_figures.tradeoff(points, DENSE, "title", "accuracy")

    names = {text.get_text() for text in figure.axes[-1].texts}
    assert names == {*SHOWN[:4], "dense"}
    assert not figure.legends


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_names_of_lines_are_apart_in_order_and_inside(count):
    generator = np.random.default_rng(count)
    gap = 0.08
    for _ in range(50):
        wanted = sorted(generator.uniform(0, 1, count))

        heights = spread(wanted, gap)

        assert np.all(np.diff(heights) >= gap - 1e-9)
        assert min(heights) >= -1e-9
        assert max(heights) <= 1 + 1e-9


def test_names_that_have_room_stay_at_their_lines():
    assert spread([0.1, 0.5, 0.9], 0.08) == [0.1, 0.5, 0.9]


def test_too_many_names_do_not_fit_beside_an_axis():
    assert names_fit(5, height_inch=3, font_size=8)
    assert not names_fit(40, height_inch=3, font_size=8)


def test_overview_is_1200_by_500_pixels(tmp_path):
    from PIL import Image

    save_as(draw("overview"), tmp_path / "overview.png")

    with Image.open(tmp_path / "overview.png") as image:
        assert image.size == (1200, 500)


def test_controls_lie_behind_the_other_methods():
    order = {line.get_color(): line.get_zorder() for line in draw("tradeoff").axes[-1].lines}
    controls = {style.colour(method) for method in SHOWN if style.is_control(method)}
    others = {style.colour(method) for method in SHOWN} - controls

    assert controls
    assert max(order[colour] for colour in controls) < min(order[colour] for colour in others)


@pytest.mark.parametrize("name", ["tradeoff", "tradeoff_before", "overview"])
def test_tradeoff_has_log_costs_and_accuracies_from_0_to_1(name):
    for axis in draw(name).axes:
        low, high = axis.get_ylim()
        assert axis.get_xscale() == "log"
        assert low >= -0.01
        assert high <= 1.01


@pytest.mark.parametrize("make", [draw_all_methods, lambda: draw("training")])
def test_legends_lie_inside_the_picture(make):
    figure = make()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()

    box = figure.legends[0].get_window_extent(canvas.get_renderer())

    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1


def test_exactly_the_random_methods_are_dotted_controls():
    controls = [method for method in METHODS if style.is_control(method)]
    dotted = [method for method in METHODS if style.line_style(method) == ":"]

    assert controls
    assert controls == [method for method in METHODS if method.startswith("random")]
    assert dotted == controls


def test_colours_are_distinct_and_stable():
    colour = style.colour("a_method_to_come")

    assert len(set(style.COLOURS.values())) == len(style.COLOURS)
    assert colour in style.OTHER_COLOURS
    assert colour == style.colour("a_method_to_come")


def table_lines(points: list[dict], *, imported: bool = False) -> list[str]:
    """The lines of the table after the heading, the dense network's first."""
    lines = table(DENSE, points, "title", imported=imported).splitlines()
    return [line for line in lines if line.startswith("| ")][1:]


def test_table_has_one_line_per_configuration():
    lines = table_lines(POINTS)

    assert len(lines) == 1 + len(POINTS)
    assert len({line.count("|") for line in lines}) == 1


def test_table_shows_what_was_asked_and_what_was_achieved():
    text = "\n".join(table_lines(POINTS))

    assert f"| {SHOWN[0]} | 0.9 | 90.0 % | 100 |" in text
    assert "90.00 ± 1.00 | 9.00 ± 2.00 |" in text


def test_table_marks_drops_that_were_not_shown():
    small = {"accuracy_drop": 0.01, "accuracy_drop_ci95": 0.02}
    large = {"accuracy_drop": 0.03, "same_as": "l2_channel"}

    _, first, second = table_lines([POINTS[0] | small, POINTS[0] | large])

    assert "| 1.00 ± 2.00 = |  |" in first
    assert "| 3.00 ± 2.00 | l2_channel |" in second


def test_table_names_the_first_similar_methods_and_counts_the_others():
    names = ", ".join(METHODS)

    _, line = table_lines([POINTS[0] | {"same_as": names}])

    shown, more = line.split(" | ")[-2].split(" and ")
    assert names.startswith(shown)
    assert len(shown.split(", ")) + int(more.split()[0]) == len(METHODS)


def test_few_similar_methods_are_all_named():
    assert same_as("a, b") == "a, b"
    assert same_as("") == ""


def test_table_warns_of_imported_weights():
    assert "imported" in table(DENSE, POINTS, "title", imported=True)
    assert "imported" not in table(DENSE, POINTS, "title", imported=False)


def test_names_with_dollars_are_drawn_as_they_are():
    names = ["$\\no_such_command$", "5$ or 6$", "<b>"]

    figure = figures.confusion(Confusion(np.diag([5, 0, 7]), names), "$\\title$")
    FigureCanvasAgg(figure).draw()

    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == names


@pytest.mark.parametrize("epochs", [1, 3])
def test_curves_of_any_number_of_epochs_are_seen(epochs):
    mean = rows.mean_history([row for row in history() if row["epoch"] <= epochs])
    assert len(mean) == epochs

    figure = figures.training([TrainingCurve("dense", "dense", mean)], "title")

    lines = [line for axis in figure.axes for line in axis.lines]
    assert len(lines) == 4
    for line in lines:
        assert (str(line.get_marker()).lower() == "none") == (epochs > 1)


def test_histories_are_averaged_over_seeds():
    history = [
        {"seed": 0, "epoch": 2, "loss": 1.0},
        {"seed": 0, "epoch": 1, "loss": 2.0},
        {"seed": 1, "epoch": 1, "loss": 4.0},
        {"seed": 1, "epoch": 2, "loss": 2.0},
    ]

    assert rows.mean_history(history) == [{"epoch": 1, "loss": 3.0}, {"epoch": 2, "loss": 1.5}]


def test_matrix_comes_back_from_its_rows():
    cells = [
        {"actual": 0, "predicted": 1, "count": 4},
        {"actual": 2, "predicted": 2, "count": 1},
    ]

    matrix = rows.matrix_of(cells, 3)

    np.testing.assert_array_equal(matrix, [[0, 4, 0], [0, 0, 0], [0, 0, 1]])


def test_confusion_shares_are_of_the_actual_class():
    confusion = Confusion(np.array([[3, 1], [0, 0]]), ["cat", "dog"])

    np.testing.assert_array_equal(confusion.shares, [[0.75, 0.25], [0, 0]])


def test_training_curves_come_back_from_their_rows():
    with_epochs = [curve for curve in curves() if curve.rows]

    stored = training_rows(curves())
    read = training_curves(stored)

    assert training_rows(read) == stored
    assert [(curve.name, curve.group, curve.colour) for curve in read] == [
        (curve.name, curve.group, curve.colour) for curve in with_epochs
    ]


def test_heat_map_marks_what_was_not_measured():
    points = [("conv1", 0.5, 0.8), ("conv1", 0.9, 0.4), ("conv2", 0.5, 0.7), ("all", 0.5, 0.1)]
    measured_rows = []
    for layer, ratio, accuracy in points:
        row = {"granularity": "weight", "layer": layer, "ratio": ratio, "accuracy": accuracy}
        measured_rows.append(row)

    (panel,) = sensitivity_panels({"accuracy": 0.9, "rows": measured_rows})

    assert panel.layers == ["conv1", "conv2", "all"]
    assert [curve.is_all for curve in panel.curves] == [False, False, True]
    expected = [[0.8, 0.4], [0.7, np.nan], [0.1, np.nan]]
    np.testing.assert_array_equal(panel.heat_map(panel.ratios), expected)
