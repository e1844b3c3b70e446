"""What a search does, from its plan to the winner, its weights and its report."""

from __future__ import annotations

import hashlib
import json
import platform
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np

from psvit.errors import LostWorkersError, RunError, UnmetBudgetError
from psvit.executors.choose_executor import executor_for
from psvit.executors.executor import Portable
from psvit.io.documents import write_atomic
from psvit.io.run_folder import RunFolder
from psvit.nn.network import PSViT
from psvit.search.bounds import Bound
from psvit.search.candidates import DRAWS
from psvit.search.evaluator import Evaluator
from psvit.search.facts import StudyStore
from psvit.search.finalists import Finalist, train_finalists
from psvit.search.latency.limits import first_within
from psvit.search.latency.measure import Latency, measure
from psvit.search.pareto import front, hypervolumes
from psvit.search.plan import SearchPlan
from psvit.search.prepared import Prepared, prepare
from psvit.search.racing import ties
from psvit.search.report.references import Reference, deit_references
from psvit.search.report.report import Report
from psvit.search.result import HtmlFile, SearchResult
from psvit.search.search import draw_control, search
from psvit.search.storage import open_storage
from psvit.search.study import CONTROL, STUDY_NAME, Study
from psvit.search.trial import Trial
from psvit.search.trial_table import trial_table
from psvit.search.winner import Evidence, write_front, write_winner
from psvit.space.search_space import SearchSpace
from psvit.supernet.supernet import Supernet
from psvit.train.job_runner import JobRunner, initial_network
from psvit.train.training_job import RANDOM, TrainingJob

JOURNAL, REPORT, HISTORY = "study.journal", "report.html", "history.csv"

