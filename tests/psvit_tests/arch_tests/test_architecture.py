"""Architectures as values: their rules, their files, and what a reader is told who mistypes something."""

from __future__ import annotations

import json
import math
import re
from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from psvit.arch.architecture import Architecture, ArchitectureFile, Stage
from psvit.arch.costs import cost
from psvit.errors import InputError

PLAIN = {
    "variant": "2d",
    "image_size": [16, 16],
    "in_chans": 3,
    "num_classes": 10,
    "patch_size": 4,
    "patch_stride": 4,
    "head_dim": 8,
    "stages": [
        {"embed_dim": 16, "groups": [2, 1], "mlp_ratio": 2.0},
        {"embed_dim": 24, "groups": [1], "mlp_ratio": 1.5},
    ],
    "pools": ["max"],
}


def changed(**changes) -> dict:
    """`PLAIN` with some values replaced; `stages__1__groups=[3]` reaches inside."""
    data = json.loads(json.dumps(PLAIN))
    for key, value in changes.items():
        *path, last = (int(part) if part.isdigit() else part for part in key.split("__"))
        place = data
        for part in path:
            place = place[part]
        place[last] = value
    return data


def write(path: Path, arch: object = PLAIN, **sections) -> Path:
    path.write_text(yaml.safe_dump({"schema": "psvit/architecture/1", "arch": arch, **sections}))
    return path


