"""Selection: trains and compares the networks of a search, and gives the verdict."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from psvit.arch.architecture import Architecture
from psvit.executors.choose_executor import executor_for
from psvit.executors.executor import Executor, Portable
from psvit.nn.network import PSViT
from psvit.search.prepared import Prepared
from psvit.search.proposal import REFERENCE
from psvit.search.result_cache import StudyStore
from psvit.search.selection.entrants import entrants
from psvit.search.selection.finalist import Finalist, Look
from psvit.search.selection.halving import Trainings, select
from psvit.search.selection.rungs import going_on, leading
from psvit.search.selection.verdict import Verdict, judge
from psvit.search.study import Study
from psvit.search.time_limit import TimeLimit
from psvit.search.trained import TrainedAccuracy
from psvit.search.trial import Trial
from psvit.supernet.supernet import Supernet
from psvit.train.job_runner import JobRunner, initial_network
from psvit.train.training_job import RANDOM, TrainingJob


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What trains and compares the networks of a search.

    Attributes:
        trainings: the settings that all trainings share.
        runner: trains them.
        executor: decides where.
        store: keeps the results; of the search's study.
        begins_with_scores: whether the score of a candidate is its accuracy at the first rung.
        finalists: if it is not, at least so many of the best enter, and all references.
        limit: says which trainings may still begin.
    """

    trainings: Trainings
    runner: JobRunner
    executor: Executor
    store: StudyStore
    begins_with_scores: bool
    finalists: int
    limit: TimeLimit

    @classmethod
    def of(cls, prepared: Prepared, study: Study) -> Selection:
        """The selection of a search."""
        plan, data = prepared.plan, prepared.scoring.data
        assert plan.data is not None
        assert plan.training is not None
        assert data is not None
        supernet = prepared.supernet if plan.asked.inherits else None
        return cls(
            trainings=Trainings(
                recipe=plan.training,
                init=str(prepared.digest) if supernet else RANDOM,
                seed=plan.asked.seed,
            ),
            runner=JobRunner(
                data=data,
                device=str(plan.scoring_device),
                folder=(prepared.folder / "selection").resolve(),
                initial=partial(_inherited, supernet) if supernet else initial_network,
                parts=("search", "verdict") if len(plan.data.verdict) else ("search",),
            ),
            executor=executor_for(plan.asked.workers, plan.scoring_device),
            store=StudyStore(study.cache),
            begins_with_scores=plan.is_trained,
            finalists=plan.asked.finalists,
            # Other scores have the time for themselves.
            limit=prepared.limit if plan.is_trained else TimeLimit(),
        )

    def evaluator(
        self, images: int, trials: int, references: Collection[Architecture], share: float
    ) -> TrainedAccuracy:
        """Scores candidates at the first rung.

        Args:
            images: how many search images there are.
            trials: how many candidates will be scored, references included.
            references: these.
            share: of the time, for all scores.
        """
        early = replace(self.runner, parts=("search",))
        return TrainedAccuracy(
            self.trainings,
            early,
            self.executor,
            self.store,
            images=images,
            keep=going_on(trials, to_last=self._leads_to_last),
            references=references,
            limit=self.limit,
            share=share,
        )

    @property
    def _leads_to_last(self) -> bool:
        return len(self.trainings.rungs) <= 2

    def enter(self, ranked: Sequence[Trial]) -> list[Trial]:
        """The trials that are trained further, of `ranked`: those that have a score, best first."""
        if not self.begins_with_scores:
            return entrants(ranked, self.finalists)
        wanted = going_on(len(ranked), to_last=self._leads_to_last)
        return leading(ranked, wanted, lambda trial: trial.origin == REFERENCE)

    def run(self, finalists: Sequence[Finalist]) -> list[Finalist]:
        """Train and compare finalists; the winner comes first. See `halving.select`."""
        first, *others = self.trainings.rungs
        if self.begins_with_scores and others:
            finalists = [
                replace(one, looks=(Look(epoch=first.epoch, accuracies=(one.score,)),))
                for one in finalists
                if one.score is not None
            ]
        return select(finalists, self.trainings, self.runner, self.executor, self.store, self.limit)

    def judge(self, finalists: Sequence[Finalist]) -> Verdict | None:
        """The verdict on the winner, see `verdict.judge`."""
        return judge(finalists, self.trainings, self.store)

    def weights(self, winner: Finalist) -> Mapping[str, Tensor] | None:
        """The weights after the winner's first training; `None` if the runner's folder does not have them."""
        if not winner.looks or winner.looks[-1].epoch < self.trainings.recipe.epochs:
            return None  # it had no time to be trained to the end
        network = self.runner.trained(self.trainings.jobs(winner.arch, self.trainings.rungs[-1])[0])
        return None if network is None else network.cpu().state_dict()

    def tidy(self) -> None:
        """Remove the checkpoints of all trainings."""
        shutil.rmtree(self.runner.folder, ignore_errors=True)


def _inherited(supernet: Portable[Supernet], job: TrainingJob) -> PSViT:
    """The network of a job, with the weights that it inherits from the supernet."""
    return supernet.get().extract(job.arch)
