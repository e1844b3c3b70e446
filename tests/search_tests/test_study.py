"""The study: what is told stays, in order, and comes back equal; processes share one without doing work twice."""

from __future__ import annotations

import csv
import io
import itertools
import json
import random
from contextlib import suppress
from dataclasses import replace

import numpy as np
import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from psvit.arch.costs import cost
from psvit.errors import InputError
from psvit.search.candidates import Candidates
from psvit.search.history import History, Seen
from psvit.search.leases import LEASE
from psvit.search.objectives import Objectives
from psvit.search.proposal import Proposal
from psvit.search.search import draw_control, search
from psvit.search.searchers import make_searcher
from psvit.search.storage import open_storage
from psvit.search.study import PIECE, Batch, Study
from psvit.search.trial import Score
from psvit.search.trial_table import trial_table
from psvit.space.budget import Budget
from psvit.space.search_space import SearchSpace

# No short decimal, negative, tiny and huge: a score has to come back as the same float.
SCORES = [
    Score(value=0.1 + 0.2, images=144),
    Score(value=-1 / 3, images=144),
    Score(value=1e-300, images=144),
    Score(value=7.0, images=16, state="raced"),
    Score(value=12345678.9),
    Score(value=None, state="failed", reason='out of "memory", 12 GB'),
]


@pytest.fixture
def archs(tiny_space):
    return [tiny_space[int(number)] for number in np.random.default_rng(0).permutation(tiny_space.size)[: len(SCORES)]]


@pytest.fixture
def tell(tiny_space):
    """Takes architectures through a study as one batch; rows that encode none may be among them."""

    def through(study, archs, scores, space=None, rejected=()):
        proposals = Candidates(space or tiny_space, Budget()).propose(archs, "uniform", {"nsga2:generation": 1})
        batch = Batch(number=study.next_number, proposals=(*rejected, *proposals))
        return study.tell(study.ask(batch), archs, scores)

    return through


REJECTED = Proposal(row=(1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0), origin="optuna-tpe", constraints={"space": 1.0})


def test_a_told_trial_is_numbered_priced_and_remembered(tiny_space, archs, tell, tmp_path):
    study = Study(tiny_space, open_storage(tmp_path / "journal"))
    assert study.history.trials == []
    trials = tell(study, archs, SCORES)
    assert study.history.trials == trials
    for number, (trial, arch, score) in enumerate(zip(trials, archs, SCORES, strict=True)):
        assert (trial.number, trial.arch, trial.cost, trial.score) == (number, arch, cost(arch), score)
        assert trial.objectives == ((score.value,) if score.state == "complete" else ())
        assert trial.row == tuple(tiny_space.encode(arch).tolist())
        assert (trial.origin, trial.constraints) == ("uniform", {"space": 0.0})
        assert trial.attrs == {"nsga2:generation": 1}


def test_a_reopened_study_has_the_same_history_and_goes_on(tiny_space, archs, tell, contents, tmp_path):
    journal = tmp_path / "journal"
    first = Study(tiny_space, open_storage(journal))
    tell(first, archs, SCORES, rejected=[REJECTED])
    reopened = Study(tiny_space, open_storage(journal))
    assert contents(reopened) == contents(first)
    assert [one.proposal for one in reopened.history.rejected] == [REJECTED]
    assert reopened.pending() is None
    other = next(arch for arch in map(tiny_space.__getitem__, range(tiny_space.size)) if arch not in archs)
    (added,) = tell(reopened, [other], [Score(value=5.5)])
    assert added.number == 1 + len(SCORES)
    assert Study(tiny_space, open_storage(journal)).history.trials == [*first.history, added]


@pytest.mark.parametrize("name", ["psvit-1d-base", "psvit-2d-base"])
def test_members_of_large_spaces_come_back(name, tell, tmp_path):
    # Their groupings are numbered into the thousands, and layouts differ in their number of stages.
    space = SearchSpace.load(name)
    study = Study(space, open_storage(tmp_path / "journal"))
    drawn = [space[int(number)] for number in np.random.default_rng(0).integers(space.size, size=6)]
    archs = list(dict.fromkeys([*drawn, space.smallest, space.largest]))
    tell(study, archs, [Score(value=float(number)) for number in range(len(archs))], space=space)
    assert [trial.arch for trial in study.history] == archs
    assert Study(space, open_storage(tmp_path / "journal")).history.trials == study.history.trials


