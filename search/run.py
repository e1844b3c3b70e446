"""A search run: what it does, from its plan to the winner, its weights and its report."""

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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from psvit.data import open_data
from psvit.errors import LostWorkersError, RunError, UnmetBudgetError
from psvit.executors.choose_executor import executor_for
from psvit.executors.executor import Portable
from psvit.io.documents import write_atomic
from psvit.io.run_folder import RunFolder
from psvit.nn.network import PSViT
from psvit.search.candidates import DRAWS, Candidates
from psvit.search.evaluator import Evaluator
from psvit.search.facts import StudyStore
from psvit.search.fidelity.record import known_fidelity
from psvit.search.finalists import Finalist, train_finalists
from psvit.search.latency.build import LatencyPlan, build_model
from psvit.search.latency.limits import PredictedLimit, first_within
from psvit.search.latency.measure import Latency, Setting, measure
from psvit.search.latency.model import LatencyModel
from psvit.search.objectives import LATENCY, Objectives
from psvit.search.pareto import front, hypervolumes
from psvit.search.racing import ties
from psvit.search.scoring import Scoring, load_unchanged
from psvit.search.search import draw_control, search
from psvit.search.searchers import make_searcher
from psvit.search.storage import open_storage
from psvit.search.study import CONTROL, STUDY_NAME, Study
from psvit.search.trial import Trial
from psvit.search.winner import Evidence, write_front, write_winner
from psvit.space.budget import LatencyLimit
from psvit.space.search_space import SearchSpace
from psvit.supernet.supernet import Supernet, supernet_digest, supernet_file
from psvit.supernet.train import fit_supernet
from psvit.train.job_runner import JobRunner
from psvit.train.training_job import TrainingJob

if TYPE_CHECKING:  # it loads plotly
    from psvit.search.report import Reference
from psvit.search.plan import SearchRun

JOURNAL, REPORT = "study.journal", "report.html"

ANY_LATENCY_MS = 1e9
"""More than anything takes: where latency is improved and not limited, it is measured in the end all the same."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search found.

    Attributes:
        file: the winner's architecture file.
        finalists: the best trials, the winner first; with several objectives, the Pareto front.
        front: the folder of the front's architecture files, where there are several objectives.
        kind: what scores are.
        fidelity: what is known of how truly they rank, or `not measured`.
        trials: how many architectures were evaluated.
        passed_over: trials with better scores that were measured beyond a limit on latency.
        stopped: what stopped the search before its end, so that this is the best so far.
    """

    file: Path
    finalists: list[Finalist]
    front: Path | None
    kind: str
    fidelity: Any
    trials: int
    passed_over: int
    stopped: KeyboardInterrupt | LostWorkersError | None

    @property
    def winner(self) -> Finalist:
        """The first of the finalists."""
        return self.finalists[0]


