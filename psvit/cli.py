"""Shared by the commands: options, one-line errors, logging. Only files of this name know the command-line library.

Nothing heavy is imported here, so that `--help` answers at once; a command imports what it needs when it runs.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Literal, NoReturn, TextIO, TypeVar

import click

from psvit.errors import InputError, RunError
from psvit.executors.failures import out_of_memory
from psvit.executors.openmp import wait_briefly
from psvit.io.announcements import ANNOUNCEMENTS, Silence
from psvit.io.escaping import in_terminal
from psvit.io.folders_in_use import check_all_in_use, forget_all

DATA_HELP = (
    "A folder of images for every class, in one folder or in train/ and val/ in it; 'digits'; or a name such as "
    "torch/cifar10."
)

PIPED_COLUMNS = 120
"""The width of tables if the width of the window is not known."""

_HOOK = "_excepthook_of_psvit"

Function = TypeVar("Function", bound=Callable[..., Any])


OF_THE_RUN = (
    *("out", "seed", "device", "workers", "storage", "study", "checkpoint_every", "number"),
    *("batch_size", "verbose", "help"),
)
"""Parameters of options that say where and how a command runs, not what it does; in help they come last."""


class Command(click.Command):
    """A command whose help has its options in groups, and examples after them.

    Args:
        groups: the names of parameters under a heading. Those of `OF_THE_RUN` have a heading of their own, and what is
            left has `Options`.
        examples: command lines.
    """

    def __init__(
        self, *args: Any, groups: Mapping[str, Sequence[str]] | None = None, examples: Sequence[str] = (), **kwargs: Any
    ) -> None:
        kwargs.setdefault("context_settings", {"help_option_names": ["-h", "--help"]})
        super().__init__(*args, **kwargs)
        self.groups = groups or {}
        self.examples = examples

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options, group by group."""
        # Several options may set one parameter.
        records = [
            ("help" if "--help" in parameter.opts else str(parameter.name), record)
            for parameter in self.get_params(ctx)
            if (record := parameter.get_help_record(ctx)) is not None
        ]
        named = {name for names in self.groups.values() for name in names}
        of_the_run = [name for name in OF_THE_RUN if name not in named]
        others = [name for name, _ in records if name not in named and name not in of_the_run]
        for title, names in (*self.groups.items(), ("Options", others), ("The run", of_the_run)):
            if rows := [record for name in dict.fromkeys(names) for other, record in records if other == name]:
                with formatter.section(title):
                    formatter.write_dl(rows)
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write_text(example)


