"""`psvit`: every command of the package as a subcommand, loaded when it is named."""

from __future__ import annotations

import importlib
import sys

import click

import psvit
from psvit.cli import run

COMMANDS = {
    "supernet": "psvit.supernet.cli:command",
    "search": "psvit.search.cli:command",
    "latency": "psvit.search.latency.cli:command",
    "fidelity": "psvit.search.fidelity.cli:command",
    "retrain": "psvit.retrain.cli:command",
    "export": "psvit.retrain.delivery.cli:export_command",
    "predict": "psvit.retrain.delivery.cli:predict_command",
}
"""Where each subcommand is, in the order in which they are used; `psvit search` is `psvit-search`."""


EXAMPLES = (
    "psvit search --data photos --budget 2GFLOPs --out runs/found",
    "psvit retrain runs/found --data photos --out runs/network",
    "psvit predict runs/network photo.jpg",
    "psvit export runs/network --to onnx",
)
"""From images to a network that can be deployed."""


class Commands(click.Group):
    """A group that imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name; `None` if there is none."""
        return load(cmd_name) if cmd_name in COMMANDS else None

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples."""
        with formatter.section("Examples"):
            for example in EXAMPLES:
                formatter.write_text(example)


def load(name: str) -> click.Command:
    """The command of a name."""
    module, _, attribute = COMMANDS[name].partition(":")
    found: click.Command = getattr(importlib.import_module(module), attribute)
    return found


@click.group(
    cls=Commands,
    name="psvit",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(psvit.__version__, prog_name="psvit")
@click.pass_context
def command(ctx: click.Context) -> None:
    """Find the best vision transformer for a budget.

    Each command is also installed by itself: psvit search is psvit-search.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> None:
    """Entry point of `psvit`."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in COMMANDS:
        # From here on it is the command of that name, in its errors, and in the line that a report repeats.
        sys.argv = [f"psvit-{name}", *sys.argv[2:]]
        run(load(name))
    run(command)