Stop = KeyboardInterrupt | LostWorkersError


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What a search knows when it has come to its end, or was stopped.

    Attributes:
        study: what was searched.
        control: what was drawn for comparison, where it was.
        description: what the evaluator says of its scores.
        references: networks to compare with.
        stopped: what stopped it.
    """

    study: Study
    control: Study | None
    description: dict[str, Any]
    references: list[Reference]
    stopped: Stop | None


def execute(plan: SearchPlan, folder: RunFolder, command: str) -> SearchResult:
    """Build and train what is missing, search, and write the winner, its weights and the history.

    A run that was interrupted continues; one that is finished is found finished. Where it is interrupted by the
    keyboard, or loses its workers, after something was scored, whatever it is doing then, the best so far is written.

    Args:
        plan: what is searched, and how.
        folder: of the run.
        command: what repeats it, for the report.

    Raises:
        InputError: no architecture is within the budget; names the reachable range.
        NoisyMachineError: the machine was too noisy to measure latency; the same call continues.
        UnmetBudgetError: no architecture was found or measured within the limits on latency.
        RunError: every evaluation failed; says why the last did.
    """
    prepared = prepare(plan, folder)
    searched = _search(prepared)
    trials = trial_table(searched.study)
    write_atomic(folder / HISTORY, trials.to_csv())
    _check_found(prepared, searched.study)
    best: list[Finalist] = []
    passed_over, stopped = 0, searched.stopped
    if not stopped:
        try:
            best, passed_over = _best(prepared, searched.study, measure)
            best = _trained(prepared, searched.study, best)
        except (KeyboardInterrupt, LostWorkersError) as error:
            stopped = error
    if stopped:
        best, passed_over = _best(prepared, searched.study, None)
    searched = replace(searched, stopped=stopped)
    report = _report(prepared, searched, command, best, passed_over)
    from psvit.search.report.document import write_report  # it loads plotly

    write_report(folder / REPORT, report)
    best, points = _deliver(prepared, searched, best, report)
    assert best[0].file is not None
    return SearchResult(
        folder=folder.path,
        file=best[0].file,
        finalists=best,
        front=points,
        trials=trials,
        report=HtmlFile(folder / REPORT),
        objectives=plan.objectives,
        kind=searched.description.get("kind", "score"),
        fidelity=searched.description.get("fidelity", "not measured"),
        wanted=plan.trials,
        passed_over=passed_over,
        data=plan.data.name if plan.data else None,
        stopped=stopped,
    )


def _search(prepared: Prepared) -> Searched:
    """Evaluate candidates, those drawn for comparison, and references."""
    plan = prepared.plan
    study, control = _studies(prepared)
    references = deit_references(plan.space)
    stopped: Stop | None = None
    began = time.monotonic()
    with _evaluator(prepared) as evaluator:
        try:
            for _ in search(
                prepared.candidates,
                plan.searcher,
                evaluator,
                study,
                trials=plan.trials,
                seed=plan.asked.seed,
                seconds=plan.search_seconds,
                keep=plan.keep,
            ):
                pass
            if control is not None:
                draw_control(
                    prepared.candidates,
                    evaluator,
                    control,
                    study.history,
                    trials=plan.control_of(len(study.history)),
                    seed=plan.asked.seed,
                    seconds=plan.asked.seconds and plan.asked.seconds - (time.monotonic() - began),
                )
            references = _scored(references, plan.space, evaluator)
        except (KeyboardInterrupt, LostWorkersError) as error:
            stopped = error
        if stopped:
            # Opened anew, because it may have been interrupted while it took in what is there.
            study, control = _studies(prepared)
            if not study.history.complete:
                raise stopped
        description = evaluator.describe()
    return Searched(study=study, control=control, description=description, references=references, stopped=stopped)


def _studies(prepared: Prepared) -> tuple[Study, Study | None]:
    """The study and its control's, where one is wanted.

    They are in the run's own journal or in the storage that was named, where others may work on them as well.
    """
    plan, folder, wanted = prepared.plan, prepared.folder, prepared.plan.asked.storage
    storage, name, process = open_storage(wanted or folder / JOURNAL), STUDY_NAME, "0"
    if wanted is not None:
        # The same command in another folder joins the search; the process is another, but the same when it continues.
        identity = folder / "process"
        if not identity.exists():
            write_atomic(identity, uuid.uuid4().hex)
        digest = hashlib.sha256(json.dumps(plan.config, sort_keys=True).encode()).hexdigest()[:12]
        name, process = plan.asked.study or f"{STUDY_NAME}-{digest}", identity.read_text()
    config = {**plan.scored, "supernet": prepared.digest}
    opened = partial(Study, plan.space, storage, objectives=prepared.objectives, config=config, process=process)
    return opened(name=name), opened(name=name + CONTROL) if plan.control != 0 else None


def _evaluator(prepared: Prepared) -> AbstractContextManager[Evaluator]:
    """What scores: this process, or workers on a cluster."""
    plan = prepared.plan
    if plan.asked.workers is None:
        return nullcontext(prepared.scoring())
    from psvit.search.prefix_tree import cut
    from psvit.search.ray_backend import RayEvaluator

    return RayEvaluator(
        prepared.scoring,
        cut=partial(cut, plan.space),
        address=plan.asked.workers,
        gpus_per_worker=1 if plan.scoring_device.type == "cuda" else 0,
    )


def _check_found(prepared: Prepared, study: Study) -> None:
    """Make sure that there is something to choose from."""
    plan = prepared.plan
    if study.history.complete:
        return
    if study.history.trials:
        reason = study.history.trials[-1].score.reason
        raise RunError(f"none of {len(study.history)} architectures could be scored; the last failed: {reason}")
    bounds: list[Bound] = [*prepared.latencies, *plan.bounds]
    if bounds:
        raise UnmetBudgetError(
            f"budget: none of {DRAWS:,} architectures that were drawn is predicted to keep "
            f"{' and '.join(map(str, bounds))}; "
            f"{'; '.join(bound.reach(plan.space) for bound in bounds)}"
        )
    raise RunError("nothing was evaluated; give the search more --time")


def _best(prepared: Prepared, study: Study, measure: Callable[..., Latency] | None) -> tuple[list[Finalist], int]:
    """The finalists or the front, best first, measured where latency matters; and how many were passed over."""
    plan, history = prepared.plan, study.history
    several = len(plan.objectives) > 1
    wanted = max(1, plan.asked.finalists if plan.data else 1)

    def choose(left: list[Trial]) -> list[Trial]:
        if several:
            return [left[position] for position in front(np.array([trial.objectives for trial in left]))]
        return left[:wanted]

    trials = history.complete if several else history.best(len(history))
    kept = first_within(trials, choose, prepared.latencies, study.facts, measure)
    return [Finalist(trial=trial, latencies=times) for trial, times in kept.trials], kept.passed_over


def _trained(prepared: Prepared, study: Study, best: list[Finalist]) -> list[Finalist]:
    """The finalists after brief trainings, best first; with several objectives or without images as they are."""
    plan, scoring = prepared.plan, prepared.scoring
    if plan.finalists_recipe is None:
        return best
    assert scoring.data is not None
    device = plan.scoring_device
    runner = JobRunner(
        data=scoring.data,
        device=str(device),
        folder=(prepared.folder / "finalists").resolve(),
        # Where there is no supernet, nothing is inherited.
        initial=partial(_inherited, scoring.supernet) if scoring.supernet else initial_network,
    )
    return train_finalists(
        best,
        runner,
        executor_for(plan.asked.workers, device, bar="finalists"),
        StudyStore(study.facts),
        recipe=plan.finalists_recipe,
        init=prepared.digest or RANDOM,
        seed=plan.asked.seed,
    )


def _inherited(supernet: Portable[Supernet], job: TrainingJob) -> PSViT:
    """The network of a job with the weights that it inherits."""
    return supernet.get().extract(job.arch)


def _scored(references: list[Reference], space: SearchSpace, evaluator: Evaluator) -> list[Reference]:
    """The references; those that are members of the space are scored like candidates."""
    members = [reference.arch for reference in references if reference.arch and space.contains(reference.arch)]
    scores = evaluator.evaluate(members) if members else []
    values = {arch: score.value for arch, score in zip(members, scores, strict=True)}
    return [
        replace(reference, score=values[reference.arch]) if reference.arch in values else reference
        for reference in references
    ]


def _deliver(
    prepared: Prepared, searched: Searched, best: list[Finalist], report: Report
) -> tuple[list[Finalist], list[Finalist]]:
    """Write the winner and, with several objectives, the front; both with the files of their networks."""
    plan = prepared.plan
    evidence = Evidence(
        budget=plan.budget,
        description=searched.description,
        provenance={
            "space": plan.space.name,
            "space_digest": plan.space.digest,
            "supernet_digest": prepared.digest,
            "data": plan.data.describe() if plan.data else None,
            "searcher": plan.searcher.name,
            "trials": len(searched.study.history),
            "seed": plan.asked.seed,
            "limits": plan.limits.resolved,
            **({"interrupted": True} if searched.stopped else {}),
        },
        objectives=prepared.objectives,
    )
    title = f"Found for {' and '.join(plan.budget) or 'any budget'} in {plan.space.name}"
    winner = replace(best[0], file=write_winner(prepared.folder.path, evidence, best, prepared.supernet, title))
    if len(plan.objectives) > 1:
        points = write_front(prepared.folder.path, evidence, best, prepared.supernet)
        return [winner, *points[1:]], points
    points = [winner if trial is winner.trial else Finalist(trial=trial) for trial in report.front]
    return [winner, *best[1:]], points


def _notes(prepared: Prepared, searched: Searched, best: list[Finalist], passed_over: int) -> list[str]:
    """What a reader of the report has to know beside it."""
    plan, study = prepared.plan, searched.study
    notes = ["The search was stopped before its end; this is the best so far."] if searched.stopped else []
    if all(finalist.failure for finalist in best):
        notes.append("No finalist could be trained, so the winner is the one with the best score.")
    if passed_over:
        notes.append(f"Passed over because measured beyond a limit on latency: {passed_over} with better scores.")
    if len(plan.objectives) == 1:
        scores = study.history.scores(len(study.history))
        places = {len(best): "the last of the finalists" if len(best) > 1 else "the winner"}
        if plan.race:
            places[plan.keep] = "the last that racing keeps"
        for place, name in places.items():
            if tied := ties(scores, place):
                notes.append(
                    f"{tied} candidates tie for place {place}, {name}; of equals the earlier counts as better."
                )
    return notes


def _report(prepared: Prepared, searched: Searched, command: str, best: list[Finalist], passed_over: int) -> Report:
    """What the search did, for people."""
    plan, history = prepared.plan, searched.study.history
    volumes = hypervolumes(history.objectives, history.objectives.min(axis=0)) if len(plan.objectives) > 1 else []
    evaluations = [number for number, trial in enumerate(history, start=1) if trial.is_complete]
    libraries = ("psvit", "torch", "timm", "numpy", "optuna")
    return Report(
        title=f"{' and '.join(plan.budget)} in {plan.space.name}",
        command=command,
        config=plan.full_config,
        space=plan.space,
        budget=plan.budget,
        searcher=plan.searcher.name,
        history=history.trials,
        control=searched.control.history.trials if searched.control else [],
        objectives=prepared.objectives,
        description=searched.description,
        unit=searched.description.get("unit", "%" if plan.needs_supernet else ""),
        finalists=best,
        references=searched.references,
        hypervolume=list(zip(evaluations, volumes, strict=True)) if volumes else [],
        versions={"python": platform.python_version(), **{name: version(name) for name in libraries}},
        notes=_notes(prepared, searched, best, passed_over),
    )
