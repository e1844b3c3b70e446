"""The search: ask a searcher, evaluate the batch, tell the study, until the trials are done or the time is up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from zlib import crc32

import numpy as np

from psvit.architecture import Architecture
from psvit.budget import format_cost
from psvit.progress import progress_bar
from psvit.search.candidates import Candidates
from psvit.search.evaluator import Evaluator
from psvit.search.history import History, Seen
from psvit.search.proposal import UNIFORM, Proposal
from psvit.search.searchers import Searcher
from psvit.search.storage import line_of
from psvit.search.study import LEASE, Batch, Study
from psvit.search.trial import STATES, Score, Trial

_logger = logging.getLogger(__name__)

KEPT = 10
"""So many of the best are scored on all images, whatever is raced: evolution's parents, and more than the finalists."""

CONFLICTS = 20
"""Proposals in a row that other processes were faster with, before a search gives up on finding its own."""


def search(
    candidates: Candidates,
    searcher: Searcher,
    evaluator: Evaluator,
    study: Study,
    *,
    trials: int,
    seed: int,
    seconds: float | None = None,
    pause: Callable[[float], object] = time.sleep,
) -> Iterator[list[Trial]]:
    """Evaluate architectures until the study holds `trials`, those that failed included, or all candidates.

    A batch is proposed from the whole history and a generator seeded by (seed, number of the batch), and written down
    before it is evaluated. A search that was stopped anywhere therefore continues with the batch that it was at.
    Several processes that work on one study do not evaluate what another one holds, and wait for it at the end; as they
    begin their last batches at the same time, there may be a few trials more than asked for.

    Args:
        candidates: what may be evaluated.
        searcher: proposes.
        evaluator: scores.
        study: where everything is kept.
        trials: how many.
        seed: of everything random.
        seconds: after which no further batch is begun.
        pause: waits for some seconds.

    Yields:
        The new trials of every batch, after they are recorded.
    """
    began = time.monotonic()
    study.sync()
    with progress_bar("search", trials, "trials", done=len(study.history)) as advance:
        while seconds is None or time.monotonic() - began < seconds:
            batch = _continued(study, is_control=False)
            if batch is None:
                wanted = trials - len(study.history) - len(study.history.held)
                batch = (
                    _ask(candidates, searcher, study, min(wanted, searcher.batch_size), seed) if wanted > 0 else None
                )
            if batch is None:
                if not study.history.held or len(study.history) >= trials:
                    return
                pause(min(1.0, LEASE / 10))
                study.sync()
                continue
            before = len(study.history)
            new = _evaluate(batch, candidates, evaluator, study, study.history.scores(KEPT))
            leader = _leader(study.history)
            states = ", ".join(f"{sum(trial.score.state == state for trial in new)} {state}" for state in STATES)
            _logger.info("batch %d: %s; %d trials, %s", batch.number, states, len(study.history), leader)
            advance(len(study.history) - before, leader)
            yield new


def draw_control(
    candidates: Candidates,
    evaluator: Evaluator,
    study: Study,
    *,
    trials: int,
    seed: int,
    batch_size: int = 32,
    pause: Callable[[float], object] = time.sleep,
) -> None:
    """Score architectures drawn uniformly, for comparison: what random search would have found.

    They are drawn as if nothing had been searched. All of them are scored on all images, because the scores of a
    random search are wanted, not its best one.

    Args:
        candidates: what may be drawn.
        evaluator: scores.
        study: keeps them as its control.
        trials: how many.
        seed: of everything random.
        batch_size: how many are scored together.
        pause: waits for some seconds.
    """
    drawn = candidates.draw_unseen(trials, Seen(History()), np.random.default_rng([seed, crc32(b"control")]))
    with progress_bar("random control", len(drawn), "trials", done=len(study.control)) as advance:
        while len(study.control) < len(drawn):
            batch = _continued(study, is_control=True)
            if batch is None:
                taken = study.control.held
                new = [arch for arch in drawn if arch not in study.control and arch not in taken][:batch_size]
                if not new:
                    pause(min(1.0, LEASE / 10))
                    study.sync()
                    continue
                proposals = tuple(candidates.propose(new, UNIFORM))
                batch = study.ask(Batch(number=study.next_number, proposals=proposals, is_control=True))
            before = len(study.control)
            _evaluate(batch, candidates, evaluator, study, [])
            advance(len(study.control) - before, "")


def _continued(study: Study, *, is_control: bool) -> Batch | None:
    """What this process was at when it was stopped, if that belongs to this part of the search."""
    batch = study.pending()
    if batch is None:
        return None
    if batch.scores is None:
        if batch.is_control != is_control:
            return None
        batch = study.ask(batch)  # what others have taken over meanwhile is theirs
    elif batch.is_control != is_control:
        study.tell(batch, [study.space.decode(proposal.row) for proposal in batch.feasible], [])
        return None
    return batch if batch.proposals else None


def _ask(candidates: Candidates, searcher: Searcher, study: Study, n: int, seed: int) -> Batch | None:
    """The next batch, held for this process; none where nothing is left to evaluate."""
    number = study.next_number
    for conflict in range(CONFLICTS):
        # Processes that begin together shall not propose the same again and again.
        key = [seed, number] if not conflict else [seed, number, conflict, crc32(study.process.encode())]
        proposals = searcher.propose(n, study.history, candidates, np.random.default_rng(key))
        if not proposals:
            return None
        batch = study.ask(Batch(number=number, proposals=tuple(proposals)))
        if batch.feasible or not _feasible(proposals):
            return batch
    return None


def _feasible(proposals: list[Proposal]) -> list[Proposal]:
    return [proposal for proposal in proposals if proposal.is_feasible]


def _evaluate(
    batch: Batch, candidates: Candidates, evaluator: Evaluator, study: Study, best: list[float]
) -> list[Trial]:
    """Score a batch and record it; one whose scores were written down before is only recorded."""
    archs: list[Architecture] = [candidates.space.decode(proposal.row) for proposal in batch.feasible]
    scores: list[Score] = []
    if batch.scores is None and archs:
        with _beating(study):
            scores = evaluator.evaluate(archs, best)
    return study.tell(batch, archs, scores)


@contextmanager
def _beating(study: Study) -> Iterator[None]:
    """Give signs of life while something lasts."""
    over = threading.Event()

    def beat() -> None:
        pause = LEASE / 4
        while not over.wait(pause):
            try:
                study.beat()
                pause = LEASE / 4
            except Exception as error:  # whatever the storage's driver raises; most of it passes
                _logger.warning("no sign of life was given, which is tried again: %s", line_of(error))
                pause = LEASE / 24

    thread = threading.Thread(target=beat, name="psvit signs of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _leader(history: History) -> str:
    best = history.best()
    if not best:
        return ""
    (leader,) = best
    return f"best {leader.score.value:.6g} at {format_cost('macs', leader.cost.macs)}"