def test_the_journal_gets_two_records_a_batch_and_one_a_trial(tiny_space, archs, tell, tmp_path):
    journal = tmp_path / "journal"
    study = Study(tiny_space, open_storage(journal))
    for n in (4, 2):
        before = journal.read_bytes()
        tell(study, archs[:n] if n == 4 else archs[4:], SCORES[:n] if n == 4 else SCORES[4:])
        added = journal.read_bytes().removeprefix(before)
        assert added.endswith(b"\n")
        assert len([json.loads(line) for line in added.splitlines()]) == 2 + n


def test_what_was_asked_for_and_not_told_is_pending(tiny_space, archs, tmp_path):
    proposals = tuple(Candidates(tiny_space, Budget()).propose(archs, "mutation"))
    study = Study(tiny_space, open_storage(tmp_path / "journal"))
    assert study.pending() is None
    assert study.next_number == 0
    batch = study.ask(Batch(number=0, proposals=(REJECTED, *proposals)))
    again = Study(tiny_space, open_storage(tmp_path / "journal"))
    assert again.pending() == batch
    assert batch.feasible == list(proposals)
    assert again.next_number == 1
    again.tell(batch, archs, SCORES)
    assert again.pending() is None
    assert Study(tiny_space, open_storage(tmp_path / "journal")).pending() is None


class Killed(BaseException):
    """Stands for the end of the process."""


class Narrow(InMemoryStorage):
    """Takes no record that would not fit well into MySQL's 65,535 bytes; may be killed after some writes."""

    def __init__(self):
        super().__init__()
        self.longest, self.left = 0, None

    def set_study_user_attr(self, study_id, key, value):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed
        self.longest = max(self.longest, len(json.dumps(value).encode()))
        assert len(key) < 256
        super().set_study_user_attr(study_id, key, value)


# Most proposals of Optuna's samplers may be rejected, and their own names are as short as this one's are long.
proposals = st.builds(
    Proposal,
    row=st.tuples(*[st.integers(0, 10**6)] * 11),
    origin=st.text(max_size=30),
    constraints=st.dictionaries(st.text(max_size=20), st.floats(0.001, 1e300), min_size=1, max_size=4),
    attrs=st.dictionaries(st.text(max_size=20), st.integers() | st.text(max_size=30), max_size=3),
)