def completing(*values: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Completes what is typed so far to one of some values; for `shell_complete` of an option."""
    return lambda context, parameter, typed: [value for value in values if value.startswith(typed)]


def completing_shipped(kind: Literal["space", "recipe"]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """The same to the name of a file that comes with psvit: a `space` or a `recipe`."""

    def complete(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
        from psvit.io.shipped import shipped

        return [name for name in shipped(kind) if name.startswith(typed)]

    return complete


def run(command: click.Command, arguments: list[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 done, 1 not brought to its end, 2 bad input, 130 interrupted; errors take one line.

    The traceback of an error that nobody foresaw is kept in the run's folder.
    """
    Silence.begin()
    _write_what_is_possible()
    forget_all()
    _threads_say_nothing_twice()
    wait_briefly()  # every command begins here, and none has loaded PyTorch yet
    try:
        status = command.main(arguments, standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.ClickException as error:
        _fail(command, _with_hint(command, error), 2)
    except InputError as error:
        # A worker process that prepares batches sends its error with a traceback in front; the last line is ours.
        line = str(error).strip().splitlines()[-1].removeprefix("psvit.errors.InputError: ")
        if is_disk_full(error):
            _fail(command, f"{line}; make room, and the same command continues", 1, is_shared=False)
        _fail(command, line, 2, is_shared=error.is_shared)
    except RunError as error:
        _fail(command, str(error), 1)
    except (click.Abort, KeyboardInterrupt):
        _fail(command, "interrupted; the same command continues", 130)
    except Exception as error:
        if gone := _folder_is_gone():
            _fail(command, gone, 2, is_shared=False)
        if is_disk_full(error):
            _fail(command, "the disk is full; make room, and the same command continues", 1, is_shared=False)
        if reason := out_of_memory(error):
            _fail(command, f"{reason}; take a smaller network, batch or image", 1, is_shared=False)
        _fail(command, _keep_traceback(error), 1, is_shared=False)


def _write_what_is_possible() -> None:
    """Where a terminal or a pipe lacks a character, write its number instead of ending with an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _with_hint(command: click.Command, error: click.ClickException) -> str:
    """What is wrong with the words of a command, and what was probably meant."""
    if isinstance(error, click.NoSuchOption):
        from psvit.train.recipe import Recipe  # only errors need it

        name = error.option_name.lstrip("-").replace("-", "_")
        known = {parameter.name for parameter in command.params}
        if name in Recipe.model_fields and "settings" in known:
            return f"no option {error.option_name}: {name} is a value of the recipe; give --set {name}=VALUE"
    if "unexpected extra argument" in error.format_message() and "budgets" in {one.name for one in command.params}:
        return f"{error.format_message()}; a value with a space needs quotes, as in --budget '2 GFLOPs'"
    return error.format_message()


def _threads_say_nothing_twice() -> None:
    """Keep tracebacks of TensorBoard's threads away, for good: the command says in its one line what the cause is."""
    usual = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        error = failed.exc_value
        is_log = isinstance(error, FileNotFoundError) and b"tfevents" in os.fsencode(error.filename or "")
        if not is_log and not is_disk_full(error):
            usual(failed)

    hook.__name__ = _HOOK
    if getattr(usual, "__name__", "") != _HOOK:
        threading.excepthook = hook


def _folder_is_gone() -> str:
    """What is said if the run's folder was deleted, which may show as any error; empty if it was not."""
    try:
        check_all_in_use()
    except InputError as error:
        return str(error)
    return ""


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error says that there is no space left; libraries wrap it in errors of their own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(words in str(error) for words in ("No space left on device", "disk is full", "Disk quota exceeded")):
            return True
        error = error.__cause__ or error.__context__
    return False


def _keep_traceback(error: Exception) -> str:
    """Write the traceback of an unforeseen error to a file; returns what is said of it."""
    from psvit.io.run_folder import ERROR_FILE, RunFolder

    traced = "".join(traceback.format_exception(error))
    place = (RunFolder.last or Path.cwd()) / ERROR_FILE
    try:
        place.write_text(traced, encoding="utf-8")
        where = f"its traceback is in {place}"
    except OSError:
        print(traced, file=sys.stderr)
        where = "its traceback stands above"
    return f"unexpected {type(error).__name__}: {str(error)[:300]}; {where}; please report it"


def _fail(command: click.Command, message: str, status: int, is_shared: bool = True) -> NoReturn:
    if is_first_process() or not is_shared:
        print(in_terminal(f"{command.name}: {' '.join(message.split())}"), file=sys.stderr)
    sys.exit(status)


def is_first_process() -> bool:
    """Whether this process speaks for all that `torchrun` has started."""
    return os.environ.get("RANK", "0") == "0"


def run_options(function: Function) -> Function:
    """Options that every command has which makes a run."""
    for option in (
        click.option("-v", "--verbose", is_flag=True, help="Log every step on standard error."),
        click.option("--device", default=None, help="Where to compute: cpu, cuda, ... [default: cuda if there is one]"),
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            default=None,
            help="The run's folder. The same command continues the run. [default: a folder in runs/, which is printed]",
        ),
        click.option(
            "--seed",
            type=click.IntRange(min=0),
            default=0,
            show_default=True,
            help="Seed of everything random. On a CPU, the same seed gives the same result.",
        ),
    ):
        function = option(function)
    return function


image_size_option = click.option(
    "--image-size",
    default=None,
    metavar="SIDE or HEIGHTxWIDTH",
    help="The size at which networks see the images, in pixels: 224 or 96x64. [default: the size of --space, or "
    "else the images' own, reduced if a side is larger than 512 pixels]",
)


def recipe_options(whose: str, kind: str = "", *, more: str = "") -> Callable[[Function], Function]:
    """Options that choose a recipe and change it.

    Args:
        whose: what is trained by it.
        kind: of recipe, if the command has several; its options are `--KIND-recipe` and `--KIND-set`.
        more: what else there is to say of the recipe.
    """
    prefix = f"{kind}-" if kind else ""

    def decorate(function: Function) -> Function:
        for option in (
            click.option(
                f"--{prefix}set",
                f"{kind}_settings" if kind else "settings",
                multiple=True,
                metavar="KEY=VALUE",
                help=f"Replace a value of that recipe, such as --{prefix}set epochs=10. May be given several times.",
            ),
            click.option(
                f"--{prefix}recipe",
                default=None,
                shell_complete=completing_shipped("recipe"),
                help=f"How {whose} is trained: a shipped recipe or a .yaml file.{more} "
                "[default: depends on the images]",
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
            help="How many of the last checkpoints are kept during training.",
        ),
        click.option(
            "--checkpoint-every",
            default="1min",
            show_default=True,
            metavar="DURATION",
            help="How often a checkpoint is written.",
        ),
        click.option(
            "--teacher-weights",
            type=click.Path(path_type=Path),
            default=None,
            help="The teacher's weights, a .safetensors or .pth file. timm's config.json beside it says how images are "
            "normalised for it. [default: timm's pretrained weights, or the file beside the .yaml]",
        ),
        click.option(
            "--teacher",
            "teacher_name",
            default=None,
            metavar="NAME_OR_FILE",
            help="A trained network to learn from, with --set target=soft or hard: a model of timm (also "
            "hf-hub:OWNER/NAME and local-dir:FOLDER), or the .yaml file of a network.",
        ),
    ):
        function = option(function)
    return function


def check_budgets(budgets: Sequence[str]) -> None:
    """Tell a slip in a budget before PyTorch is loaded; what a share is of is not known yet.

    Raises:
        InputError: not a budget.
    """
    from psvit.space.budget import Budget

    Budget.parse(*(text for text in budgets if "%" not in text))


def read_settings(settings: tuple[str, ...], option: str = "--set") -> dict[str, Any]:
    """The values of an option, by key.

    Raises:
        InputError: not a key and a value.
    """
    from psvit.io.bounded import parse_yaml

    values = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"{option} {setting!r}: expected KEY=VALUE")
        try:
            values[key] = parse_yaml(text)
        except ValueError:
            raise InputError(f"{option} {setting!r}: the value is not valid YAML") from None
        values[key] = _with_numbers(values[key])
    return values


