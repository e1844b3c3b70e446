"""The report: what it says, that it says nothing else, that it loads nothing, and that odd searches have one too."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import re
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml

from psvit.arch.architecture import Architecture
from psvit.arch.costs import cost
from psvit.errors import InputError
from psvit.report import chart
from psvit.report.formatting import in_words
from psvit.search.objectives import Objective, Objectives
from psvit.search.pareto import front
from psvit.search.report.best_of_draws import best_of_draws
from psvit.search.report.document import render, write_report
from psvit.search.report.figures import best_so_far
from psvit.search.report.references import Reference, deit_references
from psvit.search.report.selection import look_cells
from psvit.search.report.shared_choices import Group, shared_choices
from psvit.search.selection.finalist import Finalist, Look
from psvit.search.selection.verdict import Verdict
from psvit.search.trial import Score, Trial
from psvit.space.budget import Budget
from psvit.space.search_space import SearchSpace

MOST_BYTES = 1_500_000

HOSTILE = "</script><img src=x onerror=alert(1)>&amp;\"'"

IN_THREE = Objectives(names=("accuracy", "params", "latency"), others=(Objective("latency", lambda arch: 1.0),))


class Page(HTMLParser):
    """What a test looks at in a report: elements, figures, and text outside scripts and styles."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.figures: dict[str, dict] = {}
        self.scripts: list[str] = []
        self._figure: str | None = None
        self._silent: str | None = None
        self._words: list[str] = []
        self.feed(document)
        self.text = " ".join(" ".join(self._words).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._silent, self._figure = tag, dict(attrs).get("data-figure")

    def handle_endtag(self, tag):
        if tag == self._silent:
            self._silent = None

    def handle_data(self, data):
        if self._silent is None:
            self._words.append(data)
        elif self._figure:
            self.figures[self._figure] = json.loads(gzip.decompress(base64.b64decode(data)))
        elif self._silent == "script":
            self.scripts.append(data)

    def traces(self, figure):
        return {trace.get("name"): trace for trace in self.figures[figure]["data"]}


@pytest.fixture
def page(made_up_report):
    return lambda *arguments, **changes: Page(render(made_up_report(*arguments, **changes)))


# --- the best of random draws


def enumerated(scores, n, band):
    """Mean and quantiles of the best of n by listing every way to draw them."""
    best = Counter(max(drawn) for drawn in itertools.combinations(scores, n))
    total = best.total()
    mean = sum(Fraction(value) * times for value, times in best.items()) / total
    quantiles = []
    for probability in band:
        below = 0
        for value in sorted(best):
            below += best[value]
            if below >= probability * total:
                quantiles.append(value)
                break
    return [float(mean), *quantiles]


@pytest.mark.parametrize("scores", [[3.0], [1.0, 1.0, 1.0], [5, -2, 0.5, 0.5, 9, 3, -7, 2.25, 8, 1], list(range(12))])
def test_the_best_of_draws_is_what_listing_all_draws_gives(scores):
    # Fractions of a power of two, so that the quantiles' probabilities are exact on both sides.
    for band in [(0.0625, 0.9375), (0.25, 0.5), (0.5, 1.0)]:
        draws = list(range(1, len(scores) + 1))
        found = best_of_draws(scores, draws, band)
        rows = np.array([found.expected, found.lower, found.upper]).T
        np.testing.assert_allclose(rows, [enumerated(scores, n, band) for n in draws], rtol=1e-12)


def test_the_best_of_many_draws_neither_overflows_nor_falls():
    scores = np.random.default_rng(0).normal(size=3000)
    found = best_of_draws(scores, [1, 2, 10, 1500, 2999, 3000])
    assert found.expected[0] == pytest.approx(scores.mean())
    assert found.expected[-1] == found.lower[-1] == found.upper[-1] == scores.max()
    assert (np.diff(found.expected) > 0).all()
    assert (found.lower <= found.upper).all()
    # All but one: the greatest is missing with probability 1 / 3000.
    second = np.sort(scores)[-2]
    assert found.expected[-2] == pytest.approx(scores.max() - (scores.max() - second) / 3000)


@pytest.mark.parametrize("draws", [[0], [4], [1, 5]])
def test_more_draws_than_scores_are_refused(draws):
    with pytest.raises(ValueError, match="1 to the number of scores 3"):
        best_of_draws([1.0, 2.0, 3.0], draws)


# --- choices


def test_shared_choices_count_what_an_independent_count_finds():
    space = SearchSpace.load("psvit-2d-nano")
    batch = space.sample(np.random.default_rng(0), 60, Budget.parse("2..8MFLOPs"))
    archs = [batch[number] for number in range(60)]
    assert {len(arch.stages) for arch in archs} == {2, 3}
    choices = {choice.name: choice for choice in shared_choices(space, [Group(name="all", archs=archs)])}
    assert list(choices)[:3] == ["number of stages", "stage 1: width", "stage 1: layers"]
    stages = choices["number of stages"]
    assert (stages.values, stages.totals) == ((2, 3), (60,))
    # Not every architecture has a third stage, and shares are of those that do.
    third = [arch.stages[2] for arch in archs if len(arch.stages) == 3]
    width = choices["stage 3: width"]
    assert width.totals == (len(third),) == (stages.counts[0][1],)
    assert width.counts[0] == tuple(sum(stage.embed_dim == value for stage in third) for value in (112, 128, 160, 192))
    # 1 to 5 layers in groups of at most 3: 1 map at least, 5 at most.
    maps = choices["stage 2: attention maps"]
    assert maps.values == (1, 2, 3, 4, 5)
    assert maps.counts[0] == tuple(sum(len(arch.stages[1].groups) == n for arch in archs) for n in maps.values)
    pools = choices["pooling before stage 2"]
    assert pools.counts[0] == tuple(sum(arch.pools[0] == pool for arch in archs) for pool in ("max", "avg", "conv"))
    assert all(sum(choice.counts[0]) == choice.totals[0] for choice in choices.values())
    assert pools.share(0, 2) == pools.counts[0][2] / 60


def test_choices_without_an_alternative_are_left_out_and_empty_groups_have_no_shares(tiny_space):
    assert shared_choices(tiny_space, [Group(name="none", archs=[])]) == []
    every = [tiny_space[index] for index in range(tiny_space.size)]
    groups = [Group(name="none", archs=[]), Group(name="all", archs=every)]
    choices = {choice.name: choice for choice in shared_choices(tiny_space, groups)}
    # Depth is 3 in one layout and 1 in the other; the ratio of the first stage is 2.0 in both.
    assert choices["stage 1: layers"].values == (1, 3)
    assert "stage 1: MLP ratio" not in choices
    assert choices["stage 2: MLP ratio"].values == (2.0, 3.0)
    assert choices["stage 2: MLP ratio"].share(0, 0) is None
    # What none of the networks has is left out, as if there were no such choice.
    shallow = [Group(name="shallow", archs=[arch for arch in every if arch.stages[0].depth == 1])]
    assert "stage 1: layers" not in {choice.name for choice in shared_choices(tiny_space, shallow)}


# --- references


def test_deit_is_deit_where_images_are_of_its_size_and_says_where_they_are_not():
    found = deit_references(SearchSpace.load("psvit-2d-small"))
    assert [reference.name for reference in found] == ["DeiT-Tiny", "DeiT-Small", "DeiT-Base"]
    assert [reference.arch for reference in found] == [
        Architecture.load(name) for name in ("deit-tiny", "deit-small", "deit-base")
    ]
    assert found[0].cost.macs == 1253683200
    tiny = deit_references(SearchSpace.load("psvit-2d-nano"))[0]
    assert tiny.name == "DeiT-Tiny on patches of 4"
    assert tiny.arch is not None
    # 64 patches and the class token, 192 wide; 12 layers of 12 d² n + 2 n² d; stem 4·4·3 d a patch; 10 classes.
    assert tiny.cost.macs == 12 * (12 * 65 * 192**2 + 2 * 65**2 * 192) + 64 * 48 * 192 + 10 * 192
    assert all(reference.score is None for reference in found)


def test_a_one_stage_space_holds_a_deit_that_can_be_scored():
    space = SearchSpace.load("psvit-1d-tiny")
    tiny, *_ = deit_references(space)
    assert tiny.arch is not None
    assert space.contains(tiny.arch)


# --- what the page says


def test_the_page_says_what_was_found_and_on_what_it_rests(made_up_report):
    report = made_up_report()
    page = Page(render(report))
    winner = report.winner.trial
    reached = f"top-1 {report.winner.accuracy:.2f} % on the search images after 6 epochs of training, the mean of 3"
    assert (
        f"The winner is trial {winner.number}: {reached} trainings. It costs {winner.cost.macs / 1e6:.4g} MFL"
        in page.text
    )
    assert "256 architectures evaluated: 219 scored, 35 given up early, 2 failed." in page.text
    assert "64 random architectures for comparison" in page.text
    assert "FLOPs are multiply-accumulates (MACs)" in page.text
    assert "fidelity not measured" in page.text
    assert "on images held out from training images 5000" in page.text
    assert "psvit 0.1.0, torch 2.15.0" in page.text
    assert report.command in page.text


def test_a_measured_fidelity_is_said_with_its_figures(page, made_up_report):
    description = {**made_up_report().description, "fidelity": {"kendall_tau": 0.61234567, "networks": 32}}
    text = page(description=description).text
    assert "fidelity kendall tau 0.61235; networks 32" in text
    assert "fidelity not measured" not in text


def test_the_configuration_comes_back_from_the_page(made_up_report):
    config = {"budget": ["2GFLOPs"], "recipe": {"lr": 0.001, "name": "<b>&"}, "data": None, "seed": 3}
    document = render(made_up_report(config=config))
    shown = re.search(r'<pre class="config"[^>]*>(.*?)</pre>', document, re.DOTALL)
    assert shown is not None
    assert yaml.safe_load(unescape(shown[1])) == config


def test_the_front_is_what_an_independent_sweep_finds_and_the_winner_is_marked(made_up_report):
    # Without trainings the best score wins, so the front says what there is.
    report = made_up_report()
    report = replace(report, finalists=[replace(one, looks=()) for one in report.finalists])
    page = Page(render(report))
    complete = [trial for trial in report.history if trial.is_complete]
    expected = front(np.array([(trial.score.value, -trial.cost.macs) for trial in complete]))
    traces = page.traces("front-macs")
    drawn = traces[f"front ({len(expected)})"]
    points = {(trial.cost.macs / 1e6, trial.score.value) for trial in (complete[int(place)] for place in expected)}
    assert set(zip(drawn["x"], drawn["y"], strict=True)) == points
    assert drawn["x"] == sorted(drawn["x"])
    assert drawn["line"]["shape"] == "hv"
    winner = report.winner.trial
    assert (traces["winner"]["x"], traces["winner"]["y"]) == ([winner.cost.macs / 1e6], [winner.score.value])
    assert len(traces["candidates (219)"]["x"]) == 219
    assert len(traces["given up early (35)"]["x"]) == 35
    assert len(traces["random control (64)"]["x"]) == 64


@pytest.mark.parametrize(("scored_by", "kind"), [("trained", "accuracy after 2 epochs"), ("inherited", "inherited")])
def test_what_was_compared_last_is_drawn_by_its_accuracies_then_and_joined_to_its_scores(
    made_up_report, scored_by, kind
):
    winner, other, *_ = (finalist.trial for finalist in made_up_report().finalists)
    looks = (Look(epoch=2, accuracies=(60.0,)), Look(epoch=6, accuracies=(80.0, 81.0, 82.0)))
    best = Finalist(trial=winner, looks=looks)
    by_hand = Finalist(trial=replace(other, origin="reference"), name="<i>", looks=looks)
    early = Finalist(trial=replace(other, number=400), looks=looks[:1])
    changes = {"scored_by": scored_by, "description": {"kind": kind}, "finalists": [best, by_hand, early]}
    page = Page(render(made_up_report(**changes)))
    assert page.figures["front-macs"]["layout"]["yaxis"]["title"]["text"] == "top-1 on the search images (%)"
    traces = page.traces("front-macs")
    assert not [name for name in traces if name and name.startswith("front")]
    assert len(traces[f"{kind} (219)"]["x"]) == 219
    for name, trial in (("winner, after 6 epochs", winner), ("hand-made, after 6 epochs", other)):
        assert (traces[name]["x"], traces[name]["y"]) == ([trial.cost.macs / 1e6], [81.0])
    assert "&lt;i&gt;" in traces["hand-made, after 6 epochs"]["text"][0]
    lines = [trace for trace in page.figures["front-macs"]["data"] if trace["mode"] == "lines"]
    assert [line["y"] for line in lines] == [[winner.score.value, 81.0, None, other.score.value, 81.0, None]]
    low, high = page.figures["front-macs"]["layout"]["yaxis"]["range"]
    assert low < 81.0 < high
    assert "The front as a table" not in page.text


def test_scores_that_are_no_accuracies_are_not_drawn_beside_any(made_up_report):
    page = Page(render(made_up_report(scored_by="dss", description={"kind": "DSS", "images": 0}, unit="")))
    assert page.figures["front-macs"]["layout"]["yaxis"]["title"]["text"] == "DSS"
    assert page.traces("front-macs")["winner"]["y"] == [made_up_report().winner.trial.score.value]


def test_a_reference_is_a_line_where_it_costs_and_a_point_only_with_a_score(made_up_report):
    near = Reference(name="near", cost=cost(SearchSpace.load("psvit-2d-nano").largest))
    far = replace(near, name="far", cost=near.cost.model_copy(update={"macs": 10**12}))
    page = Page(render(made_up_report(references=[near, far])))
    lines = page.figures["front-macs"]["layout"]["shapes"]
    assert [line["x0"] for line in lines] == [near.cost.macs / 1e6]
    assert "near" not in page.traces("front-macs")
    assert "Dotted: what near costs on these images." in page.text
    assert "Outside the frame: far at 1000 GFLOPs." in page.text
    assert page.text.count("not scored") == 2
    scored = Page(render(made_up_report(references=[near, replace(far, score=70.5)])))
    # One with a score is drawn wherever it is.
    assert scored.traces("front-macs")["far"]["x"] == [10**6]
    assert scored.traces("front-macs")["far"]["y"] == [70.5]
    assert "70.5 %" in scored.text


def test_a_report_says_why_deit_has_no_point(page, made_up_report):
    text = page().text
    assert "DeiT has no point because nothing here can score it: it is a 1d network, and the candidates" in text
    assert text.count("not scored") == 3
    space = SearchSpace.load("psvit-1d-tiny")
    references = deit_references(space)
    trial = Trial(number=0, arch=space[1], cost=cost(space[1]), score=Score(value=1.0), objectives=(1.0,))
    changes = {"space": space, "history": [trial], "control": [], "finalists": [Finalist(trial=trial)]}
    text = page(**changes, references=references).text
    assert "DeiT has no point" not in text
    assert "What has no point has no score here." in text
    scored = [replace(reference, score=1.0) for reference in references]
    assert "no point" not in page(**changes, references=scored).text


def test_references_are_drawn_and_named_on_every_cost(made_up_report):
    report = made_up_report()
    history, control = in_three_objectives(report.history), in_three_objectives(report.control)
    front = [Finalist(trial=next(trial for trial in history if trial.is_complete))]
    largest = cost(SearchSpace.load("psvit-2d-nano").largest)
    near = Reference(name="near", cost=largest)
    far = Reference(name="far", cost=largest.model_copy(update={"macs": 10**12, "num_params": 10**9}))
    changes = {"history": history, "control": control, "objectives": IN_THREE}
    page = Page(render(replace(report, references=[near, far], finalists=front, **changes)))
    for name, value, cost_of_far in [
        ("macs", largest.macs / 1e6, "far at 1000 GFLOPs"),
        ("num_params", largest.num_params / 1e6, "far at 1000 Mparams"),
    ]:
        assert [line["x0"] for line in page.figures[f"front-{name}"]["layout"]["shapes"]] == [value]
        assert f"Outside the frame: {cost_of_far}." in page.text
    assert page.text.count("Dotted: what near costs on these images.") == 2
    assert page.figures["front-latency"]["layout"]["shapes"] == []


def test_a_reference_near_a_candidate_that_was_given_up_is_drawn_and_named_as_drawn(made_up_report):
    report = made_up_report()
    complete = report.finalists[0].trial
    cheap = complete.cost.model_copy(update={"macs": complete.cost.macs // 10})
    raced = replace(complete, number=1, cost=cheap, score=Score(value=1.0, images=9, state="raced"), objectives=())
    near = Reference(name="near", cost=cheap)
    page = Page(
        render(
            replace(report, history=[complete, raced], control=[], finalists=report.finalists[:1], references=[near])
        )
    )
    assert len(page.figures["front-macs"]["layout"]["shapes"]) == 1
    assert "Dotted: what near costs" in page.text
    assert "Outside the frame" not in page.text


def test_published_accuracies_stand_beside_imagenet_only(page, made_up_report):
    assert "published" not in page().text.lower()
    imagenet = SearchSpace.load("psvit-2d-tiny")
    arch = imagenet.smallest
    trial = Trial(number=0, arch=arch, cost=cost(arch), score=Score(value=1.0), objectives=(1.0,))
    changes = {"history": [trial], "control": [], "finalists": [Finalist(trial=trial)]}
    text = page(space=imagenet, references=deit_references(imagenet), **changes).text
    assert "72.2 %" in text
    assert "does not compare with scores of this report" in text
    other = imagenet.with_data(num_classes=10, in_chans=3)
    arch = other.smallest
    trial = replace(trial, arch=arch, cost=cost(arch))
    changes = {"history": [trial], "control": [], "finalists": [Finalist(trial=trial)]}
    assert "72.2" not in page(space=other, references=deit_references(other), **changes).text


def test_random_is_the_best_of_the_control_and_of_the_searchers_own_draws(made_up_report):
    report = made_up_report()
    page = Page(render(report))
    traces = page.traces("progress")
    own = [trial for trial in report.history if trial.origin == "uniform"]
    scores = [trial.score.value for trial in (*own, *report.control) if trial.score.value is not None]
    assert len(scores) == 64 + 50 - 1
    expected = traces["random, expected best"]
    assert expected["x"] == list(range(1, 114))
    assert expected["y"][0] == pytest.approx(np.mean(scores))
    assert expected["y"][-1] == pytest.approx(max(scores))
    assert (
        "113 scored architectures that were drawn uniformly (64 for comparison, 50 by the searcher itself" in page.text
    )
    assert "1 that failed" in page.text
    best = traces["evolution, best so far"]
    assert best["y"] == sorted(best["y"])
    assert best["x"][-1] == 256
    assert best["y"][-1] == max(trial.score.value for trial in report.history if trial.is_complete)


def test_an_architecture_drawn_twice_counts_once(made_up_report):
    report = made_up_report()
    own = [trial for trial in report.history if trial.origin == "uniform" and trial.is_complete]
    again = replace(report, control=own)
    assert len(again.uniform) == 50
    page = Page(render(again))
    assert page.traces("progress")["random, expected best"]["x"][-1] == 49
    assert "each counted once" in page.text


def test_the_best_so_far_counts_every_evaluation(made_up_report):
    history = made_up_report().history
    complete = next(trial for trial in history if trial.is_complete)
    raced = next(trial for trial in history if trial.score.state == "raced")
    scored = [replace(complete, score=Score(value=value)) for value in (3.0, 2.0, 5.0, 5.0)]
    assert best_so_far([raced, *scored, raced]) == [(2, 3.0), (4, 5.0), (6, 5.0)]
    assert best_so_far([raced]) == []


def test_all_finalists_stand_there_with_all_looks(made_up_report):
    trials = [finalist.trial for finalist in made_up_report().finalists]
    looks = [
        (Look(epoch=1, accuracies=(40.0,)), Look(epoch=9, accuracies=(80.0, 80.5, 81.0))),
        (Look(epoch=1, accuracies=(41.25,)), Look(epoch=9, accuracies=(70.0, 70.5, 71.5))),
        (Look(epoch=1, accuracies=(12.75,)),),
    ]
    reference = replace(trials[1], origin="reference")
    finalists = [
        Finalist(trial=trials[0], looks=looks[0]),
        Finalist(trial=reference, name="HVT-like, 5 layers", looks=looks[1]),
        Finalist(trial=trials[2], looks=looks[2]),
    ]
    page = Page(render(made_up_report(finalists=finalists)))
    for text in ("80.50 ± 0.50", "41.25", "12.75", "HVT-like, 5 layers", "after 1 epoch (%)", "after 9 epochs (%)"):
        assert text in page.text
    assert "3 networks were trained on the training images: 2 candidates and 1 hand-made reference." in page.text
    assert "compared on the search images: 3 networks after 1 epoch and 2 networks after 9 epochs." in page.text
    drawn = {trace["hovertemplate"].split(" after")[0]: trace for trace in page.figures["selection"]["data"]}
    assert drawn["HVT-like, 5 layers"]["y"] == [41.25, pytest.approx(70.6667, abs=1e-3)]
    assert drawn[f"trial {trials[2].number}"]["x"] == [1]


def test_all_networks_that_were_trained_are_counted(made_up_report):
    # Those of the history are 219 that have a score, 35 that were raced and 2 that failed; 64 are for comparison.
    history = made_up_report().history
    history = [replace(history[0], origin="reference"), *history[1:]]
    text = Page(render(made_up_report(scored_by="trained", history=history))).text
    assert (
        "320 networks were trained on the training images: 255 candidates, 1 hand-made reference and 64 at random for "
        "comparison."
    ) in text
    assert "219 networks after 2 epochs and 2 networks after 6 epochs" in text


def test_how_long_the_next_command_takes_is_said_if_it_is_known(made_up_report):
    changes = {"next_command": "psvit-retrain best.yaml --data digits"}
    assert "takes about" not in Page(render(made_up_report(**changes))).text
    assert "takes about 25 min" in Page(render(made_up_report(**changes, next_seconds=1500.0))).text


def test_the_verdict_comes_first(made_up_report):
    report = made_up_report()
    verdict = Verdict(
        winner="trial 3",
        rival="HVT-like",
        is_found=True,
        points=1.5,
        interval=(0.5, 2.5),
        p=0.01,
        confidence=0.95,
        images=500,
        seeds=3,
        accuracies=(60.0, 58.5),
    )
    text = Page(render(replace(report, verdict=verdict))).text
    gained = "gained 1.50 points (95 %: 0.50 to 2.50) over the best hand-made network (HVT-like)."
    assert f"Verdict: The found network (trial 3) {gained}" in text
    assert "3 seeds and tested on 500 verdict images" in text
    assert text.index("Verdict:") < text.index("The winner is")
    assert "Verdict:" not in Page(render(report)).text


def test_finalists_that_were_not_trained_are_said_to_be_ordered_by_their_scores(made_up_report):
    finalists = [replace(finalist, looks=()) for finalist in made_up_report().finalists]
    page = Page(render(made_up_report(finalists=finalists)))
    assert "Finalists were not trained." in page.text
    assert "selection" not in page.figures


def test_finalists_that_failed_are_shown_with_the_reason(made_up_report):
    *trained, last = made_up_report().finalists
    failed = replace(last, looks=(), failure="training diverged: the loss is nan")
    page = Page(render(made_up_report(finalists=[*trained, failed])))
    assert f"Last are those whose training failed: {last.name} (training diverged: the loss is nan)." in page.text
    assert "failed" in page.text
    page = Page(render(made_up_report(finalists=[replace(one, looks=(), failure="lost") for one in trained])))
    assert "No finalist could be trained: trial " in page.text
    assert "selection" not in page.figures
    assert "epochs of training" not in page.text


def test_the_finalists_of_the_last_comparison_are_drawn_or_all_if_none_was_trained(made_up_report):
    report = made_up_report()
    assert render(report).count('data-part="network"') == 2 * 2  # for wide and for narrow windows
    report = replace(report, finalists=[replace(one, looks=()) for one in report.finalists])
    document = render(report)
    assert document.count('data-part="network"') == 2 * 5
    assert f"Winner, {report.winner.name}" in document
    for finalist in report.finalists[1:]:
        assert f"Trial {finalist.trial.number}" in document


def test_latencies_stand_predicted_beside_measured(made_up_report):
    first = made_up_report().finalists[0]
    measured = {"ms@cpu": {"predicted_ms": 31.25, "measured_ms": 33.5, "iqr_ms": 0.125}}
    text = Page(render(made_up_report(finalists=[replace(first, latencies=measured)]))).text
    assert f"#{first.trial.number} ms@cpu 31.25 33.5 0.125" in text
    only = {"ms@cpu": {"predicted_ms": 31.25}}
    text = Page(render(made_up_report(finalists=[replace(first, latencies=only)]))).text
    assert "31.25 not measured not measured" in text


def test_good_candidates_are_the_best_tenth(made_up_report):
    report = made_up_report()
    scores = sorted((trial.score.value for trial in report.history if trial.is_complete), reverse=True)
    assert [trial.score.value for trial in report.good] == scores[:22]
    text = Page(render(report)).text
    assert "best tenth (22), all scored (219) and uniform (114)" in text
    assert "The first two groups are of the 219 candidates scored on all images. 35 candidates given up early" in text
    none_raced = [trial for trial in report.history if trial.score.state != "raced"]
    assert "The first two groups" not in Page(render(replace(report, history=none_raced))).text
    assert "a single candidate moves a share by 5 %" in text


# --- several objectives


def in_three_objectives(trials):
    return [
        replace(t, objectives=(t.score.value, -float(t.cost.num_params), -(1 + t.cost.macs / 1e7)))
        if t.is_complete
        else t
        for t in trials
    ]


def test_several_objectives_have_a_front_and_no_winner(made_up_report):
    report = made_up_report()
    history, control = in_three_objectives(report.history), in_three_objectives(report.control)
    complete = [trial for trial in history if trial.is_complete]
    places = front(np.array([trial.objectives for trial in complete]))
    found = [Finalist(trial=complete[int(place)]) for place in places]
    page = Page(
        render(
            replace(
                report,
                history=history,
                control=control,
                objectives=IN_THREE,
                finalists=found,
                hypervolume=[(1, 0.5), (2, 0.75), (256, 1.5)],
            )
        )
    )
    assert f"A front of {len(found)} architectures" in page.text
    assert "winner" not in page.text.lower()
    assert set(page.figures) == {"front-macs", "front-num_params", "front-latency", "progress", "hypervolume"}
    for name in ("front-macs", "front-num_params", "front-latency"):
        drawn = page.traces(name)[f"front ({len(found)})"]
        # A front of three is no line in two of them.
        assert drawn["mode"] == "markers"
    latencies = [1 + finalist.trial.cost.macs / 1e7 for finalist in found]
    np.testing.assert_allclose(page.traces("front-latency")[f"front ({len(found)})"]["x"], sorted(latencies))
    assert page.figures["hypervolume"]["data"][0]["y"] == [0.5, 0.75, 1.5]
    assert f"front ({len(found)})" in page.text
    assert "5 of" in page.text


def test_a_front_of_score_and_one_cost_is_a_line_in_that_cost_alone(made_up_report):
    report = made_up_report()
    trial = next(trial for trial in report.history if trial.is_complete)
    other = replace(report.history[-2], objectives=(1.0, -1.0))
    two = replace(
        report,
        history=[replace(trial, objectives=(1.0, -1.0)), other],
        control=[],
        objectives=Objectives(names=("accuracy", "params")),
        finalists=[Finalist(trial=trial), Finalist(trial=other)],
    )
    page = Page(render(two))
    assert page.traces("front-num_params")["front (2)"]["mode"] == "lines+markers"
    assert page.traces("front-macs")["front (2)"]["mode"] == "markers"


# --- odd searches


def test_a_search_without_control_and_without_random_draws_says_so(made_up_report):
    history = [replace(trial, origin="tpe") for trial in made_up_report().history]
    page = Page(render(made_up_report(history=history, control=[])))
    assert "There are no scores of random architectures to compare with." in page.text
    assert set(page.traces("progress")) == {"evolution, best so far"}
    assert "best tenth (22) and all scored (219)" in page.text


def test_a_random_searcher_is_compared_with_its_own_draws(made_up_report):
    history = [replace(trial, origin="uniform") for trial in made_up_report().history]
    text = Page(render(made_up_report(history=history, control=[], searcher="random"))).text
    assert "(0 for comparison, 256 by the searcher itself; 2 that failed are left out)" in text
    assert "The searcher is random itself: its own curve is one order of the same draws." in text


def test_a_searcher_that_has_only_begun_is_not_called_random(made_up_report):
    history = [trial for trial in made_up_report().history if trial.origin == "uniform"]
    text = Page(render(made_up_report(history=history, finalists=[Finalist(trial=history[0])]))).text
    assert "random itself" not in text
    assert "begins with random draws and has come no further: its own curve is one order of the same draws." in text
    text = Page(render(made_up_report())).text
    assert "one order of the same draws" not in text


def test_one_trial_is_enough(made_up_report):
    trial = next(trial for trial in made_up_report().history if trial.is_complete)
    page = Page(render(made_up_report(history=[trial], control=[], finalists=[Finalist(trial=trial)])))
    assert f"The winner is trial {trial.number}, the best of 1 scored" in page.text
    assert "1 architecture evaluated: 1 scored." in page.text
    assert set(page.figures) == {"front-macs", "progress"}
    low, high = page.figures["front-macs"]["layout"]["yaxis"]["range"]
    assert low < trial.score.value < high
    assert page.traces("progress")["evolution, best so far"]["mode"] == "lines+markers"


def test_all_but_one_given_up_or_failed(made_up_report):
    report = made_up_report()
    others = [trial for trial in report.history if not trial.is_complete]
    one = report.finalists[0].trial
    page = Page(render(replace(report, history=[*others, one], control=[], finalists=[Finalist(trial=one)])))
    assert "38 architectures evaluated: 1 scored, 35 given up early, 2 failed." in page.text
    assert "given up early (35)" in page.traces("front-macs")
    assert page.traces("progress")["evolution, best so far"]["x"] == [38]


def test_nothing_was_found(made_up_report):
    report = made_up_report()
    failed = [trial for trial in report.history if trial.score.state == "failed"]
    for history in (failed, []):
        page = Page(render(replace(report, history=history, control=[], finalists=[])))
        assert "Nothing was found." in page.text
        assert "No candidate was scored." in page.text
        assert page.figures == {}


def test_an_indicator_says_that_it_looks_at_no_images(page):
    text = page(description={"kind": "training-free indicator DSS", "images": 0}, unit="").text
    assert "images none; the indicator looks at no images" in text
    assert "fidelity not measured" in text


# --- one safe file that works offline


def test_nothing_is_loaded_from_anywhere(made_up_report):
    page = Page(render(made_up_report()))
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "audio", "video", "img", "base", "form"), tag
        assert "src" not in attributes, tag
        if "href" in attributes:
            assert attributes["href"] == "data:,", tag
    (policy,) = (a["content"] for t, a in page.elements if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy
    # Besides plotly's library, no script names an address.
    copying, packed, drawing = page.scripts
    script = gzip.decompress(base64.b64decode(packed)).decode()
    assert script == (Path(chart.__file__).parent / "plotly-basic.min.js").read_text(encoding="utf-8")
    assert "plotly.js (basic - minified)" in script[:200]
    assert "//" not in re.sub(r"// .*", "", copying + drawing)


@pytest.mark.parametrize("trials", [256, 3000])
def test_a_report_stays_small(made_up_report, trials):
    report = made_up_report(trials, trials // 4)
    history, control = in_three_objectives(report.history), in_three_objectives(report.control)
    front = [Finalist(trial=trial) for trial in history if trial.is_complete][:50]
    document = render(replace(report, history=history, control=control, finalists=front, objectives=IN_THREE))
    assert len(document.encode()) < MOST_BYTES
    page = Page(document)
    several = {name: len(trace["x"]) for name, trace in page.traces("front-macs").items() if name and " of " in name}
    drawn = {"candidates (500 of 2,571)": 500, "random control (500 of 750)": 500}
    assert several == (drawn if trials > 256 else {})
    for name in several:
        numbers = [int(re.search(r"#(\d+)", text)[1]) for text in page.traces("front-macs")[name]["text"]]
        assert numbers == sorted(set(numbers))
        assert numbers[-1] - numbers[0] > 0.95 * (trials if "random" not in name else trials // 4)


def test_text_from_outside_stays_text(made_up_report):
    report = made_up_report()
    hostile = replace(
        report,
        title=HOSTILE,
        command=HOSTILE,
        searcher=HOSTILE,
        notes=[HOSTILE],
        budget=(HOSTILE,),
        config={"name": HOSTILE},
        description={"kind": HOSTILE, "meaning": HOSTILE},
        versions={HOSTILE: HOSTILE},
        references=[Reference(name=HOSTILE, cost=cost(report.space.largest), score=50.0)],
    )
    document, page = render(hostile), Page(render(hostile))
    plain = Page(render(report))
    assert [tag for tag, _ in page.elements if tag in ("img", "script")] == ["script"] * (len(page.figures) + 3)
    assert page.figures.keys() == plain.figures.keys()
    assert "onerror" not in {name for _, attributes in page.elements for name in attributes}
    assert HOSTILE in page.text
    # Plotly reads tags in its labels, so there it has to be escaped as well.
    assert "&lt;img" in page.figures["progress"]["layout"]["yaxis"]["title"]["text"]
    assert any("&lt;img" in name for name in page.traces("front-macs") if name)
    assert "<img" not in document


def test_equal_reports_are_equal_files_written_whole(made_up_report, tmp_path):
    write_report(tmp_path / "a" / "report.html", made_up_report())
    write_report(tmp_path / "b.html", made_up_report())
    assert (tmp_path / "a" / "report.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b.html"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_report(tmp_path / "file" / "report.html", made_up_report())


def test_where_a_space_mixes_variants_and_stems_a_row_says_them():
    space = SearchSpace.load("psvit-nano")
    assert space.mixed == ("variant", "stem")
    (arch,) = space.sample(np.random.default_rng(0), 1)
    said, *stages = in_words(arch, space.mixed)
    assert said == f"{arch.variant}, stem {arch.stem}"
    assert stages == in_words(arch)
    assert len(stages) == len(arch.stages)


def test_where_all_failed_at_a_comparison_the_last_cell_says_so():
    looks = (Look(epoch=1, accuracies=(50.0,)),)
    trial = Trial(number=1, arch=None, cost=None, score=Score(value=50.0))
    finalist = Finalist(trial=trial, looks=looks, failure="training diverged")
    assert look_cells(finalist, [1]) == ["failed"]
    assert look_cells(finalist, [1, 3]) == ["50.00", "failed"]
