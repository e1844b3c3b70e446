"""What the commands share: options, one-line errors, logging. Only files of this name know the command-line library.

Nothing heavy is imported here, so that `--help` answers at once; a command imports what it needs when it runs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, TypeVar

import click

from psvit.errors import InputError, RunError
from psvit.executors.openmp import wait_briefly

if TYPE_CHECKING:
    import torch

    from psvit.data import Inputs
    from psvit.train.checkpoints import Keeping
    from psvit.train.recipe import Recipe
    from psvit.train.teacher import Teacher

DATA_HELP = "An image folder with train/ and val/, 'digits', or a name such as torch/cifar10."

PIPED_COLUMNS = 120
"""Of tables where nobody says how wide the window is."""

Function = TypeVar("Function", bound=Callable[..., Any])


def run(command: click.Command, arguments: list[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 done, 1 not brought to its end, 2 bad input, 130 interrupted; errors take one line."""
    wait_briefly()  # every command begins here, and none has loaded PyTorch yet
    try:
        status = command.main(arguments, standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.ClickException as error:
        _fail(command, error.format_message(), 2)
    except InputError as error:
        # A worker process that prepares batches sends its error with a traceback in front; the last line is ours.
        line = str(error).strip().splitlines()[-1].removeprefix("psvit.errors.InputError: ")
        _fail(command, line, 2, is_shared=error.is_shared)
    except RunError as error:
        _fail(command, str(error), 1)
    except (click.Abort, KeyboardInterrupt):
        _fail(command, "interrupted; the same command continues", 130)


def _fail(command: click.Command, message: str, status: int, is_shared: bool = True) -> NoReturn:
    if is_first_process() or not is_shared:
        print(f"{command.name}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def is_first_process() -> bool:
    """Whether this process speaks for all that `torchrun` has started."""
    return os.environ.get("RANK", "0") == "0"


def run_options(function: Function) -> Function:
    """Options that every command has which makes a run."""
    for option in (
        click.option("-v", "--verbose", is_flag=True, help="Log what is done."),
        click.option(
            "--device", default=None, help="Where to compute: cpu, cuda, ... [default: cuda where there is one]"
        ),
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            default=None,
            help="The run's folder; the same command continues it. [default: runs/..., printed]",
        ),
        click.option(
            "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Same seed, same result."
        ),
    ):
        function = option(function)
    return function


def recipe_options(whose: str) -> Callable[[Function], Function]:
    """Options that choose a recipe and change it."""

    def decorate(function: Function) -> Function:
        for option in (
            click.option(
                "--set",
                "settings",
                multiple=True,
                metavar="KEY=VALUE",
                help="Replace a value of the recipe; may be given several times, e.g. --set epochs=10.",
            ),
            click.option(
                "--recipe",
                default=None,
                help=f"How {whose} is trained: a shipped recipe or a .yaml file. [default: by the size of the images]",
            ),
        ):
            function = option(function)
        return function

    return decorate


def training_options(function: Function) -> Function:
    """Options of what trains: its teacher, its checkpoints."""
    for option in (
        click.option(
            "--keep",
            "number",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            help="How many of the last checkpoints are kept while training lasts.",
        ),
        click.option(
            "--checkpoint-every",
            default="10min",
            show_default=True,
            metavar="DURATION",
            help="Write one so often, besides at the end of every epoch.",
        ),
        click.option(
            "--teacher-weights",
            type=click.Path(path_type=Path),
            default=None,
            help="Its .safetensors or .pth file; timm's config.json beside it says how it wants images. "
            "[default: timm's pretrained ones, or the file beside the .yaml]",
        ),
        click.option(
            "--teacher",
            "teacher_name",
            default=None,
            metavar="NAME_OR_FILE",
            help="A trained network to learn from, with --set target=soft or hard: a model of timm, or a .yaml file; "
            "hf-hub:OWNER/NAME and local-dir:FOLDER are models of timm too.",
        ),
    ):
        function = option(function)
    return function


def read_keeping(checkpoint_every: str, number: int) -> Keeping:
    """What the options say of checkpoints.

    Raises:
        InputError: not a duration.
    """
    from psvit.train.checkpoints import Keeping

    return Keeping(every_seconds=read_duration("--checkpoint-every", checkpoint_every), number=number)


def read_teacher(name: str | None, weights: Path | None, inputs: Inputs, num_classes: int) -> Teacher | None:
    """The teacher of the options, if there is one.

    Raises:
        InputError: it cannot be had or does not fit.
    """
    from psvit.train.teacher import load_teacher

    if weights and not name:
        raise InputError(f"--teacher-weights {weights}: of which network? name it with --teacher")
    return load_teacher(name, weights, inputs, num_classes) if name else None


def read_recipe(
    name: str | None,
    settings: tuple[str, ...],
    image_size: int,
    supernet: bool,
    teacher: str | None = None,
    inherited: bool = False,
) -> Recipe:
    """The recipe of the options `--recipe` and `--set`.

    Args:
        name: of the recipe; by default it goes by the size of the images.
        settings: values to replace.
        image_size: smaller side in pixels.
        supernet: whether a supernet is trained, or a network.
        teacher: what is given as one.
        inherited: whether a network begins with inherited weights.

    Raises:
        InputError: no such recipe, an unknown key or an impossible value, or a teacher is missing or too many.
    """
    import yaml

    from psvit.train.recipe import Recipe, SupernetRecipe, default_recipe

    values = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"--set {setting!r}: expected KEY=VALUE")
        try:
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise InputError(f"--set {setting!r}: the value is not valid YAML") from None
        # YAML reads 1e-3 as text, because it wants a point in it.
        if isinstance(values[key], str):
            with contextlib.suppress(ValueError):
                values[key] = float(values[key])
    kind = SupernetRecipe if supernet else Recipe
    chosen = kind.load(name or default_recipe(image_size, supernet, inherited)).override(values)
    chosen.check_teacher(teacher is not None)
    return chosen


