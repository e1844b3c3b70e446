"""The steps of a search, from its plan to the winner, its weights and its report."""

from __future__ import annotations

import hashlib
import json
import platform
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
from torch import Tensor

from psvit.errors import LostWorkersError, RunError, UnmetBudgetError
from psvit.executors.workers import Workers
from psvit.io.documents import write_atomic
from psvit.io.run_folder import RunFolder
from psvit.io.tables import Table
from psvit.report.page import HtmlFile
from psvit.search.beside import Beside, beside
from psvit.search.bounds import Bound
from psvit.search.compression.outcome import Compressing
from psvit.search.compression.table import Compression
from psvit.search.estimate import scoring_share
from psvit.search.evaluator import Evaluator
from psvit.search.latency.limits import first_within
from psvit.search.latency.measure import Latency, gpu_software, measure
from psvit.search.pareto import front
from psvit.search.plan import SearchPlan
from psvit.search.prepared import Prepared, prepare
from psvit.search.racing import ties
from psvit.search.report.references import Reference, deit_references
from psvit.search.report.report import Report
from psvit.search.result import BEST, HISTORY, REPORT, SearchResult
from psvit.search.retraining_time import retraining_seconds
from psvit.search.rule import deliver_by_rule
from psvit.search.search import draw_control, search
from psvit.search.selection.finalist import Finalist
from psvit.search.selection.selection import Selection
from psvit.search.selection.verdict import Verdict
from psvit.search.storage import open_storage
from psvit.search.study import CONTROL, STUDY_NAME, Study
from psvit.search.time_limit import TimeLimit
from psvit.search.trained import TrainedAccuracy
from psvit.search.trial import Trial
from psvit.search.trial_table import trial_table
from psvit.search.winner import Evidence, delivered_images, delivered_weights, inherited, write_front, write_winner
from psvit.space.search_space import SearchSpace

JOURNAL = "study.journal"

Stop = KeyboardInterrupt | LostWorkersError


@dataclass(frozen=True, kw_only=True)
class Selected:
    """What may be delivered, and what is known of it.

    Attributes:
        finalists: the winner first; with several objectives, the front.
        verdict: by how much the winner is ahead of its best rival; `None` if that was not found out.
        weights: those of the winner, if it was trained and is not delivered with those that it inherits.
        compression: beside the network that the search began with; `None` if it began with none.
        beside: what else the winner is read beside.
    """

    finalists: list[Finalist]
    verdict: Verdict | None = None
    weights: Mapping[str, Tensor] | None = None
    compression: Compression | None = None
    beside: Beside = field(default_factory=Beside)


@dataclass(frozen=True, kw_only=True)
class Searched:
    """The outcome of the evaluations of a search, whether it came to its end or was stopped.

    Attributes:
        study: the study of the candidates.
        control: the study of the architectures that were drawn for comparison; `None` if none were wanted.
        description: what the evaluator says of its scores.
        references: networks to compare with.
        stopped: the interruption that stopped the search; `None` if it came to its end.
    """

    study: Study
    control: Study | None
    description: dict[str, Any]
    references: list[Reference]
    stopped: Stop | None


def execute(plan: SearchPlan, folder: RunFolder, command: str, limit: TimeLimit) -> SearchResult:
    """Build and train what is missing, search, and write the winner, its weights and the history.

    An interrupted run is continued. A finished run is not repeated. If the search is stopped by Ctrl-C or loses its
    workers, the best candidate so far is written, as soon as at least one was scored.

    Args:
        plan: the resolved plan of the search.
        folder: the folder of the run.
        command: the command or call that repeats the search, for the report.
        limit: of the time. What it leaves out, the same command does later.

    Raises:
        InputError: no architecture is within the budget; the message names the reachable range.
        NoisyMachineError: the machine was too noisy to measure latency; the same call continues.
        UnmetBudgetError: no architecture was found or measured within the limits on latency.
        RunError: every evaluation failed; the message says why the last did.
    """
    if plan.scored_by == "rule":
        return deliver_by_rule(plan, folder)
    prepared = prepare(plan, folder, limit)
    searched = _search(prepared)
    trials = trial_table(searched.study, plan.bounds)
    write_atomic(folder / HISTORY, trials.to_csv())
    _check_found(prepared, searched.study)
    selected, stopped = None, searched.stopped
    if not stopped:
        try:
            best, passed_over = _best(prepared, searched.study, measure)
            selected = _selected(prepared, searched.study, best)
            selected = replace(selected, beside=beside(plan, searched.study.cache, selected.finalists))
        except (KeyboardInterrupt, LostWorkersError) as error:
            stopped = error
    if selected is None:
        best, passed_over = _best(prepared, searched.study, None)
        selected = Selected(finalists=best)
    if isinstance(stopped, KeyboardInterrupt) and not stopped.args:
        stopped.args = ("Ctrl-C",)  # so that it says something where it is printed
    searched = replace(searched, stopped=stopped)
    report = _report(prepared, searched, trials, command, selected, passed_over)
    from psvit.search.report.document import write_report  # it loads plotly

    write_report(folder / REPORT, report)
    best, points = _deliver(prepared, searched, selected, report)
    if plan.training and not stopped and not limit.left_out:
        Selection.of(prepared, searched.study).tidy()
    return SearchResult(
        folder=folder.path,
        file=best[0].file,
        finalists=best,
        verdict=selected.verdict,
        compression=selected.compression,
        baseline=selected.beside.baseline,
        milliseconds=selected.beside.milliseconds,
        front=points,
        trials=trials,
        html=HtmlFile(folder / REPORT),
        objectives=plan.objectives,
        kind=searched.description.get("kind", "score"),
        fidelity=searched.description.get("fidelity", "not measured"),
        wanted=_wanted(prepared),
        passed_over=passed_over,
        data=plan.data.name if plan.data else None,
        next_command=plan.next_command(best[0].file),
        next_seconds=report.next_seconds,
        next_epochs=plan.retraining_epochs,
        stopped=stopped,
        left_out=tuple(limit.left_out),
    )


