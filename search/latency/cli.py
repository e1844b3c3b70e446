"""`psvit-latency`: build a latency model of a space on this device."""

from __future__ import annotations

from pathlib import Path

import click

from psvit.cli import Command, run, set_up_logging, show_table


@click.command(
    cls=Command,
    name="psvit-latency",
    groups={
        "Which networks": ("space_name", "data"),
        "How they are measured": ("device", "batch_size", "threads", "runtime", "precision"),
    },
    examples=("psvit-latency --space psvit-2d-small --batch 8 --threads 1 --out cpu.yaml",),
)
@click.option("--space", "space_name", required=True, help="A shipped space or a .yaml file.")
@click.option("--data", default=None, help="Images whose classes and channels the networks are for.")
@click.option("--device", default="cpu", show_default=True, help="Where networks run: cpu, cuda, ...")
@click.option(
    "--batch", "batch_size", type=click.IntRange(min=1), default=1, show_default=True, help="Images in a forward pass."
)
@click.option("--threads", type=click.IntRange(min=1), default=None, help="Threads to use. [default: PyTorch's own]")
@click.option(
    "--runtime",
    type=click.Choice(["eager", "compile", "onnxruntime"]),
    default="eager",
    show_default=True,
    help="What runs them; onnxruntime needs pip install 'psvit[onnx]'.",
)
@click.option(
    "--precision", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The model's file, such as table.yaml; the same command continues a build that was stopped.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the architectures that are measured whole.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log what is done.")
def command(
    space_name: str,
    data: str | None,
    device: str,
    batch_size: int,
    threads: int | None,
    runtime: str,
    precision: str,
    out: Path,
    seed: int,
    verbose: bool,
) -> None:
    """Measure the parts of a space's networks and write a model that predicts their latency on this device.

    The model is calibrated on some random architectures that are measured whole and validated on others; how well it
    agrees with them stands in the file. Let nothing else run meanwhile. psvit-search takes the file with --latency.
    """
    set_up_logging(verbose)
    from psvit.search.latency.run import build_latency_model
    from psvit.search.latency.setting import Setting

    options = {
        "device": device,
        "batch_size": batch_size,
        "threads": threads,
        "precision": precision,
        "runtime": runtime,
    }
    setting = Setting.from_dict(options, source="options")
    built = build_latency_model(space_name, setting, data=data, out=out, seed=seed)
    show_table(f"latency model of {built.space.name}", built.rows)
    click.echo(f"found {built.file}" if built.was_there else f"wrote {built.file}")


def main() -> None:
    """Entry point of `psvit-latency`."""
    run(command)
