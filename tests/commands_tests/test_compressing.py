"""A faster network from one that was trained: the whole way by commands."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

import psvit
from psvit.arch.architecture import Architecture, ArchitectureFile
from psvit.arch.costs import cost
from psvit.data import Batches, Inputs, accuracy, open_data
from psvit.nn.network import PSViT
from psvit.space.search_space import SearchSpace
from psvit.supernet.provenance import read_provenance
from psvit.supernet.supernet import Supernet
from psvit.train.read_original import read_original

# What is made once takes seconds, so that the tests which use it stay in one process.
pytestmark = pytest.mark.xdist_group("compressing")

ORIGINAL = """\
schema: psvit/architecture/1
arch:
  variant: 1d
  image_size: [8, 8]
  in_chans: 1
  num_classes: 10
  patch_size: 2
  patch_stride: 2
  head_dim: 8
  stages:
  - {embed_dim: 16, groups: [1, 1, 1], mlp_ratio: 2.0}
  pools: []
"""
BRIEFLY = ("--set", "epochs=1", "--set", "batch_size=128")
ADAPTED_BRIEFLY = tuple(word.replace("--set", "--supernet-set") for word in BRIEFLY)
SHORT = """\
schema: psvit/recipe/1
epochs: 4
batch_size: 128
lr: 0.0005
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory, printed_by, few_digits):
    """A trained network, and the finished run of a search that begins with it."""
    place = tmp_path_factory.mktemp("made")
    (place / "original.yaml").write_text(ORIGINAL)
    (place / "short.yaml").write_text(SHORT)
    trained = ("--set", "epochs=4", "--set", "warmup_epochs=0", "--out", "network")
    printed_by(place, "psvit-retrain", "original.yaml", "--data", few_digits, *trained)
    command = ("psvit-search", "--init", "network", "--data", few_digits, "--budget", "70%", "--recipe")
    text = printed_by(
        place, *command, "short.yaml", *ADAPTED_BRIEFLY, "--finalists", "2", "--control", "0", "--out", "run"
    )
    (place / "out.txt").write_text(text)
    return place


def test_the_table_has_the_network_first_then_what_was_found_then_the_baselines(made):
    about = ArchitectureFile.load(made / "run/best.yaml")
    rows = about.provenance["compression"]["networks"]
    names = [row["name"] for row in rows]
    assert names[0] == "network"
    assert any("fewer layers" in name for name in names)
    assert any("token merging" in name for name in names)
    assert any("evenly pooled" in name for name in names)
    whole = cost(Architecture.load(made / "network/network.yaml")).macs
    assert rows[0]["macs"] == whole
    assert rows[1]["macs"] == cost(about.arch).macs <= 0.7 * whole
    for row in rows:
        assert {key: value["median_ms"] > 0 for key, value in row["latency"].items()} == {"batch 1": 1, "batch 32": 1}
        assert row["accuracies"]
    printed = (made / "out.txt").read_text()
    report = (made / "run/report.html").read_text()
    for name in names:
        assert name in report
    assert "network" in printed


def test_the_network_is_the_largest_member_and_the_supernets_beginning(made, few_digits):
    original = read_original(made / "run/original.yaml")
    space = SearchSpace.load(made / "run/space.yaml")
    assert space.largest == original.arch
    assert Supernet.load(made / "run/supernet").space == space
    trained = load_file(made / "network/network.safetensors")
    assert all(torch.equal(value, trained[name]) for name, value in original.network.state_dict().items())


def test_adapting_the_supernet_leaves_the_network_its_accuracy(made, few_digits):
    data = open_data(few_digits)
    images = data.search
    batches = Batches(images, Inputs.of(data, (8, 8)), 64, torch.device("cpu"))
    supernet = Supernet.load(made / "run/supernet").eval()
    original = read_original(made / "run/original.yaml").network.eval()
    before, after = accuracy(original, batches), accuracy(supernet.extract(supernet.space.largest).eval(), batches)
    kept = read_provenance(made / "run/supernet")["kept"]
    assert (kept["before"], kept["after"]) == pytest.approx((before, after), abs=1e-3)
    assert before - after <= max(0.5, 100 / len(images)) + 1e-3
    assert kept["way"] > 0


def test_accuracy_of_the_network_is_that_on_the_images_that_are_named(made, few_digits):
    data = open_data(few_digits)
    compression = ArchitectureFile.load(made / "run/best.yaml").provenance["compression"]
    part = compression["images"]["part"]
    images = getattr(data, part)
    classifier = psvit.Classifier.load(made / "network")
    right = sum(
        classifier.predict(images.pictures[row], 1)[0][0] == data.classes[label]
        for row, label in zip(images.rows, images.labels, strict=True)
    )
    assert compression["networks"][0]["accuracies"] == [pytest.approx(100 * right / len(images), abs=1e-3)]