def _search(prepared: Prepared) -> Searched:
    """Evaluate the candidates, the architectures that are drawn for comparison, and the references."""
    plan = prepared.plan
    study, control = _studies(prepared)
    references = deit_references(plan.space)
    stopped: Stop | None = None
    began = time.monotonic()
    with _evaluator(prepared, study) as evaluator:
        try:
            for _ in search(
                prepared.candidates,
                plan.searcher,
                evaluator,
                study,
                trials=plan.trials + len(prepared.references),
                seed=plan.asked.seed,
                references=[reference.arch for reference in prepared.references],
                seconds=prepared.limit.left if plan.is_trained else plan.search_seconds,
                keep=plan.keep,
            ):
                pass
            if prepared.limit.is_over and (left := _wanted(prepared) - len(study.history)) > 0:
                prepared.limit.left_out.append(f"{left} of {_wanted(prepared)} networks were not scored")
            if control is not None:
                wanted = plan.control_of(len(study.history))
                missing = draw_control(
                    prepared.candidates,
                    evaluator.apart() if isinstance(evaluator, TrainedAccuracy) else evaluator,
                    control,
                    study.history,
                    trials=wanted,
                    seed=plan.asked.seed,
                    seconds=plan.asked.seconds and plan.asked.seconds - (time.monotonic() - began),
                )
                if prepared.limit.is_over and missing:
                    prepared.limit.left_out.append(f"{missing} of {wanted} networks for comparison were not scored")
            if not plan.is_trained:  # which would train networks beyond the budget
                references = _scored(references, plan.space, evaluator)
        except (KeyboardInterrupt, LostWorkersError) as error:
            stopped = error
        if stopped:
            # The study is opened anew, because the interruption may have come while it was reading its storage.
            study, control = _studies(prepared)
            if not study.history.complete:
                raise stopped
        # If none was scored, which is told later, there may be nobody who can describe scores.
        description = evaluator.describe() if study.history.complete else {}
    return Searched(study=study, control=control, description=description, references=references, stopped=stopped)


def _wanted(prepared: Prepared) -> int:
    """How many architectures are to be evaluated."""
    plan = prepared.plan
    return min(plan.trials + len(prepared.references), plan.space.count(plan.limits))


def _studies(prepared: Prepared) -> tuple[Study, Study | None]:
    """The study of the search, and that of the control; the latter is `None` if no control is wanted.

    Both are kept in the run's own journal, or in the storage that was given, which several processes can share.
    """
    plan, folder, wanted = prepared.plan, prepared.folder, prepared.plan.asked.storage
    storage, name, process = open_storage(wanted or folder / JOURNAL), STUDY_NAME, "0"
    if wanted is not None:
        # The same command in another folder joins the search as another process. So each folder has an identity, which
        # it keeps when the command is repeated.
        identity = folder / "process"
        if not identity.exists():
            write_atomic(identity, uuid.uuid4().hex)
        digest = hashlib.sha256(json.dumps(plan.config, sort_keys=True).encode()).hexdigest()[:12]
        name, process = plan.asked.study or f"{STUDY_NAME}-{digest}", identity.read_text()
    config = {**plan.scored, "supernet": prepared.digest}
    opened = partial(Study, plan.space, storage, objectives=prepared.objectives, config=config, process=process)
    return opened(name=name), opened(name=name + CONTROL) if plan.control != 0 else None


