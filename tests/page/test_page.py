"""The report's page, in a real browser if there is one.

The browser is Chromium with its driver (Debian: chromium, chromium-driver).
"""

import json
import shutil
import time
from html import unescape
from pathlib import Path

import pytest
from helpers.page import METHODS, RATIOS, dense_metrics, details, point, report_data
from helpers.params import PROJECT

from prunelab.core.errors import InputError
from prunelab.core.files import write_json
from prunelab.page import charts
from prunelab.page.checklist import checklist, family
from prunelab.page.page import page
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

    assert family(name) == ("masks" if method.masks else f"{method.granularity}s")


def test_controls_of_one_family_do_not_serve_another():
    head = point("l1_head", 0.5)

    assert not held_rules(dense_metrics(), [point("random_channel", 0.5), head])[CONTROLS]
    assert held_rules(dense_metrics(), [point("random_head", 0.5), head])[CONTROLS]


def test_channel_control_that_removed_nothing_is_no_control_of_masks():
    untouched = point("random_channel", 0) | {"params_ratio": 1.0}
    points = [untouched, point("l1_channel", 0.5), point("l1_unstructured", 0.5)]

    assert not held_rules(dense_metrics(), points)[CONTROLS]


def test_legend_of_many_methods_leaves_the_chart_its_room():
    points = [point(method, 0.5) for method in ALL_METHODS]

    many = charts.tradeoff(dense_metrics(), points, "macs", "MACs")["layout"]
    few = charts.tradeoff(dense_metrics(), points[:9], "macs", "MACs")["layout"]

    assert many["showlegend"] is False
    assert "showlegend" not in few


def test_legend_of_many_histograms_stays_beside_the_chart():
    """The legend is what shows and hides the curves."""
    histograms = {name: details()["weights"] for name in ALL_METHODS}

    layout = charts.weights(histograms)["layout"]

    assert layout["showlegend"] is True
    assert layout["legend"] == {"orientation": "v"}


def test_tags_in_class_names_are_escaped():
    names = ["<b>bold</b>", "a<br>b", "&amp;", "it's"]
    confusion = confusion_of([{"actual": 0, "predicted": 3, "count": 1}], names)

    (trace,) = charts.confusion(confusion)["data"]

    assert [unescape(name) for name in trace["x"]] == names
    assert [unescape(name) for name in trace["y"]] == names
    assert not any("<" in name for name in trace["x"])


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
        "const box = traces[3].querySelector('.point').getBoundingClientRect();"
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
    assert "l1_channel at 0.5" in opened.execute_script(hover, chart)


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
