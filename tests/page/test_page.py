"""The report's page, in a real browser where there is one: Chromium with its driver (Debian: chromium-driver)."""

import json
import shutil
import time
from html import unescape
from pathlib import Path

import pytest
from helpers.page import METHODS, RATIOS, details, findings, metrics, point
from helpers.params import PROJECT

from prunelab.core.errors import InputError
from prunelab.core.files import write_json
from prunelab.page import charts
from prunelab.page.checklist import checklist, family
from prunelab.page.page import page
from prunelab.pruning.methods import METHODS as ALL_METHODS
from prunelab.stages.report import main as report


def test_the_page_is_whole_and_asks_the_network_for_nothing():
    text = page(findings())
    assert text.count("<script>") == text.count("</script>") == 2
    assert "&lt;data&gt;" in text
    head = text[: text.index("<script>")]
    assert "src=" not in head
    assert "http" not in head
    for each in findings().points:
        assert each["key"] in head


def test_the_same_findings_give_the_same_page():
    assert page(findings()) == page(findings())


def held(dense: dict, points: list[dict]) -> dict[str, bool]:
    return {each.rule: each.holds for each in checklist(dense, points, "a machine")}


def test_the_checklist_sees_what_is_missing():
    found, dense = findings(), metrics(0.99, 1.0, thin=False)
    whole = held(dense, list(found.points))
    for without in ("random_channel", "random_unstructured"):
        assert not held(dense, [p for p in found.points if p["method"] != without])[
            "a random control for every family"
        ]
    assert whole["a random control for every family"]
    assert whole["magnitude as a baseline"]
    assert whole["at least 3 seeds"]
    assert not held(dense | {"seeds": 1}, list(found.points))["at least 3 seeds"]
    fallen = next(rule for rule in whole if "accuracy falls" in rule)
    assert whole[fallen]
    assert not held(dense, [p | {"accuracy_drop": 0.0} for p in found.points])[fallen]
    seen = next(rule for rule in whole if "validation" in rule)
    assert whole[seen]
    assert not held(dense | {"imported": 1}, list(found.points))[seen]
    ratios = next(rule for rule in whole if "ratios, so" in rule)
    assert not whole[ratios]
    more = [point(method, ratio) for method in METHODS for ratio in (0.1, 0.3, 0.5, 0.7, 0.9)]
    assert held(dense, more)[ratios]
    scratch = next(rule for rule in whole if "scratch" in rule)
    assert not whole[scratch]
    assert held(dense, [*found.points, point("l1_channel_scratch", 0.5)])[scratch]


def test_families_are_what_methods_take_away_and_each_wants_its_own_control():
    for name, method in ALL_METHODS.items():
        assert family(name) == ("masks" if method.masks else f"{method.granularity}s")
    rule, dense = "a random control for every family", metrics(0.99, 1.0, thin=False)
    untouched = point("random_channel", 0) | {
        "params_ratio": 1.0
    }  # nothing was cut, and it is no mask for that
    assert not held(dense, [untouched, point("l1_channel", 0.5), point("l1_unstructured", 0.5)])[
        rule
    ]
    assert not held(dense, [point("random_channel", 0.5), point("l1_head", 0.5)])[rule]
    assert held(dense, [point("random_head", 0.5), point("l1_head", 0.5)])[rule]


def test_a_ratio_of_nothing_is_no_point_of_a_curve():
    dense, rule = metrics(0.99, 1.0, thin=False), "at least 5 ratios, so that a curve has a shape"
    assert not held(dense, [point("l1_channel", ratio) for ratio in (0, 0.2, 0.4, 0.6, 0.8)])[rule]


