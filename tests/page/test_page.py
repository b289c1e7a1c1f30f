"""The report's page, in a real browser if there is one.

The browser is Chromium with its driver (Debian: chromium, chromium-driver).
"""

import csv
import io
import json
import shutil
import time
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from helpers.page import (
    METHODS,
    RATIOS,
    dense_metrics,
    details,
    point,
    report_data,
    training_rows,
)
from helpers.params import PROJECT

from prunelab.core.errors import InputError
from prunelab.core.files import write_json
from prunelab.core.plurals import UNITS
from prunelab.page import charts
from prunelab.page.checklist import checklist, family, removes_alike
from prunelab.page.downloads import download
from prunelab.page.page import page
from prunelab.page.results_table import results_table
from prunelab.pruning.methods import METHODS as ALL_METHODS
from prunelab.report.series import confusion_of
from prunelab.stages.report import main as report

CONTROLS = "a random control for every family"
BASELINE = "magnitude as a baseline"
SCRATCH = "the smaller network trained from scratch as a control"
MIN_SEEDS = "at least 3 seeds"
MIN_RATIOS = "at least 5 ratios, so that a curve has a shape"
FALLS = "ratios go on to where accuracy falls"
UNSEEN = "the dense network has not seen the validation split"


def test_page_contains_every_configuration_and_loads_nothing():
    data = report_data()

    text = page(data)

    head = text[: text.index("<script>")]
    assert text.count("<script>") == text.count("</script>") == 2
    assert "&lt;data&gt;" in text
    assert "src=" not in head
    assert "http" not in head
    assert all(each["key"] in head for each in data.points)


def test_same_results_give_the_same_page():
    assert page(report_data()) == page(report_data())


def held_rules(dense: dict, points: list[dict]) -> dict[str, bool]:
    return {check.rule: check.holds for check in checklist(dense, points, "a machine")}


def test_checklist_of_a_sound_study_lacks_only_ratios_scratch_and_pairs():
    held = held_rules(dense_metrics(), list(report_data().points))

    for rule in (CONTROLS, BASELINE, MIN_SEEDS, FALLS, UNSEEN):
        assert held[rule]
    assert [rule for rule in held if not held[rule]] == [
        "at least 3 pairs of data set and network before one method is called better than another",
        SCRATCH,
        MIN_RATIOS,
    ]


@pytest.mark.parametrize("control", ["random_channel", "random_unstructured"])
def test_every_family_needs_its_control(control):
    points = [each for each in report_data().points if each["method"] != control]

    assert not held_rules(dense_metrics(), points)[CONTROLS]


def test_checklist_notices_a_single_seed_and_imported_weights():
    points = list(report_data().points)

    assert not held_rules(dense_metrics() | {"seeds": 1}, points)[MIN_SEEDS]
    assert not held_rules(dense_metrics() | {"imported": 1}, points)[UNSEEN]


def test_checklist_notices_that_accuracy_never_falls():
    points = [each | {"accuracy_drop": 0.0} for each in report_data().points]

    assert not held_rules(dense_metrics(), points)[FALLS]


def test_five_ratios_are_enough():
    points = [point(method, ratio) for method in METHODS for ratio in (0.1, 0.3, 0.5, 0.7, 0.9)]

    assert held_rules(dense_metrics(), points)[MIN_RATIOS]


def test_ratio_of_0_does_not_count_as_a_ratio():
    points = [point("l1_channel", ratio) for ratio in (0, 0.2, 0.4, 0.6, 0.8)]

    assert not held_rules(dense_metrics(), points)[MIN_RATIOS]


def test_scratch_method_is_a_control():
    points = [*report_data().points, point("l1_channel_scratch", 0.5)]

    assert held_rules(dense_metrics(), points)[SCRATCH]


@pytest.mark.parametrize("name", ALL_METHODS)
def test_family_is_what_a_method_removes(name):
    method = ALL_METHODS[name]

    assert family(name) == ("masks" if method.masks else UNITS[method.granularity])


@pytest.mark.parametrize("name", ALL_METHODS)
def test_methods_of_one_granularity_remove_alike(name):
    for other in ALL_METHODS:
        expected = ALL_METHODS[name].granularity == ALL_METHODS[other].granularity
        assert removes_alike(name, other) == expected