@st.composite
def architectures(draw) -> Architecture:
    head_dim = draw(st.integers(1, 8))
    widths = sorted(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    patch_size = draw(st.integers(1, 4))
    patch_stride = draw(st.integers(1, patch_size))
    # Grids of 3 patches a side and more leave two tokens or more before each of two poolings.
    sides = [(draw(st.integers(3, 9)) - 1) * patch_stride + patch_size for _ in range(2)]
    stages = tuple(
        Stage(
            embed_dim=head_dim * heads,
            groups=tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))),
            mlp_ratio=draw(st.sampled_from([1.0, 2.0, 3.0, 4.0])),
        )
        for heads in widths
    )
    return Architecture(
        variant=draw(st.sampled_from(["1d", "2d"])),
        image_size=tuple(sides),
        in_chans=draw(st.integers(1, 4)),
        num_classes=draw(st.integers(0, 1000)),
        stem=draw(st.sampled_from(["patch", "conv"] if patch_stride == patch_size else ["patch"])),
        patch_size=patch_size,
        patch_stride=patch_stride,
        head_dim=head_dim,
        stages=stages,
        pools=tuple(draw(st.sampled_from(["max", "avg", "conv"])) for _ in stages[1:]),
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("abc é:"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=5,
)
sections = st.dictionaries(st.text("abc", min_size=1), json_values, max_size=3)


# --- round trips


@given(architectures())
def test_dict_round_trip(arch):
    data = arch.to_dict()
    assert Architecture.from_dict(data) == arch
    # timm keeps it in a JSON file.
    assert Architecture.from_dict(json.loads(json.dumps(data))) == arch
    assert Architecture.from_dict(data).digest == arch.digest


@settings(max_examples=30)
@given(architectures(), sections, sections, sections, st.lists(st.text("12GM."), max_size=2))
def test_file_round_trip(tmp_path_factory, arch, score, latency, provenance, budget):
    path = tmp_path_factory.mktemp("round") / "arch.yaml"
    document = ArchitectureFile(arch=arch, score=score, latency=latency, budget=tuple(budget), provenance=provenance)
    document.save(path)
    assert ArchitectureFile.load(path) == document
    assert Architecture.load(path) == arch


def test_a_saved_architecture_says_its_cost_and_what_a_flop_is(tmp_path):
    Architecture.from_dict(PLAIN).save(tmp_path / "arch.yaml")
    data = yaml.safe_load((tmp_path / "arch.yaml").read_text())
    # Sections about which nothing is known are left out.
    assert list(data) == ["schema", "arch", "cost"]
    assert data["schema"] == "psvit/architecture/1"
    assert data["arch"] == PLAIN
    assert list(data["cost"]) == ["macs", "num_params", "activation_bytes", "convention"]
    assert "multiply-accumulates" in data["cost"]["convention"]


def test_files_without_a_cost_or_with_a_part_of_it_are_read(tmp_path):
    arch = Architecture.from_dict(PLAIN)
    arch.save(tmp_path / "arch.yaml")
    macs = yaml.safe_load((tmp_path / "arch.yaml").read_text())["cost"]["macs"]
    assert Architecture.load(write(tmp_path / "a.yaml")) == arch
    assert Architecture.load(write(tmp_path / "b.yaml", cost={"macs": macs})) == arch


@pytest.mark.parametrize(("name", "width", "heads"), [("tiny", 192, 3), ("small", 384, 6), ("base", 768, 12)])
def test_the_shipped_deits_are_deits(name, width, heads):
    arch = Architecture.load(Path(str(files("psvit.configs"))) / "archs" / f"deit-{name}.yaml")
    assert arch == Architecture(
        variant="1d",
        image_size=(224, 224),
        in_chans=3,
        num_classes=1000,
        patch_size=16,
        patch_stride=16,
        head_dim=width // heads,
        stages=(Stage(embed_dim=width, groups=(1,) * 12, mlp_ratio=4),),
        pools=(),
    )


# --- what follows from a description


def test_depth_and_hidden_width():
    arch = Architecture.from_dict(PLAIN)
    assert [stage.depth for stage in arch.stages] == [3, 1]
    assert arch.depth == 4
    assert [stage.hidden_dim for stage in arch.stages] == [32, 36]


@pytest.mark.parametrize(
    ("variant", "image_size", "patch_size", "patch_stride", "grids"),
    [
        ("1d", [224, 224], 16, 16, [(1, 196), (1, 98), (1, 49)]),
        ("2d", [224, 224], 16, 16, [(14, 14), (7, 7), (4, 4)]),
        ("2d", [10, 26], 2, 2, [(5, 13), (3, 7), (2, 4)]),
        ("1d", [10, 26], 2, 2, [(1, 65), (1, 33), (1, 17)]),
        # Overlapping patches.
        ("2d", [12, 8], 4, 2, [(5, 3), (3, 2), (2, 1)]),
        ("2d", [4, 12], 4, 2, [(1, 5), (1, 3), (1, 2)]),
    ],
)
def test_grids_halve_upwards(variant, image_size, patch_size, patch_stride, grids):
    stages = [{"embed_dim": 16, "groups": [1], "mlp_ratio": 2.0}] * 3
    arch = Architecture.from_dict(
        changed(
            variant=variant,
            image_size=image_size,
            patch_size=patch_size,
            patch_stride=patch_stride,
            stages=stages,
            pools=["max", "avg"],
        )
    )
    assert list(arch.grids) == grids


@given(architectures())
def test_every_pooling_finds_two_tokens_and_more_and_leaves_half(arch):
    tokens = [math.prod(grid) for grid in arch.grids]
    assert all(before >= 2 for before in tokens[:-1])
    for (rows, columns), (fewer_rows, fewer_columns) in zip(arch.grids, arch.grids[1:], strict=False):
        assert fewer_columns == math.ceil(columns / 2)
        assert fewer_rows == math.ceil(rows / 2)


# --- rules

IMPOSSIBLE = [
    (changed(variant="3d"), "variant", "'1d' or '2d'"),
    (changed(pools=["none"]), "pools.0", "'max', 'avg' or 'conv'"),
    (changed(pools=[]), "", "pools must be one fewer than stages, received 0 pools, 2 stages"),
    (changed(pools=["max", "max"]), "", "pools must be one fewer than stages, received 2 pools, 2 stages"),
    (changed(stages=[], pools=[]), "stages", "at least 1"),
    (changed(stages__0__groups=[]), "stages.0.groups", "at least 1"),
    (changed(stages__0__groups=[2, 0]), "stages.0.groups.1", "greater than 0"),
    (changed(stages__0__embed_dim=20), "", "embed_dim must be a multiple of head_dim 8, received 20"),
    (changed(stages__1__embed_dim=8), "", "embed_dim must not shrink from stage to stage, received [16, 8]"),
    (changed(stages__1__mlp_ratio=1.3), "stages.1", "embed_dim * mlp_ratio must be a whole number, received 24 * 1.3"),
    (changed(stages__1__mlp_ratio=0.0), "stages.1.mlp_ratio", "greater than 0"),
    (changed(image_size=[16, 3]), "", "image_size must be at least patch_size 4, received [16, 3]"),
    (changed(image_size=[16, 18]), "", "must cover the image exactly, received image_size [16, 18]"),
    (changed(image_size=[4, 4]), "", "a pooling needs 2 tokens or more, but 2 stages leave it 1"),
    (changed(patch_stride=5), "", "patch_stride must be at most patch_size 4"),
    (changed(image_size=[4, 4], patch_stride=2), "", "equal to it for a single patch, received 2"),
    (changed(stem="none"), "stem", "'patch' or 'conv'"),
    (changed(stem="conv", patch_stride=2), "", "patch_stride must equal patch_size 4 for a conv stem, received 2"),
    (
        changed(stem="conv", image_size=[20, 20], patch_size=5, patch_stride=5),
        "",
        "patch_size must be a product of at most 5 factors 2 and 3 for a conv stem",
    ),
    (changed(image_size=[16]), "image_size.1", "required"),
    (changed(image_size=[16, 16, 16]), "image_size", "at most 2"),
    (changed(in_chans=0), "in_chans", "greater than 0"),
    (changed(num_classes=-1), "num_classes", "greater than or equal to 0"),
    (changed(patch_stride=0), "patch_stride", "greater than 0"),
    (changed(head_dim=-8), "head_dim", "greater than 0"),
    # Beyond what can be counted or built.
    (
        changed(stages__0__embed_dim=16 * 10**9),
        "stages.0.embed_dim",
        "less than or equal to 16384, received 16000000000",
    ),
    (changed(stages__0__groups=[10**9]), "stages.0.groups.0", "less than or equal to 64"),
    (changed(stages__0__groups=[1] * 65), "stages.0.groups", "at most 64"),
    (changed(stages__0__groups=[60, 10]), "stages.0", "groups must hold at most 64 layers in all, received 70"),
    (changed(stages__0__mlp_ratio=1e6), "stages.0.mlp_ratio", "less than or equal to 64"),
    (changed(image_size=[10**6, 16]), "image_size.0", "less than or equal to 4096"),
    (changed(patch_size=10**9), "patch_size", "less than or equal to 4096"),
    (changed(in_chans=10**9), "in_chans", "less than or equal to 4096"),
    (changed(num_classes=10**12), "num_classes", "less than or equal to 10000000"),
]
WRONG_TYPES = [
    (changed(in_chans="3"), "in_chans", 'valid integer, received "3"'),
    (changed(in_chans=3.0), "in_chans", "valid integer, received 3.0"),
    (changed(in_chans=True), "in_chans", "valid integer, received true"),
    (changed(num_classes=None), "num_classes", "valid integer, received null"),
    (changed(stages__0__groups=3), "stages.0.groups", "valid array, received 3"),
    (changed(stages__0__mlp_ratio="2"), "stages.0.mlp_ratio", 'valid number, received "2"'),
    (changed(stages__0=[16, [1], 2]), "stages.0", "object, received [16, [1], 2]"),
    ([1, 2], "", "object, received [1, 2]"),
]
TOP_KEYS = "schema, cost, arch, verdict, score, latency, budget, provenance"
ARCH_KEYS = "variant, image_size, in_chans, num_classes, stem, patch_size, patch_stride, head_dim, stages, pools"
STAGE_KEYS = "embed_dim, groups, mlp_ratio"
UNKNOWN_KEYS = [
    (changed(patchsize=16), "patchsize", f"unknown key; permitted keys: {ARCH_KEYS}"),
    (changed(stages__1__heads=3), "stages.1.heads", f"unknown key; permitted keys: {STAGE_KEYS}"),
]


@pytest.mark.parametrize(("data", "key", "message"), IMPOSSIBLE + WRONG_TYPES + UNKNOWN_KEYS)
def test_a_file_that_breaks_a_rule_is_answered_with_file_key_and_rule(tmp_path, data, key, message):
    path = write(tmp_path / "arch.yaml", data)
    with pytest.raises(InputError) as error:
        Architecture.load(path)
    text = str(error.value)
    place = f"{path}: arch.{key}: " if key else f"{path}: arch: "
    assert text.startswith(place)
    assert message in text
    assert "\n" not in text


@pytest.mark.parametrize("data", [data for data, _, _ in IMPOSSIBLE])
def test_the_same_rules_hold_for_dicts(data):
    with pytest.raises(InputError):
        Architecture.from_dict(data)


def test_rules_hold_for_callers():
    with pytest.raises(ValidationError, match="must be a whole number"):
        Stage(embed_dim=24, groups=(1,), mlp_ratio=1.3)
    fields = dict(Architecture.from_dict(PLAIN))
    with pytest.raises(ValidationError, match="multiple of head_dim"):
        Architecture(**{**fields, "head_dim": 7})


def test_a_missing_key_is_named(tmp_path):
    data = changed()
    del data["stages"][1]["mlp_ratio"]
    with pytest.raises(InputError, match=r"arch.yaml: arch.stages.1.mlp_ratio: Field required$"):
        Architecture.load(write(tmp_path / "arch.yaml", data))


def test_neighbouring_numbers_do_not_name_one_hidden_width():
    # Rounded to double precision, 192 times either is 256: were both accepted, one network had two descriptions.
    accepted = []
    for mlp_ratio in (math.nextafter(4 / 3, 0), 4 / 3, math.nextafter(4 / 3, 2)):
        try:
            accepted.append(Stage(embed_dim=192, groups=(1,), mlp_ratio=mlp_ratio).hidden_dim)
        except ValidationError:
            continue
    assert accepted == [256]


# --- other sections


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("scores: {}", f"scores: unknown key; permitted keys: {TOP_KEYS}"),
        ("1: a", f"1: unknown key; permitted keys: {TOP_KEYS}"),
        # Keys of different types cannot be compared with one another.
        ("1: a\nscores: {}", f"unknown key; permitted keys: {TOP_KEYS}"),
        ('"two\\nlines": {}', f"unknown key; permitted keys: {TOP_KEYS}"),
        ("score: 3", "score: Input should be an object, received 3"),
        ("score: {day: !!timestamp 2024-01-01}", "not JSON serializable"),
        ("budget: 2GFLOPs", 'budget: Input should be a valid array, received "2GFLOPs"'),
        ("budget: [2]", "budget.0: Input should be a valid string, received 2"),
    ],
)
def test_other_sections_are_checked(tmp_path, extra, message):
    path = write(tmp_path / "arch.yaml")
    path.write_text(f"{path.read_text()}{extra}\n")
    with pytest.raises(InputError) as error:
        ArchitectureFile.load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"macs": 1}, r"cost\.macs: recorded 1, but this architecture costs \d+.*delete the section 'cost'"),
        ({"num_params": 12.5}, r"cost\.num_params: recorded 12.5, but this architecture costs \d+"),
        ({"flops": 1}, r"cost\.flops: unknown key; permitted keys: macs, num_params, activation_bytes, convention"),
    ],
)
def test_a_tampered_cost_is_refused(tmp_path, edit, message):
    path = tmp_path / "arch.yaml"
    Architecture.from_dict(PLAIN).save(path)
    data = yaml.safe_load(path.read_text())
    data["cost"].update(edit)
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: {message}") as error:
        ArchitectureFile.load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("recorded", [{}, {"macs": 3, "num_params": 4}, {"activation_bytes": 1}])
