"""Records of a study's journal that are valid JSON of a wrong shape: one line that names the file and the line."""

from __future__ import annotations

import copy
import json
import re
import time
from dataclasses import replace

import numpy as np
import pytest

from psvit.errors import InputError
from psvit.search.candidates import Candidates
from psvit.search.objectives import Objectives
from psvit.search.proposal import Proposal
from psvit.search.result_cache import packed, unpacked
from psvit.search.search import search
from psvit.search.searchers import make_searcher
from psvit.search.storage import open_storage
from psvit.search.study import PIECE, Batch, Study
from psvit.search.trial import Score
from psvit.search.trial_table import trial_table
from psvit.space.budget import Budget

CONFIG = {"budget": ["1MFLOPs"], "seed": 0}
REPLACEMENTS = [None, [], {}, "x", "", True, -1, 0.5, 10**30, 10**400, [[[]]], {"x": None}, float("nan")]
SECONDS = 5.0


@pytest.fixture
def opened(tiny_space):
    def study(path, process="a", clock=time.monotonic):
        options = {"objectives": Objectives(names=("accuracy", "macs")), "config": CONFIG, "clock": clock}
        return Study(tiny_space, open_storage(path), process=process, **options)

    return study


@pytest.fixture
def journal(tiny_space, opened, tmp_path):
    """The journal of a study with all that a study may hold."""
    path = tmp_path / "study.journal"
    candidates, archs = Candidates(tiny_space, Budget()), [tiny_space[number] for number in range(12)]
    rejected = Proposal(row=(1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0), origin="optuna-tpe", constraints={"space": 1.0})
    scores = [
        Score(value=50.5, images=144),
        Score(value=7.0, images=16, state="raced"),
        Score(value=None, state="failed", reason="out of memory"),
    ]
    study, other, third = (opened(path, process) for process in "abc")
    proposals = candidates.propose(archs[:3], "uniform", {"nsga2:generation": 0})
    study.tell(study.ask(Batch(number=0, proposals=(rejected, *proposals))), archs[:3], scores)
    study.beat()
    study.cache.get_or_compute("training:1", lambda: {"accuracy": 50.0, "verdict": packed(np.ones(9, dtype=bool))})
    long = replace(rejected, origin="x" * PIECE)
    other.ask(Batch(number=0, proposals=(long, *candidates.propose(archs[3:5], "uniform"))))
    other.beat()
    third.ask(Batch(number=0, proposals=tuple(candidates.propose(archs[5:7], "uniform")), scores=(scores[0],) * 2))
    study.ask(Batch(number=1, proposals=tuple(candidates.propose(archs[7:9], "uniform"))))
    return path


def places(value, before=()):
    """The places of a record, and for each a name that similar places share."""
    yield before
    if isinstance(value, dict):
        for key, within in value.items():
            yield from places(within, (*before, key))
    elif isinstance(value, list):
        for index, within in enumerate(value):
            yield from places(within, (*before, index))


def kind(record, place):
    """What similar places have in common: one gene is like another, and one proposal of a batch."""
    attr = next(iter(record.get("user_attr", {"": 0}))).split(":")[0]
    state = record.get("state")
    names = ["#" if isinstance(part, int) or re.fullmatch(r"s\d.*|stage.*", str(part)) else part for part in place]
    return (record["op_code"], attr, state, *names)


def changed(record, place, replacement):
    """A copy of a record with another value at a place; without it if there is no other value."""
    record = copy.deepcopy(record)
    if not place:
        return replacement[0] if replacement else {}
    *way, last = place
    within = record
    for part in way:
        within = within[part]
    if replacement:
        within[last] = replacement[0]
    else:
        del within[last]
    return record


def mutations(content):
    """Each line with each change, as (line, place, content)."""
    lines = content.splitlines(keepends=True)
    seen = set()
    for number, line in enumerate(lines):
        record = json.loads(line)
        for place in places(record):
            if (name := kind(record, place)) in seen:
                continue
            seen.add(name)
            for replacement in [[], *([value] for value in REPLACEMENTS)]:
                other = json.dumps(changed(record, place, replacement), separators=(",", ":")).encode() + b"\n"
                yield number + 1, (place, replacement), b"".join([*lines[:number], other, *lines[number + 1 :]])


