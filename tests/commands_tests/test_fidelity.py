"""`psvit-fidelity` from end to end on few digits: what it leaves, that it can be killed, and that searches say it."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
import signal
import subprocess
import time

import pytest
import yaml

from psvit.arch.architecture import ArchitectureFile
from psvit.io.documents import read_yaml
from psvit.search.fidelity.record import read_fidelities
from psvit.search.inherited import InheritedAccuracy
from psvit.train import job_runner

TRAINED = ("--set", "epochs=1", "--set", "warmup_epochs=0", "--set", "batch_size=32")
FEW = ("--within", 4, "--spread", 2, "--second-seeds", 2)
BUDGET = ("--budget", "1MFLOPs")
NOT_MEASURED = "<dt>fidelity</dt><dd>not measured</dd>"
SEARCH = (*BUDGET, "--trials", 4, "--finalists", 0, "--control", 0)


@pytest.fixture(scope="module")
def measured(searched, printed_by, tmp_path_factory):
    """A folder with a supernet, the run of its fidelity, and what was printed; not to be changed by tests."""
    place = tmp_path_factory.mktemp("measured")
    shutil.copytree(searched / "supernet", place / "supernet")
    (place / "out.txt").write_text(printed_by(place, *fidelity_command()))
    return place


@pytest.fixture
def copied(measured, tmp_path):
    """The same to be changed."""
    shutil.copytree(measured, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def trains(monkeypatch):
    """Counts trainings."""
    begun, train = [], job_runner.train

    def counted(task, *args, **kwargs):
        begun.append((task.model.arch, kwargs["seed"]))
        return train(task, *args, **kwargs)

    monkeypatch.setattr(job_runner, "train", counted)
    return begun


def fidelity_command(*changes):
    return ("psvit-fidelity", "--supernet", "supernet", *BUDGET, *(changes or FEW), *TRAINED, "--out", "run")


def journal(folder):
    return [json.loads(line) for line in (folder / "trainings.journal").read_text().splitlines()[1:]]


def test_a_run_leaves_evidence_and_a_record_beside_the_supernet(measured):
    assert {path.name for path in (measured / "run").iterdir() if path.name != "trainings"} == {
        ".psvit.lock",
        "config.yaml",
        "fidelity.csv",
        "fidelity.html",
        "fidelity.yaml",
        "scores.journal",
        "trainings.journal",
    }
    assert not list(measured.glob("run/trainings/*"))
    assert (measured / "supernet/fidelity.yaml").read_bytes() == (measured / "run/fidelity.yaml").read_bytes()
    (fidelity,) = read_fidelities(measured / "run/fidelity.yaml")
    assert fidelity.budget == ("1MFLOPs",)
    assert fidelity.within.limits == {"macs": (950_000, 1_050_000)}
    assert (fidelity.images, fidelity.search_images, fidelity.recipe["epochs"]) == (240, 30, 1)
    assert [one.score for one in fidelity.within.agreements] == ["inherited", "DSS", "macs", "num_params"]
    assert [one.networks for one in fidelity.within.agreements] == [4] * 4
    assert [one.networks for one in fidelity.spread.agreements] == [2] * 4
    assert fidelity.within.ceiling.networks == 2
    assert len(journal(measured / "run")) == 4 + 2 + 2
    with (measured / "run/fidelity.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 6
    assert all(950_000 <= int(row["macs"]) <= 1_050_000 for row in rows[:4])


def test_a_run_says_what_was_measured_and_how_to_go_on(measured):
    out = (measured / "out.txt").read_text()
    assert out.splitlines()[0] == "run: run"
    assert "8 trainings of 1 epochs" in out
    assert "FLOPs are multiply-accumulates" in out
    for word in ("inherited accuracy", "indicator DSS", "multiply-accumulates", "parameters", "a second training"):
        assert word in out
    assert "the ones that count" in out
    assert "over the whole range, which mostly measures MACs" in out
    last = out.strip().splitlines()[-1]
    assert shlex.split(last.removeprefix("next: ")) == ["psvit-search", "--supernet", "supernet", *BUDGET]


def test_the_same_command_trains_and_scores_nothing_again(copied, call, trains, monkeypatch):
    monkeypatch.setattr(InheritedAccuracy, "evaluate", lambda *args: pytest.fail("scored again"))
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file() and path.suffix != ".html"}
    done = call(*fidelity_command())
    assert (done.status, done.err, trains) == (0, "", [])
    assert done.out == (copied / "out.txt").read_text()
    assert {path: path.read_bytes() for path in before} == before


def test_larger_numbers_add_networks_to_a_finished_run(copied, call, trains):
    before = journal(copied / "run")
    with (copied / "run/fidelity.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    done = call(*fidelity_command("--within", 5, "--spread", 3, "--second-seeds", 3))
    assert (done.status, len(trains)) == (0, 3)
    assert journal(copied / "run")[: len(before)] == before
    with (copied / "run/fidelity.csv").open(newline="") as stream:
        more = list(csv.DictReader(stream))
    assert [row["network"] for row in more[:4]] == [row["network"] for row in rows[:4]]
    assert {row["network"] for row in rows} < {row["network"] for row in more}
    (fidelity,) = read_fidelities(copied / "supernet/fidelity.yaml")
    assert fidelity.within.agreement("inherited").networks == 5


def test_smaller_numbers_leave_what_searches_find_as_it_is(copied, call, trains):
    before = (copied / "supernet/fidelity.yaml").read_bytes()
    done = call(*fidelity_command("--within", 3, "--spread", 0, "--second-seeds", 0))
    assert (done.status, trains) == (0, [])
    assert (copied / "supernet/fidelity.yaml").read_bytes() == before
    assert "supernet/fidelity.yaml keeps for searches the earlier measurement, which rests on 4" in done.out
    assert "supernet/fidelity.yaml" not in "".join(done.out.splitlines()[-2:])
    (fidelity,) = read_fidelities(copied / "run/fidelity.yaml")
    assert fidelity.within.agreement("inherited").networks == 3


@pytest.mark.slow
def test_a_run_that_is_killed_trains_nothing_twice(measured, script, tmp_path):
    shutil.copytree(measured / "supernet", tmp_path / "supernet")
    command = [script("psvit-fidelity"), *map(str, fidelity_command()[1:])]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    path = tmp_path / "run/trainings.journal"
    while time.monotonic() < deadline and not (path.exists() and path.read_bytes().count(b"\n") >= 4):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = path.read_bytes()
    whole = before[: before.rfind(b"\n") + 1]
    assert 3 <= whole.count(b"\n") - 1 < 8
    subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    assert path.read_bytes().startswith(whole)
    records = journal(tmp_path / "run")
    assert len({(record["network"], record["seed"]) for record in records}) == len(records) == 8
    # And ends as if nothing had been.
    for name in ("fidelity.csv", "fidelity.yaml"):
        assert (tmp_path / "run" / name).read_bytes() == (measured / "run" / name).read_bytes()


def test_another_configuration_is_refused_with_the_differences(copied, call):
    for changes, expected in [
        (("--seed", 1), "seed: 0 there, 1 here"),
        (("--images", 500), "images: None there, 500 here"),
        (("--set", "lr=0.1"), "recipe.lr: "),
    ]:
        done = call(*fidelity_command(*FEW, *changes))
        assert (done.status, len(done.err.splitlines())) == (2, 1)
        assert expected in done.err


# --- what searches say


def score_of(folder):
    return ArchitectureFile.load(folder / "best.yaml").score


def test_a_winner_and_its_report_carry_the_fidelity_of_their_supernet(copied, call):
    done = call("psvit-search", "--supernet", "supernet", *SEARCH, "--out", "search")
    assert done.status == 0
    assert "inherited accuracy ranked 4 networks that were trained alone" in done.out
    known = score_of(copied / "search")["fidelity"]
    (fidelity,) = read_fidelities(copied / "supernet/fidelity.yaml")
    assert known["kendall_tau"] == fidelity.within.agreement("inherited").kendall_tau.value
    # After an epoch, both networks may have one accuracy, and then there is no tau.
    assert known.get("ceiling") == fidelity.within.ceiling.kendall_tau.value
    assert known["networks"] == 4
    assert "note" not in known
    report = (copied / "search/report.html").read_text()
    assert "kendall tau" in report
    assert NOT_MEASURED not in report
    # Far from where it was measured, that is said.
    assert (
        call("psvit-search", "--supernet", "supernet", "--budget", "2MFLOPs", *SEARCH[2:], "--out", "far").status == 0
    )
    assert "other limits" in score_of(copied / "far")["fidelity"]["note"]


def test_a_search_that_was_begun_before_goes_on_and_then_carries_it(copied, call):
    (copied / "supernet/fidelity.yaml").rename(copied / "later.yaml")
    search = ("psvit-search", "--supernet", "supernet", *SEARCH, "--out", "search")
    done = call(*search)
    assert done.status == 0
    assert "was not measured, which is what psvit-fidelity --supernet supernet --budget ... does" in done.out
    assert score_of(copied / "search")["fidelity"] == "not measured"
    assert NOT_MEASURED in (copied / "search/report.html").read_text()
    before = score_of(copied / "search")
    (copied / "later.yaml").rename(copied / "supernet/fidelity.yaml")
    assert call(*search).status == 0
    after = score_of(copied / "search")
    assert after["fidelity"]["networks"] == 4
    assert {**after, "fidelity": None} == {**before, "fidelity": None}


def test_a_fidelity_of_other_weights_counts_as_not_measured(copied, call):
    path = copied / "supernet/fidelity.yaml"
    content = {"schema": "psvit/fidelity/1", **read_yaml(path, "psvit/fidelity/1")}
    content["measurements"][0]["supernet_digest"] = "0" * 16
    path.write_text(yaml.safe_dump(content))
    assert call("psvit-search", "--supernet", "supernet", *SEARCH, "--out", "search").status == 0
    assert score_of(copied / "search")["fidelity"] == "not measured"


@pytest.mark.slow
@pytest.mark.xdist_group("ray in commands")
def test_workers_on_a_cluster_train_the_same_networks(measured, script, tmp_path):
    shutil.copytree(measured / "supernet", tmp_path / "supernet")
    # Every training is a process of its own, which takes seconds to begin.
    few = fidelity_command("--within", 2, "--spread", 0, "--second-seeds", 1)
    command = [script("psvit-fidelity"), *map(str, few[1:]), "--workers", "ray"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    one, other = (
        {(record["network"], record["seed"]): record["accuracy"] for record in journal(folder / "run")}
        for folder in (measured, tmp_path)
    )
    assert set(other) < set(one)
    assert len(other) == 3
    # Each worker computes with one thread, which may round otherwise.
    assert all(abs(one[key] - other[key]) < 10 for key in other)
    assert not (tmp_path / "run/ray").exists()
    assert not list(tmp_path.glob("run/trainings/*"))
