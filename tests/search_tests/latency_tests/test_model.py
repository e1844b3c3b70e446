"""The latency model: a sum over parts, the same for one architecture and for many, and only where it is valid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml

from psvit.arch.costs import cost
from psvit.errors import InputError
from psvit.model import PSViT
from psvit.search.latency.measure import Setting, fingerprint
from psvit.search.latency.model import LatencyModel
from psvit.search.latency.parts import Bench, fresh, part_macs, parts_in, parts_of
from psvit.space.search_space import SearchSpace


@pytest.fixture(params=["tiny", "digits", "mixed"])
def space(request, tiny_space, digits_space):
    """1d with two layouts, 2d, and both in one."""
    return {"tiny": tiny_space, "digits": digits_space, "mixed": mixed_space(tiny_space)}[request.param]


def mixed_space(tiny_space):
    """The layouts of a 1d space in both variants, with heads of two widths, and in 2d behind either stem."""
    one = tiny_space.to_dict()
    common = {key: value for key, value in one.items() if key not in ("variant", "head_dim")}
    layouts = [{"variant": "1d", "head_dim": 4, **layout} for layout in one["layouts"]]
    layouts += [{"variant": "2d", "head_dim": 8, "stem": ["conv", "patch"], **layout} for layout in one["layouts"]]
    return SearchSpace.from_dict({**common, "name": "mixed", "layouts": layouts})


def members(space, n=10**4):
    return [space[i] for i in range(0, space.size, max(1, space.size // n))]


# --- parts


def test_the_parts_of_a_space_are_those_of_its_members(space):
    listed = parts_in(space)
    assert len(set(listed)) == len(listed)
    assert set(listed) == {part for arch in members(space) for part in parts_of(arch, frozenset(space.mixed))}


def test_the_macs_of_parts_add_up_to_the_networks(space):
    for arch in members(space, 200):
        assert sum(part_macs(space, part) for part in parts_of(arch, frozenset(space.mixed))) == cost(arch).macs


def test_every_part_can_be_run_by_itself(space):
    bench = Bench(space, eager=True)
    for part in parts_in(space):
        module, shape, copies = bench.part(part)
        with torch.inference_mode():
            output = module(torch.zeros(2, *shape))
        assert copies >= 2
        if part.kind == "group":
            # One after another, so that the output of one is the input of the next.
            assert output.shape == (2, part.tokens, part.embed_dim)
            assert len(module) == copies
            continue
        assert len(output) == len({id(module) for module in module.parts}) == copies
        expected = (space.num_classes,) if part.kind == "head" else (part.tokens, part.embed_dim)
        assert all(one.shape == (2, *expected) for one in output)


def test_a_group_is_measured_as_deep_as_a_typical_network_but_not_more_expensive():
    space = SearchSpace.load("psvit-2d-nano")
    typical = space.sample(np.random.default_rng(0), 256)
    depth, macs = np.median([arch.depth for arch in typical]), np.median(typical.macs)
    bench = Bench(space, eager=True)
    chains = [(part, bench.part(part)[2]) for part in [one for one in parts_in(space) if one.kind == "group"][::9]]
    for part, copies in chains:
        assert copies * part.length <= depth + part.length or copies == 2
        assert copies * part_macs(space, part) <= macs or copies == 2
    assert max(copies for _, copies in chains) > 5


def test_a_network_with_arbitrary_weights_is_the_architectures(space):
    arch = space.largest
    one, other = fresh(arch), PSViT(arch)
    assert {k: v.shape for k, v in one.state_dict().items()} == {k: v.shape for k, v in other.state_dict().items()}
    assert all(parameter.isfinite().all() for parameter in one.parameters())
    before = torch.get_rng_state()
    fresh(arch)
    assert torch.equal(torch.get_rng_state(), before)


# --- predictions


def test_a_prediction_is_the_calibrated_sum_over_the_parts(tiny_space, made_up_model):
    model = made_up_model(tiny_space)
    ms = {entry.part: entry.ms for entry in model.parts}
    arch = next(arch for arch in members(tiny_space) if len(arch.stages) == 2 and arch.stages[1].groups == (1, 1))
    stem, first, pool, second, again, head = parts_of(arch)
    assert second == again
    assert [part.kind for part in (stem, first, pool, second, head)] == ["stem", "group", "pooling", "group", "head"]
    expected = 0.25 + 1.5 * (ms[stem] + ms[head]) + 0.75 * ms[pool] + 1.0 * ms[first] + 1.125 * (2 * ms[second])
    assert model.predict(arch) == pytest.approx(expected)


def test_many_are_predicted_as_one_by_one(space, made_up_model):
    model = made_up_model(space)
    archs = members(space, 500)
    rows = np.array([space.encode(arch) for arch in archs])
    np.testing.assert_allclose(
        model.predict_all(space.price(rows)), [model.predict(arch) for arch in archs], rtol=1e-12
    )
    assert model.predict_all(space.price(rows[:0])).shape == (0,)


@pytest.mark.parametrize("seed", range(2))
def test_the_reach_is_that_of_all_members(space, made_up_model, seed):
    model = made_up_model(space, seed=seed)
    every = [model.predict(arch) for arch in members(space)]
    assert model.reach(space) == pytest.approx((min(every), max(every)))


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_limits_on_latency_give_limits_on_macs_that_lose_no_member(space, made_up_model, share):
    model = made_up_model(space)
    archs = members(space)
    latency = np.array([model.predict(arch) for arch in archs])
    macs = np.array([cost(arch).macs for arch in archs])
    lower, upper = np.quantile(latency, [share - 0.1, share])
    low, high = model.macs_within(space, lower, upper)
    within = (lower <= latency) & (latency <= upper)
    assert ((low <= macs) & (macs <= high))[within].all()


def test_limits_on_macs_are_tight_where_latency_follows_macs(digits_space, made_up_model):
    model = made_up_model(digits_space)
    parts = [{"part": e.part.to_dict(), "ms": 1e-6 * part_macs(digits_space, e.part) + 1e-9} for e in model.parts]
    plain = {"constant_ms": 0.0, "ends": 1.0, "poolings": 1.0, "groups": [1.0, 1.0]}
    model = LatencyModel.from_dict({**model.to_dict(), "parts": parts, "calibration": plain})
    low, high = model.macs_within(digits_space, 1.0, 1.5)
    assert low == pytest.approx(1_000_000, rel=1e-3)
    assert high == pytest.approx(1_500_000, rel=1e-3)


def test_strangers_are_refused(tiny_space, digits_space, made_up_model):
    model = made_up_model(tiny_space)
    with pytest.raises(ValueError, match="not a member of tiny"):
        model.predict(digits_space.smallest)
    with pytest.raises(ValueError, match="a latency model of tiny"):
        model.predict_all(digits_space.sample(np.random.default_rng(0), 1))


# --- files


def test_a_model_comes_back_from_its_file(space, made_up_model, tmp_path):
    model = made_up_model(space, Setting(batch_size=8, threads=2, precision="bfloat16"))
    model.save(tmp_path / "table.yaml")
    loaded = LatencyModel.load(tmp_path / "table.yaml")
    assert loaded == model
    assert loaded.digest == model.digest
    assert yaml.safe_load((tmp_path / "table.yaml").read_text())["schema"] == "psvit/latency/1"


def test_a_file_that_breaks_a_rule_is_named_with_the_key(tiny_space, made_up_model, tmp_path):
    path = tmp_path / "table.yaml"
    made_up_model(tiny_space).save(path)
    data = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**data, "colour": "blue"}))
    with pytest.raises(InputError, match=r"table.yaml: colour: unknown key; permitted keys: .*calibration"):
        LatencyModel.load(path)
    data["parts"][0]["ms"] = -1
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(InputError, match=r"parts.0.ms: .*greater than 0"):
        LatencyModel.load(path)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"processor": "Abacus"}, "processor: "),
        ({"threads": 99}, "threads: "),
        ({"cores": 99}, "cores: "),
        ({"torch": "1.0", "psvit": "0.0"}, "torch: .*; psvit: "),
        ({"fused_attention": False}, "fused_attention: "),
        ({"runtime": "onnxruntime 1.0"}, "runtime: eager there, onnxruntime 1.0 here"),
    ],
)
def test_a_model_is_refused_elsewhere_with_what_differs(tiny_space, made_up_model, changes, expected):
    model = made_up_model(tiny_space)
    here = fingerprint(Setting())
    model.check(tiny_space, Setting(), here, source="table.yaml")
    with pytest.raises(InputError, match=f"^table.yaml: .*{expected}") as refused:
        model.check(tiny_space, Setting(), type(here)(**{**here.model_dump(), **changes}), source="table.yaml")
    assert str(refused.value).count(" there, ") == len(changes)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda fields: fields["parts"].pop(), "not whole: 21 of 22 parts of tiny, 0 others and factors of 2 of 2"),
        (lambda fields: fields["calibration"]["groups"].pop(), "factors of 1 of 2 stages"),
        (
            lambda fields: fields["parts"][3]["part"].update(embed_dim=999),
            "not whole: 21 of 22 parts of tiny, 1 others",
        ),
        (
            lambda fields: fields["calibration"].update(constant_ms=0.0, ends=0.0, poolings=0.0, groups=[0.0, 0.0]),
            "some network takes no time",
        ),
    ],
)
def test_a_model_that_is_not_whole_is_refused(tiny_space, made_up_model, change, expected):
    """A file that was cut off may still be YAML, with fewer parts."""
    fields = made_up_model(tiny_space).to_dict()
    change(fields)
    model = LatencyModel.from_dict(fields)
    with pytest.raises(InputError, match=f"^table.yaml: .*{expected}"):
        model.check(tiny_space, Setting(), fingerprint(Setting()), source="table.yaml")


def test_a_model_for_other_classes_says_how_to_make_one(tiny_space, made_up_model):
    other = tiny_space.with_data(7, 3)
    with pytest.raises(InputError, match=r"make one here with psvit-latency, with --data where its images have other"):
        made_up_model(tiny_space).check(other, Setting(), fingerprint(Setting()), source="table")


def test_a_model_of_another_space_or_setting_is_refused(tiny_space, digits_space, made_up_model):
    model = made_up_model(tiny_space)
    with pytest.raises(InputError, match="space: tiny there, psvit-2d-digits here; space_digest"):
        model.check(digits_space, Setting(), fingerprint(Setting()), source="table")
    with pytest.raises(InputError, match=r"setting\.batch_size: 1 there, 8 here"):
        model.check(tiny_space, Setting(batch_size=8), fingerprint(Setting()), source="table")
