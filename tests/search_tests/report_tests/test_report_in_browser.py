"""The report in a real Chromium, without a network: no errors, all figures drawn, readable on a desk and on a phone."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from psvit.search.objectives import Objectives
from psvit.search.pareto import front
from psvit.search.report.document import write_report
from psvit.search.report.references import Reference
from psvit.search.selection.finalist import Finalist

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    (CHROMIUM is None or DRIVER is None) and "CI" not in os.environ,
    reason="needs Debian's chromium and chromium-driver (apt-get install chromium chromium-driver)",
)

WIDE, NARROW = 1280, 400
SMALLEST_TEXT = 12.0
"""Pixels."""

SECONDS = 60
"""Until a page has to be drawn, on a machine that is busy with other tests."""

DRAWN = "return document.documentElement.dataset.drawn"

FIGURES = """
return [...document.querySelectorAll("script[data-figure]")].map((source) => {
  const plot = document.getElementById(source.dataset.figure);
  const box = plot.getBoundingClientRect();
  const area = plot.querySelector(".main-svg").getBoundingClientRect();
  const frame = plot._fullLayout._size;
  const marks = [...plot.querySelectorAll(".scatterlayer .trace path")].map((path) => path.getBBox());
  return {
    name: source.dataset.figure, width: box.width, height: box.height, svg: area.width,
    frame: [frame.w, frame.h], left: box.left, right: box.right,
    traces: plot.querySelectorAll(".scatterlayer .trace").length, wanted: JSON.parse(source.textContent).data.length,
    marks: marks.filter((mark) => mark.width + mark.height > 0).length,
    label: plot.getAttribute("aria-label"),
  };
});
"""

TEXTS = """
const small = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node = walker.nextNode(); node; node = walker.nextNode()) {
  const parent = node.parentElement;
  if (!node.textContent.trim() || parent.closest("script, style, noscript, title, desc, .modebar")) continue;
  const box = parent.getBoundingClientRect();
  if (!box.width) continue;
  // What is scaled down with a picture is as small as it looks.
  const svg = parent.closest("svg[viewBox]");
  const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
  small.push([parseFloat(getComputedStyle(parent).fontSize) * scale, node.textContent.trim().slice(0, 40)]);
}
return small.sort((one, other) => one[0] - other[0]);
"""

CONTRAST = """
const light = (color) => {
  const [r, g, b] = color.match(/[0-9.]+/g).slice(0, 3).map((c) => {
    c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = light(getComputedStyle(document.body).backgroundColor);
const texts = [...document.querySelectorAll("main > p, h1, h2, dt, figcaption, summary, .xtick text, .legendtext")];
return [ground, ...texts.map((text) => {
  const style = getComputedStyle(text);
  const own = light(text instanceof SVGElement ? style.fill : style.color);
  return (Math.max(own, ground) + 0.05) / (Math.min(own, ground) + 0.05);
})];
"""


@pytest.fixture(scope="module")
def browser():
    assert CHROMIUM, "chromium is missing; .ci/run installs it"
    assert DRIVER, "chromedriver is missing; .ci/run installs it"
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    # Root, as in containers, needs --no-sandbox; /dev/shm is small there.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    yield driver
    driver.quit()


def resize(driver, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def choose_scheme(driver, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


@pytest.fixture
def visit(browser):
    """Opens a file at a width, waits until it is drawn, and makes sure that the console has nothing to say."""

    def open_page(path: Path, width: int, scheme: str = "light") -> webdriver.Chrome:
        resize(browser, width)
        choose_scheme(browser, scheme)
        browser.get_log("browser")
        browser.get(path.as_uri())
        WebDriverWait(browser, SECONDS).until(lambda driver: driver.execute_script(DRAWN) is not None)
        assert browser.execute_script("return innerWidth") == width
        assert browser.get_log("browser") == []
        return browser

    return open_page


@pytest.fixture
def file(made_up_report, tmp_path):
    """Writes a report: of a search with one objective, of one with several, or of one that found a single network."""

    def write(name: str) -> Path:
        report = made_up_report()
        complete = [trial for trial in report.history if trial.is_complete]
        if name == "one":
            costs = report.control[0].cost.model_copy(update={"macs": 60 * 10**6})
            nearby = Reference(name="a network nearby", cost=costs, score=91.0)
            # Words as long as a shell permits have to break somewhere.
            command = f"{report.command} --data /{'x' * 300}"
            report = replace(report, references=[*report.references, nearby], command=command)
        elif name == "several":
            turned = [(trial.score.value, -float(trial.cost.macs), -float(trial.cost.num_params)) for trial in complete]
            complete = [replace(trial, objectives=each) for trial, each in zip(complete, turned, strict=True)]
            latencies = {"ms@cpu:batch=8,threads=1": {"predicted_ms": 3.0}}
            report = replace(
                report,
                history=complete,
                control=[],
                objectives=Objectives(names=("accuracy", "macs", "params")),
                finalists=[Finalist(trial=complete[int(at)], latencies=latencies) for at in front(np.array(turned))],
                hypervolume=[(n, float(n) ** 0.5) for n in range(1, len(complete) + 1)],
            )
        else:
            found = [Finalist(trial=complete[0])]
            report = replace(report, history=complete[:1], control=[], finalists=found, references=[], notes=["A tie."])
        write_report(tmp_path / f"{name}.html", report)
        return tmp_path / f"{name}.html"

    return write


EXPECTED = {
    "one": ["selection", "front-macs", "progress"],
    "several": ["front-macs", "front-num_params", "progress", "hypervolume"],
    "single": ["front-macs", "progress"],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_figures_are_drawn_and_nothing_sticks_out_or_is_too_small(file, visit, name):
    driver = visit(file(name), NARROW)
    check_page(driver, NARROW, EXPECTED[name])
    # As if the phone became a desk, which is faster than to load the page again.
    resize(driver, WIDE)
    wait = WebDriverWait(driver, SECONDS)
    wait.until(lambda d: min(figure["svg"] for figure in d.execute_script(FIGURES)) > NARROW)
    check_page(driver, WIDE, EXPECTED[name])
    assert driver.get_log("browser") == []


def check_page(driver, width, names):
    figures = driver.execute_script(FIGURES)
    assert [figure["name"] for figure in figures] == names
    for figure in figures:
        assert figure["traces"] == figure["wanted"] > 0, figure
        assert figure["marks"] > 0, figure
        assert figure["label"], figure
        # The frame of the axes, not the whole figure: most of it has to be left beside ticks and legend.
        assert figure["frame"][0] > 0.6 * figure["width"], figure
        assert figure["frame"][1] > 120, figure
        assert 0 <= figure["left"] < figure["right"] <= width, figure
        assert figure["svg"] <= figure["width"] + 1, figure
    overflow = driver.execute_script("return document.documentElement.scrollWidth")
    assert overflow <= width, f"the page is {overflow} wide"
    pictures = driver.execute_script(
        "return [...document.querySelectorAll('.picture svg')].map((svg) => svg.getBoundingClientRect().height)"
    )
    assert pictures
    assert min(pictures) > 100
    size, text = driver.execute_script(TEXTS)[0]
    assert round(size, 1) >= SMALLEST_TEXT, f"{text!r} is {size} pixels high"


def test_text_stands_out_on_light_and_on_dark_ground_and_figures_follow_the_window(file, visit):
    driver = visit(file("one"), WIDE, "light")
    ground, *contrasts = driver.execute_script(CONTRAST)
    assert ground > 0.5
    assert len(contrasts) > 20
    assert min(contrasts) >= 4.5  # WCAG 2.1, 1.4.3
    wide = driver.execute_script(FIGURES)[0]["svg"]
    resize(driver, NARROW)
    wait = WebDriverWait(driver, SECONDS)
    wait.until(lambda d: d.execute_script(FIGURES)[0]["svg"] <= NARROW < wide)
    fill = "return getComputedStyle(document.querySelector('.xtick text')).fill"
    before = driver.execute_script(fill)
    choose_scheme(driver, "dark")
    wait.until(lambda d: d.execute_script(fill) != before)
    ground, *contrasts = driver.execute_script(CONTRAST)
    assert ground < 0.5
    assert min(contrasts) >= 4.5
    assert driver.get_log("browser") == []


def test_buttons_do_what_they_say(file, visit):
    driver = visit(file("one"), WIDE)
    shown = "return document.getElementById('front-macs')._fullLayout.xaxis.range"
    before = driver.execute_script(shown)
    driver.execute_script("document.querySelector('button[data-plot]').click()")
    wait = WebDriverWait(driver, SECONDS)
    wait.until(lambda d: d.execute_script(shown) != before)
    driver.execute_script("document.querySelector('button[data-copy]').click()")
    wait.until(lambda d: d.execute_script("return document.querySelector('button[data-copy]').textContent") == "Copied")
    assert driver.get_log("browser") == []


def test_tables_can_be_read_without_scripts(file, browser):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(file("one").as_uri())
        text = browser.find_element("tag name", "main").text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert "Drawing it needs JavaScript." in text
    assert "after 6 (%)" in text
    assert "What the good candidates share" in text