def test_controls_of_one_family_do_not_serve_another():
    head = point("l1_head", 0.5)

    assert not held_rules(dense_metrics(), [point("random_channel", 0.5), head])[CONTROLS]
    assert held_rules(dense_metrics(), [point("random_head", 0.5), head])[CONTROLS]


def test_channel_control_that_removed_nothing_is_no_control_of_masks():
    untouched = point("random_channel", 0) | {"params_ratio": 1.0}
    points = [untouched, point("l1_channel", 0.5), point("l1_unstructured", 0.5)]

    assert not held_rules(dense_metrics(), points)[CONTROLS]


def test_row_of_charts_has_one_legend_with_controls_and_dense_last():
    points = [point(method, 0.5) for method in METHODS]
    row = [charts.tradeoff(dense_metrics(), points, cost, cost) for cost in ("macs", "params")]

    names = [key.name for key in charts.legend(row)]

    assert names == ["l1_unstructured", "l1_channel", *METHODS[::2], "dense"]


def test_training_and_validation_have_one_entry_of_the_legend():
    rows = report_data().training

    names = [key.name for key in charts.legend([chart for _, chart in charts.training(rows)])]

    assert names == ["dense", "l1_channel"]


def test_legend_of_too_many_methods_is_left_out():
    points = [point(method, 0.5) for method in ALL_METHODS]

    assert charts.legend([charts.tradeoff(dense_metrics(), points, "macs", "MACs")]) == []


def test_legend_of_many_histograms_stays():
    """The legend alone can show a curve that is hidden."""
    histograms = {name: details()["weights"] for name in ALL_METHODS}

    keys = charts.legend([charts.weights(histograms)])

    assert len(keys) == len(ALL_METHODS)
    assert 0 < sum(key.shown for key in keys) < 5


def test_bars_of_intervals_end_at_0_and_100_per_cent():
    extremes = [
        point("l1_channel", 0.5) | {"accuracy": 0.995, "accuracy_ci95": 0.2},
        point("l1_channel", 0.8) | {"accuracy": 0.1, "accuracy_ci95": 0.2},
    ]

    traces = charts.tradeoff(dense_metrics(), extremes, "macs", "MACs")["data"]
    (curve,) = [trace for trace in traces if trace["name"] == "l1_channel"]

    bars = curve["error_y"]
    assert bars["array"] == pytest.approx([0.5, 20])
    assert bars["arrayminus"] == pytest.approx([20, 10])


def test_log_axis_names_whole_values():
    points = [point("l1_channel", ratio) for ratio in (0.5, 0.9)]

    axis = charts.tradeoff(dense_metrics(), points, "macs", "MACs")["layout"]["xaxis"]

    assert axis["tickvals"] == [500, 1000, 2000, 5000]
    assert axis["ticktext"] == ["500", "1k", "2k", "5k"]


def test_long_names_of_layers_have_initials_and_differ():
    parts = ("attention.self.query", "attention.output.dense", "output.dense")
    layers = []
    for index in range(12):
        for part in parts:
            layers.append(f"encoder.layer.{index}.{part}")

    names = charts.short_names(layers)

    shown = [f"e.l.0.{part}" for part in parts]
    assert names[:3] == shown
    assert len(set(names)) == len(layers)
    assert max(map(len, names)) <= charts.MAX_LAYER_NAME
    assert charts.short_names(["layer1.0.conv1", "linear"]) == ["layer1.0.conv1", "linear"]


def test_colours_of_a_heat_map_end_within_it_and_no_grid_shows_through():
    data = report_data()
    layers = {name: each["layers"] for name, each in data.details.items()}

    maps = [heat_map for _, (_name, heat_map) in charts.sensitivity(data.sensitivity)]
    maps.append(charts.layers_left(layers, "sparsity", "sparsity"))

    for heat_map in maps:
        (trace,), layout = heat_map["data"], heat_map["layout"]
        assert trace["colorbar"]["len"] <= layout["height"] - charts.MAP_MARGIN
        assert not layout["xaxis"]["showgrid"]
        assert not layout["yaxis"]["showgrid"]


