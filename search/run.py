"""`run_search`: find the best architecture within a budget."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from optuna.samplers import BaseSampler

from psvit.arch.architecture import Architecture
from psvit.arch.costs import ADDITIVE, cost
from psvit.data import ImageData, describe_images
from psvit.errors import InputError
from psvit.executors.choose_executor import reached
from psvit.io.announcements import announce
from psvit.io.arguments import positive, read_image_size, several, whole
from psvit.io.cores import usable_cores
from psvit.io.documents import Place, digest_of_file, path_of, read_yaml
from psvit.io.progress import in_time
from psvit.io.run_folder import CONFIG, RunFolder, check_folder, default_folder
from psvit.io.run_folder import SCHEMA as CONFIG_SCHEMA
from psvit.report.formatting import count
from psvit.search.fidelity.record import file_beside
from psvit.search.objectives import ACCURACY, Objective
from psvit.search.plan import SUPERNET, SearchPlan, plan_search
from psvit.search.request import SearchRequest
from psvit.search.result import SearchResult, forget, found_before, keep
from psvit.search.searchers import Searcher
from psvit.search.selection.rungs import after_scores, rungs_of
from psvit.search.storage import check_storage
from psvit.search.time_limit import TimeLimit
from psvit.space.budget import Budget, as_texts, format_cost
from psvit.space.search_space import SearchSpace
from psvit.train.recipe import Recipe

if TYPE_CHECKING:
    from psvit.search.estimate import Estimate

COMMAND = "psvit-search"

FINALISTS = 5
"""How many of the best by score enter the selection by default, besides the references."""

LONG_S = 600.0
"""Seconds of a search from which it is worth starting workers."""


def run_search(
    space: SearchSpace | str | Path | None = None,
    *,
    budget: str | Budget | Objective | Sequence[str | Budget | Objective],
    data: ImageData | str | Path | None = None,
    supernet: Place | None = None,
    init: str | Path | None = None,
    init_weights: str | Path | None = None,
    depths: Sequence[int] | None = None,
    evaluator: Any = None,
    searcher: str | Searcher | BaseSampler | None = None,
    objectives: str | Sequence[str | Objective] = (ACCURACY,),
    trials: int | None = None,
    seconds: float | None = None,
    finalists: int = FINALISTS,
    recipe: Recipe | str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    inherit: bool | None = None,
    control: int | None = None,
    supernet_recipe: Recipe | str | Path | None = None,
    supernet_settings: Mapping[str, Any] | None = None,
    image_size: int | str | tuple[int, int] | None = None,
    latency: str | Path | Sequence[str | Path] = (),
    share_prefixes: bool = True,
    race: bool = True,
    storage: str | Path | None = None,
    study: str | None = None,
    workers: str | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    repeated_by: str = "psvit.run_search(...), with the configuration below",
) -> SearchResult:
    """Find the best architecture within a budget, and write it to `best.yaml`; `report.html` says how it was found.

    The same call continues a run that was interrupted. A finished run is not repeated. If Ctrl-C stops the search after
    at least one candidate was scored, the best so far is returned, and `SearchResult.stopped` says so.

    Args:
        space: a space, the name of a shipped one, or a file. By default, the space of the supernet, or one that is made
            for the images and the budget (`SearchSpace.for_images`). A supernet that is trained first, and the
            indicator, prefer the smallest shipped 2d space for images of just this size that holds the budget. Without
            images, they are taken to be ImageNet's.
        budget: limits such as `2GFLOPs` (multiply-accumulates), `22Mparams`, `1.2..1.4GFLOPs`, `60%` or `5ms@cpu`, a
            `Budget`, and `Objective`s of your own that have an end. `2GFLOPs` alone searches 1.8 to 2, `0..2GFLOPs`
            everything up to 2.
        data: images: an `ImageData`, a folder, or a name.
        supernet: a trained supernet, whose weights score candidates: its folder, its file, or what `train_supernet`
            returned.
        init: a trained network to begin with, of which the search finds a cheaper one: a model of timm, a folder that
            timm wrote, a .safetensors or .pth file with timm's config.json beside it, or a run of a retraining. Then
            `60%` is of that network's cost, and the space is `SearchSpace.around` the network.
        init_weights: a .safetensors or .pth file for a model of timm that `init` names. By default, timm's pretrained
            weights.
        depths: how many layers candidates may have besides all of that network's.
        evaluator: scores candidates: `trained`, by short trainings, the default if there are images; `inherited`, with
            the weights of the supernet, the default if one is named (without one, it is trained first); `dss`, a
            training-free indicator, the default without images if something is asked for that only a search has, such
            as a searcher or a limit on latency; `rule`, the default otherwise, which takes a hand-made network within
            the budget and scores nothing. Or one of your own: a function from a list of
            architectures to a list of numbers, more being better; a `ScoringFunction`, which has a version; or an
            `Evaluator`.
        searcher: `evolution`, the default, which breeds the best so far, references first; with short trainings, it
            chooses by a prediction (`psvit.search.prediction`). Or `stratified`, where candidates come from every kind
            of network in turn; `random`, `enumerate`, `optuna-tpe`, `optuna-nsga2` or `optuna-gp`; a sampler of
            Optuna's; or a `Searcher` of your own.
        objectives: what is improved. The first is `accuracy` or `score`, two names for what candidates are scored with.
            Then any of `macs`, `params`, `memory`, `latency` and `Objective`s of your own. Several give a Pareto front.
        trials: how many architectures the searcher proposes, after the references. By default 256, 48 with short
            trainings, 128 with the indicator, all with `enumerate`.
        seconds: time limit. With short trainings, the whole search is planned into it: the number of candidates and
            the length of the selection's schedule, from a few measured training steps. What then turns out not to fit
            is left out (`SearchResult.left_out`), and the same call does it later. Otherwise no batch is begun after
            it, and the random comparison is included.
        finalists: how many of the best enter the selection, if there are images: they are trained, and compared at the
            rungs of successive halving. With them enter the best of every variant and stem, and hand-made networks
            within the budget (`psvit.space.references`). With short trainings, the best third enters. 0 trains none;
            then the best score wins.
        recipe: how the network will be retrained; candidates and finalists begin such a training, with a quarter of
            its epochs, and the worse leave early. By default, the recipe goes by the images.
        settings: values of this recipe to replace, such as `{"epochs": 60}`.
        inherit: whether trainings of the selection begin with the supernet's weights. By default, they do so with
            `init`.
        control: how many architectures are drawn at random and scored for comparison. By default, a quarter of those
            evaluated.
        supernet_recipe: how a supernet is trained first. By default, the recipe goes by the images.
        supernet_settings: values of that recipe to replace, such as `{"epochs": 10}`.
        image_size: height and width at which networks see the images: a pair, a text such as `96x64`, or one number for
            both. By default, the space's; a space that is made is made for the images' own size, or a smaller one if
            they are larger than 512 pixels (`psvit.data.seen_size`).
        latency: files of latency models for limits such as `5ms@cpu`. Missing models are built first, inside the run.
        share_prefixes: whether candidates that begin alike are computed together.
        race: whether candidates that cannot be among the best any more are given up early.
        storage: where the study is kept, so that several processes can work on it: a journal file or a URL. By default,
            a journal in the run's folder.
        study: the name of the study in the storage. By default, it follows from the configuration.
        workers: a Ray cluster that scores candidates and trains finalists, a network on each core or GPU: `ray`, which
            starts one on this machine if there is none, or `ray://host:port`; behind it the share of a GPU that each
            worker takes, as in `ray:gpus=0.25`.
        out: the run's folder. By default, one below `runs/`, which is announced.
        seed: the seed of everything random. On a CPU, the same seed gives the same result.
        device: where to compute. By default, a GPU if there is one.
        repeated_by: the call or command that repeats the run, for the report.

    Raises:
        InputError: an argument cannot be used, or no architecture is within the budget. The message says what is
            possible.
        NoisyMachineError: the machine was too noisy to measure latency; the same call continues.
        UnmetBudgetError: no architecture was found or measured within the limits.
        RunError: every evaluation failed; the message says why the last did.
    """
    asked = _request(locals())
    limit = TimeLimit(asked.seconds)
    plan, place, estimated = _planned(asked, out, limit)
    was_begun = check_folder(place, COMMAND, plan.config)
    if was_begun and not plan.asked.storage and (found := found_before(place, _told(plan, place))):
        announce(f"run: {place}")
        announce("it has come to its end before; this is what it found")
        return replace(found, next_command=plan.next_command(found.file))
    folder = _begun(plan, place, estimated, was_begun)
    from psvit.search.engine import execute  # it loads timm

    forget(place)
    with reached(asked.workers):
        result = execute(plan, folder, repeated_by, limit)
    # What others have in a shared storage, they may go on with.
    if not result.stopped and not result.left_out and not plan.asked.storage:
        keep(result, _told(plan, place))
    return result


def estimate_search(*args: Any, **given: Any) -> Estimate | None:
    """Say what `run_search` would do with the same arguments, and how long it would take here; write nothing.

    Returns:
        The seconds of its steps; `None` if none of them can be told.

    Raises:
        InputError: as `run_search`.
    """
    bound = inspect.signature(run_search).bind(*args, **given)
    bound.apply_defaults()
    out = bound.arguments["out"]
    asked = _request(bound.arguments)
    plan, place, estimated = _planned(asked, out, TimeLimit(asked.seconds))
    check_folder(place, COMMAND, plan.config)
    _read_images(plan)
    for line in _introduction(plan):
        announce(line)
    if plan.scored_by == "rule":
        from psvit.search.rule import by_rule

        name, arch = by_rule(plan)
        announce(f"it would take {name}: {_costs(arch)}")
    return _tell_time(plan, estimated)


def _request(given: Mapping[str, Any]) -> SearchRequest:
    """The request of a call of `run_search`, by the names of its arguments."""
    supernet, image_size, storage = (given[name] for name in ("supernet", "image_size", "storage"))
    changed = {
        "budget": tuple(_limits(given["budget"])),
        "supernet": None if supernet is None else str(path_of(supernet)),
        "init": None if given["init"] is None else str(path_of(given["init"])),
        "init_weights": None if given["init_weights"] is None else str(given["init_weights"]),
        "depths": None if given["depths"] is None else several("depths", given["depths"], (int,), "a number of layers"),
        "image_size": None if image_size is None else read_image_size(image_size),
        "objectives": _objectives(given["objectives"]),
        "latency": tuple(map(Path, several("latency", given["latency"], (str, Path), "a file"))),
        "storage": None if storage is None else str(storage),
        "seconds": None if given["seconds"] is None else positive("seconds", given["seconds"]),
        "finalists": whole("finalists", given["finalists"]),
        "seed": whole("seed", given["seed"]),
        **{
            name: None if given[name] is None else whole(name, given[name], least)
            for name, least in (("trials", 1), ("control", 0))
        },
    }
    return SearchRequest(**{field.name: {**given, **changed}[field.name] for field in fields(SearchRequest)})


def _limits(given: Any) -> Iterator[str | Objective]:
    """The limits of a call, those that are text as they are usually written.

    Raises:
        InputError: something else is among them, or there are none.
    """
    limits = several("budget", given, (str, Budget, Objective), "a text such as '2GFLOPs', a Budget or an Objective")
    if not limits:
        raise InputError("budget: name at least one limit, such as '2GFLOPs'")
    for limit in limits:
        if isinstance(limit, Objective):
            yield limit
        else:
            yield from as_texts(limit)


def _objectives(given: Any) -> tuple[str | Objective, ...]:
    """The objectives of a call; a text may hold several, as on the command line."""
    found = several("objectives", given, (str, Objective), "a name such as 'accuracy' or an Objective")
    return tuple(part for one in found for part in (one.split(",") if isinstance(one, str) else (one,)))


def _place(plan: SearchPlan, out: str | Path | None) -> Path:
    """The run's folder. Its default does not depend on what was planned into a time limit, so that a call finds it."""
    return Path(out) if out else default_folder(f"search-{'-'.join(plan.budget)}", plan.unplanned_config)