def _evaluator(prepared: Prepared, study: Study) -> AbstractContextManager[Evaluator]:
    """The evaluator: in this process, or on the workers of a cluster."""
    plan = prepared.plan
    if plan.is_trained:
        assert plan.data is not None
        selection, references = Selection.of(prepared, study), [one.arch for one in prepared.references]
        share = scoring_share(plan, selection.executor.at_once())
        trials = plan.trials + len(references)
        return nullcontext(selection.evaluator(len(plan.data.search), trials, references, share))
    if plan.asked.workers is None:
        return nullcontext(prepared.scoring())
    from psvit.search.prefix_tree import cut
    from psvit.search.ray_backend import RayEvaluator

    workers = Workers.parse(plan.asked.workers)
    return RayEvaluator(
        prepared.scoring,
        cut=partial(cut, plan.space),
        address=workers.address,
        gpus_per_worker=workers.gpus if plan.scoring_device.type == "cuda" else 0,
    )


def _check_found(prepared: Prepared, study: Study) -> None:
    """Raise an error if no candidate was scored. If all failed, they are forgotten, and the next call tries again."""
    plan = prepared.plan
    if study.history.complete:
        return
    if study.history.trials:
        reason = study.history.trials[-1].score.reason
        if not plan.asked.storage:
            (prepared.folder / JOURNAL).unlink()
        raise RunError(f"none of {len(study.history)} architectures could be scored; the last failed: {reason}")
    bounds: list[Bound] = [*prepared.latencies, *plan.bounds]
    if bounds:
        raise UnmetBudgetError(
            "budget: of all architectures that were drawn, none is predicted to keep "
            f"{' and '.join(map(str, bounds))}; "
            f"{'; '.join(bound.reach(plan.space) for bound in bounds)}"
        )
    raise RunError("nothing was evaluated; give the search more --time")


def _best(prepared: Prepared, study: Study, measure: Callable[..., Latency] | None) -> tuple[list[Finalist], int]:
    """The finalists or the front, best score first, and the number of trials that were passed over.

    If there are limits on latency, `measure` measures the trials, and those beyond a limit are passed over. After an
    interruption it is `None`, and nothing is measured.
    """
    plan, history = prepared.plan, study.history
    several = len(plan.objectives) > 1

    def choose(left: list[Trial]) -> list[Trial]:
        if several:
            return [left[position] for position in front(np.array([trial.objectives for trial in left]))]
        return Selection.of(prepared, study).enter(left) if plan.selects else left[:1]

    trials = history.complete if several else history.best(len(history))
    if plan.selects:
        # Racing may have given up all of a variant and stem, and references. They enter with the score that they had.
        trials += sorted(history.raced, key=lambda trial: -(trial.score.value or 0.0))
    kept = first_within(trials, choose, prepared.latencies, study.cache, measure)
    names = {reference.arch: reference.name for reference in prepared.references}
    found = [Finalist(trial=trial, name=names.get(trial.arch, ""), latencies=times) for trial, times in kept.trials]
    return found, kept.passed_over


def _selected(prepared: Prepared, study: Study, best: list[Finalist]) -> Selected:
    """The finalists after their trainings, the winner first, with the verdict on it.

    With several objectives or without images, or if there is one finalist alone, nothing is trained. One made of a
    given network is trained also if it is alone.
    """
    plan = prepared.plan
    compressing = Compressing(prepared, study.cache) if plan.original else None
    if not plan.selects or (len(best) < 2 and not compressing):
        return Selected(finalists=best, compression=compressing.of_front(best) if compressing else None)
    selection = Selection.of(prepared, study)
    finalists = selection.run(best)
    weights: Mapping[str, Tensor] | None = None
    if compressing or not prepared.supernet:
        # A finished run has them in its winner's file alone.
        weights = selection.weights(finalists[0]) or delivered_weights(prepared.folder.path, finalists[0].arch)
    return Selected(
        finalists=finalists,
        verdict=selection.judge(finalists),
        weights=weights,
        compression=compressing.of_selection(selection, finalists) if compressing else None,
    )


def _scored(references: list[Reference], space: SearchSpace, evaluator: Evaluator) -> list[Reference]:
    """The references, with a score if they are members of the space. They are scored like candidates."""
    members = [reference.arch for reference in references if reference.arch and space.contains(reference.arch)]
    scores = evaluator.evaluate(members) if members else []
    values = {arch: score.value for arch, score in zip(members, scores, strict=True)}
    return [
        replace(reference, score=values[reference.arch]) if reference.arch in values else reference
        for reference in references
    ]


