"""The report of a retraining in a real Chromium, without a network: readable on desk and phone, light and dark."""

from __future__ import annotations

import pytest

WIDE, NARROW = 1280, 375
SMALLEST_TEXT = 12.0
"""Pixels."""

OUTSIDE = """
return [...document.querySelectorAll("main *")].filter((element) => {
  const box = element.getBoundingClientRect();
  return box.width && (box.left < 0 || box.right > innerWidth) && !element.closest(".scroll, pre, svg");
}).map((element) => element.outerHTML.slice(0, 120));
"""

IMAGES = """
return [...document.querySelectorAll(".mistakes img")].map((image) => ({
  complete: image.complete && image.naturalWidth > 0, width: image.width, height: image.height,
  rendering: getComputedStyle(image).imageRendering,
}));
"""

CELLS = """
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const ground = getComputedStyle(document.body).backgroundColor;
const light = (...colors) => {
  for (const color of colors) { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); }
  const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((c) => {
    c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
return [...document.querySelectorAll(".matrix td.right, .matrix td.wrong")].map((cell) => {
  const style = getComputedStyle(cell);
  const below = light(ground, style.backgroundColor), own = light(style.color);
  return (Math.max(own, below) + 0.05) / (Math.min(own, below) + 0.05);
});
"""


@pytest.fixture
def file(made_up_data, made_up_predictions, page_of, tmp_path):
    """Writes a report on so many classes."""

    def write(classes: int, right: float = 0.7, **options):
        data = made_up_data([f"{'long ' * (number % 5)}name {number}" for number in range(classes)], **options)
        command_of = tmp_path / ("x" * 200)
        document = page_of(data, made_up_predictions(data, right), folder=command_of, losses=[3.0, 2.0, 1.5, 1.4])
        (tmp_path / f"{classes}.html").write_text(document)
        return tmp_path / f"{classes}.html"

    return write


@pytest.mark.parametrize(
    ("classes", "options"), [(10, {"size": (28, 28)}), (30, {"size": (96, 64), "in_chans": 3}), (200, {})]
)
def test_nothing_sticks_out_or_is_too_small(file, visit, classes, options):
    for width in (NARROW, WIDE):
        driver = visit(file(classes, **options), width)
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        assert driver.execute_script(OUTSIDE) == []
        size, text = visit.smallest_text()
        assert round(size, 1) >= SMALLEST_TEXT, f"{text!r} is {size} pixels high"
        images = driver.execute_script(IMAGES)
        assert len(images) == 24
        for image in images:
            assert image["complete"]
            assert 80 <= max(image["width"], image["height"]) <= 96
            assert image["rendering"] == ("pixelated" if options.get("size") != (96, 64) else "auto")
        curve = driver.execute_script("return document.querySelector('.curve .line').getBoundingClientRect().toJSON()")
        assert curve["width"] > 0.6 * min(width, 736)
        assert curve["height"] > 100


def test_a_wide_matrix_scrolls_in_a_box_of_its_own_and_keeps_the_names_of_classes(file, visit):
    driver = visit(file(30), NARROW)
    left = """
    const box = document.querySelector(".matrix").closest(".scroll");
    box.scrollLeft = 10000;
    const name = box.querySelector("tbody th").getBoundingClientRect();
    return [box.scrollLeft, name.left - box.getBoundingClientRect().left];
    """
    scrolled, name = driver.execute_script(left)
    assert scrolled > 300
    assert abs(name) < 1


def test_text_stands_out_in_light_and_dark(file, visit):
    path = file(10, right=0.2)
    grounds = []
    for scheme in ("light", "dark"):
        driver = visit(path, WIDE, scheme)
        ground, contrasts = visit.contrasts()
        grounds.append(ground)
        assert len(contrasts) > 10
        assert min(contrasts) >= 4.5  # WCAG 2.1, 1.4.3
        cells = driver.execute_script(CELLS)
        assert len(cells) > 50
        assert min(cells) >= 4.5
    assert grounds[0] > 0.5 > grounds[1]


def test_the_button_copies_the_command(file, visit):
    driver = visit(file(3), WIDE)
    driver.execute_script("document.querySelector('button[data-copy]').click()")
    copied = "return document.querySelector('button[data-copy]').textContent"
    for _ in range(100):
        if driver.execute_script(copied) == "Copied":
            break
    assert driver.execute_script(copied) == "Copied"
    assert driver.get_log("browser") == []