def run_search(run: SearchRun, folder: RunFolder, command: str) -> Found:
    """Build and train what is missing, search, and write the winner, its weights and the history.

    A run that was interrupted continues; one that is finished is found finished. Where it is interrupted by the
    keyboard, or loses its workers, after something was scored, whatever it is doing then, the best so far is written.

    Args:
        run: what is searched, and how.
        folder: of the run.
        command: the shell line that repeats it, for the report.

    Raises:
        InputError: no architecture is within the budget; names the reachable range.
        NoisyMachineError: the machine was too noisy to measure latency; the same call continues.
        UnmetBudgetError: no architecture was found or measured within the limits on latency.
        RunError: every evaluation failed; says why the last did.
    """
    # Before a supernet is trained, because a limit that nothing can keep shows here.
    latencies = _predicted_limits(run, folder)
    improved = _improved_latency(run, folder, latencies)
    objectives = Objectives(names=run.objectives, latency=improved.model if improved else None)
    candidates = Candidates(run.space, run.limits, latencies)
    file = _supernet_file(run, folder) if run.data else None
    supernet = Supernet.load(file, run.device) if file else None
    scoring = Scoring(
        space=run.space,
        seed=run.seed,
        device=str(run.scoring_device),
        supernet=str(file) if file else None,
        digest=supernet_digest(file) if file else None,
        data=run.data.name if run.data else None,
        share_prefixes=run.share_prefixes,
        race=run.races,
        fidelity=known_fidelity(file, run.limits) if file else None,
    )
    study, control = _studies(run, folder, objectives, supernet_digest(file) if file else None)
    references = _references(run.space, None)
    stopped: KeyboardInterrupt | LostWorkersError | None = None
    began = time.monotonic()
    with _evaluator(run, scoring, supernet) as evaluator:
        try:
            searcher = make_searcher(run.searcher)
            for _ in search(
                candidates,
                searcher,
                evaluator,
                study,
                trials=run.trials,
                seed=run.seed,
                seconds=run.search_seconds,
                keep=run.keep,
            ):
                pass
            if control is not None:
                draw_control(
                    candidates,
                    evaluator,
                    control,
                    study.history,
                    trials=run.control_of(len(study.history)),
                    seed=run.seed,
                    seconds=run.seconds and run.seconds - (time.monotonic() - began),
                )
            references = _references(run.space, evaluator)
        except (KeyboardInterrupt, LostWorkersError) as error:
            stopped = error
        if stopped:
            # Opened anew, because it may have been interrupted while it took in what is there.
            study, control = _studies(run, folder, objectives, supernet_digest(file) if file else None)
            if not study.history.complete:
                raise stopped
        description = evaluator.describe()
    write_atomic(folder / "history.csv", study.to_csv())
    _check_found(run, study, latencies)
    measured = [*latencies, *([improved] if improved else [])]
    if not stopped:
        try:
            best, passed_over = _best(run, study, measured, measure)
            best = _trained(run, folder, study, scoring, supernet, best)
        except (KeyboardInterrupt, LostWorkersError) as error:
            stopped = error
    if stopped:
        best, passed_over = _best(run, study, measured, None)
    evidence = Evidence(
        budget=run.budget,
        description=description,
        provenance={
            "space": run.space.name,
            "space_digest": run.space.digest,
            "supernet_digest": supernet_digest(file) if file else None,
            "data": run.data.describe() if run.data else None,
            "searcher": run.searcher,
            "trials": len(study.history),
            "seed": run.seed,
            "limits": run.limits.resolved,
            **({"interrupted": True} if stopped else {}),
        },
        objectives=objectives,
    )
    notes = _notes(run, study, best, passed_over, stopped is not None)
    _write_report(run, folder, command, study, control, best, description, references, notes)
    title = f"Found for {' and '.join(run.budget) or 'any budget'} in {run.space.name}"
    return Found(
        file=write_winner(folder.path, evidence, best, supernet, title),
        finalists=best,
        front=write_front(folder.path, evidence, best, supernet) if len(run.objectives) > 1 else None,
        kind=description["kind"],
        fidelity=description.get("fidelity", "not measured"),
        trials=len(study.history),
        passed_over=passed_over,
        stopped=stopped,
    )


def _predicted_limits(run: SearchRun, folder: RunFolder) -> list[PredictedLimit]:
    """The limits on latency with their models, built inside the run where none was given."""
    models = run.latency_models()
    return [
        PredictedLimit(limit, models.get(limit.setting) or _latency_model(run, folder, Setting.of(limit), number))
        for number, limit in enumerate(run.limits.latencies, start=1)
    ]


def _improved_latency(run: SearchRun, folder: RunFolder, latencies: list[PredictedLimit]) -> PredictedLimit | None:
    """What predicts the latency that is an objective: that of the first limit, else of the model that was given."""
    if LATENCY not in run.objectives:
        return None
    if latencies:
        return latencies[0]
    given = next(iter(run.latency_models().values()), None)
    setting = given.setting if given else run.measured_setting
    model = given or _latency_model(run, folder, setting, 1)
    limit = LatencyLimit.from_dict({**setting.to_dict(), "upper_ms": ANY_LATENCY_MS})
    return PredictedLimit(limit, model)


