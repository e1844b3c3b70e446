"""What `benchmarks/versus_baselines.py` computes; `test_scripts.py` runs the script itself."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from xml.etree import ElementTree

import baselines
import numpy as np
import pytest
import versus_baselines as versus
import versus_families
import versus_results
from scipy.stats import ttest_ind

from psvit import Architecture, Budget, SearchSpace, Stage, cost
from psvit.errors import DivergedError, InputError
from psvit.executors.executor import LocalExecutor, Portable
from psvit.space.references import DEIT, HVT, PIT
from psvit.train.job_runner import JobRunner
from psvit.train.recipe import Recipe
from psvit.train.result_store import JournalStore
from psvit.train.training_job import TrainingResult

# --- shapes


@pytest.mark.parametrize(("budget", "depth"), [(10_000_000, 1.0), (20_000_000, 0.5)])
def test_networks_made_by_hand_cost_what_the_budget_says_and_keep_the_papers_proportions(budget, depth):
    space = SearchSpace.load("psvit-2d-nano")
    for proportions in (DEIT, PIT, HVT, baselines.SHARING, baselines.BOTH):
        arch = baselines.fit(proportions, space, budget, depth)
        assert abs(cost(arch).macs / budget - 1) <= 0.02
        assert arch.image_size == space.image_size
        assert (arch.patch_size, arch.num_classes) == (space.patch_size, space.num_classes)
        widths = [stage.embed_dim / arch.stages[0].embed_dim for stage in arch.stages]
        assert tuple(widths) == proportions.widths
        assert {stage.mlp_ratio for stage in arch.stages} == {4.0}
        assert set(arch.pools) == ({proportions.pool} if proportions.pool else set())
        for stage, layers in zip(arch.stages, proportions.depths, strict=True):
            assert depth * layers / 2 <= max(stage.depth, depth * layers) <= max(1, 2 * depth * layers)
        assert max(max(stage.groups) for stage in arch.stages) == baselines.group_of(proportions)
    assert arch == baselines.fit(proportions, space, budget, depth)


def test_families_are_what_their_papers_say():
    space = SearchSpace.load("psvit-2d-nano")
    deit, pit, hvt = (baselines.fit(one, space, 20_000_000, 0.5) for one in (DEIT, PIT, HVT))
    assert (deit.variant, len(deit.stages), set(deit.stages[0].groups)) == ("1d", 1, {1})
    assert (pit.variant, pit.pools, pit.grids) == ("2d", ("conv", "conv"), ((8, 8), (4, 4), (2, 2)))
    assert [stage.embed_dim for stage in pit.stages] == [64, 128, 256]
    assert (hvt.variant, hvt.pools, hvt.grids) == ("1d", ("max", "max"), ((1, 64), (1, 32), (1, 16)))
    assert len({stage.embed_dim for stage in hvt.stages}) == 1


def test_what_sharing_saves_is_spent_on_width():
    space = SearchSpace.load("psvit-2d-nano")
    for alone, shared in ((DEIT, baselines.SHARING), (PIT, baselines.BOTH)):
        without, with_sharing = (baselines.fit(one, space, 20_000_000, 0.5) for one in (alone, shared))
        assert with_sharing.depth == without.depth
        assert with_sharing.stages[0].embed_dim > without.stages[0].embed_dim


def test_no_network_that_departs_less_is_within_the_tolerance():
    """All DeiT-like networks of the range, made and compared one by one."""
    space, budget, aim = SearchSpace.load("psvit-2d-nano"), 10_000_000, 6
    found = baselines.fit(DEIT, space, budget, 0.5)

    def made(layers, heads, head_dim):
        return Architecture(
            **{name: getattr(found, name) for name in ("variant", "image_size", "in_chans", "num_classes")},
            **{name: getattr(found, name) for name in ("patch_size", "patch_stride", "pools")},
            head_dim=head_dim,
            stages=(Stage(embed_dim=heads * head_dim, groups=(1,) * layers, mlp_ratio=4.0),),
        )

    def departure(arch):
        return round(abs(math.log(arch.depth / aim)) + abs(math.log(arch.head_dim / space.layouts[0].head_dim)), 9)

    others = [made(*one) for one in np.ndindex(13, 8, 22) if one[0] >= 3 and one[1] >= 1 and one[2] >= 11]
    within = [arch for arch in others if abs(cost(arch).macs / budget - 1) <= 0.02]
    assert found in within
    best = min(within, key=lambda arch: (departure(arch), abs(cost(arch).macs / budget - 1)))
    assert found == best


def test_a_budget_that_nothing_comes_near_is_refused():
    space = SearchSpace.load("psvit-2d-nano")
    with pytest.raises(InputError, match=r"no PiT-like network of about 6 layers is within 2% of 100000 .*--budget"):
        baselines.fit(PIT, space, 100_000, 0.5)


def test_layers_that_do_not_divide_end_in_a_smaller_group():
    assert baselines.grouped(5, 2) == (2, 2, 1)
    assert baselines.grouped(4, 2) == (2, 2)
    assert baselines.grouped(3, 1) == (1, 1, 1)


@pytest.mark.parametrize("budget", ["5..10MFLOPs", "1Mparams", "5ms@cpu"])
def test_a_budget_is_one_number_of_multiply_accumulates(budget):
    assert versus.around("10MFLOPs") == (10_000_000, "9.8..10.2MFLOPs")
    with pytest.raises(InputError, match="give one number of multiply-accumulates, such as 10MFLOPs"):
        versus.around(budget)


def test_random_networks_are_within_the_budget_and_others_for_every_seed():
    space = SearchSpace.load("psvit-2d-nano")
    budget = Budget.parse("9.8..10.2MFLOPs")
    families = versus.families_of("10MFLOPs", space, space.smallest, [0.5], False)
    drawn = next(one for one in families if one.name == versus_results.RANDOM)
    archs = {drawn.candidates(seed)[0] for seed in range(3)}
    assert len(archs) == 3
    assert all(space.contains(arch) and budget.satisfied_by(cost(arch)) for arch in archs)
    again = versus.families_of("10MFLOPs", space, space.smallest, [0.5], False)
    assert next(one for one in again if one.name == versus_results.RANDOM).candidates(1) == drawn.candidates(1)
    assert next(one for one in families if one.name == versus_results.FOUND).candidates(2) == (space.smallest,)


# --- tuning


@dataclass(frozen=True, kw_only=True)
class Scripted(JobRunner):
    """Trains nothing: the accuracy of a job is looked up, and everything that is asked is written down."""

    value_of: Callable
    asked: list = field(default_factory=list)

    def __call__(self, job):
        self.asked.append(job)
        accuracies = {part: self.value_of(job, part) for part in self.parts}
        if None in accuracies.values():
            raise DivergedError("diverged")
        return TrainingResult(accuracies=accuracies, seconds=2.0)


@pytest.fixture
def plan():
    recipe = Recipe(epochs=1, batch_size=8, lr=0.001)
    return versus.Plan(recipe=recipe, images=None, rates=(0.001, 0.002), drop_paths=(0.0, 0.1), seeds=3)


@pytest.fixture
def family():
    space = SearchSpace.load("psvit-2d-digits")
    return versus_families.Family(name="some", budget="1MFLOPs", candidates=lambda seed: (space[0], space[1]))


@pytest.fixture
def compared(plan, family, tmp_path):
    """Compares the family with made-up accuracies: the results, the comparison, and what was asked for."""

    def make(value_of, folder=tmp_path, **changes):
        about = {"data": Portable(lambda: None), "device": "cpu", "folder": folder / "trainings"}
        runner = Scripted(value_of=value_of, parts=("search", "val"), **about)
        store = JournalStore(folder / "trainings.journal", {}, versus.record)
        comparison = versus.Comparison(runner, LocalExecutor(), store)
        return versus.compare(replace(plan, **changes), [family], comparison), comparison, runner.asked

    return make


def accuracy_of(job, part):
    """Best with the second network, the larger rate and drop path; validation accuracies tell the seeds apart."""
    tuned = 100 * job.recipe.lr + job.recipe.drop_path_rate + (job.arch == SearchSpace.load("psvit-2d-digits")[1])
    return tuned if part == "search" else 50.0 + job.seed


def test_the_best_setting_on_search_images_alone_is_scored_on_validation_images(compared):
    results, comparison, asked = compared(accuracy_of)
    (result,) = results["1MFLOPs"]
    assert result.setting == versus_results.Setting(candidate=1, lr=0.002, drop_path=0.1)
    assert (result.tuning, result.accuracies) == (pytest.approx(1.3), (50.0, 51.0, 52.0))
    assert result.seconds == 2.0
    tuning, final = asked[:8], asked[8:]
    assert {job.seed for job in tuning} == {0}
    assert [job.seed for job in final] == [1, 2]
    assert {(job.recipe.lr, job.recipe.drop_path_rate) for job in final} == {(0.002, 0.1)}
    # The chosen one's training with the first seed is counted once.
    assert comparison.asked == (8 + 2, 2.0 * (8 + 2))


def test_what_is_known_is_not_trained_again_and_more_seeds_and_rates_add_to_it(compared):
    first, *_ = compared(accuracy_of)
    again, _, asked = compared(accuracy_of)
    assert (again, asked) == (first, [])
    _, _, asked = compared(accuracy_of, seeds=4)
    assert [job.seed for job in asked] == [3]
    _, _, asked = compared(accuracy_of, rates=(0.001, 0.002, 0.003))
    assert {job.recipe.lr for job in asked} == {0.003}


def test_trainings_that_fail_are_passed_over_and_tried_again(compared, tmp_path):
    results, comparison, _ = compared(lambda job, part: None if job.recipe.lr == 0.002 else accuracy_of(job, part))
    assert results["1MFLOPs"][0].setting.lr == 0.001
    assert set(comparison.failures.values()) == {"diverged"}
    results, *_ = compared(accuracy_of)
    assert results["1MFLOPs"][0].setting.lr == 0.002
    with pytest.raises(versus.RunError, match="some, 1MFLOPs: no setting could be trained: diverged"):
        compared(lambda job, part: None, tmp_path / "none")


def test_equal_accuracies_choose_the_earlier_setting():
    assert versus.tuned(["a", "b", "c"], [1.0, 2.0, 2.0]) == "b"
    assert versus.tuned(["a", "b"], [None, 0.0]) == "b"
    assert versus.tuned(["a"], [None]) is None


# --- results


def test_intervals_of_differences_are_welchs():
    one, other = [61.0, 62.5, 60.5], [58.0, 58.2, 59.1, 57.0]
    apart, interval = versus_results.difference(one, other)
    reference = ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    assert apart == pytest.approx(np.mean(one) - np.mean(other))
    assert interval == pytest.approx((reference.low, reference.high))
    assert versus_results.difference([1.0], [2.0, 3.0]) == (-1.5, None)
    assert versus_results.difference([1.0, 1.0], [2.0, 2.0]) == (-1.0, None)


def result_of(name, *accuracies):
    setting = versus_results.Setting(candidate=0, lr=0.001, drop_path=0.1)
    arch = SearchSpace.load("psvit-2d-digits")[0]
    return versus_results.Result(
        name=name, archs=(arch,), setting=setting, tuning=50.0, accuracies=accuracies, seconds=90.0
    )


@pytest.fixture
def several():
    accuracies = {
        "DeiT-like": (50.0, 51.0, 52.0),
        "PiT-like": (56.0, 57.0, 58.0),
        "HVT-like": (54.0, 55.0, 56.0),
        "sharing only": (51.0, 52.0, 53.0),
        "pooling and sharing": (59.0, 60.0, 61.0),
        versus_results.RANDOM: (55.0, 57.0, 56.0),
        versus_results.FOUND: (58.0, 59.0, 60.0),
    }
    return [result_of(name, *values) for name, values in accuracies.items()]


def test_the_verdict_is_against_deit_and_against_the_best_of_the_others(several):
    text = versus_results.verdict(several)
    assert "6.6 points above DeiT-like were wanted: reached (+8.00)" in text
    assert "the best of the others, PiT-like, than the seeds' spread was wanted: reached (+2.00," in text
    worse = [*several[:-1], result_of(versus_results.FOUND, 57.0, 57.5, 58.5)]
    text = versus_results.verdict(worse)
    assert "wanted: reached (+6.67)" in text
    assert "wanted: missed (+0.67, the larger standard deviation of the two is 1.00)" in text


def test_tables_show_means_spreads_and_differences(several):
    rows = versus_results.families_table(several).splitlines()
    assert rows[1] == "|---|---|---|---|---|---|---|---|---|---|---|"
    assert rows[2].startswith("| pooling and sharing |")
    price = cost(several[0].archs[0])
    deit = next(row for row in rows if row.startswith("| DeiT-like"))
    assert f"| {price.macs / 1e6:.4g} M |" in deit
    assert deit.endswith("| patch | 0.001 | 0.1 | 50.00 | 51.00 ± 1.00 | 3 | 90 s |")
    rows = versus_results.differences_table(several, versus_results.FOUND, ["DeiT-like"]).splitlines()
    low, high = versus_results.difference((58.0, 59.0, 60.0), (50.0, 51.0, 52.0))[1]
    assert rows[2] == f"| DeiT-like | +8.00 | {low:+.2f} to {high:+.2f} |"
    text = versus_results.ablation_table(several)
    assert "| sharing only |" in text
    assert "| +9.00 | " in next(row for row in text.splitlines() if row.startswith("| both |"))
    assert text.endswith("Together they do +2.00 points more than the sum of what each does alone.\n")


@pytest.mark.parametrize(
    ("seconds", "told"), [(12, "12 s"), (599, "599 s"), (600, "10 min"), (35_999, "600 min"), (36_000, "10 h")]
)
def test_times_are_told_in_whole_units(seconds, told):
    assert versus_results.duration(seconds) == told


def test_the_picture_has_every_mean_and_its_error_bar_where_it_belongs(several):
    root = ElementTree.fromstring(versus_results.picture({"1MFLOPs": several}, "data/some"))
    names = {"svg": "http://www.w3.org/2000/svg"}
    drawn = root.findall(".//svg:g[@data-series]", names)
    assert [one.get("data-series") for one in drawn] == [one.name for one in several]
    marks = {one.get("data-series"): one.find("*[svg:title]", names) for one in drawn}
    height = {
        name: float(mark.get("cy") or float(mark.get("y")) + float(mark.get("height")) / 2)
        for name, mark in marks.items()
    }
    means = {one.name: one.mean for one in several}
    assert sorted(height, key=lambda name: -height[name]) == sorted(means, key=lambda name: means[name])
    assert marks["DeiT-like"].find("svg:title", names).text.startswith("DeiT-like: 51.00 ± 1.00 at ")
    # One point upwards is as long as half an error bar of one point.
    point = (height["DeiT-like"] - height["pooling and sharing"]) / 9
    ends = drawn[0].find("svg:path", names).get("d").split()
    assert abs(float(ends[2]) - float(ends[5])) == pytest.approx(2 * point, abs=0.3)


@pytest.mark.parametrize(("least", "most"), [(0.49, 0.51), (9.0, 22.0), (50.0, 50.0), (-3.0, 4.0), (1e-4, 3e-4)])
def test_ticks_are_round_even_and_enclose(least, most):
    from error_bars import ticks

    found = ticks(least, most)
    steps = np.diff(found)
    assert found[0] <= least + 1e-9
    assert found[-1] >= most - 1e-9
    assert 2 <= len(found) <= 9
    assert steps == pytest.approx([steps[0]] * len(steps))
    assert round(float(f"{steps[0]:.3e}".split("e")[0]), 3) in (1, 2, 5)


def test_networks_made_by_hand_may_have_either_stem():
    space = SearchSpace.load("psvit-2d-nano")
    for ablation, number in ((False, 3), (True, 5)):
        families = versus.families_of("10MFLOPs", space, space.smallest, [0.5], ablation)
        by_hand = families[:-2]
        assert len(by_hand) == number
        assert all([arch.stem for arch in one.candidates(0)] == ["patch", "conv"] for one in by_hand)
        assert all(abs(cost(arch).macs / 1e7 - 1) <= 0.02 for one in by_hand for arch in one.candidates(0))