def test_charts_of_many_methods_keep_their_room():
    many = [point(method, 0.5) for method in ALL_METHODS]
    assert (
        charts.tradeoff(metrics(0.99, 1.0, thin=False), many, "macs", "MACs")["layout"][
            "showlegend"
        ]
        is False
    )
    assert (
        "showlegend"
        not in charts.tradeoff(metrics(0.99, 1.0, thin=False), many[:9], "macs", "MACs")["layout"]
    )
    spreads = {name: details()["weights"] for name in ALL_METHODS}
    beside = charts.weights(spreads)["layout"]
    assert beside["showlegend"] is True  # it is what shows and hides the curves
    assert beside["legend"] == {"orientation": "v"}


def test_tags_in_the_names_of_classes_are_letters():
    names = ["<b>bold</b>", "a<br>b", "&amp;", "it's"]
    (trace,) = charts.confusion([{"actual": 0, "predicted": 3, "count": 1}], names)["data"]
    assert (
        [unescape(name) for name in trace["x"]] == [unescape(name) for name in trace["y"]] == names
    )
    assert not any("<" in name for name in trace["x"])


def test_cells_of_another_grid_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    for path, content in {
        "dataset.json": {},
        "speed/benchmark.json": {},
        "tradeoff.json": [point("l1_head", 0.5)],
    }.items():
        write_json(tmp_path / path, content)
    with pytest.raises(InputError, match=r"tradeoff\.json is of another grid"):
        report(tmp_path, tmp_path, tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip(
            "there is no Chromium with its driver (Debian: apt-get install chromium chromium-driver)"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", "disable-dev-shm-usage", "window-size=1300,1200",
        f"user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):  # fmt: skip
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def opened(browser, tmp_path_factory):
    file: Path = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(page(findings()), encoding="utf-8")
    browser.get(file.as_uri())
    wait(
        lambda: (
            browser.execute_script("return document.querySelectorAll('.plot .main-svg').length") > 0
        )
    )
    return browser


def wait(condition, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_every_chart_is_drawn_without_a_complaint_and_without_a_request(opened):
    places = opened.execute_script("return document.querySelectorAll('.plot').length")
    drawn = opened.execute_script(
        "return [...document.querySelectorAll('.plot')].filter(p => p.querySelector('.main-svg')).length"
    )
    assert places == drawn >= 14
    points = opened.execute_script(
        "return document.querySelectorAll('.plot')[0].querySelectorAll('.point').length"
    )
    assert points >= len(METHODS) * len(RATIOS)
    assert [
        entry for entry in opened.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")
    ] == []
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    asked = [
        each["request"]["url"] for each in sent if each["documentURL"].startswith("file:")
    ]  # not the empty tab
    assert asked
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def test_pointing_at_a_cell_tells_all_about_it(opened):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    chart = opened.find_element(By.CSS_SELECTOR, ".plot")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    box = opened.execute_script(
        "const b = arguments[0].querySelectorAll('.scatterlayer .trace')[3].querySelector('.point')"
        ".getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]",
        chart,
    )
    actions = ActionChains(opened)
    actions.w3c_actions.pointer_action.move_to_location(round(box[0]) - 3, round(box[1]))
    actions.w3c_actions.pointer_action.move_to_location(round(box[0]), round(box[1]))
    actions.perform()
    told = "return arguments[0].querySelector('.hoverlayer').textContent"
    wait(lambda: "accuracy" in opened.execute_script(told, chart))
    assert "l1_channel at 0.5" in opened.execute_script(told, chart)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_readers_theme(opened, scheme):
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    def lightness(script: str) -> float:
        colour = opened.execute_script(f"return {script}")
        return sum(float(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]) / 765

    text = "getComputedStyle(document.querySelector('.plot .xtitle')).fill"
    if scheme == "dark":
        wait(lambda: lightness(text) > 0.7)
    else:
        wait(lambda: lightness(text) < 0.3)
    background = lightness("getComputedStyle(document.body).backgroundColor")
    assert (background > 0.8) == (scheme == "light")


def test_a_phone_scrolls_down_and_not_aside(opened):
    size = {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wait(lambda: opened.execute_script("return innerWidth") == 390)
    wait(lambda: opened.execute_script("return document.documentElement.scrollWidth") <= 390)
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