def _with_numbers(value: Any) -> Any:
    """A value with the numbers that YAML takes for texts: for 1e-3 it wants a point in it."""
    if isinstance(value, list):
        return [_with_numbers(one) for one in value]
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def read_duration(option: str, text: str) -> float:
    """Seconds from text such as `90s`, `30min` or `2h`.

    Raises:
        InputError: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h)", text.strip(), re.ASCII)
    if match is None or not float(match[1]):
        raise InputError(f"{option} {text!r}: expected a duration such as 90s, 30min or 2h")
    return float(match[1]) * {"s": 1, "min": 60, "h": 3600}[match[2]]


def read_numbers(option: str, text: str) -> tuple[int, ...]:
    """Whole numbers from text such as `8..11` or `8,10`.

    Raises:
        InputError: it is none.
    """
    if match := re.fullmatch(r"(\d{1,4})\.\.(\d{1,4})", text.strip(), re.ASCII):
        found = tuple(range(int(match[1]), int(match[2]) + 1))
    elif re.fullmatch(r"\d{1,4}(,\d{1,4})*", text.strip(), re.ASCII):
        found = tuple(map(int, text.split(",")))
    else:
        found = ()
    if not found:
        raise InputError(f"{option} {text!r}: expected whole numbers such as 8..11 or 8,10")
    return found


def show_table(title: str, rows: Sequence[tuple[str, ...]], header: tuple[str, ...] = ()) -> None:
    """Print names and values under a title, and under headings if names have several values."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(in_terminal(title)), show_header=bool(header), box=SIMPLE, title_justify="left")
    for position, name in enumerate(header or ("",) * max(map(len, rows), default=0)):
        table.add_column(Text(in_terminal(name)), justify="right" if position else "left")
    for row in rows:
        # Names may come from elsewhere, and rich reads markup in what is no `Text`.
        table.add_row(*(Text(in_terminal(cell)) for cell in row))
    # Into a file or a pipe as wide as lines are here, where rich would take a terminal of 80 columns for granted.
    is_known = sys.stdout.isatty() or "COLUMNS" in os.environ
    Console(width=None if is_known else PIPED_COLUMNS).print(table)


def set_up_logging(verbose: bool) -> None:
    """Warnings always, what is done with `--verbose`, on standard error."""
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s", handlers=[_ToStandardError()]
    )
    logging.getLogger("psvit").setLevel(logging.INFO if verbose and is_first_process() else logging.WARNING)
    announcements = logging.getLogger(ANNOUNCEMENTS)
    announcements.setLevel(logging.INFO)
    announcements.propagate = False
    announcements.handlers = [_Echo()]


class _Echo(logging.Handler):
    """Prints what is announced on standard output, a line each."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo("\n".join(map(in_terminal, record.getMessage().split("\n"))))


class _ToStandardError(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at the moment: where a bar is shown, above it and not into it."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, stream: TextIO) -> None:
        pass  # of the base class, which keeps the one there was at first
