"""docs/spaces.md: its example is a space, and says of it and of the keys what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from psvit.io.shipped import find
from psvit.space.budget import format_cost
from psvit.space.search_space import Layout, SearchSpace, StageChoices

PAGE = (Path(__file__).resolve().parents[3] / "docs/spaces.md").read_text()


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    path = tmp_path_factory.mktemp("spaces") / "mine-48.yaml"
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    path.write_text(text)
    return SearchSpace.load(path)


def test_the_example_holds_what_the_page_says(example):
    assert example.image_size == (48, 48)
    ends = [" to ".join(format_cost(metric, end) for end in example.reach(metric)) for metric in ("macs", "num_params")]
    said = f"holds {example.size:,} architectures of {ends[0]} and {ends[1]}."
    assert said in " ".join(PAGE.split())


def test_the_example_holds_networks_of_every_kind_that_the_page_names(example):
    grids = {(arch.variant, arch.grids) for arch in (example[number] for number in range(0, example.size, 97))}
    assert grids == {
        ("1d", ((1, 144),)),
        ("2d", ((12, 12), (6, 6))),
        ("2d", ((12, 12), (6, 6), (3, 3))),
    }


def test_every_key_is_explained():
    file, layout, stage = (
        set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (.*?) \|", part, re.MULTILINE))))
        for part in PAGE.split("### Keys of ")[1:]
    )
    assert file == {"schema", *SearchSpace.file_keys()}
    assert layout == {*Layout.model_fields}
    assert stage == {*StageChoices.model_fields}
    # A shipped file has no other keys.
    found = set(re.findall(r"(\w+):", re.sub(r"#.*", "", find("space", "psvit-nano").read_text())))
    assert found <= file | layout | stage