@given(
    few=st.lists(proposals, min_size=1, max_size=6),
    sizes=st.tuples(*[st.integers(0, 600)] * 3),
    killed_after=st.integers(0, 12),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_batch_of_any_size_is_there_whole_or_not_at_all_in_short_records(tiny_space, few, sizes, killed_after):
    storage = Narrow()
    study = Study(tiny_space, storage, process="a" * 32)
    first, second, third = (
        Batch(number=number, proposals=tuple((few * size)[:size])) for number, size in enumerate(sizes)
    )
    for batch in (first, second):
        study.ask(batch)
        assert Study(tiny_space, storage, process=study.process).pending() == (batch if batch.proposals else None)
    storage.left = killed_after
    with suppress(Killed):
        study.ask(third)
    storage.left = None
    again = Study(tiny_space, storage, process=study.process)
    assert again.next_number in (2, 3)
    batch = second if again.next_number == 2 else third
    assert again.pending() == (batch if batch.proposals else None)
    assert storage.longest < 50_000


@pytest.mark.parametrize("beyond", [-1, 0, 1, PIECE - 1, PIECE, PIECE + 1])
def test_a_batch_is_cut_where_it_would_be_too_long(tiny_space, beyond):
    storage = Narrow()
    study = Study(tiny_space, storage)
    shortest = len(json.dumps({"proposals": [REJECTED.to_json()], "scores": None}))
    more = PIECE + beyond - shortest
    # Quotation marks take two bytes within JSON, four within JSON that is a text within JSON.
    quoted = replace(REJECTED, origin=REJECTED.origin + '"' * (more // 2) + "x" * (more % 2))
    assert len(json.dumps({"proposals": [quoted.to_json()], "scores": None})) == PIECE + beyond
    batch = study.ask(Batch(number=0, proposals=(quoted,)))
    assert Study(tiny_space, storage).pending() == batch
    pieces = [key for key in study._study.user_attrs if key.startswith("piece:")]
    assert len(pieces) == (0 if beyond <= 0 else 2 if beyond <= PIECE else 3)
    assert storage.longest < 50_000


def test_the_history_as_csv_says_everything(tiny_space, archs, tell, tmp_path):
    objectives = Objectives(names=("accuracy", "params"))
    study = Study(tiny_space, open_storage(tmp_path / "journal"), objectives=objectives)
    tell(study, archs, SCORES)
    rows = list(csv.DictReader(io.StringIO(trial_table(study).to_csv())))
    assert [int(row["number"]) for row in rows] == list(range(len(SCORES)))
    for row, arch, score in zip(rows, archs, SCORES, strict=True):
        assert (float(row["score"]) if row["score"] else None) == score.value
        assert (row["state"], int(row["images"])) == (score.state, score.images)
        assert row["origin"] == "uniform"
        costs = cost(arch)
        assert [int(row[m]) for m in ("macs", "num_params", "activation_bytes")] == [*costs.to_dict().values()]
        assert tiny_space[int(row["index"])] == arch
        assert json.loads(row["arch"]) == {"stages": arch.to_dict()["stages"], "pools": list(arch.pools)}


def test_the_history_of_a_mixed_space_says_what_its_members_do_not_have_in_common(tell, tmp_path):
    space = SearchSpace.load("psvit-nano")
    archs = [space[number] for number in (0, space.size // 2, space.size - 1)]
    study = Study(space, open_storage(tmp_path / "journal"))
    tell(study, archs, [Score(value=float(number)) for number in range(3)], space=space)
    rows = list(csv.DictReader(io.StringIO(trial_table(study).to_csv())))
    said = [json.loads(row["arch"]) for row in rows]
    assert [(one["variant"], one["stem"]) for one in said] == [(arch.variant, arch.stem) for arch in archs]
    assert {arch.stem for arch in archs} == {"patch", "conv"}


def test_facts_are_kept_with_the_study_and_known_to_all_who_work_on_it(tiny_space, archs, tell, tmp_path):
    def opened(name="psvit", process="a"):
        return Study(tiny_space, open_storage(tmp_path / "journal"), name=name, process=process)

    study, other, another = opened(), opened(process="b"), opened(name="another")
    tell(study, archs, SCORES)
    assert other.cache.get("training:1") is None
    assert study.cache.get_or_compute("training:1", lambda: {"accuracy": 0.1 + 0.2}) == {"accuracy": 0.1 + 0.2}
    for known in (study, other, opened()):
        assert known.cache.get("training:1") == {"accuracy": 0.1 + 0.2}
        assert known.cache.get_or_compute("training:1", lambda: pytest.fail("found twice")) == {"accuracy": 0.1 + 0.2}
        assert known.cache.get("training:2") is None
    assert another.cache.get("training:1") is None

    # Of two that find the same at the same time the first is believed, by both.
    def slowly():
        assert study.cache.get_or_compute("training:2", lambda: {"accuracy": 1.0}) == {"accuracy": 1.0}
        return {"accuracy": 2.0}

    assert other.cache.get_or_compute("training:2", slowly) == {"accuracy": 1.0}


def test_an_empty_history_as_csv_is_its_header(tiny_space, tmp_path):
    header = trial_table(Study(tiny_space, open_storage(tmp_path / "journal"))).to_csv().splitlines()
    assert len(header) == 1
    columns = header[0].split(",")
    assert columns[:2] == ["number", "score"]
    assert {"state", "images", "macs", "num_params", "activation_bytes", "origin", "index", "arch"} < set(columns)


def test_a_study_of_another_search_is_refused_with_what_differs(tiny_space, archs, tell, tmp_path):
    path = tmp_path / "journal"
    config = {"budget": ["1MFLOPs"], "supernet": "abc"}
    tell(Study(tiny_space, open_storage(path), config=config), archs, SCORES)
    assert len(Study(tiny_space, open_storage(path), config=config).history) == len(SCORES)
    for other, objectives, expected in [
        ({**config, "supernet": "def"}, None, "supernet: abc there, def here"),
        ({**config, "budget": ["2MFLOPs"]}, None, "budget: ['1MFLOPs'] there, ['2MFLOPs'] here"),
        (config, Objectives(names=("accuracy", "macs")), "objectives: ['accuracy'] there, ['accuracy', 'macs'] here"),
    ]:
        with pytest.raises(InputError, match="study 'psvit': belongs to another search") as refused:
            Study(tiny_space, open_storage(path), config=other, objectives=objectives)
        assert expected in str(refused.value)
        assert "\n" not in str(refused.value)
    assert len(Study(tiny_space, open_storage(path), config=config).history) == len(SCORES)


def test_somebody_elses_study_is_refused(tiny_space, tmp_path):
    storage = open_storage(tmp_path / "journal")
    study = optuna.create_study(storage=storage, study_name="psvit")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    with pytest.raises(InputError, match="belongs to another search"):
        Study(tiny_space, open_storage(tmp_path / "journal"))


@pytest.mark.parametrize(
    ("there", "wanted", "expected"),
    [
        (["minimize"], ("accuracy",), "directions: ['minimize'] there, ['maximize'] here"),
        (["maximize", "minimize"], ("accuracy",), "directions: ['maximize', 'minimize'] there, ['maximize'] here"),
        (["maximize"], ("accuracy", "macs"), "directions: ['maximize'] there, ['maximize', 'minimize'] here"),
        (["maximize", "maximize"], ("accuracy", "macs"), "directions: ['maximize', 'maximize'] there"),
    ],
)
def test_an_empty_study_with_other_directions_is_refused_and_left_alone(tiny_space, tmp_path, there, wanted, expected):
    path = tmp_path / "journal"
    optuna.create_study(storage=open_storage(path), study_name="psvit", directions=there)
    with pytest.raises(InputError, match="study 'psvit': belongs to another search") as refused:
        Study(tiny_space, open_storage(path), objectives=Objectives(names=wanted))
    assert expected in str(refused.value)
    plain = optuna.load_study(study_name="psvit", storage=open_storage(path))
    assert ([direction.name.lower() for direction in plain.directions], plain.user_attrs) == (there, {})


def test_an_empty_study_with_the_right_directions_is_taken(tiny_space, archs, tell, tmp_path):
    path = tmp_path / "journal"
    optuna.create_study(storage=open_storage(path), study_name="psvit", directions=["maximize", "minimize"])
    study = Study(tiny_space, open_storage(path), objectives=Objectives(names=("accuracy", "macs")))
    assert len(tell(study, archs, SCORES)) == len(SCORES)


def test_trials_of_others_are_passed_over_whatever_becomes_of_them(tiny_space, archs, tell, contents, tmp_path):
    def opened():
        return Study(tiny_space, open_storage(tmp_path / "journal"))

    study = opened()
    tell(study, archs[:2], SCORES[:2])
    foreign = optuna.load_study(study_name="psvit", storage=open_storage(tmp_path / "journal"))
    params = dict(zip(tiny_space.genes, tiny_space.encode(archs[5]).tolist(), strict=True))
    foreign.enqueue_trial(params)  # number 2, waiting
    running = foreign.ask({"x": optuna.distributions.FloatDistribution(0, 1)})  # becomes number 2, running
    foreign.enqueue_trial(params)  # 3, waiting for good
    foreign.add_trial(optuna.trial.create_trial(value=99.0))  # 4
    genes = {gene: optuna.distributions.IntDistribution(0, values - 1) for gene, values in tiny_space.genes.items()}
    foreign.add_trial(
        optuna.trial.create_trial(params=params, distributions=genes, value=99.0, user_attrs={"score": {"value": 99.0}})
    )  # 5
    tell(study, archs[2:4], SCORES[2:4])
    assert running.number == 2
    assert [trial.number for trial in study.history] == [0, 1, 6, 7]
    foreign.tell(running, 99.0)
    for again in (study, opened()):
        again.sync()
        assert [trial.number for trial in again.history] == [0, 1, 6, 7]
        assert again.history.rejected == []
        assert again.pending() is None
    assert contents(study) == contents(opened())
    assert len(tell(opened(), archs[4:], SCORES[4:])) == 2


def test_a_trial_that_is_finished_later_is_looked_at_again(tiny_space, archs, tell, tmp_path):
    study = Study(tiny_space, open_storage(tmp_path / "journal"))
    tell(study, archs[:1], SCORES[:1])
    plain = optuna.load_study(study_name="psvit", storage=open_storage(tmp_path / "journal"))
    # A copy of a trial of ours whose writer has not come to its end.
    (told,) = plain.trials
    copied = plain.ask()
    for gene, value in zip(tiny_space.genes, tiny_space.encode(archs[1]).tolist(), strict=True):
        plain._storage.set_trial_param(copied._trial_id, gene, value, told.distributions[gene])
    tell(study, archs[2:3], SCORES[2:3])
    assert [trial.number for trial in study.history] == [0, 2]
    for name, value in told.user_attrs.items():
        copied.set_user_attr(name, {**value, "value": 1.5} if name == "score" else value)
    plain.tell(copied, 1.5)
    study.sync()
    assert {trial.number: trial.arch for trial in study.history} == {0: archs[0], 1: archs[1], 2: archs[2]}


def test_one_storage_holds_studies_by_name(tiny_space, archs, tell, tmp_path):
    one, other = (Study(tiny_space, open_storage(tmp_path / "journal"), name=name) for name in ("a", "b"))
    tell(one, archs, SCORES)
    other.sync()
    assert len(other.history) == 0
    assert len(one.history) == len(SCORES)


# --- as an ordinary study of Optuna's


def test_optuna_reads_the_same_trials(tiny_space, archs, tell, tmp_path):
    objectives = Objectives(names=("accuracy", "macs"))
    study = Study(tiny_space, open_storage(tmp_path / "journal"), objectives=objectives)
    tell(study, archs, SCORES, rejected=[REJECTED])
    plain = optuna.load_study(study_name="psvit", storage=open_storage(tmp_path / "journal"))
    assert [direction.name for direction in plain.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert plain.metric_names == ["score", "macs"]
    states = {"complete": TrialState.COMPLETE, "raced": TrialState.PRUNED, "failed": TrialState.FAIL}
    assert [trial.state for trial in plain.trials] == [TrialState.PRUNED, *(states[score.state] for score in SCORES)]
    # By name, which Optuna knows since version 5, and by their places for programs that know no names.
    knows_names = hasattr(plain.trials[0], "constraints")
    if knows_names:
        assert plain.trials[0].constraints == {"0": 1.0, **REJECTED.constraints}
    assert plain.trials[0].system_attrs["constraints"] == [1.0]
    for trial, arch, score in zip(plain.trials[1:], archs, SCORES, strict=True):
        assert tuple(trial.params.values()) == tuple(tiny_space.encode(arch).tolist())
        assert list(trial.params) == list(tiny_space.genes)
        if knows_names:
            assert trial.constraints == {"0": 0.0, "space": 0.0}
        assert trial.system_attrs["constraints"] == [0.0]
        assert trial.user_attrs["macs"] == cost(arch).macs
        assert trial.values == ([score.value, cost(arch).macs] if score.state == "complete" else None)
        assert trial.intermediate_values == ({16: 7.0} if score.state == "raced" else {})
    # Their front is ours.
    front = {trial.number for trial in study.history.complete} - {
        one.number
        for one in study.history.complete
        for other in study.history.complete
        if other.objectives != one.objectives
        and all(a >= b for a, b in zip(other.objectives, one.objectives, strict=True))
    }
    assert {trial.number for trial in plain.best_trials} == front


# --- several processes


class Clock:
    def __init__(self):
        self.now = 1e9

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def opened(tiny_space, clock, tmp_path):
    """Opens the one study of these tests for a process, whose clock may be ahead of the others' by some seconds."""

    def study(process, name="psvit", ahead=0.0):
        clocks = {"clock": lambda: clock.now - 1e9 * ord(process), "calendar": lambda: clock.now + ahead}
        return Study(tiny_space, open_storage(tmp_path / "journal"), name=name, process=process, **clocks)

    return study


@pytest.fixture
def batch_of():
    def make(study, archs):
        proposals = tuple(Candidates(study.space, Budget()).propose(archs, "uniform"))
        return Batch(number=study.next_number, proposals=proposals)

    return make


def archs_in(space, batch):
    return [space.decode(proposal.row) for proposal in batch.feasible]


def test_what_another_process_holds_or_has_told_is_left_out(tiny_space, archs, opened, batch_of):
    one, other = opened("a"), opened("b")
    held = one.ask(batch_of(one, archs[:3]))
    assert archs_in(tiny_space, held) == archs[:3]
    got = other.ask(batch_of(other, archs[2:5]))
    assert archs_in(tiny_space, got) == archs[3:5]
    one.tell(held, archs[:3], SCORES[:3])
    other.tell(got, archs[3:5], SCORES[3:5])
    assert archs_in(tiny_space, one.ask(batch_of(one, archs))) == archs[5:]
    # Another study of the same storage, such as that of a control, knows nothing of it.
    another = opened("a", "another")
    assert archs_in(tiny_space, another.ask(batch_of(another, archs[:2]))) == archs[:2]


class Interrupted:
    """A study of Optuna's that calls something once, after one of the readings of it."""

    def __init__(self, study, reading, call):
        self._study, self._left, self._call = study, reading, call

    def __getattr__(self, name):
        return getattr(self._study, name)

    def _then(self, found):
        self._left -= 1
        if self._left == -1:
            self._call()
        return found

    def get_trials(self, **options):
        return self._then(self._study.get_trials(**options))

    @property
    def user_attrs(self):
        return self._then(self._study.user_attrs)


@pytest.mark.parametrize("reading", range(3))
def test_what_another_process_tells_while_this_one_asks_is_kept_and_not_evaluated_again(
    tiny_space, archs, opened, batch_of, reading
):
    """It tells a batch and asks for the next one, in between two of the readings of `ask`."""
    one, other = opened("a"), opened("b")
    held = one.ask(batch_of(one, archs[:2]))
    called = []

    def go_on():
        one.tell(held, archs[:2], SCORES[:2])
        one.ask(batch_of(one, archs[2:4]))
        called.append(True)

    other._study = Interrupted(other._study, reading, go_on)
    got = other.ask(batch_of(other, archs[:2]))
    assert called
    assert not got.feasible, "would be evaluated a second time"
    other.sync()
    assert [trial.score for trial in other.history] == SCORES[:2]


def test_of_two_that_tell_the_same_the_first_counts(tiny_space, archs, opened, batch_of, clock):
    """One wrote its scores down and died; another one has taken its architectures over and told them."""
    dead, other = opened("a"), opened("b")
    batch = dead.ask(replace(batch_of(dead, archs[:2]), scores=tuple(SCORES[:2])))
    other.sync()
    clock.now += LEASE + 1
    theirs = other.ask(batch_of(other, archs[:1]))
    other.tell(theirs, archs[:1], SCORES[4:5])
    back = opened("a")
    back.tell(back.pending(), archs[:2], [])
    assert back.pending() is None
    assert [(trial.arch, trial.score) for trial in back.history] == [(archs[0], SCORES[4]), (archs[1], SCORES[1])]
    assert batch.scores == tuple(SCORES[:2])


def test_what_another_process_holds_in_a_long_record_is_left_out_too(tiny_space, archs, opened, batch_of, clock):
    one, other = opened("a"), opened("b")
    for number in range(3):
        batch = batch_of(one, archs[:3])
        one.ask(replace(batch, proposals=(*[REJECTED] * (400 * (number + 1)), *batch.proposals)))
        assert any(key.startswith("piece:") for key in one._study.user_attrs)
        assert archs_in(tiny_space, other.ask(batch_of(other, archs[2:5]))) == archs[3:5]
    assert archs_in(tiny_space, opened("a").pending()) == archs[:3]
    assert len(opened("a").pending().proposals) == 1203


def test_a_dead_process_loses_what_it_holds_after_its_lease(tiny_space, archs, opened, batch_of, clock):
    dead, other = opened("a"), opened("b")
    dead.ask(batch_of(dead, archs[:3]))
    other.sync()
    clock.now += LEASE
    other.sync()
    assert other.history.held == set(archs[:3])
    dead.beat()
    other.sync()
    clock.now += LEASE
    other.sync()
    assert other.history.held == set(archs[:3])
    clock.now += 1
    batch = other.ask(batch_of(other, archs[1:5]))
    assert archs_in(tiny_space, batch) == archs[1:5]


SKEWS = [-180.0, -LEASE - 1, -1.0, 0.0, 1.0, LEASE + 1, 86400.0, -1e9]


@pytest.mark.parametrize("ahead", SKEWS)
def test_a_dead_process_loses_what_it_holds_whatever_its_clock_said(tiny_space, archs, opened, batch_of, clock, ahead):
    dead, other = opened("a", ahead=ahead), opened("b")
    dead.ask(batch_of(dead, archs[:3]))
    assert archs_in(tiny_space, other.ask(batch_of(other, archs[2:4]))) == archs[3:4]
    clock.now += LEASE
    assert archs_in(tiny_space, other.ask(batch_of(other, archs[2:4]))) == archs[3:4]
    clock.now += 1
    assert archs_in(tiny_space, other.ask(batch_of(other, archs[:4]))) == archs[:4]


@pytest.mark.parametrize("ahead", SKEWS)
def test_a_living_process_keeps_what_it_holds_whatever_its_clock_says(
    tiny_space, archs, opened, batch_of, clock, ahead
):
    live, others = opened("a", ahead=ahead), [opened("b"), opened("c", ahead=-ahead)]
    held = live.ask(batch_of(live, archs[:3]))
    for beat in range(20):
        clock.now += LEASE / 4
        live.beat()
        for other in (*others, opened("d")):  # the last sees it for the first time
            if beat % 3 == 0:
                other.sync()
                assert other.history.held == set(archs[:3])
    assert not others[0].ask(batch_of(others[0], archs[:3])).feasible
    assert len(live.tell(held, archs[:3], SCORES[:3])) == 3


def test_a_living_process_whose_clock_is_set_back_keeps_what_it_holds(tiny_space, archs, opened, batch_of, clock):
    live, other = opened("a"), opened("b")
    live.ask(batch_of(live, archs[:3]))
    for set_to in (0.0, -86400.0, 3600.0, 1.0):
        live._calendar = lambda set_to=set_to: set_to
        other.sync()
        clock.now += LEASE
        live.beat()
        other.sync()
        assert other.history.held == set(archs[:3])


def test_who_has_not_looked_for_long_and_finds_the_same_sign_takes_over(tiny_space, archs, opened, batch_of, clock):
    dead, busy = opened("a"), opened("b")
    dead.ask(batch_of(dead, archs[:3]))
    busy.sync()
    clock.now += 100 * LEASE
    assert archs_in(tiny_space, busy.ask(batch_of(busy, archs[:3]))) == archs[:3]


def test_a_process_that_comes_back_late_makes_no_second_trials(tiny_space, archs, opened, batch_of, clock):
    late, other = opened("a"), opened("b")
    mine = late.ask(batch_of(late, archs[:4]))
    other.sync()
    clock.now += LEASE + 1
    theirs = other.ask(batch_of(other, archs[1:3]))
    other.tell(theirs, archs[1:3], SCORES[1:3])
    held = other.ask(batch_of(other, archs[3:4]))
    # Two were told by another process meanwhile. The rest of its work counts, also what another one holds now.
    late.tell(mine, archs[:4], [Score(value=99.0)] * 4)
    other.tell(held, archs[3:4], SCORES[3:4])
    late.sync()
    assert late.pending() is None
    assert {trial.arch: trial.score for trial in late.history} == {
        archs[0]: Score(value=99.0),
        **dict(zip(archs[1:3], SCORES[1:3], strict=True)),
        archs[3]: Score(value=99.0),
    }
    assert len(optuna.load_study(study_name="psvit", storage=late._study._storage).trials) == 4


def test_a_process_that_was_killed_and_comes_back_late_evaluates_only_what_is_left(
    tiny_space, score, opened, batch_of, archs, clock
):
    killed, other = opened("a"), opened("b")
    killed.ask(batch_of(killed, archs[:4]))
    other.sync()
    clock.now += LEASE + 1
    theirs = other.ask(batch_of(other, archs[1:3]))
    other.tell(theirs, archs[1:3], SCORES[1:3])
    evaluator = score()
    steps = search(Candidates(tiny_space, Budget()), make_searcher("random"), evaluator, opened("a"), trials=4, seed=0)
    assert [trial.arch for trial in next(steps)] == [archs[0], archs[3]]
    assert evaluator.evaluated == [archs[0], archs[3]]


class Process:
    """One of several that work on one study, advanced step by step: propose, evaluate, tell."""

    def __init__(self, opened, name, searcher, evaluator, space, trials):
        self.name, self._opened, self._evaluator, self._trials = name, opened, evaluator, trials
        self._searcher, self._candidates = searcher, Candidates(space, Budget())
        self.is_done = False
        self.start()

    def start(self):
        """Begin, or come back after it was killed."""
        self._steps = self._run()

    def _run(self):
        study = self._opened(self.name)
        seed, candidates = 3, self._candidates
        while True:
            study.sync()
            batch = study.pending()
            if batch is not None and batch.scores is None:
                batch = study.ask(batch)
                yield "asked again"
            if batch is None or not batch.proposals:
                wanted = self._trials - len(study.history) - len(study.history.held)
                if wanted <= 0 and not study.history.held:
                    return
                if wanted <= 0:
                    yield "waiting"
                    continue
                rng = np.random.default_rng([seed, study.next_number])
                proposals = self._searcher.propose(min(wanted, 4), study.history, candidates, rng)
                yield "proposed"
                if not proposals:
                    if not study.history.held:
                        return
                    yield "waiting"
                    continue
                batch = study.ask(Batch(number=study.next_number, proposals=tuple(proposals)))
                yield "asked"
            archs = archs_in(study.space, batch)
            scores = self._evaluator.evaluate(archs) if batch.scores is None else []
            yield "evaluated"
            study.tell(batch, archs, scores)
            yield "told"

    def step(self):
        if next(self._steps, None) is None:
            self.is_done = True


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 12))])
@pytest.mark.parametrize("name", ["random", "evolution", "enumerate"])
def test_processes_in_any_order_evaluate_everything_once(tiny_space, mixed_score, opened, clock, tmp_path, name, seed):
    """Three processes, of which some are killed and come back soon, late or never, advance in a random order."""
    order = random.Random(f"{name}-{seed}")
    evaluators = {process: mixed_score() for process in "abc"}
    processes = [
        Process(opened, process, make_searcher(name), evaluators[process], tiny_space, tiny_space.size)
        for process in "abc"
    ]
    kills = 0
    while not all(process.is_done for process in processes):
        process = order.choice([process for process in processes if not process.is_done])
        process.step()
        clock.now += order.expovariate(1 / 5)
        if kills < 4 and order.random() < 0.1:
            kills += 1
            if order.random() < 0.3 and sum(not process.is_done for process in processes) > 1:
                process.is_done = True  # never comes back, so that others take over what it held
            else:
                clock.now += order.choice([0, 2 * LEASE])
                process.start()
        if all(process.is_done for process in processes):
            last = Process(opened, "d", make_searcher(name), mixed_score(), tiny_space, tiny_space.size)
            while not last.is_done:
                last.step()
                clock.now += LEASE / 10  # what dead processes hold is left to it after a while
    study = opened("e")
    trials = optuna.load_study(study_name="psvit", storage=open_storage(tmp_path / "journal")).trials
    rows = [tuple(trial.params.values()) for trial in trials]
    assert len(set(rows)) == len(rows) == tiny_space.size
    assert {trial.arch for trial in study.history} == {tiny_space[i] for i in range(tiny_space.size)}
    assert all(trial.score == mixed_score().score(trial.arch) for trial in study.history)
    assert [trial.number for trial in study.history] == list(range(tiny_space.size))


def test_a_search_waits_for_what_others_hold_and_takes_over_what_they_leave(tiny_space, score, opened, batch_of, clock):
    members = [tiny_space[i] for i in range(tiny_space.size)]
    dead = opened("a")
    dead.ask(batch_of(dead, members[:5]))
    waited = []

    def pause(seconds):
        waited.append(seconds)
        clock.now += 20

    evaluator, study = score(), opened("b")
    candidates = Candidates(tiny_space, Budget())
    for _ in search(candidates, make_searcher("random"), evaluator, study, trials=tiny_space.size, seed=0, pause=pause):
        pass
    assert LEASE / 20 <= len(waited) <= LEASE / 20 + 2
    assert len(evaluator.evaluated) == len(set(evaluator.evaluated)) == tiny_space.size
    assert set(evaluator.evaluated[-5:]) == set(members[:5])


def test_a_searcher_that_finds_nothing_is_asked_again_only_when_others_hold_something_else(
    digits_space, tmp_path, score, batch_of, clock
):
    budget = Budget.parse("0.26MFLOPs")
    candidates, searcher, evaluator = Candidates(digits_space, budget), make_searcher("optuna-nsga2"), score()
    searcher._attempts = 4

    def opened(process):
        return Study(digits_space, open_storage(tmp_path / "shared"), process=process, clock=clock)

    held = candidates.draw_unseen(2, Seen(History()), np.random.default_rng(0))
    opened("a").ask(batch_of(opened("a"), held[:1]))
    study, seen = opened("c"), []
    clock.now += LEASE / 2
    opened("b").ask(batch_of(opened("b"), held[1:]))

    def pause(seconds):
        seen.append((len(study.history), len(study.history.rejected)))
        clock.now += LEASE / 10

    for _ in itertools.islice(search(candidates, searcher, evaluator, study, trials=50, seed=0, pause=pause), 30):
        pass
    assert len(study.history) == candidates.members.count == 6
    assert [trial.arch for trial in study.history][-2:] == held
    # It waited for one and then the other, and while it waited it recorded nothing.
    assert {evaluated for evaluated, _ in seen} == {4, 5}
    assert len(set(seen)) == 2
    assert len(seen) > 8


def test_the_control_is_shared_too(tiny_space, score, opened, batch_of, clock):
    candidates = Candidates(tiny_space, Budget())
    alone = opened("z")
    draw_control(candidates, score(), alone, History(), trials=4, seed=1)
    drawn = [trial.arch for trial in alone.history]
    one, other, evaluator = opened("a"), opened("b"), score()
    dead = one.ask(batch_of(one, [drawn[0], tiny_space[0], tiny_space[1]]))
    assert drawn[0] not in archs_in(tiny_space, dead)
    waited = []

    def pause(seconds):
        waited.append(seconds)
        clock.now += LEASE

    draw_control(candidates, evaluator, other, History(), trials=12, seed=1, pause=pause)
    assert len(other.history) == 12
    assert not set(drawn) & set(evaluator.evaluated)
    assert len(evaluator.evaluated) == 8