def _planned(
    asked: SearchRequest, out: str | Path | None, limit: TimeLimit
) -> tuple[SearchPlan, Path, Estimate | None]:
    """The plan with what follows from a time limit, or followed from it when the run was begun.

    Returns:
        The plan; the run's folder; and how long the plan takes, if that was estimated to make it.
    """
    plan = plan_search(asked)
    place = _place(plan, out)
    if not _is_there(place / CONFIG):
        plan.check()
        # Processes that share a study have to plan the same, and would measure different times.
        if not plan.is_trained or not asked.seconds or asked.storage:
            return plan, place, None
        from psvit.search.estimate import into_time

        planned, estimated = into_time(plan, limit)
        return planned, place, estimated
    known = read_yaml(place / CONFIG, CONFIG_SCHEMA).get("planned") if plan.is_trained else None
    if known:
        assert plan.training is not None
        plan = plan.planned_with(known["trials"], plan.training.with_epochs(known["epochs"]))
        plan = replace(plan, trials=asked.trials or plan.trials)
    return plan, place, None


def _is_there(file: Path) -> bool:
    """Whether there is a file. What cannot be one, because its name is too long, `check_folder` refuses."""
    try:
        return file.exists()
    except OSError:
        return False


def _told(plan: SearchPlan, place: Path) -> dict[str, Any]:
    """Everything that a result depends on: what was asked for, and what is known of the supernet, which may grow."""
    known = None
    if plan.scored_by == "inherited":
        with contextlib.suppress(InputError):  # a supernet in the run's own folder may have been removed
            fidelity = file_beside(plan.asked.supernet or place / SUPERNET)
            known = digest_of_file(fidelity) if fidelity.exists() else None
    return {**plan.full_config, "fidelity": known}


