"""A study is an ordinary one of Optuna's: its dashboard shows trials, directions and constraints."""

from __future__ import annotations

import json
import socket
import subprocess
import sysconfig
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from psvit.search.candidates import Candidates
from psvit.search.objectives import Objectives
from psvit.search.search import search
from psvit.search.searchers import make_searcher
from psvit.search.storage import open_storage
from psvit.search.study import Study
from psvit.space.budget import Budget


@pytest.mark.slow
def test_the_dashboard_shows_the_study(digits_space, mixed_score, tmp_path):
    journal = tmp_path / "study.journal"
    study = Study(digits_space, open_storage(journal), objectives=Objectives(names=("accuracy", "macs")))
    candidates = Candidates(digits_space, Budget.parse("0.9..1.2MFLOPs"))
    searcher = make_searcher("optuna-nsga2")
    searcher._attempts = 4  # most rows are beyond the budget
    for _ in search(candidates, searcher, mixed_score(), study, trials=40, seed=0):
        pass
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sysconfig.get_path("scripts")) / "optuna-dashboard"
    command = [program, journal, "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def get(path):
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/{path}") as answer:
                    return json.load(answer)
            except urllib.error.URLError:  # not started yet
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)

    try:
        (summary,) = get("studies")["study_summaries"]
        assert summary["study_name"] == "psvit"
        shown = get(f"studies/{summary['study_id']}?after=0")
    finally:
        server.terminate()
        server.wait()
    assert shown["directions"] == ["maximize", "minimize"]
    assert shown["objective_names"] == ["score", "macs"]
    trials = {trial["number"]: trial for trial in shown["trials"]}
    assert len(trials) == len(study.history) + len(study.history.rejected)
    for trial in study.history:
        seen = trials[trial.number]
        assert {"complete": "Complete", "raced": "Pruned", "failed": "Fail"}[trial.score.state] == seen["state"]
        if trial.is_complete:
            assert seen["values"] == [trial.score.value, trial.cost.macs]
        assert len(seen["params"]) == len(digits_space.genes)
        assert seen["constraints"] == list(trial.constraints.values())
    assert study.history.rejected
    for rejected in study.history.rejected:
        assert max(trials[rejected.number]["constraints"]) > 0
