"""Retraining runs as functions of Python: networks in different forms, one or several, and what they give."""

from __future__ import annotations

import csv
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix

import psvit
from psvit.arch.costs import cost
from psvit.errors import DivergedError, InputError
from psvit.executors.executor import Portable
from psvit.model import PSViT
from psvit.retrain.run import _named
from psvit.train import job_runner

BRIEF = {"epochs": 1, "warmup_epochs": 0, "batch_size": 8}


@dataclass(frozen=True)
class Searched:
    """As what a search gives back: it names its file."""

    file: Path


@pytest.fixture
def retrained(make_data, tmp_path):
    """Retrains one or several networks in a folder of the test."""

    def run(networks, name="run", **options):
        retrain = psvit.retrain_networks if isinstance(networks, list) else psvit.retrain_network
        return retrain(networks, make_data(), settings=BRIEF, out=tmp_path / name, device="cpu", **options)

    return run


def test_an_architecture_a_file_and_what_a_search_gives_back_are_one_network(found, retrained, tmp_path, make_data):
    found.save(tmp_path / "best.yaml")
    given = [found.arch, found, tmp_path / "best.yaml", str(tmp_path / "best.yaml"), Searched(tmp_path / "best.yaml")]
    networks = [retrained(network, f"run-{number}") for number, network in enumerate(given)]
    assert [one.name for one in networks] == ["network", "network", "best", "best", "best"]
    weights = [(one.folder / "network.safetensors").read_bytes() for one in networks]
    assert weights == weights[:1] * 5
    first = networks[0]
    assert (first.arch, first.cost, first.how) == (found.arch, cost(found.arch), "from_scratch")
    # The accuracy is that of the classifier, image by image.
    classifier, data = first.classifier(), make_data()
    right = [classifier.predict(data.val[i][0])[0][0] == data.classes[data.val[i][1]] for i in range(len(data.val))]
    assert first.accuracy == pytest.approx(100 * np.mean(right), abs=1e-3)
    assert first.accuracies["from_scratch"] == first.accuracy
    assert psvit.RetrainedNetwork.load(first.folder, "network") == first


def test_a_network_that_the_machine_cannot_hold_is_refused_before_anything_is_written(found, retrained, tmp_path):
    wide = {"embed_dim": 16384, "groups": [1] * 60, "mlp_ratio": 4.0}
    huge = psvit.Architecture.from_dict({**found.arch.to_dict(), "stages": [wide], "pools": []})
    with pytest.raises(InputError, match=r"needs at least [\d,]+ GB to be trained, and this machine has [\d,]+ GB"):
        retrained(huge)
    assert not (tmp_path / "run").exists()


def test_what_is_finished_is_found_finished(found, retrained, monkeypatch):
    first = retrained(found.arch)
    monkeypatch.setattr(job_runner, "train", lambda *args, **kwargs: pytest.fail("trained again"))
    assert retrained(found.arch) == first
    with pytest.raises(InputError, match="seed: 0 there, 1 here"):
        retrained(found.arch, seed=1)


def test_the_report_and_the_confusion_lie_in_the_run(found, retrained, make_data):
    network = retrained(found.arch)
    assert network.report.path == network.folder / "report.html"
    assert f"{network.accuracy:.2f} %" in network.report.path.read_text()
    assert network.next_command in network.report.path.read_text()
    assert network.report._repr_html_().startswith("<iframe")
    classifier, data = network.classifier(), make_data()
    said = [data.classes.index(classifier.predict(data.val[at][0])[0][0]) for at in range(len(data.val))]
    assert network.confusion().tolist() == confusion_matrix(data.val.labels, said, labels=range(3)).tolist()


def test_a_run_of_before_there_were_reports_has_none(found, retrained):
    network = retrained(found.arch)
    network.report.path.unlink()
    (network.folder / "confusion.csv").unlink()
    assert retrained(found.arch) == network
    with pytest.raises(InputError, match=r"has no report\.html"):
        _ = network.report
    with pytest.raises(InputError, match=r"confusion\.csv: cannot be read"):
        network.confusion()


def test_the_validation_images_are_looked_at_once(found, retrained, monkeypatch):
    seen = []
    forward = PSViT.forward

    def counted(self, images):
        if not torch.is_grad_enabled():
            seen.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(PSViT, "forward", counted)
    retrained(found.arch)
    assert sum(seen) == 30


def test_weights_beside_a_file_are_inherited_and_others_cannot_be(found, retrained, weights, tmp_path):
    file = weights.with_suffix(".yaml")
    found.save(file)
    network = retrained(file, inherit=True, compare=True)
    assert set(network.accuracies) >= {"inherited", "fine_tuned", "from_scratch"}
    shown = network.report.path.read_text()
    assert all(f"{value:.2f} %" in shown for value in network.accuracies.values())
    assert network.how == "fine_tuned"
    with pytest.raises(InputError, match="without a file has no weights"):
        retrained(found.arch, "other", inherit=True)
    with pytest.raises(InputError, match="without a file holds no weights"):
        retrained(found.arch, "other", compare=True)
    assert not (tmp_path / "other").exists()