def _begun(plan: SearchPlan, place: Path, estimated: Estimate | None, was_begun: bool) -> RunFolder:
    """The run's folder. It is made after everything that can be checked beforehand was checked."""
    if not was_begun:
        _read_images(plan)
    if plan.asked.storage:  # which may be made by being opened
        check_storage(plan.asked.storage)
    folder = RunFolder(place, COMMAND, plan.config)
    plan.space.save(folder.path / "space.yaml")
    announce(f"run: {folder.path}")
    for line in _introduction(plan):
        announce(line)
    if not folder.resumed:
        _tell_time(plan, estimated)
    return folder


def _read_images(plan: SearchPlan) -> None:
    """Read the images before anything is written. A run that goes on reads them when they are first needed.

    Raises:
        InputError: one of them is corrupt.
    """
    if plan.data:
        plan.data.read()


def _tell_time(plan: SearchPlan, estimated: Estimate | None) -> Estimate | None:
    """Say how long a search will take, if that can be told; it is estimated now if it was not before."""
    from psvit.search.estimate import estimate

    found = estimated or estimate(plan)
    if found:
        announce(f"time, estimated from a few steps here, on {plan.device.type}: {found}")
        cores = usable_cores() if plan.scoring_device.type == "cpu" and not plan.asked.workers else 1
        if cores > 1 and found.total > LONG_S:
            announce(f"time: with --workers ray, {cores} networks are trained at once, each on a core of its own")
    seconds = plan.asked.seconds
    if found and seconds and plan.is_trained and found.total > seconds:
        fewer = ", or fewer --trials" if plan.asked.trials else ""
        announce(
            f"time: the least search takes about {in_time(found.total)} here, more than {in_time(seconds)}; what does "
            f"not fit is left out, give --time {math.ceil(found.total / 60)}min{fewer} to have all of it"
        )
    return found


