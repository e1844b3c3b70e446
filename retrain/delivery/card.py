"""The model card: a README that lets someone use a network who never heard of the search."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import psvit
from psvit.arch.architecture import FLOPS_CONVENTION, Architecture, ArchitectureFile
from psvit.arch.costs import cost
from psvit.data.preprocessing import Preprocessing
from psvit.io.documents import dump_yaml
from psvit.io.escaping import as_code, in_markdown
from psvit.nn.registration import registered
from psvit.report.formatting import count, milliseconds
from psvit.retrain.delivery.formats import PREPROCESSING_FILE, Format
from psvit.space.budget import format_cost
from psvit.train.accuracies import accuracies, label_of, trained_as

PICTURE_FILE = "network.svg"

LISTED_CLASSES = 20
"""More of them are left to the file of the preprocessing."""

TASK = "image-classification"

_ALT = "The architecture: every layer is a bar, as high as it has tokens and as wide as it has channels"


def card(file: ArchitectureFile, preprocessing: Preprocessing, form: Format, license_name: str | None = None) -> str:
    """The card of an exported network as Markdown, with the front matter that model hubs read.

    Args:
        file: what is known about the network.
        preprocessing: how it wants images.
        form: in which it was exported.
        license_name: of the weights, as hubs call it; without one it is left open.
    """
    arch = file.arch
    # Images in a folder are called by its path.
    name = f"PSViT-{arch.variant.upper()} for {Path(file.provenance.get('data', {}).get('name', 'images')).name}"
    costs = [format_cost(key, value) for key, value in cost(arch).to_dict().items()]
    sections = [
        "---\n" + dump_yaml(_front_matter(file, form, name, license_name)) + "---",
        f"# {in_markdown(name)}",
        f"A vision transformer{kind_of(arch)}: images of {arch.image_size[0]} x "
        f"{arch.image_size[1]} pixels (height x width), {len(preprocessing.classes)} classes. This folder holds it as "
        f"{form.what}.",
        f"![{_ALT}]({PICTURE_FILE})",
        "## Accuracy",
        _accuracy(file),
        "## Cost",
        f"One image takes {costs[0]} and {costs[2]} of activation memory at most; the network has {costs[1]}. "
        f"{FLOPS_CONVENTION}.",
        *_latency(file.latency),
        "## Use",
        f"From this folder:\n\n{as_code(form.usage(preprocessing), 'python')}",
        *form.notes,
        *_own_operators(arch),
        f"What becomes of an image first, which `{PREPROCESSING_FILE}` says to programs:",
        "\n".join(f"{number}. {step}" for number, step in enumerate(preprocessing.steps, 1)),
        f"Mean {_numbers(preprocessing.mean)}, standard deviation {_numbers(preprocessing.std)}, by channel.",
        "## Where it comes from",
        "\n".join(f"- {line}" for line in _origin(file, preprocessing)),
        "## Licence",
        "psvit, which builds the network, is under Apache-2.0. The licence of the weights: "
        + (f"{in_markdown(license_name)}." if license_name else "yours to choose, if that of the images permits it."),
    ]
    return "\n\n".join(sections) + "\n"


def kind_of(arch: Architecture) -> str:
    """What sets the network apart from other vision transformers, in words."""
    shares = any(size > 1 for stage in arch.stages for size in stage.groups)
    parts = [*(["token pooling"] if arch.pools else []), *(["shared attention maps"] if shares else [])]
    return f" with {' and '.join(parts)}" if parts else ""


def _own_operators(arch: Architecture) -> list[str]:
    """What has to be registered before psvit can build the network, if anything."""
    used = dict.fromkeys([f"stem {arch.stem}", *(f"pooling {pool}" for pool in arch.pools)])
    own = [what for what in used if what in registered()]
    if not own:
        return []
    names = " and ".join(f"the {what}" for what in own)
    return [
        f"psvit does not come with {names} of this network. Before psvit or timm can build it, register that with "
        "`psvit.register_pooling` or `psvit.register_stem`."
    ]


def _front_matter(file: ArchitectureFile, form: Format, name: str, license_name: str | None) -> dict[str, Any]:
    """What hubs sort models by, of what is known; accuracy in percent, as everywhere here."""
    data = str(file.provenance.get("data", {}).get("name", ""))
    # Behind the library's name stands that of a hub, or of torchvision; of other images a hub knows nothing.
    public = data.partition("/")[2] if data.startswith(("hfds/", "torch/")) else ""
    known: dict[str, Any] = {
        "license": license_name,
        "library_name": form.library,
        "pipeline_tag": TASK,
        "tags": [TASK, "psvit", form.name],
        "datasets": [public] if public else None,
    }
    if (value := accuracies(file).get(trained_as(file))) is not None:
        known["metrics"] = ["accuracy"]
        known["model-index"] = [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": TASK},
                        "dataset": {
                            "type": public or "imagefolder",
                            "name": Path(data).name,
                            "split": "validation",
                        },
                        "metrics": [{"type": "accuracy", "name": "top-1 in percent", "value": value}],
                    }
                ],
            }
        ]
    return {key: value for key, value in known.items() if value is not None}


def _accuracy(file: ArchitectureFile) -> str:
    """Inherited, fine-tuned and from scratch side by side, or the score of a search as what it is."""
    known = accuracies(file)
    if known:
        rows = [
            (label_of(key, file) + (" (this one)" if key == trained_as(file) else ""), f"{value:.2f} %")
            for key, value in known.items()
        ]
        return _table(("network", f"top-1 on {file.score['images']:,} validation images"), rows)
    if "value" not in file.score:
        return "Unknown."
    return f"{_score(file)} `psvit-retrain` trains the network on its own and looks at the validation images."


def _score(file: ArchitectureFile) -> str:
    """What a search knows of a network: the accuracies after the training that its weights come from, or the score."""
    score = file.score
    match file.provenance:
        case {
            "weights": str(),
            "finalists": [{"looks": [*_, {"epoch": int(epoch), "accuracies": [float(), *_] as reached}]}, *_],
        }:
            return (
                f"Top-1 {mean(reached):.2f} % on the search images after {count(epoch, 'epoch')}, the mean of "
                f"{count(len(reached), 'training')}. The search chose the network by this, so it is a little too good."
            )
    of = f" on {score['images']:,} images" if "images" in score else ""
    meaning = f" ({score['meaning']})" if "meaning" in score else ""
    return in_markdown(f"{score.get('kind', 'score')}: {score['value']:.4g}{of}{meaning}.")


def _latency(latency: dict[str, Any]) -> list[str]:
    """A line for each setting."""
    lines = [f"- {in_markdown(setting)}: {milliseconds(times)}" for setting, times in latency.items()]
    return ["Latency of a batch:\n\n" + "\n".join(lines)] if lines else []


def _origin(file: ArchitectureFile, preprocessing: Preprocessing) -> Iterator[str]:
    """Where a network comes from, in some lines; the file of the architecture has all of it."""
    provenance, classes = file.provenance, preprocessing.classes
    more = f" and {len(classes) - LISTED_CLASSES} more, see `{PREPROCESSING_FILE}`"
    yield (
        f"Images: trained on {in_markdown(str(provenance.get('data', {}).get('name', 'unknown')))}. Classes, in the "
        f"order of the outputs: {in_markdown(', '.join(classes[:LISTED_CLASSES]))}"
        f"{more if len(classes) > LISTED_CLASSES else ''}."
    )
    found = provenance.get("found", provenance)
    known = {key: found[key] for key in ("space", "rule", "searcher", "trials", "seed") if found.get(key) is not None}
    if known.keys() & {"searcher", "rule"}:
        budget = {"budget": " and ".join(file.budget)} if file.budget else {}
        yield f"Search: {in_markdown(', '.join(f'{key} {value}' for key, value in {**budget, **known}.items()))}."
    if "original" in found:
        yield f"Made of: {in_markdown(str(found['original'].get('name')))}."
    yield f"Training: {in_markdown(_training(file))}."
    versions = {**provenance.get("versions", {}), "exported by psvit": psvit.__version__}
    yield f"Versions: {in_markdown(', '.join(f'{name} {version}' for name, version in versions.items()))}."
    yield (
        "All of it, every number and the whole recipe: `network.yaml`, which also rebuilds the network, "
        '`psvit.create_model("network.yaml")`.'
    )


def _training(file: ArchitectureFile) -> str:
    """How the weights came about."""
    provenance = file.provenance
    match provenance:
        case {"inherited": bool(inherited), "recipe": {"epochs": int(epochs), "lr": float(lr)} as recipe}:
            begun = "the weights that a search left" if inherited else "random weights"
            teacher = provenance.get("teacher")
            taught = f", taught by {teacher['name']}" if teacher else ""
            return (
                f"{count(epochs, 'epoch')} from {begun}{taught}, batches of {recipe.get('batch_size')}, "
                f"{recipe.get('opt')} with a learning rate of {lr:.4g}, seed {provenance.get('seed')}"
            )
    return str(provenance.get("weights", "not trained on its own, these are the weights of the supernet's slice"))


def _table(heads: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    return "\n".join([f"| {heads[0]} | {heads[1]} |", "|---|---:|", *(f"| {name} | {value} |" for name, value in rows)])


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