def test_a_retraining_begins_with_the_weights_without_being_told(made, call, few_digits):
    outcome = call("psvit-retrain", made / "run/best.yaml", "--data", few_digits, *BRIEFLY, "--out", "again")
    assert outcome.status == 0
    assert ArchitectureFile.load("again/network.yaml").provenance["inherited"]
    outcome = call(
        "psvit-retrain",
        made / "run/best.yaml",
        "--data",
        few_digits,
        *BRIEFLY,
        "--from-scratch",
        "--set",
        "warmup_epochs=0",
        "--out",
        "scratch",
    )
    assert not ArchitectureFile.load("scratch/network.yaml").provenance["inherited"]


def test_the_same_command_says_the_same_again(made, call, few_digits, monkeypatch):
    monkeypatch.chdir(made)
    before = (made / "run/best.yaml").read_bytes()
    command = ("psvit-search", "--init", "network", "--data", few_digits, "--budget", "70%", "--recipe")
    again = call(*command, "short.yaml", *ADAPTED_BRIEFLY, "--finalists", "2", "--control", "0", "--out", "run")
    assert again.status == 0
    assert (made / "run/best.yaml").read_bytes() == before


def test_without_verdict_images_the_search_images_say_it(made, call, few_digits, tmp_path):
    for part in ("train", "val"):
        for number, folder in enumerate(sorted((Path(few_digits) / part).iterdir())):
            # Of some classes there are too few to be cut twice.
            for path in sorted(folder.iterdir())[: 2 if number < 5 else 20]:
                place = tmp_path / "fewer" / part / folder.name / path.name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(path.read_bytes())
    if len(open_data(str(tmp_path / "fewer")).verdict):
        pytest.fail("there are verdict images; take fewer")
    command = ("psvit-search", "--init", made / "network", "--data", tmp_path / "fewer", "--budget", "70%")
    options = ("--recipe", made / "short.yaml", *ADAPTED_BRIEFLY, "--control", 0, "--out", "run")
    outcome = call(*command, *options)
    assert outcome.status == 0, outcome.err
    compression = ArchitectureFile.load("run/best.yaml").provenance["compression"]
    assert compression["images"]["part"] == "search"
    assert all(row["accuracies"] for row in compression["networks"])


@pytest.mark.parametrize("evaluator", ["trained", "inherited"])
def test_a_front_has_a_network_with_weights_at_every_point(made, call, few_digits, evaluator):
    command = ("psvit-search", "--init", made / "network", "--data", few_digits, "--budget", "30..90%", "--objectives")
    briefly = ADAPTED_BRIEFLY if evaluator == "inherited" else ()
    more = (
        "--trials",
        6,
        "--evaluator",
        evaluator,
        "--recipe",
        made / "short.yaml",
        *briefly,
        "--out",
        "front",
    )
    outcome = call(*command, "accuracy,macs", *more)
    assert outcome.status == 0, outcome.err
    whole = cost(Architecture.load(made / "network/network.yaml")).macs
    files = sorted(Path("front/pareto").glob("*.yaml"))
    assert files
    for file in files:
        arch = Architecture.load(file)
        assert 0.3 * whole <= cost(arch).macs <= 0.9 * whole
        PSViT(arch).load_state_dict(load_file(file.with_suffix(".safetensors")))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--init", "network"), "--data"),
        (("--init", "network", "--data", "digits", "--space", "psvit-2d-digits"), "--space"),
        (("--init", "network", "--data", "digits", "--evaluator", "dss"), "--evaluator"),
        (("--init", "resnet18", "--data", "digits"), "resnet18"),
        (("--init", "network", "--data", "digits", "--depths", "9"), "depths"),
        (("--init", "network", "--data", "digits", "--depths", "few"), "--depths"),
        (("--init-weights", "x.pth", "--data", "digits"), "--init"),
        (("--init", "network", "--data", "digits", "--budget", "1%"), "budget"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(made, call, options, says, monkeypatch):
    monkeypatch.chdir(made)
    outcome = call("psvit-search", "--budget", "70%", *options, "--out", "refused")
    assert outcome.status == 2
    assert says in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert not (made / "refused").exists()


@pytest.mark.slow(seconds=120)
def test_at_224_pixels_from_a_file_of_deit_tiny(call, image_folder):
    folder = image_folder(each=12, sizes=(64,))
    torch.manual_seed(0)
    network = timm.create_model("deit_tiny_patch16_224")
    torch.save(network.state_dict(), folder.parent / "deit.pth")
    (folder.parent / "short.yaml").write_text(SHORT.replace("epochs: 4", "epochs: 1").replace("128", "4"))
    outcome = call(
        *("psvit-search", "--init", "deit_tiny_patch16_224", "--init-weights", folder.parent / "deit.pth"),
        *("--data", folder, "--budget", "60%", "--trials", "4", "--finalists", "1", "--control", "0"),
        *("--supernet-set", "epochs=1", "--supernet-set", "batch_size=4"),
        *("--recipe", folder.parent / "short.yaml", "--out", "run"),
    )
    assert outcome.status == 0, outcome.err
    about = ArchitectureFile.load("run/best.yaml")
    assert cost(about.arch).macs <= 0.6 * 1_253_683_200
    assert about.arch.image_size == (224, 224)
    assert "classifier is new" in outcome.out + outcome.err