@pytest.mark.parametrize("ratios", [{"conv1": (0.5, 0.9)}, {"conv2": (0.9, 0.1, 0.5)}])
def test_ratios_of_the_sensitivity_ascend_in_whatever_order_they_were_measured(ratios):
    """A layer of few units was not measured at the least ratios, and a user may write any order."""
    measured = {"conv1": (0.1, 0.5, 0.9), "conv2": (0.1, 0.5, 0.9)} | ratios
    rows = []
    for layer, own in measured.items():
        for ratio in own:
            row = {"granularity": "channel", "layer": layer, "ratio": ratio, "removed": ratio}
            rows.append(row | {"accuracy": 1 - ratio / 2})

    (((_, curves), (_, heat_map)),) = charts.sensitivity({"accuracy": 0.99, "rows": rows})

    assert heat_map["data"][0]["x"] == ["0.1", "0.5", "0.9"]
    for trace in curves["data"]:
        assert trace["x"] == sorted(trace["x"])


def test_curves_of_the_sensitivity_are_as_high_as_their_heat_map():
    for (_, curves), (_, heat_map) in charts.sensitivity(report_data().sensitivity):
        assert curves["layout"]["height"] == heat_map["layout"]["height"]


def test_operators_beyond_the_longest_are_one_bar():
    rows = []
    for index in range(30):
        times = {"cpu_ms": float(index), "cuda_ms": 0.0, "batch_size": 64}
        rows.append({"name": "dense", "operator": f"operator {index}", **times})

    traces = charts.operators(rows)["data"]

    assert len(traces) == charts.MAX_OPERATORS + 1
    assert traces[0]["name"] == "operator 29"
    assert traces[-1]["name"] == "others"
    assert sum(trace["x"][0] for trace in traces) == sum(range(30))


def test_downloads_hold_every_row_and_no_formula():
    rows = [{"name": "=HYPERLINK(1)", "list": [1, 2]}, {"name": 'a "quoted", name', "value": -1.5}]

    made = download("rows", rows)

    assert made.name == "rows.csv"
    assert list(csv.DictReader(io.StringIO(made.text))) == [
        {"name": "'=HYPERLINK(1)", "list": "1 2", "value": ""},
        {"name": 'a "quoted", name', "list": "", "value": "-1.5"},
    ]


def test_table_has_the_dense_row_first_and_its_headline_columns_unfolded():
    data = report_data()

    table = results_table(data.dense, data.points, data.speed["latency"], classes=1000)

    assert [line[0].text for line in table.lines] == ["dense", *(p["key"] for p in data.points)]
    shown = [column.title for column in table.columns if not column.group]
    assert shown[:3] == ["configuration", "accuracy, %", "drop, points"]
    assert shown == [column.title for column in table.columns[: len(shown)]]
    assert "top-5, %" in [column.title for column in table.columns]
    assert all(len(line) == len(table.columns) for line in table.lines)


def test_page_begins_with_the_findings_and_ends_with_what_was_run():
    text = page(report_data())

    order = ["findings", "tradeoff", "results", "latency", "layers", "training"]
    order += ["sensitivity", "confusion", "run", "checklist"]
    places = {part: text.index(f'id="{part}"') for part in order}

    assert sorted(order, key=places.get) == order


def test_tags_in_class_names_are_escaped():
    names = ["<b>bold</b>", "a<br>b", "&amp;", "it's"]
    confusion = confusion_of([{"actual": 0, "predicted": 3, "count": 1}], names)

    (trace,) = charts.confusion(confusion)["data"]

    assert [unescape(name) for name in trace["x"]] == names
    assert [unescape(name) for name in trace["y"]] == names
    assert not any("<" in name for name in trace["x"])


@pytest.mark.parametrize("epochs", [1, 2])
def test_curves_of_any_number_of_epochs_are_seen(epochs):
    rows = [row for row in training_rows() if row["epoch"] <= epochs]

    ((_, chart),) = charts.training(rows)

    for trace in chart["data"]:
        assert len(trace["x"]) == epochs
        assert ("markers" in trace["mode"]) == (epochs == 1)


