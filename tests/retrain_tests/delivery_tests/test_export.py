"""Exported networks give PyTorch's outputs, or are not kept; whoever receives one needs to know nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
import yaml
from PIL import Image

import psvit.model
from psvit.arch.architecture import ArchitectureFile
from psvit.classifier import Classifier
from psvit.data.preprocessing import Preprocessing
from psvit.errors import InputError, MismatchError, RunError
from psvit.retrain.delivery import formats
from psvit.retrain.delivery.export import CHECKED_BATCHES, export, export_network
from psvit.retrain.delivery.formats import FORMATS, _prepared, example

FILES = {
    "onnx": {"network.onnx"},
    "torch-export": {"network.pt2"},
    "timm": {"config.json", "model.safetensors"},
}
ALWAYS = {"README.md", "export.yaml", "network.svg", "network.yaml", "preprocessing.json"}


def outputs(name, folder, images):
    """What an exported network gives, by the libraries alone."""
    if name == "onnx":
        session = onnxruntime.InferenceSession(str(folder / "network.onnx"))
        return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    if name == "torch-export":
        return torch.export.load(folder / "network.pt2").module()(images)
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(images)


def names(folder):
    return {path.name for path in folder.iterdir()}


def contents(folder):
    """Every file below a folder with what is in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def exported(make_run_in, tmp_path_factory):
    """A network and its export in some form, each made once; not to be changed by tests."""

    @cache
    def made(name, *network):
        place = tmp_path_factory.mktemp("exported")
        classifier = Classifier.load(make_run_in(place / "run", *network))
        return classifier, export(classifier, name, place / "out")

    return made


@pytest.fixture
def out(exported, tmp_path):
    """Copies an export of the network of `classifier`."""

    def copy(name):
        shutil.copytree(exported(name, "2d", 1, (8, 8))[1].folder, tmp_path / "out")
        return tmp_path / "out"

    return copy


@pytest.mark.parametrize(
    ("name", "variant", "in_chans", "image_size"),
    [
        ("onnx", "2d", 1, (8, 8)),
        pytest.param("onnx", "1d", 3, (8, 12), marks=pytest.mark.slow),
        ("torch-export", "1d", 3, (8, 12)),
        ("timm", "2d", 1, (8, 8)),
    ],
)
def test_exported_networks_give_pytorchs_outputs_for_any_batch(exported, name, variant, in_chans, image_size):
    classifier, found = exported(name, variant, in_chans, image_size)
    folder = found.folder
    assert names(folder) == ALWAYS | FILES[name]
    assert set(found.differences) == set(CHECKED_BATCHES)
    for batch_size in (1, 2, 3, 7):
        images = torch.randn(batch_size, in_chans, *image_size)
        with torch.no_grad():
            expected = classifier.network(images)
            given = outputs(name, folder, images)
        torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["torch-export", "timm"])
def test_a_network_that_computes_something_else_is_not_kept(classifier, tmp_path, monkeypatch, name):
    form = FORMATS[name]

    def wrong(folder):
        run = form.read(folder)
        return lambda images: run(images) * (1.001 if len(images) == CHECKED_BATCHES[1] else 1)

    monkeypatch.setitem(FORMATS, name, replace(form, read=wrong))
    before = names(tmp_path)
    with pytest.raises(MismatchError, match=rf"--to {name}: its outputs for 5 images differ .*nothing was kept"):
        export(classifier, name, tmp_path / "out")
    assert names(tmp_path) == before


