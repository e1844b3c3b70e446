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
@click.option("--data", default=None, help="Images, as for psvit-search; they set classes and channels.")
@click.option("--device", default="cpu", show_default=True, help="The device that is measured: cpu, cuda, ...")
@click.option(
    "--batch", "batch_size", type=click.IntRange(min=1), default=1, show_default=True, help="Images in a batch."
)
@click.option(
    "--threads", type=click.IntRange(min=1), default=None, help="Threads of PyTorch. [default: PyTorch's own number]"
)
@click.option(
    "--runtime",
    type=click.Choice(["eager", "compile", "onnxruntime"]),
    default="eager",
    show_default=True,
    help="What runs the networks. onnxruntime needs the extra onnx: pip install -e '.[onnx]'.",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="Type of weights and activations.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The model's file, such as table.yaml. The same command continues a build that was interrupted.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of the draw of the architectures that are measured whole.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log every step on standard error.")
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
    """Build a latency model of a space on this device.

    It measures the parts of the space's networks, and writes a model that predicts the latency of every network. The
    model is calibrated on some random architectures that are measured whole, and validated on others; the file says how
    well it agrees. Let nothing else run on the machine meanwhile. psvit-search takes the file with --latency.
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
