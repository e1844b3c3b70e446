"""A sampler of Optuna's, and a searcher of one's own.

    python examples/own_searcher.py FOLDER

Any sampler of Optuna's can search; every batch asks a copy of it, seeded for that batch, so that a search can be
continued. A class of one's own proposes from the history alone, for the same reason.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from optuna.samplers import BaseSampler, TPESampler

import psvit


class HillClimbing(psvit.Searcher):
    """Proposes neighbours of the best so far: members that differ from it in few choices."""

    name = "hill climbing"
    batch_size = 8

    def propose(
        self, n: int, history: psvit.History, candidates: psvit.Candidates, rng: np.random.Generator
    ) -> list[psvit.Proposal]:
        """Up to `n` candidates that are not in the history."""
        seen = psvit.Seen(history)
        found: list[psvit.Architecture] = []
        for _ in range(50 * n if history.complete else 0):
            (best,) = history.best(1)
            neighbour = candidates.mutate(best.arch, rng, rate=0.1)
            if neighbour not in seen and candidates.permits(neighbour):
                seen.add(neighbour)
                found.append(neighbour)
            if len(found) == n:
                break
        # At the beginning there is no best, and a summit may have no neighbours left.
        found += candidates.draw_unseen(n - len(found), seen, rng)
        return candidates.propose(found, self.name)


def late_width(archs: Sequence[psvit.Architecture]) -> list[float]:
    """Stands for a score that takes longer: how wide the layers are, late ones counting more."""
    return [
        sum(place * stage.embed_dim * stage.depth for place, stage in enumerate(arch.stages, start=1)) for arch in archs
    ]


def main(folder: Path) -> None:
    """Search the same space in three ways."""
    searchers: dict[str, str | psvit.Searcher | BaseSampler] = {
        "hill-climbing": HillClimbing(),
        "tpe": TPESampler(n_startup_trials=10, multivariate=False),
        "evolution": "evolution",
    }
    for name, searcher in searchers.items():
        result = psvit.run_search(
            "psvit-2d-digits",
            budget="1MFLOPs",
            evaluator=late_width,
            searcher=searcher,
            trials=48,
            control=0,
            out=folder / name,
            device="cpu",
        )
        print(f"{name}: {result.best.score:g} after {len(result.trials)} trials")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
