"""The truth table: its list of networks, its rows, its runner, and the figures that are computed from it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import truth_table
from scipy.stats import kendalltau
from truth import figures, looks, networks, pilot, regression, rows, runner, selection, supernets, taus
from truth.entries import entries
from truth.networks import GROUPS, Network, job_of, stratum_of
from truth.rows import Row
from truth.training import TableStore, runner_of

from psvit import Architecture, Budget, SearchSpace, cost
from psvit.data import open_data
from psvit.errors import InputError
from psvit.executors.executor import LocalExecutor
from psvit.search import prior
from psvit.search.fidelity import measures
from psvit.supernet import train as training_of_supernets
from psvit.supernet.provenance import FILE_NAME
from psvit.supernet.supernet import Supernet
from psvit.train.job_runner import run_jobs
from psvit.train.recipe import Recipe, SupernetRecipe

RECIPE = Recipe(epochs=3, batch_size=32, lr=0.002, warmup_epochs=1)


def digits_network(number: int, seeds: tuple[int, ...] = (0,)) -> Network:
    arch = SearchSpace.load("psvit-2d-digits")[number]
    return Network(name=f"digits-{number}", macs=1_000_000, origin="random", seeds=seeds, arch=arch)


def made_up_row(network: Network, seed: int, accuracy: float, **changes) -> Row:
    """A row with a curve that rises to an accuracy."""
    curve = tuple(round(accuracy * (epoch + 1) / 12, 4) for epoch in range(12))
    fields = {
        "name": network.name,
        "macs_budget": network.macs,
        "origin": network.origin,
        "stratum": network.stratum,
        "arch": json.dumps(network.arch.to_dict()),
        "arch_digest": network.arch.digest,
        "recipe_digest": "r",
        "lr": 0.001,
        "data": "cifar10",
        "data_digest": "d",
        "images": 45000,
        "epochs": 12,
        "seed": seed,
        "initial": "random",
        "train_loss": tuple(3 - one / 100 for one in curve),
        "search_accuracy": curve,
        "search_loss": tuple(3 - one / 100 for one in curve),
        "val_accuracy": accuracy,
        "val_loss": 1.0,
        "seconds": 20.0,
        "processor_seconds": 12.0,
        "device": "a processor, with a comma",
        "threads": 1,
        "versions": "psvit 0",
        "commit": "abc",
        "date": "2026-01-01 00:00",
    }
    return Row(**{**fields, **changes})


# --- what was decided beforehand


def test_the_committed_list_is_what_is_drawn():
    assert networks.load() == networks.draw()


def test_networks_are_near_their_budget_and_equally_many_of_every_stratum():
    listed = networks.load()
    for network in listed:
        assert cost(network.arch).macs == pytest.approx(network.macs, rel=networks.TOLERANCE)
    assert len({network.arch.digest for network in listed}) == len({network.name for network in listed}) == len(listed)
    for group in GROUPS:
        mine = [network for network in listed if network.macs == group.macs]
        drawn = Counter(network.stratum for network in mine if network.origin == "random")
        assert drawn == dict.fromkeys(("1d patch", "1d conv", "2d patch", "2d conv"), group.random)
        references = [network for network in mine if network.origin != "random"]
        assert Counter(network.origin for network in references) == {"deit": 2, "pit": 2, "hvt": 2}
        assert {network.arch.stem for network in references} == {"patch", "conv"}
        assert sum(len(network.seeds) == 2 for network in mine) == group.second_seeds


def test_drawn_networks_are_members_but_for_their_stem():
    for network in networks.load():
        if network.origin == "random":
            member = Architecture.from_dict({**network.arch.to_dict(), "stem": "patch"})
            assert SearchSpace.load(f"psvit-{network.arch.variant}-nano").contains(member)


def test_every_training_is_listed_once_and_second_seeds_follow_the_first():
    listed = networks.trainings(networks.load())
    assert len(set((network.name, seed) for network, seed in listed)) == len(listed) == 86
    for group in GROUPS:
        seeds = [seed for network, seed in listed if network.macs == group.macs]
        assert seeds == sorted(seeds)


def test_the_recipe_has_the_rate_that_the_pilot_found_best():
    found = rows.read(truth_table.PILOT_FILE)
    recipe = Recipe.load(truth_table.RECIPE_FILE)
    wanted = pilot.trainings(networks.load(), recipe, found)
    assert not runner.missing(wanted, truth_table.PILOT_FILE)
    assert recipe.lr == pilot.best_rate(found)


def test_the_pilots_second_seeds_go_to_the_two_best_rates():
    listed, recipe = networks.load(), Recipe.load(truth_table.RECIPE_FILE)
    of = {network.name: network for network in listed}.get
    first = pilot.trainings(listed, recipe, [])
    assert len(first) == 12
    accuracies = {0.001: 30.0, 0.002: 50.0, 0.004: 40.0}
    found = [
        made_up_row(of(one.label), 0, accuracies[one.recipe.lr], lr=one.recipe.lr, recipe_digest=one.recipe.digest)
        for one in first
    ]
    second = pilot.trainings(listed, recipe, found)[12:]
    assert {one.recipe.lr for one in second} == {0.002, 0.004}
    assert {one.seed for one in second} == {1}
    # The second seed turns the order round.
    found += [made_up_row(of(one.label), 1, 60 if one.recipe.lr == 0.004 else 20, lr=one.recipe.lr) for one in second]
    assert pilot.best_rate(found) == 0.004


# --- rows


def test_rows_are_read_as_they_were_written(tmp_path):
    written = [made_up_row(digits_network(number), seed, 50.0 + number) for number in range(3) for seed in (0, 1)]
    for row in written:
        rows.append(tmp_path / "rows.csv", row)
    rows.append(tmp_path / "rows.csv", dataclasses.replace(written[0], val_accuracy=1.0))
    # Of rows with one key the first counts.
    assert rows.read(tmp_path / "rows.csv") == written
    assert written[1].network == digits_network(0).arch
    assert rows.read(tmp_path / "none.csv") == []


@pytest.mark.parametrize(("old", "new"), [("50.0", "fifty"), ("name,", "names,"), ('"arch_digest"', "")])
def test_a_file_that_holds_no_rows_is_named(tmp_path, old, new):
    path = tmp_path / "rows.csv"
    rows.append(path, made_up_row(digits_network(0), 0, 50.0))
    path.write_text(path.read_text().replace(old, new) if old in path.read_text() else "nothing\n1\n")
    with pytest.raises(InputError, match=r"rows\.csv: not a row of the truth table"):
        rows.read(path)


# --- trainings


def test_a_training_gives_the_row_of_the_network_that_it_trains(tmp_path):
    network = digits_network(5000)
    job = replace(job_of(network, RECIPE, 3), num_images=600)

    def trained(folder):
        running = runner_of("digits", "cpu", folder / "work", [digits_network(1), network])
        store = TableStore(folder / "rows.csv", running)
        ((_, outcome),) = run_jobs([job], running, LocalExecutor(), store)
        assert list(run_jobs([job], running, LocalExecutor(), store)) == []
        assert not list((folder / "work").iterdir())
        known = store.get(job)
        assert known.accuracies["val"] == pytest.approx(outcome.value.accuracies["val"], abs=1e-4)
        (row,) = rows.read(folder / "rows.csv")
        return row

    row = trained(tmp_path)
    data = open_data("digits")
    assert row.name == "digits-5000"
    assert row.network == network.arch
    assert (row.seed, row.epochs, row.images, row.initial, row.lr) == (3, 3, 600, "random", 0.002)
    assert row.stratum == stratum_of(row.network) == "2d patch"
    assert len(row.train_loss) == len(row.search_accuracy) == len(row.search_loss) == 3
    # Accuracies are whole numbers of images.
    for accuracy, images in ((row.search_accuracy[-1], len(data.search)), (row.val_accuracy, len(data.val))):
        assert accuracy * images / 100 == pytest.approx(round(accuracy * images / 100), abs=0.01)
    # Ten classes: better than chance, and losses below that of equal probabilities.
    assert row.val_accuracy > 20
    assert row.val_loss < math.log(10) > row.search_loss[-1]
    assert row.processor_seconds > 0
    again = trained(tmp_path / "again")
    assert [again.val_loss, again.train_loss, again.search_loss] == [row.val_loss, row.train_loss, row.search_loss]


def test_a_network_that_another_process_trains_is_left_to_it(tmp_path):
    network, job = digits_network(0), job_of(digits_network(0), RECIPE, 0)
    running = runner_of("digits", "cpu", tmp_path / "work", [network])
    holds = (
        "import sys; from pathlib import Path; from psvit.io.run_folder import RunFolder; import json\n"
        "folder = RunFolder(Path(sys.argv[1]), 'truth', json.loads(sys.argv[2])); print('held', flush=True)\n"
        "sys.stdin.read()"
    )
    images = len(open_data("digits").without_verdict().train)
    about = {"network": network.to_dict(), "recipe": RECIPE.to_dict(), "images": images, "seed": 0}
    with subprocess.Popen(
        [sys.executable, "-c", holds, str(running.place(job)), json.dumps(about)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another process is at work in it"):
            running(job)
        other.stdin.close()


@pytest.mark.slow
def test_a_killed_runner_leaves_no_process_and_goes_on(tmp_path):
    """The script itself, on the digits, with trainings long enough to be killed in."""
    script = tmp_path / "short.py"
    script.write_text(
        "import truth_table, sys\n"
        "from truth.networks import Network, job_of\n"
        "from truth.training import runner_of\n"
        "from truth.runner import run\n"
        "from psvit import SearchSpace\n"
        "from psvit.train.recipe import Recipe\n"
        "from pathlib import Path\n"
        "if __name__ == '__main__':\n"
        "    archs = [SearchSpace.load('psvit-2d-digits')[n] for n in (10, 20, 30)]\n"
        "    some = [Network(name=f'n{i}', macs=1, origin='random', seeds=(0,), arch=a) for i, a in enumerate(archs)]\n"
        "    recipe = Recipe(epochs=int(sys.argv[1]), batch_size=64, lr=0.001, warmup_epochs=1)\n"
        "    wanted = [job_of(network, recipe, 0) for network in some]\n"
        "    running = runner_of('digits', 'cpu', Path('work'), some)\n"
        "    print(run(wanted, running, Path('rows.csv'), int(sys.argv[2]), 1.0), 'left', flush=True)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(truth_table.__file__).parent)}
    command = [sys.executable, str(script), "4"]
    first = subprocess.Popen([*command, "2"], cwd=tmp_path, env=environment)
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("work/*/checkpoints/*.safetensors")):
            assert time.monotonic() < deadline
            assert first.poll() is None
            time.sleep(0.2)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    # Its processes end with it; if they lived on, they would hold the work folder.
    done = subprocess.run([*command, "1"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines()[-1] == "0 left", done.stdout + done.stderr
    found = rows.read(tmp_path / "rows.csv")
    assert sorted(row.name for row in found) == ["n0", "n1", "n2"]
    assert all(len(row.search_accuracy) == 4 for row in found)
    assert not list((tmp_path / "work").iterdir())


# --- figures


@pytest.fixture
def few_resamples(monkeypatch):
    """How wide intervals are is asked of other tests."""
    monkeypatch.setattr(measures, "resamples", partial(measures.resamples, number=60))
    monkeypatch.setattr(selection, "RESAMPLES", 20)
    monkeypatch.setattr(looks, "DIVISIONS", 3)


def test_the_committed_rows_are_of_listed_trainings(few_resamples):
    some, recipe = networks.load(), Recipe.load(truth_table.RECIPE_FILE)
    jobs = [job_of(network, recipe, seed) for network, seed in networks.trainings(some)]
    for name in {one.supernet for one in supernets.read()}:
        jobs += supernets.tunings(some, recipe, Path(name), 3)
    listed = {rows.key_of(job) for job in jobs}
    found = rows.read(truth_table.ROWS_FILE)
    assert found
    for row in found:
        assert row.job_key in listed
        assert row.network.digest == row.arch_digest
        assert row.images == 45000
        assert len(row.search_accuracy) == row.epochs == (12 if row.initial == "random" else 3)
    assert figures.report(found, recipe)


def test_the_committed_looks_are_at_listed_networks_of_the_table():
    some, recipe = networks.load(), Recipe.load(truth_table.RECIPE_FILE)
    listed = {rows.key_of(job) for warmup in looks.WARMUPS for job in looks.jobs(some, recipe, warmup)}
    found = rows.read(truth_table.LOOKS_FILE)
    assert found
    for row in found:
        assert row.job_key in listed
        assert (len(row.search_accuracy), row.images) == (looks.EPOCH, 45000)


def made_up_table() -> list[Row]:
    """Every training, with accuracies that follow parameters within strata and seeds that differ a little."""
    rng = np.random.default_rng(0)
    offset = {"1d patch": 0.0, "1d conv": 5.0, "2d patch": -5.0, "2d conv": 10.0}
    return [
        made_up_row(
            network, seed, 40 + offset[network.stratum] + cost(network.arch).num_params / 1e5 + rng.normal(0, 0.1)
        )
        for network, seed in networks.trainings(networks.load())
    ]


def test_taus_within_strata_leave_out_pairs_of_different_strata():
    some = [entry for entry in entries(made_up_table(), "r") if entry.budget == 5_000_000]
    truths = np.array([entry.truth for entry in some])
    strata = [entry.first.stratum for entry in some]
    values = np.array([entry.costs["num_params"] for entry in some])
    within, over = taus.taus(values, truths, strata)
    assert over.value == pytest.approx(kendalltau(values, truths).statistic, abs=1e-4)
    agree = disagree = 0
    for i in range(len(some)):
        for j in range(i):
            if strata[i] == strata[j]:
                sign = np.sign(values[i] - values[j]) * np.sign(truths[i] - truths[j])
                agree, disagree = agree + (sign > 0), disagree + (sign < 0)
    assert within.value == pytest.approx((agree - disagree) / (agree + disagree), abs=1e-4)
    assert within.value > 0.9 > over.value
    assert within.interval[0] <= within.value <= within.interval[1]


def test_a_second_seed_is_the_ceiling():
    table = made_up_table()
    text = "\n".join(figures._ceiling_lines([entry for entry in entries(table, "r") if entry.budget == 5_000_000]))
    twice = [entry for entry in entries(table, "r") if entry.budget == 5_000_000 and len(entry.rows) == 2]
    differences = [entry.rows[0].val_accuracy - entry.rows[1].val_accuracy for entry in twice]
    assert f"{len(twice)} networks trained twice" in text
    assert f"{math.sqrt(sum(d * d for d in differences) / len(differences) / 2):.2f} points" in text


def test_rows_of_other_recipes_and_beginnings_are_left_out():
    table = made_up_table()
    others = [dataclasses.replace(table[0], recipe_digest="x"), dataclasses.replace(table[0], initial="supernet")]
    assert len(entries(others, "r")) == 0
    assert len(entries(table, "r")) == 64
    assert sum(len(entry.rows) for entry in entries(table, "r")) == 86


def test_halving_pays_for_the_epochs_that_it_trains():
    table = [row for row in made_up_table() if row.seed == 0]
    some = entries(table, "r")[:9]
    found, spent = selection.halving(some)
    # Curves that never cross: the best is found. Rows say 12 s for 12 epochs: 9 x 1, then 3 x 2 more, then 1 x 9 more.
    assert found.truth == max(entry.truth for entry in some)
    assert spent.seconds == pytest.approx(9 * 1 + 3 * 2 + 1 * 9)
    best, spent = selection.whole(some[:2])
    assert (best.truth, spent.seconds) == (max(entry.truth for entry in some[:2]), 24)
    assert spent.work == 12 * 45000 * 3 * sum(cost(entry.arch).macs for entry in some[:2])


def test_selections_with_a_supernet_pay_for_it_and_see_only_what_it_and_short_trainings_say():
    table = [row for row in made_up_table() if row.seed == 0 and row.macs_budget == 5_000_000]
    some = entries(table, "r")[:18]
    best, worst = max(some, key=lambda entry: entry.truth), min(some, key=lambda entry: entry.truth)
    about = {"drawn": "budget", "macs_budget": 5_000_000, "seed": 0, "epochs": 24, "processor_seconds": 100.0}
    scores = {
        entry.arch.digest: supernets.Inherited(
            **about,
            arch_digest=entry.arch.digest,
            name=entry.first.name,
            search_accuracy=-entry.truth,
            search_loss=1.0,
        )
        for entry in some
    }
    # A supernet that ranks the wrong way round shuts the best out.
    found, spent = selection.screened(scores, some)
    alone, without = selection.halving(sorted(some, key=lambda entry: entry.truth)[:9])
    assert found == alone != best
    looks = sum(12 / 12 * 5000 / (3 * 45000) for _ in some)
    assert spent.seconds == pytest.approx(100 + looks + without.seconds)
    tuned = {entry.arch.digest: replace(entry.first, search_accuracy=(-entry.truth,)) for entry in some}
    found, spent = selection.finalists(scores, tuned, some)
    assert found == worst
    assert spent.seconds == pytest.approx(100 + looks + 5)
    # The work of a supernet: members near the budget, each image learnt from once an epoch.
    assert supernets.supernet_work("budget", 5_000_000, 24) == pytest.approx(3 * 5e6 * 45000 * 24, rel=0.05)
    lines = "\n".join(selection.selection_lines(some, list(scores.values())))
    assert "| the best 9 of 18 by inherited accuracy, then halving |" in lines


def test_the_stratum_alone_does_not_know_the_network_itself():
    some = entries(made_up_table(), "r")
    values = figures.stratum_alone(some)
    mine = [entry.truth for entry in some[1:] if entry.first.stratum == some[0].first.stratum]
    assert values[0] == pytest.approx(np.mean(mine))


@pytest.mark.runs_benchmark("truth_table")
def test_a_whole_table_gives_every_figure(capsys, monkeypatch, few_resamples):
    monkeypatch.setattr(sys, "argv", ["truth_table.py", "figures"])
    recipe = Recipe.load(truth_table.RECIPE_FILE)
    table = [replace(row, recipe_digest=recipe.digest) for row in made_up_table()]
    # Looks that know what networks come to.
    digest = looks.with_warmup(recipe, looks.WARMUPS[0]).digest
    perfect = [replace(row, recipe_digest=digest, search_accuracy=(row.val_accuracy,)) for row in table]
    text = figures.report(table, recipe, looks=[row for row in perfect if row.seed == 0])
    assert text.count(" epochs of warm-up | ") == 4
    assert text.count("| 30 | of the other budgets |") == 1  # 26 networks of the other budget are too few for that
    assert text.count("| DSS |") == 2
    assert "Fitted on the 26 networks of the other budgets" in text
    assert "| halving of 27 random networks |" in text
    assert "Ceiling (tau of a second training)" in text
    truth_table.main()
    assert "trainings of" in capsys.readouterr().out


# --- supernets


def test_a_supernet_of_the_budget_alone_trains_networks_of_every_kind_near_it():
    space = SearchSpace.load(supernets.SPACE)
    recipe = SupernetRecipe.load(supernets.RECIPE)
    usual = training_of_supernets.architectures
    with supernets._drawing(supernets.UNIFORM, 5_000_000):
        assert training_of_supernets.architectures is usual
    with supernets._drawing(supernets.BUDGET, 5_000_000):
        drawn = [training_of_supernets.architectures(space, recipe, seed=0, step=step) for step in range(40)]
        again = training_of_supernets.architectures(space, recipe, seed=0, step=7)
    assert training_of_supernets.architectures is usual
    assert drawn[7] == again
    assert {len(archs) for archs in drawn} == {1}
    assert all(4e6 <= cost(arch).macs <= 6e6 for (arch,) in drawn)
    assert {stratum_of(arch) for (arch,) in drawn} == {"1d patch", "1d conv", "2d patch", "2d conv"}


def test_what_networks_inherit_is_kept(tmp_path):
    found = [
        supernets.Inherited(
            drawn=drawn,
            macs_budget=5_000_000,
            seed=seed,
            epochs=24,
            processor_seconds=1234.5,
            arch_digest="d",
            name="5M-1d-conv-0",
            search_accuracy=41.5,
            search_loss=1.75,
        )
        for drawn in supernets.DRAWN
        for seed in (0, 1)
    ]
    assert supernets.read(tmp_path / "none.csv") == []
    supernets._write(tmp_path / "some.csv", found)
    assert supernets.read(tmp_path / "some.csv") == found
    assert len({one.supernet for one in found}) == len(supernets.by_supernet(found, 5_000_000)) == 4
    assert supernets.by_supernet(found, 10_000_000) == []


def test_short_trainings_begin_with_the_weights_of_a_supernet(tmp_path, monkeypatch):
    space = SearchSpace.load("psvit-2d-digits")
    supernet = Supernet(space)
    folder = tmp_path / supernets.name_of("uniform", 1_000_000, 0, 10)
    folder.mkdir()
    supernet.save(folder / FILE_NAME)
    monkeypatch.setattr(supernets, "SPACE", "psvit-2d-digits")
    listed = [digits_network(number) for number in (0, 7)]
    others = [
        Network(name="dear", macs=5_000_000, origin="random", seeds=(0,), arch=listed[0].arch),
        networks.load()[0],
    ]
    jobs = supernets.tunings([*listed, *others], RECIPE, folder, 2)
    assert [(job.arch, job.recipe.epochs, job.init) for job in jobs] == [(one.arch, 2, folder.name) for one in listed]
    assert not {rows.key_of(job) for job in jobs} & {rows.key_of(job_of(one, RECIPE, 0)) for one in listed}
    running = runner_of("digits", "cpu", tmp_path / "work", listed, initial=partial(supernets.inherited, folder))
    extracted, begun = supernet.extract(jobs[1].arch).state_dict(), running.initial(jobs[1]).state_dict()
    assert begun.keys() == extracted.keys()
    assert all(torch.equal(begun[name], weights) for name, weights in extracted.items())
    with pytest.raises(InputError, match="no supernet of the table"):
        supernets.tunings(listed, RECIPE, tmp_path / "else", 2)


def test_figures_of_short_trainings_from_inherited_weights():
    table = [row for row in made_up_table() if row.macs_budget == 5_000_000 and row.seed == 0]
    tuned = [replace(row, recipe_digest="x", initial="supernet-budget-5000000-0-24", epochs=3) for row in table[:20]]
    lines = list(figures.tuned_lines(entries(table, "r"), [*table, *tuned]))
    # Curves that never cross rank as truth does, tuned ones too.
    assert [line.split(" | ")[1:3] for line in lines[2:5]] == [["20", "1"], ["20", "2"], ["20", "3"]]
    assert all(line.count("1.00") >= 4 for line in lines[2:5])
    assert list(figures.tuned_lines(entries(table, "r"), table)) == []


def test_the_prior_of_searches_is_the_fit_on_the_committed_rows():
    known = rows.read(truth_table.ROWS_FILE)[: prior.ROWS]
    fitted = regression.prior(entries(known, Recipe.load(truth_table.RECIPE_FILE).digest))
    assert pytest.approx(fitted, rel=1e-3) == prior.WEIGHTS


def test_a_prior_is_judged_on_budgets_that_it_was_not_fitted_on(few_resamples):
    def with_truths(truth):
        rows_of = ((one, tuple(replace(row, val_accuracy=truth(one)) for row in one.rows)) for one in made_up)
        return [dataclasses.replace(one, rows=rows) for one, rows in rows_of]

    # What depth says of accuracy holds at the other budget too; chance does not.
    made_up, rng = entries(made_up_table(), "r"), np.random.default_rng(0)
    followed = with_truths(lambda one: 60.0 - one.arch.depth)
    *_, everything, random = regression.prior_lines(followed)
    assert float(everything.split("|")[3]) > 0.7
    assert float(random.split("|")[3]) > 0.7
    assert (int(everything.split("|")[2]), int(random.split("|")[2])) == (64, 52)
    *_, everything, _ = regression.prior_lines(with_truths(lambda one: rng.normal(60, 3)))
    assert abs(float(everything.split("|")[3])) < 0.3
    assert not [*regression.prior_lines([one for one in followed if one.budget == 5_000_000])]


def test_the_favourite_is_within_the_budget_and_what_the_other_budget_speaks_for(few_resamples):
    found = regression.favourite(entries(made_up_table(), "r"), 10_000_000)
    assert 9.8e6 <= cost(found.arch).macs <= 10.2e6
    # There accuracy follows parameters, and 2d networks behind a conv stem are ahead.
    assert (found.arch.variant, found.arch.stem) == ("2d", "conv")
    space = SearchSpace.for_images((32, 32), 3, 10, "10MFLOPs")
    drawn = space.sample(np.random.default_rng(0), 200, Budget.parse("9.8..10.2MFLOPs"))
    assert cost(found.arch).num_params > np.quantile(drawn.num_params, 0.8)


def test_committed_favourites_were_trained_as_the_table_is():
    recipe = Recipe.load(truth_table.RECIPE_FILE)
    for row in rows.read(truth_table.FAVOURITES_FILE):
        assert (row.recipe_digest, row.epochs, row.images, row.origin) == (recipe.digest, 12, 45000, "favourite")
