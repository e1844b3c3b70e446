"""From a trained network to one that others use: exporting, predicting, several networks, and what cannot be."""

from __future__ import annotations

import csv
import importlib
import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from ray import cloudpickle

import psvit
from psvit.arch.architecture import ArchitectureFile
from psvit.arch.costs import cost
from psvit.data import open_data
from psvit.errors import DivergedError
from psvit.space.search_space import SearchSpace
from psvit.train import job_runner

# Processes cannot import the tests, so functions travel by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

BRIEFLY = ("--set", "epochs=2", "--set", "warmup_epochs=0", "--set", "batch_size=128")


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def retrained(tmp_path_factory, searched, printed_by, few_digits):
    """The finished run of a retraining on few digits; not to be changed by tests."""
    place = tmp_path_factory.mktemp("retrained")
    printed_by(place, "psvit-retrain", searched / "best.yaml", "--data", few_digits, *BRIEFLY, "--out", "run")
    return place / "run"


@pytest.fixture
def run(retrained, tmp_path):
    """A copy of it."""
    shutil.copytree(retrained, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def digits(few_digits, tmp_path):
    """A folder of twelve validation images of digits, in two folders, with their labels."""
    data = open_data(few_digits)
    labels = {}
    for index in range(12):
        picture, label = data.val[index]
        path = tmp_path / "digits" / ("one", "two")[index % 2] / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        labels[path] = label
    return labels


def predictions(out):
    """By path, what `psvit-predict` printed."""
    found = {}
    for line in out.splitlines():
        path, _, rest = line.partition(": ")
        found[path] = [(name, float(value)) for name, value in re.findall(r"(\S+) ([\d.]+) %", rest)]
    return found


# --- exporting and predicting


@pytest.mark.slow
def test_a_retrained_network_is_exported_and_runs_without_psvit(run, call, digits, few_digits, caplog):
    done = call("psvit-export", "run", "--to", "onnx")
    assert (done.status, done.err) == (0, "")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "by batch size: 1: " in done.out
    assert done.last_line.endswith("run/network-onnx; how to use it: run/network-onnx/README.md")
    session = onnxruntime.InferenceSession(str(run / "network-onnx/network.onnx"))
    data = open_data(few_digits)
    pixels = np.stack([np.asarray(Image.open(path), np.float32) for path in digits])[:, None] / 255
    (logits,) = session.run(None, {"images": (pixels - np.float32(data.mean[0])) / np.float32(data.std[0])})
    classifier = psvit.Classifier.load(run)
    assert [str(row.argmax()) for row in logits] == [classifier.predict(path, top=1)[0][0] for path in digits]


def test_a_search_with_images_can_be_exported_as_it_is(searched, call, tmp_path):
    shutil.copytree(searched, tmp_path / "run")
    for place, out in (("run", ()), ("run/best.yaml", ("--out", "elsewhere"))):
        assert call("psvit-export", place, "--to", "timm", *out).status == 0
    card = (tmp_path / "elsewhere/README.md").read_text()
    assert "inherited accuracy: " in card
    assert "not trained on its own" in card
    # But for where it is, the same.
    assert contents(tmp_path / "run/best-timm") == contents(tmp_path / "elsewhere")
    one, other = psvit.Classifier.load(tmp_path / "run"), psvit.Classifier.load(tmp_path / "elsewhere")
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    assert one.predict(image) == other.predict(image)


def test_predictions_of_files_and_folders_are_the_classifiers(run, call, digits, tmp_path):
    first = next(iter(digits))
    done = call("psvit-predict", "run", first, "digits", "--top", 3, "--batch-size", 5)
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    folder = sorted(str(path.relative_to(tmp_path)) for path in digits)
    assert [line.partition(": ")[0] for line in lines] == [str(first), *folder]
    classifier = psvit.Classifier.load(run)
    for path, found in predictions(done.out).items():
        expected = classifier.predict(tmp_path / path, top=3)
        assert [name for name, _ in found] == [name for name, _ in expected]
        assert [value for _, value in found] == pytest.approx([100 * value for _, value in expected], abs=0.006)


def test_predictions_for_programs_say_the_same_as_those_for_people(run, call, digits):
    wanted = predictions(call("psvit-predict", "run", "digits", "--top", 2).out)
    from_json = json.loads(call("psvit-predict", "run", "digits", "--top", 2, "--json").out)
    assert [one["image"] for one in from_json] == list(wanted)
    rows = list(csv.DictReader(io.StringIO(call("psvit-predict", "run", "digits", "--top", 2, "--csv").out)))
    assert len(rows) == 2 * len(wanted)
    for image, found in wanted.items():
        known = next(one for one in from_json if one["image"] == image)["classes"]
        told = [row for row in rows if row["image"] == image]
        assert [row["rank"] for row in told] == ["1", "2"]
        for (name, percent), of_json, of_csv in zip(found, known, told, strict=True):
            assert name == of_json["class"] == of_csv["class"]
            assert percent == pytest.approx(100 * of_json["probability"], abs=0.006)
            assert of_json["probability"] == pytest.approx(float(of_csv["probability"]), abs=1e-6)


def test_two_forms_at_once_are_refused(run, call, digits):
    done = call("psvit-predict", "run", "digits", "--json", "--csv")
    assert (done.status, done.out) == (2, "")
    assert "--json and --csv" in done.err


def test_an_image_that_cannot_be_read_has_its_error_in_json(run, call, digits):
    paths = list(digits)
    paths[1].write_text("no image")
    done = call("psvit-predict", "run", *paths, "--json")
    assert done.status == 2
    found = json.loads(done.out)
    assert [("error" in one) for one in found] == [position == 1 for position in range(len(paths))]
    done = call("psvit-predict", "run", paths[1], "--csv")
    assert (done.status, done.out) == (2, "image,rank,class,probability\n")


def test_images_of_other_classes_are_trained_on_when_that_is_asked_for(run, call, image_folder):
    folder = image_folder(each=24)
    command = ("psvit-retrain", "run/network.yaml", "--data", folder, *BRIEFLY, "--out", "others")
    done = call(*command)
    assert (done.status, Path("others").exists()) == (2, False)
    assert "--other-classes" in done.err
    assert "2 (cat, dog) and 3" in done.err
    assert call(*command, "--other-classes").status == 0
    assert ArchitectureFile.load("others/network.yaml").arch.num_classes == 2


def test_an_exported_timm_folder_predicts_the_same(run, call, digits):
    assert call("psvit-export", "run", "--to", "timm").status == 0
    assert call("psvit-predict", "run/network-timm", "digits").out == call("psvit-predict", "run", "digits").out


def test_unreadable_images_are_named_in_one_line_after_the_others(run, call, digits):
    paths = list(digits)
    paths[2].write_text("no image")
    paths[3].write_bytes(paths[4].read_bytes()[:60])
    done = call("psvit-predict", "run", *paths)
    assert done.status == 2
    assert len(predictions(done.out)) == len(paths) - 2
    assert done.err.splitlines() == [
        f"psvit-predict: {paths[2]}: not a readable image; mend or remove it (and 1 more: {paths[3]})"
    ]


def test_images_of_16_bits_are_predicted_as_those_of_8_and_floating_point_ones_are_refused(run, call, digits):
    said = call("psvit-predict", "run", "digits").out
    for path in digits:
        Image.fromarray(np.asarray(Image.open(path), np.uint16) * 257).save(path)
    done = call("psvit-predict", "run", "digits")
    assert (done.status, done.out, done.err) == (0, said, "")
    Image.new("F", (8, 8)).save(run / "depth.tiff")
    done = call("psvit-predict", "run", "run/depth.tiff", "digits")
    assert (done.status, done.out) == (2, said)
    (line,) = done.err.splitlines()
    assert line.startswith("psvit-predict: run/depth.tiff: its pixels are floating-point numbers")


@pytest.mark.parametrize(
    ("command", "arguments", "expected"),
    [
        ("psvit-export", ("run", "--to", "caffe"), ["--to 'caffe'", "onnx, torch-export, timm"]),
        ("psvit-export", ("run",), ["--to"]),
        ("psvit-export", ("nowhere", "--to", "onnx"), ["nowhere", "no such file or folder"]),
        ("psvit-export", ("empty", "--to", "onnx"), ["empty", "holds no network", "network.yaml", "best.yaml"]),
        ("psvit-export", ("alone.yaml", "--to", "onnx"), ["alone.safetensors", "psvit-retrain alone.yaml"]),
        ("psvit-export", ("run", "--to", "timm", "--out", "digits"), ["--out digits", "holds no exported network"]),
        ("psvit-export", ("run", "--to", "timm", "--out", "notes.txt"), ["--out notes.txt"]),
        ("psvit-predict", ("run",), ["IMAGE"]),
        ("psvit-predict", ("run", "missing.png"), ["missing.png", "no such file or folder"]),
        ("psvit-predict", ("run", "empty"), ["empty", "no images in it", ".png"]),
        ("psvit-predict", ("run", "notes.txt"), ["notes.txt", "not a readable image"]),
        ("psvit-predict", ("empty", "digits"), ["empty", "holds no network"]),
        ("psvit-predict", ("notes.txt", "digits"), ["notes.txt"]),
        ("psvit-predict", ("run", "digits", "--top", "0"), ["--top"]),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(run, call, digits, tmp_path, command, arguments, expected):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    shutil.copy(run / "network.yaml", tmp_path / "alone.yaml")
    before = contents(tmp_path)
    done = call(command, *arguments)
    assert done.status == 2
    assert len(done.err.splitlines()) == 1
    assert [word for word in expected if word not in done.err] == []
    assert done.out == ""
    assert contents(tmp_path) == before


# --- inherited, fine-tuned and from scratch


def test_comparing_trains_the_other_way_too_and_shows_all_three(searched, call, tmp_path, monkeypatch, few_digits):
    recipe = (*BRIEFLY, "--recipe", "inherited-digits")
    arguments = ("psvit-retrain", searched / "best.yaml", "--data", few_digits, *recipe)
    done = call(*arguments, "--inherit", "--compare", "--out", "run")
    assert (done.status, done.err) == (0, "")
    result = ArchitectureFile.load(tmp_path / "run/network.yaml")
    other = ArchitectureFile.load(tmp_path / "run/comparison/network.yaml")
    assert result.provenance["inherited"]
    assert not other.provenance["inherited"]
    assert result.score["from_scratch"] == other.score["value"]
    # Equal but for the rates of early layers, which only what is inherited has reason to keep low.
    assert result.provenance["recipe"] == {**other.provenance["recipe"], "layer_decay": 0.75}
    for label, value in (
        ("inherited from the search, not trained further", result.score["inherited"]),
        ("fine-tuned from the inherited weights", result.score["value"]),
        ("trained from scratch", other.score["value"]),
        ("logistic regression", result.score["logistic_regression"]),
    ):
        assert re.search(rf"{label}.* {value:.2f} %", done.out), label
    # The comparison is what one gets without.
    assert call(*arguments, "--set", "layer_decay=null", "--out", "alone").status == 0
    alone = ArchitectureFile.load(tmp_path / "alone/network.yaml")
    assert (alone.score["value"], alone.provenance["recipe"]) == (other.score["value"], other.provenance["recipe"])
    # Finished, nothing is trained again.
    monkeypatch.setattr(job_runner, "train", lambda *args, **kwargs: pytest.fail("trained again"))
    assert call(*arguments, "--inherit", "--compare", "--out", "run").out == done.out


def test_comparing_where_nothing_is_inherited_is_refused(call, tmp_path, few_digits):
    SearchSpace.load("psvit-2d-digits").smallest.save(tmp_path / "arch.yaml")
    done = call("psvit-retrain", "arch.yaml", "--data", few_digits, *BRIEFLY, "--compare", "--out", "run")
    assert done.status == 2
    assert done.err.startswith("psvit-retrain: --compare: arch.safetensors ")
    assert not (tmp_path / "run").exists()


# --- several networks


@pytest.fixture
def front(tmp_path):
    """Three architecture files as a front has them."""
    space = SearchSpace.load("psvit-2d-digits")
    (tmp_path / "pareto").mkdir()
    for name, index in enumerate((0, 700, 1500)):
        space[index].save(tmp_path / "pareto" / f"{name}.yaml")
    return sorted((tmp_path / "pareto").iterdir())


def test_several_networks_are_trained_as_each_alone(front, call, tmp_path, monkeypatch, few_digits):
    done = call("psvit-retrain", *front, "--data", few_digits, *BRIEFLY, "--out", "run")
    assert (done.status, done.err) == (0, "")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        ".psvit.lock",
        "config.yaml",
        "networks.csv",
        "0",
        "1",
        "2",
    }
    # The middle one is what the command gives for its file alone, down to the configuration of its run.
    assert call("psvit-retrain", front[1], "--data", few_digits, *BRIEFLY, "--out", "alone").status == 0
    for name in ("network.yaml", "network.safetensors", "network.svg", "config.yaml"):
        assert (tmp_path / "run/1" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name
    with (tmp_path / "run/networks.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["network"] for row in rows] == ["0", "1", "2"]
    for row, file in zip(rows, front, strict=True):
        result = ArchitectureFile.load(tmp_path / "run" / row["network"] / "network.yaml")
        assert result.arch == ArchitectureFile.load(file).arch
        assert int(row["macs"]) == cost(result.arch).macs
        assert (row["how"], float(row["from_scratch"])) == ("from_scratch", result.score["value"])
        assert row["inherited"] == ""
        assert re.search(rf"{row['network']} +.* {result.score['value']:.2f} %", done.out)
    assert "trained 3 networks: wrote run/networks.csv" in done.out

    # Again, nothing is trained; and what is missing is trained alone.
    before = contents(tmp_path / "run")
    shutil.rmtree(tmp_path / "run/2")
    trained = []
    train = job_runner.train
    monkeypatch.setattr(job_runner, "train", lambda *a, **k: (trained.append(k["folder"].name), train(*a, **k))[1])
    again = call("psvit-retrain", *front, "--data", few_digits, *BRIEFLY, "--out", "run")
    assert (again.out, trained) == (done.out, ["2"])
    after = contents(tmp_path / "run")
    for name in ("networks.csv", "2/network.yaml", "2/network.safetensors"):
        assert after[name] == before[name]


def run_command(module, arguments):
    """Run a command in a process of its own."""
    sys.argv = [module, *map(str, arguments)]
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 1)
    importlib.import_module(module).main()


@pytest.mark.slow
def test_several_networks_that_were_killed_go_on_where_they_were(front, call, make_process, tmp_path, few_digits):
    longer = ("--set", "epochs=5", "--set", "warmup_epochs=0", "--set", "batch_size=16")
    arguments = [*front[:2], "--data", few_digits, *longer, "--device", "cpu"]
    often = ("--checkpoint-every", "0.001s", "--out", tmp_path / "stopped")
    process = make_process(run_command, "psvit.retrain.cli", [*arguments, *often])
    process.start()
    deadline = time.monotonic() + 120
    # In the second network, after its first steps.
    while not list((tmp_path / "stopped/1").glob("checkpoints/*.safetensors")) and time.monotonic() < deadline:
        assert process.exitcode is None
        time.sleep(0.01)
    process.kill()
    process.join()
    first = contents(tmp_path / "stopped/0")
    assert "network.yaml" in first
    assert not (tmp_path / "stopped/1/network.yaml").exists()
    assert call("psvit-retrain", *arguments, "--out", "stopped").status == 0
    assert contents(tmp_path / "stopped/0") == first
    assert call("psvit-retrain", *arguments, "--out", "whole").status == 0
    for name in ("network.yaml", "network.safetensors"):
        for network in ("0", "1"):
            one, other = (tmp_path / folder / network / name for folder in ("stopped", "whole"))
            assert one.read_bytes() == other.read_bytes()


def test_networks_that_would_be_called_alike_are_numbered(front, call, tmp_path, few_digits):
    shutil.copytree(tmp_path / "pareto", tmp_path / "other")
    done = call("psvit-retrain", "pareto/0.yaml", "other/0.yaml", "--data", few_digits, *BRIEFLY, "--out", "run")
    assert done.status == 0
    assert {path.name for path in (tmp_path / "run").iterdir() if path.is_dir()} == {"0-0", "1-0"}


def test_a_network_that_diverges_is_told_and_the_others_are_trained(front, call, tmp_path, monkeypatch, few_digits):
    train = job_runner.train

    def diverging(*args, **kwargs):
        if kwargs["folder"].name == "1":
            raise DivergedError("training diverged: the loss is nan in epoch 1")
        return train(*args, **kwargs)

    monkeypatch.setattr(job_runner, "train", diverging)
    done = call("psvit-retrain", *front, "--data", few_digits, *BRIEFLY, "--out", "run")
    assert done.status == 1
    assert done.err == (
        "psvit-retrain: 1 of 3 networks were not trained: 1: training diverged: the loss is nan in epoch 1\n"
    )
    assert (tmp_path / "run/2/network.yaml").exists()
    assert len((tmp_path / "run/networks.csv").read_text().splitlines()) == 1 + 2


@pytest.mark.slow
@pytest.mark.xdist_group("ray in commands")
def test_ray_trials_train_what_one_process_trains_and_nothing_again(front, call, script, tmp_path, few_digits):
    command = ("psvit-retrain", *front, "--data", few_digits, *BRIEFLY)
    assert call(*command, "--out", "alone").status == 0
    shutil.copytree(tmp_path / "alone", tmp_path / "run")
    shutil.rmtree(tmp_path / "run/0")
    shutil.rmtree(tmp_path / "run/2")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "run/1").rglob("*")}
    done = subprocess.run(
        [script(command[0]), *command[1:], "--workers", "ray", "--out", "run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "trained 3 networks" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run/1").rglob("*")} == kept
    for network in ("0", "1", "2"):
        for name in ("network.yaml", "network.safetensors"):
            one, other = (tmp_path / folder / network / name for folder in ("run", "alone"))
            assert one.read_bytes() == other.read_bytes()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        ".psvit.lock",
        "config.yaml",
        "networks.csv",
        "0",
        "1",
        "2",
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--workers", "many"), ["--workers 'many'", "ray"]),
        (("--inherit",), ["--inherit: pareto/0.safetensors does not exist"]),
        (("--set", "epochs=0"), ["epochs"]),
    ],
)
def test_what_cannot_be_trained_several_times_is_one_line_too(front, call, tmp_path, options, expected, few_digits):
    done = call(
        "psvit-retrain", *(f"pareto/{path.name}" for path in front), "--data", few_digits, *options, "--out", "run"
    )
    assert done.status == 2
    assert len(done.err.splitlines()) == 1
    assert [word for word in expected if word not in done.err] == []
    assert not (tmp_path / "run").exists()