def test_page_of_a_study_without_epochs_has_no_training():
    trained, untrained = page(report_data()), page(replace(report_data(), training=[]))

    assert 'id="training"' in trained
    assert "training.csv" in trained
    assert 'href="#training"' not in untrained
    assert "training.csv" not in untrained


def test_cells_of_another_grid_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    write_json(tmp_path / "dataset.json", {})
    write_json(tmp_path / "speed/benchmark.json", {})
    write_json(tmp_path / "tradeoff.json", [point("l1_head", 0.5)])
    out = tmp_path / "report.html"

    with pytest.raises(InputError, match=r"tradeoff\.json is of another grid"):
        report(tmp_path, tmp_path, tmp_path, out)

    assert not out.exists()


CHROMIUM_ARGUMENTS = [
    "headless=new",
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "disable-dev-shm-usage",
    "window-size=1300,1200",
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("there is no Chromium with its driver (Debian: chromium, chromium-driver)")

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in CHROMIUM_ARGUMENTS:
        options.add_argument(f"--{argument}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})

    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def opened(browser, tmp_path_factory):
    """The browser with the page, its charts drawn."""
    file: Path = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(page(report_data()), encoding="utf-8")

    browser.get(file.as_uri())
    wait_until(lambda: count(browser, ".plot .main-svg") > 0)
    return browser


def count(browser, selector: str) -> int:
    return browser.execute_script(f"return document.querySelectorAll('{selector}').length")


def wait_until(condition, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_every_chart_is_drawn_without_a_warning(opened):
    drawn = opened.execute_script(
        "return [...document.querySelectorAll('.plot')]"
        ".filter(plot => plot.querySelector('.main-svg')).length"
    )
    points = opened.execute_script(
        "return document.querySelectorAll('.plot')[0].querySelectorAll('.point').length"
    )
    warnings = [e for e in opened.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]

    assert count(opened, ".plot") == drawn >= 14
    assert points >= len(METHODS) * len(RATIOS)
    assert warnings == []


def test_page_sends_no_request(opened):
    urls = []
    for entry in opened.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] != "Network.requestWillBeSent":
            continue
        if message["params"]["documentURL"].startswith("file:"):  # not the empty tab
            urls.append(message["params"]["request"]["url"])

    assert urls
    assert [url for url in urls if not url.startswith(("file:", "data:"))] == []


def test_pointing_at_a_cell_shows_its_metrics(opened):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    chart = opened.find_element(By.CSS_SELECTOR, ".plot")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    x, y = opened.execute_script(
        "const traces = arguments[0].querySelectorAll('.scatterlayer .trace');"
        "const box = traces[traces.length - 1].querySelector('.point').getBoundingClientRect();"
        "return [box.x + box.width / 2, box.y + box.height / 2]",
        chart,
    )

    actions = ActionChains(opened)
    pointer = actions.w3c_actions.pointer_action
    pointer.move_to_location(round(x) - 3, round(y))
    pointer.move_to_location(round(x), round(y))
    actions.perform()

    hover = "return arguments[0].querySelector('.hoverlayer').textContent"
    wait_until(lambda: "accuracy" in opened.execute_script(hover, chart))
    assert "_channel at 0.5" in opened.execute_script(hover, chart)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_follows_the_readers_theme(opened, scheme):
    def lightness(script: str) -> float:
        """From 0 (black) to 1 (white)."""
        colour = opened.execute_script(f"return {script}")
        parts = colour[colour.index("(") + 1 : -1].split(",")[:3]
        return sum(map(float, parts)) / 765

    text = "getComputedStyle(document.querySelector('.plot .xtitle')).fill"
    background = "getComputedStyle(document.body).backgroundColor"
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}

    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    if scheme == "dark":
        wait_until(lambda: lightness(text) > 0.7)
        assert lightness(background) <= 0.8
    else:
        wait_until(lambda: lightness(text) < 0.3)
        assert lightness(background) > 0.8


def test_phone_scrolls_down_but_not_sideways(opened):
    size = {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True}

    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    wait_until(lambda: opened.execute_script("return innerWidth") == 390)
    wait_until(lambda: opened.execute_script("return document.documentElement.scrollWidth") <= 390)
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def texts(browser, selector: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map(each => each.textContent)"
    return browser.execute_script(script, selector)


def click(browser, selector: str) -> None:
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


def test_click_on_a_title_sorts_and_the_dense_row_stays_on_top(opened):
    first_cells = ".results tbody:not(.dense) td:first-child"
    title = ".results thead th:nth-child(2) button"
    grid = texts(opened, first_cells)

    click(opened, title)
    down = texts(opened, ".results tbody:not(.dense) td:nth-child(2)")
    click(opened, title)
    up = texts(opened, ".results tbody:not(.dense) td:nth-child(2)")
    click(opened, title)

    assert down == sorted(down, key=lambda cell: -float(cell.split()[0])) != up
    assert up == sorted(up, key=lambda cell: float(cell.split()[0]))
    assert texts(opened, first_cells) == grid
    assert texts(opened, ".results tbody.dense td:first-child") == ["dense"]
    assert texts(opened, ".results td:first-child")[0] == "dense"


def test_columns_of_a_group_unfold_and_fold_together(opened):
    def shown() -> int:
        return opened.execute_script(
            "return [...document.querySelectorAll('.results thead th')]"
            ".filter(title => title.offsetParent !== null).length"
        )

    folded = shown()
    click(opened, ".fold input[data-group=size]")
    unfolded = shown()
    click(opened, ".fold input[data-group=size]")

    assert unfolded == folded + 3
    assert shown() == folded


def test_table_needs_no_scrolling_sideways_at_1280_pixels(opened):
    size = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wait_until(lambda: opened.execute_script("return innerWidth") == 1280)

    overflow = opened.execute_script(
        "const box = document.querySelector('.results').parentElement;"
        "return box.scrollWidth - box.clientWidth"
    )
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    assert overflow == 0


def test_legend_hides_a_curve_in_all_charts_of_its_row(opened):
    def drawn() -> int:
        return opened.execute_script(
            "return document.querySelector('.row').querySelectorAll('.scatterlayer .trace').length"
        )

    before, charts_in_row = drawn(), 4
    button = ".legend button[data-name=l1_channel]"
    click(opened, button)
    wait_until(lambda: drawn() == before - charts_in_row)
    click(opened, button)
    wait_until(lambda: drawn() == before)


def test_mode_bar_is_hidden_until_a_pointer_hovers(opened):
    shown = opened.execute_script(
        "return [...document.querySelectorAll('.modebar')]"
        ".filter(bar => !bar.classList.contains('modebar--hover')).length"
    )

    assert shown == 0


def test_data_of_a_picture_are_downloaded_from_the_page(opened, tmp_path):
    download_here = {"behavior": "allow", "downloadPath": str(tmp_path)}
    opened.execute_cdp_cmd("Browser.setDownloadBehavior", download_here)

    click(opened, "a[download='tradeoff.csv']")

    file = tmp_path / "tradeoff.csv"
    wait_until(file.exists)
    rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))))
    assert [row["method"] for row in rows] == [each["method"] for each in report_data().points]


def test_charts_fit_a_printed_page_and_get_their_size_back(opened):
    def widths() -> list[float]:
        return opened.execute_script(
            "return [...document.querySelectorAll('.plot')]"
            ".map(plot => Number(plot.querySelector('.main-svg').getAttribute('width')))"
        )

    before = widths()
    opened.execute_script("dispatchEvent(new Event('beforeprint'))")
    printed = widths()
    opened.execute_script("dispatchEvent(new Event('afterprint'))")

    assert max(printed) <= 680
    wait_until(lambda: widths() == before)


def test_charts_keep_their_height_on_a_phone(opened):
    size = {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    heights = "return [...document.querySelectorAll('.plot')].map(plot => plot.offsetHeight)"
    before = opened.execute_script(heights)

    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wait_until(lambda: opened.execute_script("return innerWidth") == 390)
    wait_until(lambda: opened.execute_script("return document.documentElement.scrollWidth") <= 390)

    assert min(before) > 300
    assert opened.execute_script(heights) == before
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
