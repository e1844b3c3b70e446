"""A search run: everything that `psvit-search` decides before it begins, and what it then does."""

from __future__ import annotations

import hashlib
import json
import platform
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from psvit.data import ImageData, open_data
from psvit.errors import InputError, LostWorkersError, RunError, UnmetBudgetError
from psvit.executors.choose_executor import executor_for
from psvit.executors.executor import Portable
from psvit.io.documents import write_atomic
from psvit.io.run_folder import RunFolder
from psvit.nn.network import PSViT
from psvit.search.candidates import DRAWS, Candidates
from psvit.search.evaluator import Evaluator
from psvit.search.facts import StudyStore
from psvit.search.fidelity.record import known_fidelity
from psvit.search.finalists import Finalist, brief, train_finalists
from psvit.search.latency.build import LatencyPlan, build_latency_model
from psvit.search.latency.limits import PredictedLimit, check_hopeful, first_within
from psvit.search.latency.measure import Latency, Setting, fingerprint, measure
from psvit.search.latency.model import LatencyModel
from psvit.search.objectives import ACCURACY, LATENCY, Objectives
from psvit.search.pareto import front, hypervolumes
from psvit.search.racing import Race, ties
from psvit.search.scoring import Scoring, load_unchanged
from psvit.search.search import KEPT, draw_control, search
from psvit.search.searchers import make_searcher
from psvit.search.storage import open_storage, without_password
from psvit.search.study import CONTROL, STUDY_NAME, Study
from psvit.search.trial import Trial
from psvit.search.winner import Evidence, write_front, write_winner
from psvit.space.budget import Budget, LatencyLimit
from psvit.space.search_space import SearchSpace, default_space
from psvit.supernet.supernet import Supernet, check_held_out, read_space, supernet_digest, supernet_file
from psvit.supernet.train import train_supernet
from psvit.train.job_runner import JobRunner
from psvit.train.recipe import Recipe, default_recipe
from psvit.train.training_job import TrainingJob

if TYPE_CHECKING:  # it loads plotly
    from psvit.search.report import Reference

SPENT = 0.9
"""A limit without a lower end is a budget to spend: the search stays in its upper tenth where that is not empty."""

CONTROL_SHARE = 0.25
"""Of what was evaluated, so many are drawn uniformly for comparison where their number is not given."""

LATENCY_SPACE = "psvit-2d-small"
"""The space for images of 224 pixels where latency alone is limited."""

IMAGE_SIZE = 224
"""For which images a network is searched where there are none."""

JOURNAL, REPORT = "study.journal", "report.html"

ANY_LATENCY_MS = 1e9
"""More than anything takes: where latency is improved and not limited, it is measured in the end all the same."""


