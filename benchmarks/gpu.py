"""What a GPU does with psvit, in one command and at most ten minutes; repeated, it measures what is missing.

    python benchmarks/gpu.py --data CIFAR10 --out gpu-results      measures, stage by stage, until the time is over
    python benchmarks/gpu.py --out gpu-results --show              prints what was measured, as Markdown
    python benchmarks/gpu.py --out gpu-results --merge             adds its rows to the truth table, if devices agree

It runs in a source tree that is not installed, and needs PyTorch, timm, pydantic, joblib, filelock, scikit-learn and
TensorBoard, and no Ray and no Optuna. The stages are rows of the truth table, images a second in training, times
relative to timm's DeiT, the two forms of sharing, groups of layers, and a latency model. Every measurement is on disk
when it is made (`measured.jsonl`). A stage ends with its share of the time.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import source_tree as source_tree  # before psvit
from command_line import at_least, run_script
from gpu_stages import latency_model, ratios, rows, training_speed
from gpu_stages.stage import Stage, run_stages, shown

from psvit.errors import InputError
from psvit.io.journal import Journal
from psvit.search.latency.measure import fingerprint
from psvit.search.latency.setting import Setting
from psvit.train.choices import choose_device

STAGES = (
    Stage("rows", 0.6, rows.cells),
    Stage("training", 0.4, training_speed.cells),
    Stage("deit", 0.35, ratios.deit),
    Stage("forms", 0.4, ratios.forms),
    Stage("groups", 0.4, ratios.groups),
    Stage("latency", 1.0, latency_model.cells),
)


def main() -> None:
    """Measure, or say what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="CIFAR-10: a folder with train/ and val/")
    parser.add_argument("--out", type=Path, required=True, help="folder of what is measured")
    parser.add_argument("--minutes", type=float, default=9.5, help="the time of all stages")
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--jobs", type=at_least(1), default=max(1, (os.cpu_count() or 2) - 2), help="trainings at a time"
    )
    parser.add_argument("--stages", nargs="+", choices=[stage.name for stage in STAGES], help="only these")
    parser.add_argument("--cells", type=at_least(1), help="measure no more than so many of a stage; default: all")
    parser.add_argument("--images", type=at_least(1), help="training images of the stage training; default: all")
    parser.add_argument("--seconds", type=float, help="least time of one side of a ratio in one round")
    parser.add_argument("--space", help="of the latency model; default: psvit-2d-digits")
    parser.add_argument("--networks", type=at_least(2), default=24, help="that a latency model is fitted to")
    parser.add_argument("--show", action="store_true", help="print what was measured")
    parser.add_argument("--merge", action="store_true", help="add rows to the truth table")
    run_script(parser, run, parser.parse_args())


def run(options: argparse.Namespace) -> None:
    """Do what the options say.

    Raises:
        InputError: there are no images or no such device, or the folder holds measurements of another device.
    """
    if options.merge:
        added = rows.merge(options.out / rows.TABLE, rows.COMMITTED)
        print(f"{added} rows were added" if added else "none was added: devices do not agree, or no row is new")
        return
    if not options.show and not options.data:
        raise InputError("--data: the images are needed")
    options.out.mkdir(parents=True, exist_ok=True)
    choose_device(options.device)
    here = fingerprint(Setting(device=options.device))
    journal = Journal(options.out / "measured.jsonl", {"device": here.to_dict()})
    if options.show:
        show(journal)
        return
    print(f"{here.processor}; {here.gpu or 'no GPU'}; PyTorch {here.torch}", flush=True)
    run_stages([stage for stage in STAGES if not options.stages or stage.name in options.stages], options, journal)


def show(journal: Journal) -> None:
    """Print every stage as a table; of a cell that was measured again, the last."""
    for stage in STAGES:
        found = {one["key"]: one for one in journal.records if one["stage"] == stage.name}
        if not found:
            continue
        columns = list(dict.fromkeys(name for one in found.values() for name in one if name not in ("stage", "key")))
        print(f"\n## {stage.name}\n\n| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
        for key, one in found.items():
            print(f"| {key} | {' | '.join(shown(one.get(name)) for name in columns)} |")


if __name__ == "__main__":
    main()