def _introduction(plan: SearchPlan) -> Iterator[str]:
    """What is searched, and how."""
    yield from describe_images(plan.data, plan.space.image_size) if plan.data else ()
    if plan.original:
        yield "; ".join([f"from {plan.original.name}: {_costs(plan.original.arch)}", *plan.original.changes])
    yield (
        f"searching {plan.space.count(plan.limits):,} of the {plan.space.size:,} architectures of {plan.space.name}"
        f"{', those predicted within the limit on latency' if plan.limits.latencies else ''}: "
        f"{plan.limits} (FLOPs are multiply-accumulates)"
    )
    for limit in plan.limits_given.limits:
        most = plan.space.reach(limit.metric)[1]
        if limit.metric == "activation_bytes" and limit.upper >= most:
            yield (
                f"{Budget(limits=(limit,))} limits nothing: networks of this space have at most "
                f"{format_cost(limit.metric, most)} of activations"
            )
    yield from _what_is_done(plan)
    if plan.scored_by == "rule":
        to_search = "leave --evaluator rule out" if plan.data else "give --data"
        yield (
            "nothing is compared: a rule takes the hand-made network that did best elsewhere; "
            f"{to_search} to search on your images"
        )
    if plan.scored_by == "dss":
        yield (
            "candidates are scored by the training-free indicator DSS (arXiv 2203.12217), which has not been found "
            "better than taking as many multiply-accumulates as the budget allows"
        )


def _costs(arch: Architecture) -> str:
    return ", ".join(format_cost(name, getattr(cost(arch), name)) for name in ADDITIVE)


def _what_is_done(plan: SearchPlan) -> Iterator[str]:
    """The images that candidates are compared on and what these can tell apart, and the trainings that will be done."""
    if not plan.data:
        return
    search, verdict = len(plan.data.search), len(plan.data.verdict)
    yield (
        f"{count(search, 'search image')} for comparing: one image is {100 / search:.2g} points, and an accuracy has a "
        f"standard error of up to {50 / math.sqrt(search):.2g} points; "
        f"{count(verdict, 'verdict image') if verdict else 'no images are left for a verdict'}"
    )
    if plan.training is None:
        return
    what = "adapt a supernet that begins as the network" if plan.original else "train a supernet"
    steps = [f"{what} for {count(plan.supernet_recipe.epochs, 'epoch')}"] if plan.supernet_recipe else []
    rungs = rungs_of(plan.training.epochs)
    on = f"on {len(plan.data.train):,} images"
    if plan.is_trained:
        others_too = len(plan.references(plan.limits))
        references = f" and {count(others_too, 'hand-made reference')}"
        if not others_too:
            references = " (no hand-made network is in the space and the budget)"
        who = f"{count(plan.trials, 'candidate')}{references}"
        steps.append(f"train {who} for {count(rungs[0].epoch, 'epoch')} {on}")
    else:
        steps.append("score candidates")
    if plan.selects:
        who = "the best third" if plan.is_trained else f"the best and the references {on}"
        left = after_scores(plan.training.epochs) if plan.is_trained else rungs
        epochs = [str(rung.epoch) for rung in left]
        further = " further" if plan.is_trained else ""
        steps.append(f"train {who}{further}, and compare them after {', '.join(epochs)} epochs; the worse leave early")
    yield f"plan: {'; then '.join(steps)}"
