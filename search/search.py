"""The search: ask a searcher, evaluate the batch, tell the study, until the trials are done or the time is up."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from zlib import crc32

import numpy as np

from psvit.arch.architecture import Architecture
from psvit.io.progress import progress_bar
from psvit.search.candidates import Candidates
from psvit.search.evaluator import Evaluator
from psvit.search.history import History, Seen
from psvit.search.leases import LEASE
from psvit.search.proposal import REFERENCE, UNIFORM, Proposal
from psvit.search.searchers import Searcher
from psvit.search.storage import line_of
from psvit.search.study import Batch, Study
from psvit.search.time_limit import TimeIsUpError
from psvit.search.trial import STATES, Score, Trial
from psvit.space.budget import format_cost

_logger = logging.getLogger(__name__)

KEPT = 10
"""How many of the best candidates are always scored on all images: evolution's parents, and the usual finalists."""

CONFLICTS = 20
"""How many times in a row others may be faster with everything that was proposed, before the search waits for them."""


def search(
    candidates: Candidates,
    searcher: Searcher,
    evaluator: Evaluator,
    study: Study,
    *,
    trials: int,
    seed: int,
    references: Sequence[Architecture] = (),
    seconds: float | None = None,
    keep: int = KEPT,
    pause: Callable[[float], object] = time.sleep,
) -> Iterator[list[Trial]]:
    """Evaluate architectures until the study holds `trials` (failed ones count), or all candidates.

    References come first, and count as trials: so searchers learn from them as from any other.

    A batch is proposed from the whole history, with a generator that is seeded by (seed, number of the batch). It is
    written down before it is evaluated. So a stopped search continues with the batch that it was evaluating.

    If several processes work on one study, none evaluates what another one holds, and each waits for the others at the
    end. They may begin their last batches at the same time, so there may be a few more trials than asked for.

    If a searcher proposes nothing feasible, then only what others hold is left. It is asked again as soon as they hold
    something else, because they may have dropped something.

    Args:
        candidates: the architectures that may be evaluated.
        searcher: proposes them.
        evaluator: scores them.
        study: keeps everything.
        trials: how many trials the study shall hold.
        seed: the seed of everything random.
        references: candidates to evaluate before the searcher is asked.
        seconds: time after which no further batch is begun. An evaluator may end the search earlier (`TimeIsUpError`).
        keep: how many of the best scores the evaluator is told, see `Evaluator.evaluate`.
        pause: waits for some seconds.

    Yields:
        The new trials of every batch, after they are recorded.
    """
    began = time.monotonic()
    study.sync()
    exhausted = _exhausted(study)
    with progress_bar("search", trials, "trials", done=len(study.history)) as advance:
        while seconds is None or time.monotonic() - began < seconds:
            batch = _continued(study)
            if batch is None:
                held = study.history.held
                wanted = trials - len(study.history) - len(held)
                if wanted > 0 and held != exhausted:
                    first = [arch for arch in references if arch not in study.history and arch not in held]
                    batch = _ask(candidates, searcher, study, min(wanted, searcher.batch_size), seed, first)
                    exhausted = held if batch is not None and not batch.feasible else None
            if batch is None:
                if not study.history.held or len(study.history) >= trials:
                    return
                pause(min(1.0, LEASE / 10))
                study.sync()
                continue
            before = len(study.history)
            best = study.history.scores(keep)
            try:
                new = _evaluate(batch, study, partial(evaluator.evaluate, best=best))
            except TimeIsUpError as error:
                yield _first_of(batch, study, error.scores)
                return
            leader = _leader(study.history)
            states = ", ".join(f"{sum(trial.score.state == state for trial in new)} {state}" for state in STATES)
            _logger.info("batch %d: %s; %d trials, %s", batch.number, states, len(study.history), leader)
            advance(len(study.history) - before, leader)
            yield new


