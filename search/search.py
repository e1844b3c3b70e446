"""The search: ask a searcher, evaluate, tell the study, until the trials are done."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from psvit.budget import format_cost
from psvit.progress import progress_bar
from psvit.search.candidates import Candidates
from psvit.search.evaluator import Evaluator
from psvit.search.searchers import Searcher
from psvit.search.study import Study
from psvit.search.trial import Trial, best


def search(
    candidates: Candidates,
    searcher: Searcher,
    evaluator: Evaluator,
    study: Study,
    *,
    trials: int,
    seed: int,
) -> Iterator[Trial]:
    """Evaluate architectures until the study holds `trials`, or all candidates.

    Proposals are made batch by batch, each from the whole batches before it and a generator seeded by (seed, their
    number). A search that is continued in the middle of a batch therefore proposes the same one again, and evaluates
    what is missing of it.

    Yields:
        Every new trial, after it is recorded.
    """
    with progress_bar("search", trials, "trials", done=len(study.history)) as advance:
        while len(study.history) < trials:
            done = len(study.history) // searcher.batch_size * searcher.batch_size
            rng = np.random.default_rng([seed, done])
            batch = searcher.propose(searcher.batch_size, study.history[:done], candidates, rng)
            missing = batch[len(study.history) - done : trials - done]
            if not missing:
                return
            for arch in missing:
                trial = study.tell(arch, evaluator.evaluate(arch))
                leader = best(study.history)[0]
                advance(1, f"best {leader.score:.6g} at {format_cost('macs', leader.cost.macs)}")
                yield trial