def test_several_have_folders_of_their_own_and_a_table(found, retrained, tmp_path):
    small = found.arch.model_copy(update={"stages": found.arch.stages[:1], "pools": ()})
    networks = retrained([found.arch, small])
    assert [one.folder.name for one in networks] == ["0-network", "1-network"]
    alone = retrained(small, "alone")
    assert (networks[1].folder / "network.safetensors").read_bytes() == (
        alone.folder / "network.safetensors"
    ).read_bytes()
    with networks.file.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["macs"]) for row in rows] == [one.cost.macs for one in networks]
    assert [float(row["from_scratch"]) for row in rows] == [one.accuracy for one in networks]
    assert len({one.report.path.read_bytes() for one in networks}) == 2
    assert len(str(networks).splitlines()) == 3
    assert networks._repr_html_().count("<tr>") == 3
    assert "<svg" in networks[0]._repr_html_()
    assert networks[-1:] == (networks[1],)


def test_one_that_diverges_is_told_among_several_and_raised_alone(found, retrained, monkeypatch):
    small = found.arch.model_copy(update={"stages": found.arch.stages[:1], "pools": ()})
    train = job_runner.train

    def diverging(task, *args, **kwargs):
        if task.model.arch == small:
            raise DivergedError("the loss became NaN")
        return train(task, *args, **kwargs)

    monkeypatch.setattr(job_runner, "train", diverging)
    networks = retrained([small, found.arch])
    assert [one.name for one in networks] == ["1-network"]
    assert networks.failures == {"0-network": "the loss became NaN"}
    with pytest.raises(DivergedError):
        retrained(small, "alone")


@pytest.mark.parametrize(
    ("networks", "options", "expected"),
    [
        ([], {}, "none was given"),
        (["no-such"], {}, "no-such"),
        (None, {"workers": "many"}, "permitted are ray"),
        (None, {"teacher_weights": "x.pth"}, "of which network"),
        (None, {"recipe": "nothing"}, "nothing"),
        (None, {"keep": 0}, "keep must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(found, make_data, tmp_path, networks, options, expected):
    given = [found.arch] if networks is None else networks
    with pytest.raises(InputError, match=expected):
        psvit.retrain_networks(given, make_data(), out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_images_of_data_sets_travel_to_other_processes():
    pairs = [(np.full((8, 8), 10 * index, dtype=np.uint8), index % 2) for index in range(20)]
    data = psvit.ImageData.from_datasets(pairs, pairs, name="mine")
    there = pickle.loads(pickle.dumps(Portable(data.reopen, data)))
    assert there.get() is not data
    assert (there.get().digest, there.get().name) == (data.digest, "mine")


# --- exporting


def test_a_network_is_exported_in_whatever_form_it_is_at_hand(found, retrained, tmp_path):
    network = retrained(found.arch)
    exported = psvit.export_network(network, "torch-export")
    assert exported.folder == network.folder / "network-torch-export"
    assert max(exported.differences.values()) < 1e-4
    assert exported.card.is_file()
    program = torch.export.load(exported.folder / "network.pt2").module()
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    classifier = network.classifier()
    prepared = classifier.preprocessing.read(image)[None]
    assert torch.allclose(program(prepared).softmax(1), classifier.probabilities(prepared), atol=1e-5)
    for given in (classifier, network.folder, str(network.file)):
        again = psvit.export_network(given, "timm", out=tmp_path / "again", license="apache-2.0")
        assert (again.format, again.folder) == ("timm", tmp_path / "again")
        assert "apache-2.0" in again.card.read_text()
        shutil.rmtree(again.folder)
    with pytest.raises(InputError, match="permitted are onnx"):
        psvit.export_network("nowhere", "tflite")


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a.yaml", "b.yaml"], ["a", "b"]),
        (["x/a.yaml", "y/a.yaml"], ["0-a", "1-a"]),
        (["x/a.yaml", "y/A.yaml"], ["0-a", "1-A"]),
        (["...yaml", "a.yaml"], ["0-..", "1-a"]),
        (["networks.csv.yaml", "a.yaml"], ["0-networks.csv", "1-a"]),
        (["config.yaml.yaml", "a.yaml"], ["0-config.yaml", "1-a"]),
    ],
)
def test_names_of_networks_stay_in_the_run_and_are_no_file_of_it(files, names):
    assert _named([Path(file) for file in files]) == names


def test_each_of_several_begins_as_it_would_alone(found, retrained, weights):
    made, plain = weights.with_suffix(".yaml"), weights.with_name("plain.yaml")
    original = {"original": {"name": "x", "digest": "0"}}
    of_another = found.model_copy(update={"provenance": {**found.provenance, **original}})
    assert of_another.is_made_of_another
    of_another.save(made)
    found.save(plain)
    both = retrained([made, plain], "both")
    assert [one.how for one in both] == ["fine_tuned", "from_scratch"]
    assert [one.how for one in retrained([made, plain], "none", inherit=False)] == ["from_scratch"] * 2


def test_weights_for_other_classes_are_neither_trained_on_nor_compared(found, make_data, weights, tmp_path):
    file, data = weights.with_suffix(".yaml"), make_data()
    for names in (["x", "y", "z"], list(data.classes[::-1])):
        about = {**found.provenance, "data": {"classes": names}}
        found.model_copy(update={"provenance": about}).save(file)
        asked = {"settings": BRIEF, "other_classes": True, "device": "cpu"}
        network = psvit.retrain_network(file, data, out=tmp_path / f"run-{names[0]}", **asked)
        assert "inherited" not in network.accuracies
        with pytest.raises(InputError, match=r"other names or another order.*--from-scratch"):
            psvit.retrain_network(file, data, out=tmp_path / "refused", inherit=True, **asked)
    assert not (tmp_path / "refused").exists()
