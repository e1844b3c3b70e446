"""What a search costs beside evaluating: milliseconds a candidate and records in the journal, by searcher.

    python benchmarks/overhead.py evolution random --trials 10000
    python benchmarks/overhead.py optuna-tpe optuna-nsga2 --trials 500

Architectures of psvit-2d-small within 2GFLOPs are scored by a number that costs nothing. Says how long a candidate
takes in the last tenth of the trials, in wall-clock and processor time, how many records and bytes of the journal there
are for every trial, and how long the finished study takes to open.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from psvit.arch.architecture import Architecture
from psvit.search.candidates import Candidates
from psvit.search.search import search
from psvit.search.searchers import SEARCHERS, make_searcher
from psvit.search.storage import open_storage
from psvit.search.study import Study
from psvit.search.trial import Score
from psvit.space.budget import SPENT, Budget
from psvit.space.search_space import SearchSpace


class Free:
    """Prefers deep stages of middling width."""

    def evaluate(self, archs: Sequence[Architecture], best: Sequence[float] = (), parts: int = 1) -> list[Score]:
        """Scores that take no time."""
        return [
            Score(value=sum(stage.depth - abs(stage.embed_dim - 200) / 100 for stage in arch.stages)) for arch in archs
        ]

    def describe(self) -> dict[str, Any]:
        """Says so."""
        return {"kind": "free"}


def main() -> None:
    """Measure every searcher that is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("searchers", nargs="+", choices=list(SEARCHERS))
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    space = SearchSpace.load("psvit-2d-small")
    candidates = Candidates(space, Budget.parse("2GFLOPs").spent(SPENT))
    print(f"psvit-2d-small within 2GFLOPs, {candidates.members.count:.3g} members, {options.trials} trials")
    for name in options.searchers:
        with tempfile.TemporaryDirectory() as folder:
            journal = Path(folder) / "journal"
            study = Study(space, open_storage(journal))
            late: list[tuple[int, float, float]] = []
            for _ in search(candidates, make_searcher(name), Free(), study, trials=options.trials, seed=options.seed):
                if len(study.history) >= 0.9 * options.trials:
                    late.append((len(study.history), time.perf_counter(), time.process_time()))
            (before, wall, cpu), (after, wall_end, cpu_end) = late[0], late[-1]
            if after == before:
                parser.error(f"--trials {options.trials}: the last tenth is a single batch; give more")
            each = 1e3 / (after - before)
            content = journal.read_bytes()
            began = time.perf_counter()
            assert len(Study(space, open_storage(journal)).history) == options.trials
            opened = time.perf_counter() - began
            print(
                f"{name:14} {each * (wall_end - wall):8.2f} ms a candidate, "
                f"{each * (cpu_end - cpu):8.2f} ms of processor; "
                f"{content.count(bytes([10])) / options.trials:6.2f} records and "
                f"{len(content) / options.trials:7.0f} bytes a trial; opens in {opened:.1f} s"
            )


if __name__ == "__main__":
    main()