def use(opened, path, score):
    """Open a study again and do all that a search does with it."""
    now = [0.0]
    study = opened(path, clock=lambda: now[0])
    known = study.cache.get("training:1")
    try:
        known and (float(known["accuracy"]), unpacked(known["verdict"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise study.cache.damaged("training:1", "must have an accuracy") from None
    trial_table(study).to_csv()
    wanted = len(study.history) + len(study.history.held) + 4
    searcher = make_searcher("optuna-nsga2")

    def pause(seconds):
        now[0] += 30.0
        assert now[0] < 3600.0, "waits without an end"

    steps = search(Candidates(study.space, Budget()), searcher, score, study, trials=wanted, seed=0, pause=pause)
    for _ in range(3):
        next(steps, None)
    assert len(study.history) >= 4


@pytest.mark.slow(seconds=60)
def test_a_record_of_a_wrong_shape_is_named_or_does_no_harm(opened, journal, mixed_score, tmp_path):
    path, wrong, refused, elsewhere = tmp_path / "damaged.journal", [], 0, 0
    cases = list(mutations(journal.read_bytes()))
    for line, change, content in cases:
        path.write_bytes(content)
        began = time.process_time()
        try:
            use(opened, path, mixed_score())
        except InputError as error:
            refused += 1
            named = re.search(rf"{re.escape(str(path))}: line (\d+) is damaged: ", str(error))
            is_another = "is not a journal of Optuna's" in str(error) or "belongs to another search" in str(error)
            if "\n" in str(error) or len(str(error)) > 1500 or not (named or is_another):
                wrong.append((line, change, f"said: {error}"))
            elsewhere += bool(named and int(named[1]) != line)
        except Exception as error:
            wrong.append((line, change, f"{type(error).__name__}: {error}"))
        if time.process_time() - began > SECONDS:
            wrong.append((line, change, f"{time.process_time() - began:.1f} s"))
    assert len(cases) > 1500
    assert not wrong, f"{len(wrong)} of {len(cases)}:\n" + "\n".join(str(case)[:400] for case in wrong[:40])
    assert refused > len(cases) / 2
    # A claim in pieces is named where a piece is damaged.
    assert elsewhere < refused / 10


def test_the_whole_journal_is_used(opened, journal, mixed_score):
    use(opened, journal, mixed_score())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda line: line.replace('"score":{', '"score":[],"x":{'), "trial 1: a score must have a value"),
        (lambda line: line.replace('"batch":0', '"batch":[0]'), "trial 1: batch must be a whole number"),
        (lambda line: re.sub(r'"values":\[[^]]*]', '"values":[1.0]', line), "trial 1: values must be 2 finite numbers"),
        (lambda line: line.replace('"distributions":{', '"distributions":5,"x":{'), "distributions: "),
    ],
)
def test_a_damaged_trial_is_named_with_its_line(opened, journal, change, expected):
    lines = journal.read_text().splitlines(keepends=True)
    (number,) = [
        i for i, line in enumerate(lines) if '"op_code":4' in line and '"value":50.5,"images"' in line.replace(" ", "")
    ]
    assert change(lines[number]) != lines[number]
    journal.write_text("".join([*lines[:number], change(lines[number]), *lines[number + 1 :]]))
    with pytest.raises(InputError) as refused:
        opened(journal)
    assert f"--storage {journal}: line {number + 1} is damaged: {expected}" in str(refused.value)


def test_a_damaged_trial_of_a_database_is_named(tiny_space, tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    study = Study(tiny_space, open_storage(url))
    proposals = tuple(Candidates(tiny_space, Budget()).propose([tiny_space[0]], "uniform"))
    study.ask(Batch(number=0, proposals=proposals))
    study._study.set_user_attr("claim:0", {"number": -5})
    with pytest.raises(InputError, match="study 'psvit' is damaged: claim:0: number must be a whole number"):
        Study(tiny_space, open_storage(url)).pending()