def _latency_model(run: SearchRun, folder: RunFolder, setting: Setting, number: int) -> LatencyModel:
    plan = LatencyPlan.of(run.space, setting, run.seed)
    return build_model(plan, folder / f"latency-{number}.yaml", measure)[0]


def _supernet_file(run: SearchRun, folder: RunFolder) -> Path:
    """The file of the supernet that scores candidates, trained inside the run where none was given."""
    if run.supernet is not None:
        return supernet_file(run.supernet)
    assert run.data is not None
    assert run.recipe is not None
    return fit_supernet(run.space, run.data, run.recipe, seed=run.seed, device=run.device, folder=folder / "supernet")


def _studies(
    run: SearchRun, folder: RunFolder, objectives: Objectives, digest: str | None
) -> tuple[Study, Study | None]:
    """The study and its control's, where one is wanted.

    They are in the run's own journal or in the storage that was named, where others may work on them as well.
    """
    storage, name, process = open_storage(run.storage or folder / JOURNAL), STUDY_NAME, "0"
    if run.storage is not None:
        # The same command in another folder joins the search; the process is another, but the same when it continues.
        identity = folder / "process"
        if not identity.exists():
            write_atomic(identity, uuid.uuid4().hex)
        digest_of_config = hashlib.sha256(json.dumps(run.config, sort_keys=True).encode()).hexdigest()[:12]
        name, process = run.study or f"{STUDY_NAME}-{digest_of_config}", identity.read_text()
    config = {**run.scored, "supernet": digest}
    opened = partial(Study, run.space, storage, objectives=objectives, config=config, process=process)
    return opened(name=name), opened(name=name + CONTROL) if run.control != 0 else None


def _evaluator(run: SearchRun, scoring: Scoring, supernet: Supernet | None) -> AbstractContextManager[Evaluator]:
    """What scores: this process, or workers on a cluster."""
    if run.workers is None:
        return nullcontext(scoring(run.data, supernet))
    from psvit.search.prefix_tree import cut
    from psvit.search.ray_backend import RayEvaluator

    return RayEvaluator(
        scoring,
        cut=partial(cut, run.space),
        address=run.workers,
        gpus_per_worker=1 if run.scoring_device.type == "cuda" else 0,
    )


def _check_found(run: SearchRun, study: Study, latencies: list[PredictedLimit]) -> None:
    """Make sure that there is something to choose from."""
    if study.history.complete:
        return
    if study.history.trials:
        reason = study.history.trials[-1].score.reason
        raise RunError(f"none of {len(study.history)} architectures could be scored; the last failed: {reason}")
    if latencies:
        raise UnmetBudgetError(
            f"budget: none of {DRAWS:,} architectures that were drawn is predicted to keep {run.limits}; "
            f"{'; '.join(latency.reach(run.space) for latency in latencies)}"
        )
    raise RunError("nothing was evaluated; give the search more --time")


def _best(
    run: SearchRun, study: Study, latencies: list[PredictedLimit], measure: Callable[..., Latency] | None
) -> tuple[list[Finalist], int]:
    """The finalists or the front, best first, measured where latency matters; and how many were passed over."""
    history = study.history
    several = len(run.objectives) > 1
    wanted = max(1, run.finalists if run.data else 1)

    def choose(left: list[Trial]) -> list[Trial]:
        if several:
            return [left[position] for position in front(np.array([trial.objectives for trial in left]))]
        return left[:wanted]

    trials = history.complete if several else history.best(len(history))
    kept = first_within(trials, choose, latencies, study.facts, measure)
    return [Finalist(trial=trial, latencies=times) for trial, times in kept.trials], kept.passed_over


