"""The report in a real Chromium, without a network: no errors, all figures drawn, readable on a desk and on a phone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver.support.ui import WebDriverWait

from psvit.search.objectives import Objectives
from psvit.search.pareto import front
from psvit.search.report.document import write_report
from psvit.search.report.references import Reference
from psvit.search.selection.finalist import Finalist

WIDE, NARROW = 1280, 375
SMALLEST_TEXT = 12.0
"""Pixels."""

SECONDS = 60
"""Until something has to be drawn anew, on a machine that is busy with other tests."""

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
    traces: plot.querySelectorAll(".scatterlayer .trace").length, wanted: plot.data.length,
    marks: marks.filter((mark) => mark.width + mark.height > 0).length,
    label: plot.getAttribute("aria-label"),
  };
});
"""


PICTURES = """
return [...document.querySelectorAll(".picture")].filter((picture) => picture.offsetParent).map(
  (picture) => [picture.scrollWidth - picture.clientWidth, picture.querySelector("svg").getBoundingClientRect().width]);
"""


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
    check_page(visit, NARROW, EXPECTED[name])
    narrow = driver.execute_script(PICTURES)
    assert narrow
    assert all(beyond <= 0 for beyond, _ in narrow), "a picture has to be scrolled sideways"
    # As if the phone became a desk, which is faster than to load the page again.
    visit.resize(WIDE)
    wait = WebDriverWait(driver, SECONDS)
    wait.until(lambda d: min(figure["svg"] for figure in d.execute_script(FIGURES)) > NARROW)
    check_page(visit, WIDE, EXPECTED[name])
    assert driver.get_log("browser") == []


def check_page(visit, width, names):
    driver = visit.driver
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
        "return [...document.querySelectorAll('.picture')].filter((picture) => picture.offsetParent)"
        ".map((picture) => picture.querySelector('svg').getBoundingClientRect().height)"
    )
    assert pictures
    assert min(pictures) > 100
    size, text = visit.smallest_text()
    assert round(size, 1) >= SMALLEST_TEXT, f"{text!r} is {size} pixels high"


def test_text_stands_out_on_light_and_on_dark_ground_and_figures_follow_the_window(file, visit):
    driver = visit(file("one"), WIDE, "light")
    ground, contrasts = visit.contrasts()
    assert ground > 0.5
    assert len(contrasts) > 20
    assert min(contrasts) >= 4.5  # WCAG 2.1, 1.4.3
    wide = driver.execute_script(FIGURES)[0]["svg"]
    visit.resize(NARROW)
    wait = WebDriverWait(driver, SECONDS)
    wait.until(lambda d: d.execute_script(FIGURES)[0]["svg"] <= NARROW < wide)
    fill = "return getComputedStyle(document.querySelector('.xtick text')).fill"
    before = driver.execute_script(fill)
    visit.choose_scheme("dark")
    wait.until(lambda d: d.execute_script(fill) != before)
    ground, contrasts = visit.contrasts()
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


def test_tables_can_be_read_without_scripts(file, visit):
    browser = visit.driver
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(file("one").as_uri())
        text = browser.find_element("tag name", "main").text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert "Drawing it needs JavaScript." in text
    assert "after 6 epochs (%)" in text
    assert "What the good candidates share" in text


def test_a_browser_that_unpacks_nothing_says_what_the_figures_show(file, visit):
    browser = visit.driver
    old = {"source": "delete window.DecompressionStream"}
    added = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", old)
    try:
        browser.get(file("single").as_uri())
        plots = "return [...document.querySelectorAll('.plot')].map((plot) => plot.textContent)"
        WebDriverWait(browser, SECONDS).until(lambda d: all(d.execute_script(plots)))
        texts = browser.execute_script(plots)
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
    assert len(texts) == len(EXPECTED["single"])
    assert all(text.endswith("Drawing it needs a browser of 2023 or later.") for text in texts)