def _deliver(
    prepared: Prepared, searched: Searched, selected: Selected, report: Report
) -> tuple[list[Finalist], list[Finalist]]:
    """Write the winner and, with several objectives, the front; give back finalists and front with their files."""
    plan, best = prepared.plan, selected.finalists
    # A finished run reads no image.
    images = plan.data and (delivered_images(prepared.folder.path, plan.data) or plan.data.describe())
    trained = plan.training if selected.weights is not None else None
    evidence = Evidence(
        verdict=selected.verdict.to_dict() if selected.verdict else {},
        budget=plan.budget,
        description=searched.description,
        provenance={
            "space": plan.space.name,
            "space_digest": plan.space.digest,
            "supernet_digest": prepared.digest,
            "data": images,
            "searcher": plan.searcher.name,
            "trials": len(searched.study.history),
            "seed": plan.asked.seed,
            "limits": plan.limits.resolved,
            **({"original": {"name": plan.original.name, "digest": plan.original.digest}} if plan.original else {}),
            **({"compression": selected.compression.to_dict()} if selected.compression else {}),
            **({"weights": f"trained by the selection for {trained.epochs} epochs"} if trained else {}),
            **({"interrupted": True} if searched.stopped else {}),
            **({"left_out": list(prepared.limit.left_out)} if prepared.limit.left_out else {}),
        },
        objectives=prepared.objectives,
    )
    supernet = prepared.supernet.get() if prepared.supernet else None
    weights = inherited(supernet, best[0].arch) if supernet and selected.weights is None else selected.weights
    title = f"Found for {' and '.join(plan.budget) or 'any budget'} in {plan.space.name}"
    winner = replace(best[0], written=write_winner(prepared.folder.path, evidence, best, weights, title))
    if len(plan.objectives) > 1:
        points = write_front(prepared.folder.path, evidence, best, supernet)
        return [winner, *points[1:]], points
    points = [winner if trial is winner.trial else Finalist(trial=trial) for trial in report.front]
    return [winner, *best[1:]], points


def _notes(prepared: Prepared, searched: Searched, best: Sequence[Finalist], passed_over: int) -> list[str]:
    """Remarks for the reader of the report, such as ties or an early stop."""
    plan, study = prepared.plan, searched.study
    notes = ["The search was stopped before its end; this is the best so far."] if searched.stopped else []
    if prepared.limit.left_out:
        notes.append(f"Time was up: {'; '.join(prepared.limit.left_out)}. The same command goes on with that.")
    if all(finalist.failure for finalist in best):
        notes.append("No finalist could be trained, so the winner is the one with the best score.")
    if passed_over:
        notes.append(
            f"{passed_over} trials with better scores were passed over, because they were measured beyond a limit on "
            "latency."
        )
    if plan.scoring_device.type != "cpu":
        here = f" ({gpu_software()})" if plan.device.type == "cuda" else ""
        notes.append(f"Computed on a GPU{here}: the same command gives other, similar results there.")
    if len(plan.objectives) == 1:
        scores = study.history.scores(len(study.history))
        places = {1: "the winner"} if len(best) == 1 else {}
        if plan.race:
            places[plan.keep] = "the last that racing keeps"
        for place, name in places.items():
            if tied := ties(scores, place):
                notes.append(
                    f"{tied} candidates have the same score at place {place} ({name}). "
                    "The one that was evaluated first ranks higher."
                )
    return notes


def _report(
    prepared: Prepared, searched: Searched, trials: Table, command: str, selected: Selected, passed_over: int
) -> Report:
    """The report of the search."""
    plan, history = prepared.plan, searched.study.history
    # The table has a row for every evaluation, and with several objectives the volume after it.
    volumes = [(number, row.get("hypervolume")) for number, row in enumerate(trials, start=1)]
    libraries = ("psvit", "torch", "timm", "numpy", "optuna")
    return Report(
        title=f"{' and '.join(plan.budget)} in {plan.space.name}",
        command=command,
        next_command=plan.next_command(prepared.folder / BEST),
        next_seconds=retraining_seconds(prepared, searched.study, selected.finalists[0]),
        config=plan.full_config,
        space=plan.space,
        budget=plan.budget,
        searcher=plan.searcher.name,
        history=history.trials,
        control=searched.control.history.trials if searched.control else [],
        objectives=prepared.objectives,
        scored_by=plan.scored_by,
        description=searched.description,
        unit=searched.description.get("unit", "%" if plan.scored_by == "inherited" else ""),
        finalists=selected.finalists,
        verdict=selected.verdict,
        compression=selected.compression,
        beside=selected.beside,
        references=searched.references,
        hypervolume=[(number, volume) for number, volume in volumes if volume is not None],
        versions={"python": platform.python_version(), **{name: version(name) for name in libraries}},
        notes=_notes(prepared, searched, selected.finalists, passed_over),
    )