@dataclass(frozen=True, kw_only=True)
class SearchRun:
    """What a search is of.

    Attributes:
        space: the space, with the data's classes and channels.
        budget: the limits as given.
        data: images, where candidates are scored with a supernet.
        supernet: a trained one, as its run folder or file.
        recipe: how a supernet is trained first, where none is given.
        searcher: the name of the searcher.
        trials: architectures to evaluate.
        seed: of everything random.
        device: where this process computes.
        latency: files of latency models for limits on latency; for those that no file is for, a model is built first.
        objectives: what is improved, accuracy first.
        seconds: after which no further batch is begun, of which the control gets its share of the evaluations.
        finalists: how many of the best are trained briefly before one is called the winner, where there are images.
        control: architectures drawn uniformly and scored for comparison; where not given, `CONTROL_SHARE` of what was
            evaluated by then.
        storage: where the study is kept; a journal in the run's folder by default.
        study: its name in a storage that is named.
        share_prefixes: whether candidates that begin alike are computed together.
        race: whether candidates that cannot be among the best any more are given up early.
        workers: `ray` or the address of a Ray cluster that scores and trains finalists; without it, this process does.
        worker_device: where workers compute; as this process, where it is not given.
    """

    space: SearchSpace
    budget: tuple[str, ...]
    data: ImageData | None
    supernet: str | None
    recipe: Recipe | None
    searcher: str
    trials: int
    seed: int
    device: torch.device
    latency: tuple[Path, ...] = ()
    objectives: tuple[str, ...] = (ACCURACY,)
    seconds: float | None = None
    finalists: int = 0
    control: int | None = 0
    storage: str | None = None
    study: str | None = None
    share_prefixes: bool = True
    race: bool = True
    workers: str | None = None
    worker_device: torch.device | None = None

    @property
    def scoring_device(self) -> torch.device:
        """Where candidates are scored."""
        return self.worker_device or self.device

    @property
    def config(self) -> dict[str, Any]:
        """All that decides the result, JSON-serialisable; a search may go on for longer, and elsewhere."""
        return {
            **self.scored,
            "searcher": self.searcher,
            "searcher_parameters": make_searcher(self.searcher).parameters,
            "seed": self.seed,
            "finalists": self.finalists if self.finalists_recipe else 0,
            "finalists_recipe": self.finalists_recipe.to_dict() if self.finalists_recipe else None,
        }

    @property
    def full_config(self) -> dict[str, Any]:
        """Also what may be another when a run is continued: how long, how and where it searches; no password."""
        return {
            **self.config,
            "trials": self.trials,
            "control": f"{CONTROL_SHARE:.0%} of those evaluated" if self.control is None else self.control,
            "seconds": self.seconds,
            "share_prefixes": self.share_prefixes,
            "workers": self.workers,
            "storage": self.storage and without_password(self.storage),
            "study": self.study,
        }

    @property
    def finalists_recipe(self) -> Recipe | None:
        """How finalists are trained; with several objectives or without images, none are."""
        if len(self.objectives) > 1 or not self.data or not self.finalists:
            return None
        return brief(Recipe.load(default_recipe(min(self.space.image_size), supernet=False)))

    @property
    def scored(self) -> dict[str, Any]:
        """What scores and limits depend on, which all processes that work on a study must agree on."""
        return {
            "budget": list(self.budget),
            "limits": Budget.parse(*self.budget, space=self.space).resolved,
            "objectives": list(self.objectives),
            "space": self.space.name,
            "space_digest": self.space.digest,
            "data": self.data.name if self.data else None,
            "data_digest": self.data.digest if self.data else None,
            "supernet": supernet_digest(self.supernet) if self.supernet else None,
            "recipe": self.recipe.to_dict() if self.recipe else None,
            "race": asdict(self.races) if self.races else None,
            "device": self.scoring_device.type,
            "latency": [LatencyModel.load(path).digest for path in self.latency],
        }

    @property
    def keep(self) -> int:
        """How many of the best are scored on all images, whatever is raced: at least as many as there are finalists."""
        return max(KEPT, self.finalists)

    @property
    def races(self) -> Race | None:
        """When candidates are given up; never where scores rest on no images or not on accuracy alone."""
        return Race(keep=self.keep) if self.race and self.data and len(self.objectives) == 1 else None

    def control_of(self, trials: int) -> int:
        """How many are drawn for comparison with so many trials."""
        return int(CONTROL_SHARE * trials) if self.control is None else self.control

    @property
    def search_seconds(self) -> float | None:
        """After how many of the seconds the search leaves the rest to the control."""
        return self.seconds and self.seconds * self.trials / (self.trials + self.control_of(self.trials))

    @property
    def limits(self) -> Budget:
        """The limits that candidates keep: those given, spent where they leave it open."""
        given = Budget.parse(*self.budget, space=self.space)
        if len(self.objectives) > 1 or given.latencies:
            return given  # costs that are improved are not spent, and where time is limited it may be what is short
        spent = given.spent(SPENT)
        return spent if self.space.count(spent) else given

    def latency_models(self) -> dict[str, LatencyModel]:
        """The models that were given, by the setting of the limit that each is for.

        Raises:
            InputError: one is of another space, device or version than is searched, or for no limit.
        """
        models: dict[str, LatencyModel] = {}
        settings = {Setting.of(limit): limit.setting for limit in self.limits.latencies}
        for path in self.latency:
            model = LatencyModel.load(path)
            if not settings and LATENCY in self.objectives:
                settings[model.setting] = str(model.setting)
            if not settings:
                raise InputError(f"--latency {path}: there is no limit on latency, such as 5ms@cpu, for it to predict")
            wanted = model.setting if model.setting in settings else next(iter(settings))
            model.check(self.space, wanted, fingerprint(wanted), source=f"--latency {path}")
            if settings[wanted] in models:
                raise InputError(f"--latency {path}: a second model of {settings[wanted]}; name one for each limit")
            models[settings[wanted]] = model
        return models

    @property
    def measured_setting(self) -> Setting:
        """Where latency is improved that no limit says how to measure.

        Raises:
            InputError: nothing can be measured there.
        """
        return Setting.from_dict({"device": str(self.device)}, source=f"--device {self.device}")

    def check_latencies(self) -> None:
        """Refuse what can be told of limits on latency before anything is built, trained or written.

        Raises:
            InputError: a limit that nothing can keep, a setting that cannot be measured, or a model of something else.
        """
        models = self.latency_models()
        limits = self.limits
        for limit in limits.latencies:
            setting = Setting.of(limit)
            fingerprint(setting)
            if limit.setting not in models:
                LatencyPlan.of(self.space, setting, self.seed)
                check_hopeful(limit, self.space, measure)
        if LATENCY in self.objectives and not limits.latencies and not models:
            LatencyPlan.of(self.space, self.measured_setting, self.seed)
        predicted = [(limit, models[limit.setting]) for limit in limits.latencies if limit.setting in models]
        Candidates(self.space, limits, [PredictedLimit(limit, model) for limit, model in predicted])


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