def draw_control(
    candidates: Candidates,
    evaluator: Evaluator,
    study: Study,
    searched: History,
    *,
    trials: int,
    seed: int,
    seconds: float | None = None,
    batch_size: int = 32,
    pause: Callable[[float], object] = time.sleep,
) -> int:
    """Score architectures drawn uniformly, to compare the search with random search.

    They are drawn as if there had been no search. All of them are scored on all images, because the report shows all
    scores of random search and not only the best. Those that the search has scored on all images keep that score.

    Args:
        candidates: the architectures that may be drawn.
        evaluator: scores them.
        study: the control's own study, which keeps them.
        searched: the history of the search.
        trials: how many to draw.
        seed: the seed of everything random.
        seconds: time after which no further batch is begun.
        batch_size: how many are scored together.
        pause: waits for some seconds.

    Returns:
        How many there was no time for.
    """
    began = time.monotonic()
    study.sync()
    known = {trial.arch: trial.score for trial in searched.complete}

    def scores(archs: Sequence[Architecture]) -> list[Score]:
        new = [arch for arch in archs if arch not in known]
        try:
            found = known | dict(zip(new, evaluator.evaluate(new) if new else [], strict=True))
        except TimeIsUpError as error:
            found = known | dict(zip(new, error.scores, strict=False))
            raise TimeIsUpError([found[arch] for arch in itertools.takewhile(found.__contains__, archs)]) from None
        return [found[arch] for arch in archs]

    drawn = candidates.draw_unseen(trials, Seen(History()), np.random.default_rng([seed, crc32(b"control")]))
    with progress_bar("random control", len(drawn), "trials", done=len(study.history)) as advance:
        while (left := len(drawn) - len(study.history)) > 0:
            if seconds is not None and time.monotonic() - began >= seconds:
                break
            batch = _continued(study)
            if batch is None:
                new = [arch for arch in drawn if arch not in study.history and arch not in study.history.held]
                if not new:
                    pause(min(1.0, LEASE / 10))
                    study.sync()
                    continue
                proposals = tuple(candidates.propose(new[: min(left, batch_size)], UNIFORM))
                batch = study.ask(Batch(number=study.next_number, proposals=proposals))
            before = len(study.history)
            try:
                _evaluate(batch, study, scores)
            except TimeIsUpError as error:
                _first_of(batch, study, error.scores)
                break
            advance(len(study.history) - before, "")
    return len(drawn) - len(study.history)


def _continued(study: Study) -> Batch | None:
    """The unfinished batch of this process, if it was stopped in the middle of one."""
    batch = study.pending()
    if batch is not None and batch.scores is None:
        batch = study.ask(batch)  # leaves out what others have taken over meanwhile
    return batch if batch is not None and batch.proposals else None


def _exhausted(study: Study) -> frozenset[Architecture] | None:
    """The architectures that others held when this process last found nothing else to evaluate; `None` if not known."""
    last = study.last
    # If others work on the study, it is not known what they held then.
    return frozenset() if last and not last.feasible and not study.is_shared else None


def _ask(
    candidates: Candidates, searcher: Searcher, study: Study, n: int, seed: int, references: Sequence[Architecture]
) -> Batch | None:
    """The next batch, held for this process: references, or what the searcher proposes; `None` if nothing is left."""
    number = study.next_number
    for conflict in range(CONFLICTS):
        # The seed differs between processes. Otherwise, processes that began together would go on proposing the same.
        key = [seed, number] if not conflict else [seed, number, conflict, crc32(study.process.encode())]
        if references and not conflict:
            proposals = candidates.propose(references[:n], REFERENCE)
        else:
            proposals = searcher.propose(n, study.history, candidates, np.random.default_rng(key))
        if not proposals:
            return None
        batch = study.ask(Batch(number=number, proposals=tuple(proposals)))
        if batch.feasible or not _feasible(proposals):
            return batch
    return None


def _feasible(proposals: list[Proposal]) -> list[Proposal]:
    return [proposal for proposal in proposals if proposal.is_feasible]


def _evaluate(batch: Batch, study: Study, score: Callable[[list[Architecture]], list[Score]]) -> list[Trial]:
    """Score a batch and record it. If its scores were written down before, it is only recorded."""
    archs: list[Architecture] = [study.space.decode(proposal.row) for proposal in batch.feasible]
    scores: list[Score] = []
    if batch.scores is None and archs:
        with _beating(study):
            scores = score(archs)
    return study.tell(batch, archs, scores)


def _first_of(batch: Batch, study: Study, scores: list[Score]) -> list[Trial]:
    """Record the first of a batch, which have scores; the others are proposed anew. Without any, the batch stays."""
    if not scores:
        return []
    before = itertools.accumulate((proposal.is_feasible for proposal in batch.proposals), initial=0)
    kept = [number < len(scores) for number in before][:-1]
    first = batch.only(kept)
    return study.tell(first, [study.space.decode(proposal.row) for proposal in first.feasible], scores)


@contextmanager
def _beating(study: Study) -> Iterator[None]:
    """Write a sign of life of this process from time to time, as long as the context lasts."""
    over = threading.Event()

    def beat() -> None:
        pause = LEASE / 4
        while not over.wait(pause):
            try:
                study.beat()
                pause = LEASE / 4
            except Exception as error:  # whatever the storage's driver raises; most of it passes
                _logger.warning("could not write a sign of life to the study; trying again: %s", line_of(error))
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