def _trained(
    run: SearchRun,
    folder: RunFolder,
    study: Study,
    scoring: Scoring,
    supernet: Supernet | None,
    best: list[Finalist],
) -> list[Finalist]:
    """The finalists after brief trainings, best first; with several objectives or without images as they are."""
    if run.finalists_recipe is None:
        return best
    assert scoring.data is not None
    assert scoring.supernet is not None
    assert scoring.digest is not None
    device = torch.device(scoring.device)
    loaded = Portable(partial(load_unchanged, scoring.supernet, scoring.digest, device), supernet)
    runner = JobRunner(
        data=Portable(partial(open_data, scoring.data), run.data),
        device=scoring.device,
        folder=(folder / "finalists").resolve(),
        initial=partial(_inherited, loaded),
    )
    return train_finalists(
        best,
        runner,
        executor_for(run.workers, device, bar="finalists"),
        StudyStore(study.facts),
        recipe=run.finalists_recipe,
        init=scoring.digest,
        seed=run.seed,
    )


def _inherited(supernet: Portable[Supernet], job: TrainingJob) -> PSViT:
    """The network of a job with the weights that it inherits."""
    return supernet.get().extract(job.arch)


def _references(space: SearchSpace, evaluator: Evaluator | None) -> list[Reference]:
    """The DeiTs; those that are members of the space are scored like candidates where there is an evaluator."""
    from psvit.search.report import deit_references

    references = deit_references(space)
    members = [reference.arch for reference in references if reference.arch and space.contains(reference.arch)]
    scores = evaluator.evaluate(members) if evaluator and members else []
    values = {arch: score.value for arch, score in zip(members, scores, strict=False)}
    return [
        replace(reference, score=values[reference.arch]) if reference.arch in values else reference
        for reference in references
    ]


def _notes(run: SearchRun, study: Study, best: list[Finalist], passed_over: int, interrupted: bool) -> list[str]:
    """What a reader of the report has to know beside it."""
    notes = ["The search was stopped before its end; this is the best so far."] if interrupted else []
    if all(finalist.failure for finalist in best):
        notes.append("No finalist could be trained, so the winner is the one with the best score.")
    if passed_over:
        notes.append(f"Passed over because measured beyond a limit on latency: {passed_over} with better scores.")
    if len(run.objectives) == 1:
        scores = study.history.scores(len(study.history))
        places = {len(best): "the last of the finalists" if len(best) > 1 else "the winner"}
        if run.races:
            places[run.keep] = "the last that racing keeps"
        for place, name in places.items():
            if tied := ties(scores, place):
                notes.append(
                    f"{tied} candidates tie for place {place}, {name}; of equals the earlier counts as better."
                )
    return notes


def _write_report(
    run: SearchRun,
    folder: RunFolder,
    command: str,
    study: Study,
    control: Study | None,
    best: list[Finalist],
    description: dict[str, Any],
    references: list[Reference],
    notes: list[str],
) -> None:
    """Write what the search did for people."""
    from psvit.search.report import Report, write_report

    history = study.history
    volumes = hypervolumes(history.objectives, history.objectives.min(axis=0)) if len(run.objectives) > 1 else []
    evaluations = [number for number, trial in enumerate(history, start=1) if trial.is_complete]
    libraries = ("psvit", "torch", "timm", "numpy", "optuna")
    report = Report(
        title=f"{' and '.join(run.budget)} in {run.space.name}",
        command=command,
        config=run.full_config,
        space=run.space,
        budget=run.budget,
        searcher=run.searcher,
        history=history.trials,
        control=control.history.trials if control else [],
        objectives=run.objectives,
        description=description,
        unit="%" if run.data else "",
        finalists=best,
        references=references,
        hypervolume=list(zip(evaluations, volumes, strict=True)) if volumes else [],
        versions={"python": platform.python_version(), **{name: version(name) for name in libraries}},
        notes=notes,
    )
    write_report(folder / REPORT, report)