def choose_space(
    wanted: SearchSpace | None, supernet: str | None, data: ImageData | None, budget: tuple[str, ...]
) -> SearchSpace:
    """The space to search: the supernet's, the wanted one, or the smallest shipped one that holds the budget.

    The limits come as given, because `60%` is of what the space holds, which the data may change.

    Raises:
        InputError: the supernet belongs to another space or other images, or nothing is within the budget.
    """
    if supernet:
        space = read_space(supernet)
        if data and (len(data.classes), data.in_chans) != (space.num_classes, space.in_chans):
            raise InputError(
                f"supernet {supernet!r}: trained for {space.num_classes} classes and {space.in_chans} channels, "
                f"but {data.name!r} has {len(data.classes)} and {data.in_chans}"
            )
        if wanted and not wanted.differs_in_data_only(space):
            raise InputError(f"supernet {supernet!r}: belongs to the space {space.name}, not to {wanted.name}")
        if data:
            check_held_out(supernet, data)
    else:
        limits = Budget.parse(*budget, space=wanted)
        space = wanted or default_space(limits, data.image_size if data else IMAGE_SIZE)
        if not wanted and not limits.limits:
            # Which spaces hold a latency would have to be measured. Where there is a choice, the middle one is taken.
            middle = SearchSpace.load(LATENCY_SPACE)
            space = middle if space.image_size == middle.image_size else space
        if data:
            space = space.with_data(len(data.classes), data.in_chans)
    space.check(Budget.parse(*budget, space=space))
    return space


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
    return build_latency_model(plan, folder / f"latency-{number}.yaml", measure)[0]


def _supernet_file(run: SearchRun, folder: RunFolder) -> Path:
    """The file of the supernet that scores candidates, trained inside the run where none was given."""
    if run.supernet is not None:
        return supernet_file(run.supernet)
    assert run.data is not None
    assert run.recipe is not None
    return train_supernet(run.space, run.data, run.recipe, seed=run.seed, device=run.device, folder=folder / "supernet")


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