def test_a_file_from_before_activation_memory_was_known_is_read(tmp_path, recorded):
    # What is alive at once depends on the code that runs the network too, so a file that says otherwise is not wrong.
    arch = Architecture.from_dict(PLAIN)
    known = {name: getattr(cost(arch), name) for name in recorded if name != "activation_bytes"}
    assert Architecture.load(write(tmp_path / "arch.yaml", cost={**recorded, **known})) == arch


def test_an_architecture_edited_under_its_cost_is_refused(tmp_path):
    path = tmp_path / "arch.yaml"
    Architecture.from_dict(PLAIN).save(path)
    path.write_text(path.read_text().replace("groups: [2, 1]", "groups: [1, 1, 1]"))
    with pytest.raises(InputError, match=r"cost\.macs: recorded"):
        Architecture.load(path)


@pytest.mark.parametrize("recorded", [5, [1, 2], "cheap"])
def test_a_cost_that_is_no_mapping_is_refused(tmp_path, recorded):
    keys = "macs, num_params, activation_bytes, convention"
    with pytest.raises(InputError, match=rf"arch.yaml: cost: expected a mapping of {keys}"):
        Architecture.load(write(tmp_path / "arch.yaml", cost=recorded))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        ("schema: psvit/architecture/1\n", "arch: Field required"),
        ("schema: psvit/space/1\n", "schema: expected 'psvit/architecture/1', found 'psvit/space/1'"),
        ("schema: [\n", "not valid YAML"),
        ("%PDF-1.7 \x00", "not valid YAML"),
        ("schema: psvit/architecture/1\narch: {variant: 1d, variant: 2d}\n", "key given twice: variant"),
        # A list that contains itself.
        ("schema: psvit/architecture/1\narch: &a [*a]\n", ""),
    ],
)
def test_a_file_that_holds_no_architecture_is_named(tmp_path, content, message):
    path = tmp_path / "arch.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError) as error:
        Architecture.load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