def read_device(name: str | None) -> torch.device:
    """The device of the option `--device`.

    Raises:
        InputError: there is no such device.
    """
    import torch

    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"  # one GPU for each process
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # some are only found missing when they compute
    except (RuntimeError, AssertionError, ImportError) as error:
        raise InputError(f"--device {name}: cannot compute: {str(error).splitlines()[0]}") from None
    return device


def read_devices(name: str | None, workers: str | None) -> tuple[torch.device, torch.device]:
    """What the option `--device` says where there may be `--workers`: where this process computes, and where they do.

    The nodes of a cluster may have GPUs where this process has none. It then computes on the CPU what it does itself.

    Raises:
        InputError: there is no such device.
    """
    import torch

    if workers and name == "cuda" and not torch.cuda.is_available():
        from psvit.executors.ray_cluster import is_elsewhere

        if is_elsewhere(workers):
            return torch.device("cpu"), torch.device("cuda")
    device = read_device(name)
    # A worker sees the one GPU that it was given, whatever number that has.
    return device, torch.device(device.type) if workers else device


def read_workers(text: str | None) -> None:
    """Make sure that the option `--workers` names a Ray cluster that answers, or one to be started here.

    Raises:
        InputError: it does not.
    """
    if text is None:
        return
    if text != "ray" and not text.startswith("ray://"):
        raise InputError(f"--workers {text!r}: permitted are ray and ray://host:port")
    from psvit.executors.ray_cluster import check_cluster

    check_cluster(text)


def read_duration(option: str, text: str) -> float:
    """Seconds from text such as `90s`, `30min` or `2h`.

    Raises:
        InputError: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h)", text.strip(), re.ASCII)
    if match is None or not float(match[1]):
        raise InputError(f"{option} {text!r}: expected a duration such as 90s, 30min or 2h")
    return float(match[1]) * {"s": 1, "min": 60, "h": 3600}[match[2]]


def show_table(title: str, rows: Sequence[tuple[str, ...]], header: tuple[str, ...] = ()) -> None:
    """Print names and values under a title, and under headings where there are several values a name."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, show_header=bool(header), box=SIMPLE, title_justify="left")
    for position, name in enumerate(header or ("",) * max(map(len, rows), default=0)):
        table.add_column(name, justify="right" if position else "left")
    for row in rows:
        table.add_row(*row)
    # Into a file or a pipe as wide as lines are here, where rich would take a terminal of 80 columns for granted.
    is_known = sys.stdout.isatty() or "COLUMNS" in os.environ
    Console(width=None if is_known else PIPED_COLUMNS).print(table)


def set_up_logging(verbose: bool) -> None:
    """Warnings always, what is done with `--verbose`, on standard error."""
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s", handlers=[_ToStandardError()]
    )
    logging.getLogger("psvit").setLevel(logging.INFO if verbose and is_first_process() else logging.WARNING)


class _ToStandardError(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at the moment: where a bar is shown, above it and not into it."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, stream: TextIO) -> None:
        pass  # of the base class, which keeps the one there was at first


def default_folder(label: str, config: dict[str, Any]) -> Path:
    """Where a run goes when no folder is named: equal configurations meet in the same one."""
    import hashlib
    import json

    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]
    # A budget may hold a path.
    name = re.sub(r"[^\w.%-]+", "-", label)
    return Path("runs") / f"{name}-{digest}"
