"""Searchers compared on a space that is small enough to know every score.

    python benchmarks/searchers.py table --supernet RUN --data DATA     every score once, kept in a file
    python benchmarks/searchers.py compare --out runs/searchers         every searcher, many seeds, by the file alone

The space is a part of `psvit-2d-nano`; the scores are accuracies with the weights of one supernet of that space, on
images held out from its training. `compare` prints the median regret: by how many points the best architecture that a
searcher has found by then scores below the best there is. A comparison that was stopped is continued by the same line.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from optuna.storages import InMemoryStorage
from scipy.stats import wilcoxon

from psvit import Architecture, Budget, SearchSpace
from psvit.data import Batches, Inputs, open_data
from psvit.io.documents import replacing
from psvit.io.journal import Journal
from psvit.io.progress import progress_bar
from psvit.search.candidates import Candidates
from psvit.search.inherited import InheritedAccuracy
from psvit.search.search import search
from psvit.search.searchers import SEARCHERS, make_searcher
from psvit.search.study import Study
from psvit.search.trial import Score
from psvit.space.feasible import feasible_set
from psvit.supernet.supernet import Supernet

TABLE = Path(__file__).parent / "tables" / "psvit-2d-nano-part-cifar10.npz"

BUDGET = "9..10MFLOPs"

CHECKPOINTS = (100, 300, 1000)
"""Evaluations after which regret is looked at."""


def part() -> SearchSpace:
    """The networks of `psvit-2d-nano` with two stages."""
    fields = SearchSpace.load("psvit-2d-nano").to_dict()
    fields["name"] = "psvit-2d-nano-part"
    fields["layouts"] = fields["layouts"][:1]
    return SearchSpace.from_dict(fields)


class Table:
    """Knows the score of every architecture."""

    def __init__(self, space: SearchSpace, path: Path) -> None:
        with np.load(path) as stored:
            assert str(stored["space"]) == space.digest, "the table is of another space"
            self.scores = dict(zip(stored["index"].tolist(), stored["score"].tolist(), strict=True))
        self._space = space
        self.optimum = max(self.scores.values())

    def evaluate(self, archs: Sequence[Architecture], best: Sequence[float] = (), parts: int = 1) -> list[Score]:
        """Look scores up."""
        return [Score(value=self.scores[self._space.index(arch)]) for arch in archs]

    def describe(self) -> dict[str, object]:
        """Says that it is a table."""
        return {"kind": "table"}


def make_table(options: argparse.Namespace) -> None:
    """Score every architecture within the budget and keep the scores."""
    space = part()
    data = open_data(options.data)
    space = space.with_data(len(data.classes), data.in_chans)
    images = data.search.take(np.sort(np.random.default_rng(0).permutation(len(data.search))[: options.images]))
    device = torch.device("cpu")
    batches = Batches(images, Inputs.of(data, space.image_size), 250, device)
    evaluator = InheritedAccuracy(Supernet.load(options.supernet), batches)
    members = feasible_set(space, Budget.parse(BUDGET))
    # Neighbours in the space begin alike, and what begins alike is computed once.
    archs = sorted(members.take(np.arange(members.count)), key=space.index)
    scores: list[float] = []
    began = time.perf_counter()
    with progress_bar("table", len(archs), "architectures") as advance:
        for start in range(0, len(archs), options.population):
            found = evaluator.evaluate(archs[start : start + options.population])
            scores += [score.value for score in found if score.value is not None]
            advance(len(found), "")
    seconds = time.perf_counter() - began
    TABLE.parent.mkdir(exist_ok=True)
    with replacing(TABLE) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(
            stream,
            space=np.array(space.digest),
            index=np.array([space.index(arch) for arch in archs]),
            score=np.array(scores, dtype=np.float32),
        )
    print(f"{len(archs):,} of {space.size:,} architectures on {len(images):,} images in {seconds:.0f} s: {TABLE}")


def compare(options: argparse.Namespace) -> None:
    """Run every searcher with every seed, and print what is left to the optimum."""
    space = part().with_data(10, 3)
    table = Table(space, TABLE)
    candidates = Candidates(space, Budget.parse(BUDGET))
    options.out.mkdir(parents=True, exist_ok=True)
    journal = Journal(options.out / "journal", {"space": space.digest, "budget": BUDGET, "checkpoints": CHECKPOINTS})
    known = {(record["searcher"], record["seed"], record["evaluations"]): record for record in journal.records}
    for name in options.searchers:
        for seed in range(options.seeds):
            if (name, seed, options.evaluations) in known:
                continue
            study = Study(space, InMemoryStorage())
            began = time.perf_counter()
            for _ in search(candidates, make_searcher(name), table, study, trials=options.evaluations, seed=seed):
                pass
            scores = np.maximum.accumulate([trial.objectives[0] for trial in study.history])
            record = {
                "searcher": name,
                "seed": seed,
                "evaluations": options.evaluations,
                "seconds": time.perf_counter() - began,
                "regret": [table.optimum - float(scores[n - 1]) for n in CHECKPOINTS if n <= len(scores)],
            }
            journal.add(record)
            known[name, seed, options.evaluations] = record
    values = np.array([*table.scores.values()])
    print(
        f"{len(values):,} architectures of {space.name} within {BUDGET}: {values.min():.2f} to {values.max():.2f} %, "
    )
    print(f"median {np.median(values):.2f}, {int((values > table.optimum - 0.1).sum())} within 0.1 of the best\n")
    print(f"| searcher | seeds | {' | '.join(f'regret at {n}' for n in CHECKPOINTS)} | better than random | ms each |")
    print(f"|---|---|{'---|' * len(CHECKPOINTS)}---|---|")
    runs = {name: _regrets(journal, name) for name in dict.fromkeys(record["searcher"] for record in journal.records)}
    for name, regrets in runs.items():
        cells = [_quartiles(regrets, n) for n in range(len(CHECKPOINTS))]
        seconds = [1e3 * r["seconds"] / r["evaluations"] for r in journal.records if r["searcher"] == name]
        print(
            f"| `{name}` | {len(regrets)} | {' | '.join(cells)} | {_against(regrets, runs.get('random', {}))} "
            f"| {np.median(seconds):.1f} |"
        )


def _regrets(journal: Journal, name: str) -> dict[int, list[float]]:
    """By seed the regrets at the checkpoints, from the longest run."""
    records = sorted((r for r in journal.records if r["searcher"] == name), key=lambda r: r["evaluations"])
    return {record["seed"]: record["regret"] for record in records}


def _quartiles(regrets: dict[int, list[float]], checkpoint: int) -> str:
    values = [regret[checkpoint] for regret in regrets.values() if len(regret) > checkpoint]
    if not values:
        return "not run"
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def _against(regrets: dict[int, list[float]], random: dict[int, list[float]]) -> str:
    """P-values of a one-sided Wilcoxon signed-rank test over the seeds that both have, at every checkpoint."""
    cells = []
    for checkpoint in range(len(CHECKPOINTS)):
        pairs = [
            (random[seed][checkpoint], regret[checkpoint])
            for seed, regret in regrets.items()
            if seed in random and min(len(random[seed]), len(regret)) > checkpoint
        ]
        differences = np.array([one - other for one, other in pairs])
        if len(pairs) < 5 or not differences.any():
            cells.append("-")
            continue
        cells.append(f"{wilcoxon(differences, alternative='greater').pvalue:.1g}")
    return "p " + ", ".join(cells)


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("table")
    one.add_argument("--supernet", required=True)
    one.add_argument("--data", required=True)
    one.add_argument("--images", type=int, default=1000)
    one.add_argument("--population", type=int, default=512)
    one.set_defaults(run=make_table)
    other = commands.add_parser("compare")
    other.add_argument("--out", type=Path, required=True)
    other.add_argument("--searchers", nargs="+", default=[name for name in SEARCHERS if name != "enumerate"])
    other.add_argument("--seeds", type=int, default=20)
    other.add_argument("--evaluations", type=int, default=max(CHECKPOINTS))
    other.set_defaults(run=compare)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