@pytest.mark.parametrize(
    ("read", "error", "message"),
    [
        (lambda folder: lambda images: images.sum(dim=(1, 2, 3)), MismatchError, r"gives outputs \(1,\) for 1 images"),
        (lambda folder: lambda images: torch.full((len(images), 3), torch.nan), MismatchError, "differ .*by nan"),
        (lambda folder: lambda images: images @ torch.ones(3, 3), RunError, "cannot be run with 1 images: "),
        (lambda folder: (_ for _ in ()).throw(OSError("torn")), RunError, "cannot be read again: torn"),
    ],
)
def test_whatever_fails_leaves_an_earlier_export_as_it_was(classifier, tmp_path, monkeypatch, read, error, message):
    export(classifier, "timm", tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setitem(FORMATS, "timm", replace(FORMATS["timm"], read=read))
    with pytest.raises(error, match=message):
        export(classifier, "timm", tmp_path / "out")
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert names(tmp_path) == {"run", "out"}


def test_an_export_takes_the_place_of_an_earlier_one(classifier, tmp_path):
    export(classifier, "timm", tmp_path / "out")
    whole = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (tmp_path / "out/model.safetensors").write_bytes(b"damaged")
    export(classifier, "timm", tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == whole
    assert names(tmp_path) == {"run", "out"}


@pytest.mark.parametrize(("there", "name"), [("timm", "onnx"), ("torch-export", "timm")])
def test_an_export_in_another_form_is_left_alone(classifier, out, tmp_path, there, name):
    before = {path: path.read_bytes() for path in out(there).iterdir()}
    with pytest.raises(InputError, match=f"out: holds a network exported --to {there}; .* for --to {name}"):
        export(classifier, name, tmp_path / "out")
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize("name", ["onnx", pytest.param("torch-export", marks=pytest.mark.slow)])
def test_what_cannot_be_run_here_is_told_to_be_an_export(out, name):
    folder = out(name)
    for place in (folder, folder / "network.yaml"):
        with pytest.raises(InputError, match=f"out: is an export --to {name}, and its README.md") as error:
            Classifier.load(place)
        assert "psvit-retrain" not in str(error.value)


def test_the_architecture_file_of_a_timm_export_is_answered_with_its_folder(classifier, tmp_path):
    export(classifier, "timm", tmp_path / "out")
    with pytest.raises(InputError, match=r"export --to timm.*name its folder"):
        Classifier.load(tmp_path / "out/network.yaml")


def test_an_export_leaves_alone_what_others_put_into_its_folder_even_behind_a_link(classifier, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "elsewhere").mkdir()
    out.symlink_to("elsewhere")
    export(classifier, "timm", out)
    first = contents(out)
    mine = {"notes.txt": b"mine", "network.onnx": b"of no export", "data/image.png": b"mine"}
    (out / "data").mkdir()
    for name, content in mine.items():
        (out / name).write_bytes(content)
    (out / "README.md").write_text("damaged")
    (out / "model.safetensors").unlink()
    export(classifier, "timm", out)
    assert contents(out) == {**first, **mine}
    assert out.is_symlink()
    assert names(tmp_path) == {"run", "out", "elsewhere"}


def test_what_only_the_exporter_knows_that_it_writes_replaces_no_file_of_a_users(classifier, tmp_path, monkeypatch):
    """An exporter may leave the weights of a large network in further files."""
    form, out = FORMATS["timm"], tmp_path / "out"

    def in_shards(classifier, folder):
        form.write(classifier, folder)
        (folder / "model-2.safetensors").write_bytes(b"weights")

    export(classifier, "timm", out)
    (out / "model-2.safetensors").write_text("mine")
    before = contents(out)
    with monkeypatch.context() as context:
        context.setitem(FORMATS, "timm", replace(form, write=in_shards))
        with pytest.raises(InputError, match=r"out: model-2.safetensors would be written there"):
            export(classifier, "timm", out)
        assert contents(out) == before
        (out / "model-2.safetensors").unlink()
        export(classifier, "timm", out)
    assert names(out) == ALWAYS | FILES["timm"] | {"model-2.safetensors"}
    export(classifier, "timm", out)
    assert names(out) == ALWAYS | FILES["timm"]


def test_a_folder_of_version_0_1_keeps_what_was_added_to_it(classifier, tmp_path):
    out = tmp_path / "out"
    export(classifier, "timm", out)
    whole = contents(out)
    (out / "export.yaml").unlink()
    (out / "notes.txt").write_text("mine")
    (out / "README.md").write_text("the card of version 0.1")
    export(classifier, "timm", out)
    assert contents(out) == {**whole, "notes.txt": b"mine"}


def test_an_empty_folder_is_taken_and_stays_empty_where_the_export_fails(classifier, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    with monkeypatch.context() as context:
        context.setitem(FORMATS, "timm", replace(FORMATS["timm"], read=lambda folder: lambda images: images))
        with pytest.raises(MismatchError):
            export(classifier, "timm", tmp_path / "out")
    assert names(tmp_path / "out") == set()
    export(classifier, "timm", tmp_path / "out")
    assert names(tmp_path / "out") == ALWAYS | FILES["timm"]


def test_a_folder_with_something_else_is_left_alone(classifier, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"--out .*out: exists and holds no exported network"):
        export(classifier, "timm", tmp_path / "out")
    assert names(tmp_path / "out") == {"notes.txt"}


def test_onnx_without_its_libraries_is_answered_with_what_to_install(classifier, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "psvit.nn.onnx_runtime", raising=False)
    monkeypatch.delattr(psvit.nn, "onnx_runtime", raising=False)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"--to onnx: onnxscript is not installed.*pip install 'psvit\[onnx\]'"):
        export(classifier, "onnx", tmp_path / "out")
    assert names(tmp_path) == {"run"}


def test_preprocessing_travels_with_every_format(exported):
    folders = {}
    for name in FORMATS:
        classifier, found = exported(name, "2d", 1, (8, 8))
        known, folder = classifier.preprocessing, found.folder
        folders[name] = folder
        beside = (folder / "preprocessing.json").read_text()
        assert Preprocessing.from_json(beside, "beside") == known
        data = json.loads(beside)
        assert (data["image_size"], data["mean"], data["std"]) == ([8, 8], [0.3], [0.25])
        assert (data["interpolation"], data["crop_pct"], data["classes"]) == ("bicubic", 1.0, ["cat", "dog", "emu"])
    within = {entry.key: entry.value for entry in onnx.load(folders["onnx"] / "network.onnx").metadata_props}
    assert Preprocessing.from_json(within["preprocessing"], "within") == known
    extra = {"preprocessing.json": ""}
    torch.export.load(folders["torch-export"] / "network.pt2", extra_files=extra)
    assert Preprocessing.from_json(extra["preprocessing.json"], "within") == known
    config = timm.data.resolve_model_data_config(timm.create_model(f"local-dir:{folders['timm']}", pretrained=True))
    assert (config["input_size"], config["mean"], config["std"]) == ((1, 8, 8), [0.3], [0.25])
    assert (config["interpolation"], config["crop_pct"]) == ("bicubic", 1.0)


@pytest.mark.parametrize(
    ("name", "in_chans", "image_size"),
    [
        ("onnx", 3, (8, 12)),
        ("timm", 1, (8, 8)),
        # Each is an interpreter that has all to load.
        *(pytest.param(name, 1, (8, 8), marks=pytest.mark.slow) for name in ("onnx", "torch-export")),
        *(pytest.param(name, 3, (8, 12), marks=pytest.mark.slow) for name in ("torch-export", "timm")),
    ],
)
def test_what_the_card_says_about_use_works_in_its_folder(make_run, make_image, tmp_path, name, in_chans, image_size):
    classifier = Classifier.load(make_run("run", "2d", in_chans, image_size))
    folder = export(classifier, name, tmp_path / "out").folder
    usage = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]
    sizes = [(21, 15), (9, 30), (8, 8)]
    expected = [classifier.predict(make_image(f"out/{seed}.png", size, seed=seed)) for seed, size in enumerate(sizes)]
    # Run by an interpreter that is new, in the folder alone, as it stands there; then the logits are looked at.
    code = f"""
import shutil
for number in range({len(sizes)}):
    shutil.copy(f"{{number}}.png", "image.png")
    exec({usage!r}, names := {{}})
    if "logits" in names:
        print(*[float(value) for value in names["logits"][0]])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    if name == "timm":
        assert lines == [str(one) for one in expected]
        return
    assert lines[::2] == [one[0][0] for one in expected]
    for one, logits in zip(expected, lines[1::2], strict=True):
        softmax = np.exp([float(word) for word in logits.split()])
        by_name = dict(zip(classifier.preprocessing.classes, softmax / softmax.sum(), strict=True))
        assert by_name == pytest.approx(dict(one), abs=1e-5)


def test_the_card_says_what_a_stranger_wants_to_know(classifier, tmp_path):
    folder = export(classifier, "timm", tmp_path / "out").folder
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: timm\n")
    assert "(network.svg)" in card
    assert (folder / "network.svg").read_text().startswith("<svg")
    for words in (
        "| inherited from the search, not trained further | 50.50 % |",
        "| fine-tuned from the inherited weights (this one) | 91.25 % |",
        "| trained from scratch | 88.75 % |",
        "| logistic regression on the pixels, for comparison | 70.00 % |",
        "1,200 validation images",
        "FLOPs are multiply-accumulates",
        "budget 1MFLOPs and 20kparams",
        "trained on pets",
        "cat, dog, emu",
        "seed 7",
        "searcher evolution",
        "Apache-2.0",
        "licence of the weights: yours to choose",
        'timm.create_model("local-dir:.", pretrained=True)',
    ):
        assert words in card, words
    assert len(card.partition("## Where it comes from\n")[2].partition("\n## ")[0].strip().splitlines()) <= 15
    costs = psvit.cost(classifier.file.arch)
    assert psvit.space.budget.format_cost("macs", costs.macs) in card
    assert psvit.space.budget.format_cost("num_params", costs.num_params) in card


def test_the_card_of_a_searchs_network_says_what_its_weights_reached_and_on_what(classifier, tmp_path):
    looks = [{"epoch": 1, "accuracies": [12.5]}, {"epoch": 6, "accuracies": [80.0, 81.0, 82.0]}]
    provenance = {"weights": "trained by the selection for 6 epochs", "finalists": [{"looks": looks}]}
    score = {"value": 12.5, "kind": "accuracy after 1 epoch", "images": 144}
    classifier.file = classifier.file.model_copy(update={"score": score, "provenance": provenance})
    card = (export(classifier, "timm", tmp_path / "out").folder / "README.md").read_text()
    assert "Top-1 81.00 % on the search images after 6 epochs, the mean of 3 trainings." in card
    assert "Training: trained by the selection for 6 epochs." in card
    assert "12.5" not in card


def test_names_from_data_are_no_part_of_the_cards_markdown(classifier, tmp_path):
    hostile = "</script>[x](y)`\n# z\x1b[2J"
    provenance = {**classifier.file.provenance, "data": {"name": hostile}, "note": "```\n# out"}
    classifier.file = classifier.file.model_copy(update={"provenance": provenance})
    classifier.preprocessing = classifier.preprocessing.model_copy(update={"classes": (hostile, "dog", "emu")})
    card = (export(classifier, "timm", tmp_path / "out").folder / "README.md").read_text()
    body = card.split("---\n", 2)[2]
    assert "\x1b" not in card
    assert "\n# z" not in body
    assert re.sub(r"(`{3,})[^\n]*\n.*?\n\1", "", body, flags=re.DOTALL).count("\\</script\\>") >= 2


def front_matter(folder):
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


@pytest.mark.parametrize(
    ("name", "datasets", "dataset"),
    [
        ("/data/pets", None, {"type": "imagefolder", "name": "pets"}),
        ("torch/cifar10", ["cifar10"], {"type": "cifar10", "name": "cifar10"}),
        ("hfds/uoft-cs/cifar10", ["uoft-cs/cifar10"], {"type": "uoft-cs/cifar10", "name": "cifar10"}),
    ],
)
def test_the_front_matter_has_what_hubs_sort_by(classifier, tmp_path, name, datasets, dataset):
    provenance = {**classifier.file.provenance, "data": {**classifier.file.provenance["data"], "name": name}}
    classifier.file = classifier.file.model_copy(update={"provenance": provenance})
    folder = export(classifier, "timm", tmp_path / "out", "cc-by-4.0").folder
    known = front_matter(folder)
    assert (known["license"], known["library_name"], known["metrics"]) == ("cc-by-4.0", "timm", ["accuracy"])
    assert known.get("datasets") == datasets
    ((result,),) = (model["results"] for model in known["model-index"])
    assert result["task"] == {"type": known["pipeline_tag"]} == {"type": "image-classification"}
    assert result["dataset"] == {**dataset, "split": "validation"}
    assert result["metrics"] == [{"type": "accuracy", "name": "top-1 in percent", "value": 91.25}]
    assert "The licence of the weights: cc-by-4.0." in (folder / "README.md").read_text()


def test_the_front_matter_claims_nothing_that_is_not_known(classifier, tmp_path):
    score = {"value": 52.0, "kind": "inherited accuracy"}
    classifier.file = classifier.file.model_copy(update={"score": score})
    known = front_matter(export(classifier, "timm", tmp_path / "out").folder)
    assert set(known) == {"library_name", "pipeline_tag", "tags"}
    with pytest.raises(InputError, match=r"--license 'My own': expected a name as hubs have it, such as apache-2\.0"):
        export(classifier, "timm", tmp_path / "other", "My own")
    assert not (tmp_path / "other").exists()


def test_the_architecture_file_travels_whole(classifier, tmp_path):
    folder = export(classifier, "timm", tmp_path / "out").folder
    assert ArchitectureFile.load(folder / "network.yaml") == classifier.file


def test_a_timm_folder_can_be_exported_again(classifier, tmp_path):
    again = Classifier.load(export(classifier, "timm", tmp_path / "one").folder)
    export(again, "torch-export", tmp_path / "other")
    images = example(classifier.preprocessing, 4)
    with torch.no_grad():
        expected = classifier.network(images)
        found = outputs("torch-export", tmp_path / "other", images)
    torch.testing.assert_close(found, expected)


def test_the_noise_that_outputs_are_compared_on_is_the_same_every_time(classifier):
    first, second = example(classifier.preprocessing, 3), example(classifier.preprocessing, 3)
    assert torch.equal(first, second)
    assert first.shape == (3, 1, 8, 8)
    assert formats.FORMATS.keys() == {"onnx", "torch-export", "timm"}


def test_lines_of_a_card_prepare_16_bits_as_psvit_does(make_run, tmp_path, monkeypatch):
    about = Classifier.load(make_run("run", "2d", 1, (8, 8))).preprocessing
    values = np.random.default_rng(0).integers(0, 2**16, (12, 10)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    names = {"np": np, "Image": Image, "about": {"mean": list(about.mean), "std": list(about.std)}}
    exec(_prepared(about), names)
    expected = about.read(tmp_path / "image.png").numpy()
    assert names["images"].reshape(expected.shape) == pytest.approx(expected, abs=1e-5)


def test_a_folder_gives_an_export_its_whole_name(make_run, tmp_path):
    run = make_run("run", "2d", 1, (8, 8))
    for name in ("net-1.2", "net-1.5"):
        folder = export_network(run, "timm", out=tmp_path / name).folder
        assert export_network(folder, "timm").folder == tmp_path / f"{name}-timm"
