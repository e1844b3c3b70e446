"""Damaged files and odd texts, by the thousand: nothing but an `InputError`, soon, and in little memory."""

from __future__ import annotations

import io
import json
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from psvit.arch.architecture import Architecture, ArchitectureFile
from psvit.classifier import Classifier
from psvit.data import open_data
from psvit.data.pixels import read_image
from psvit.errors import InputError
from psvit.io.journal import Journal
from psvit.search.candidates import Candidates
from psvit.search.fidelity.record import (
    INHERITED,
    Agreement,
    Estimate,
    Fidelity,
    SetFidelity,
    read_fidelities,
    write_fidelities,
)
from psvit.search.latency.measure import Setting, fingerprint
from psvit.search.latency.model import Calibration, Figures, HeldOut, LatencyModel, TimedPart
from psvit.search.latency.parts import parts_in
from psvit.search.storage import open_storage
from psvit.search.study import Batch, Study
from psvit.search.trial import Score
from psvit.search.trial_table import trial_table
from psvit.space.budget import Budget
from psvit.space.search_space import SearchSpace
from psvit.supernet.provenance import read_space
from psvit.supernet.supernet import Supernet
from psvit.train.original import Original
from psvit.train.read_original import read_original
from psvit.train.recipe import Recipe, SupernetRecipe

CASES, SEED = (int(os.environ.get(f"PSVIT_FUZZ_{name}", usual)) for name, usual in (("CASES", 5000), ("SEED", 0)))
"""How many cases there are, and which; `benchmarks/robustness.py` asks for others."""

SECONDS, BYTES = 5.0, 10**9
"""The most that a case may take: processor time, because a machine that runs tests is busy, and memory."""

NASTY = [
    *("0", "-1", "1e999", "-1e-999", "nan", ".inf", "~", "null", "true", "yes", "9" * 30, "9" * 5000, "0x10", "1_000"),
    *(
        "1:30:00",
        "2001-99-99",
        "2001-01-01",
        "[]",
        "{}",
        "[[",
        "]]",
        "{",
        "}",
        "- ",
        ": ",
        "? ",
        "|",
        ">",
        "%",
        "@",
        "`",
    ),
    *("&a ", "*a", "<<: *a", "!!python/object/apply:os.system ['true']", "!!binary aGk=", "!x ", "---", "...", "#"),
    *("\t", "\x00", "\x1b[31m", "\ufeff", "\ud7ff", "é", "💥", "'", '"', "\\", "\\u0000", "[" * 200, "a: " * 60),
    *(
        "1d",
        "2d",
        "conv",
        "max",
        "patch",
        "16384",
        "64",
        "1000000007",
        "0.1",
        "1..2",
        "%",
        "ms@cpu",
        "GFLOPs",
        "params",
    ),
]
"""What is put in somewhere."""


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """A file with one to four changes."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        place = int(rng.integers(len(data) + 1))
        end = min(len(data), place + int(rng.integers(1, 40)))
        match int(rng.integers(7)):
            case 0:
                data[place:end] = bytes(rng.integers(0, 256, end - place, dtype=np.uint8))
            case 1:
                del data[place:end]
            case 2:
                data[place:place] = data[place:end] * int(rng.integers(1, 4))
            case 3 | 4:
                data[place:place] = NASTY[int(rng.integers(len(NASTY)))].encode()
            case 5:
                # In the place of a value, where damage is not seen at once.
                words = bytes(data).split()
                if words:
                    word = words[int(rng.integers(len(words)))]
                    data = bytearray(bytes(data).replace(word, NASTY[int(rng.integers(len(NASTY)))].encode(), 1))
            case _:
                del data[place:]
    return bytes(data)


def safetensors_file(place: Path) -> bytes:
    file = place / "weights.safetensors"
    save_file({"a": torch.zeros(3, 4), "b": torch.ones(2)}, file, {"psvit": json.dumps({"schema": "x"})})
    return file.read_bytes()


def picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def kinds(place: Path) -> Iterator[tuple[str, bytes, Callable[[Path], Any]]]:
    """What is damaged: its name, a whole one, and what reads it."""
    root = Path(__file__).resolve().parents[2] / "configs"
    space = SearchSpace.load("psvit-2d-digits")
    yield "arch.yaml", (root / "archs/psvit-1d-tiny.yaml").read_bytes(), ArchitectureFile.load
    yield "space.yaml", (root / "spaces/psvit-nano.yaml").read_bytes(), lambda path: SearchSpace.load(path).size
    yield "recipe.yaml", (root / "recipes/cifar.yaml").read_bytes(), Recipe.load
    yield "supernet.yaml", (root / "recipes/supernet-imagenet.yaml").read_bytes(), SupernetRecipe.load
    for text in (b"1.2..1.4GFLOPs", b"60%ofdeit-small", b"20ms@cpu:batch=8,threads=1", b"22Mparams"):

        def parse(path: Path) -> Budget:
            return Budget.parse(path.read_bytes().decode(errors="replace"), space=space)

        yield "budget", text, parse
    journal = b'{"space": "x", "seed": 0}\n{"number": 1, "ms": 2.5}\n{"number": 2, "ms": 2.25}\n'
    yield "journal", journal, lambda path: Journal(path, {"space": "x", "seed": 0}).records
    supernet = place / "supernet.safetensors"
    Supernet(SearchSpace.around(_small())).save(supernet, {"data": "digits"})
    whole = supernet.read_bytes()
    yield "net.safetensors", whole, lambda path: (read_space(path), Supernet.load(path))
    yield "weights.safetensors", safetensors_file(place), read_original
    yield "weights.pth", _checkpoint(place), read_original
    for kind in ("png", "jpeg", "bmp", "tiff", "webp", "ppm"):
        yield f"image.{kind}", picture(kind), lambda path: read_image(str(path), "RGB")
    data = open_data("digits")
    network = Classifier  # the architecture file and the weights of a network in use
    original = place / "run" / "network.yaml"
    Original(name="x", network=_network(), mean=data.mean, std=data.std, classes=data.classes).save(original, data)
    yield "network.yaml", original.read_bytes(), lambda path: network.load(_beside(path, original))
    around = SearchSpace.around(_small())
    yield "latency.yaml", _latency_model(around, place), lambda path: _predict(LatencyModel.load(path), around, path)
    yield "fidelity.yaml", _fidelities(place), _summarise
    yield "study.journal", _study(around, place / "study.journal"), lambda path: _reopen(around, path)


def _small() -> Architecture:
    return Architecture.from_dict(
        {
            **{"variant": "1d", "image_size": [8, 8], "in_chans": 1, "num_classes": 10, "patch_size": 2},
            **{"patch_stride": 2, "head_dim": 4, "pools": []},
            "stages": [{"embed_dim": 8, "groups": [1, 1], "mlp_ratio": 2.0}],
        }
    )


def _network() -> Any:
    from psvit.model import PSViT

    return PSViT(_small())


def _checkpoint(place: Path) -> bytes:
    file = place / "checkpoint.pth"
    torch.save({"arch": "vit_tiny_patch16_224", "state_dict": {"head.weight": torch.zeros(2, 3)}}, file)
    return file.read_bytes()


def _latency_model(space: SearchSpace, place: Path) -> bytes:
    good = Figures(mape=1.5, kendall_tau=0.9, r2=None)
    parts = parts_in(space)
    model = LatencyModel(
        **{"space": space.name, "space_digest": space.digest, "setting": Setting(), "seed": 0, "rounds": 3},
        fingerprint=fingerprint(Setting()),
        calibrated_on=8,
        calibration=Calibration(constant_ms=0.25, ends=1.5, poolings=0.75, groups=(1.0, 1.25)),
        validation=good,
        ridge=good,
        held_out=(HeldOut(index=3, measured_ms=1.0, predicted_ms=1.1, ridge_ms=1.2),),
        parts=tuple(TimedPart(part=part, ms=1 + 0.125 * number) for number, part in enumerate(parts)),
    )
    model.save(place / "latency.yaml")
    return (place / "latency.yaml").read_bytes()


def _predict(model: LatencyModel, space: SearchSpace, path: Path) -> None:
    model.check(space, Setting(), fingerprint(Setting()), str(path))
    model.predict(space[0])
    model.predict_all(space.price(space.encode(space[0])[None]))
    model.macs_within(space, 0.5, 2.0)


def _fidelities(place: Path) -> bytes:
    def agreement(score: str) -> Agreement:
        some = Estimate(value=0.75, interval=(0.5, 0.875))
        return Agreement(score=score, networks=20, kendall_tau=some, spearman_rho=some, regret=0.5)

    measured = SetFidelity(
        limits={"macs": (100_000, 1_000_000)},
        agreements=(agreement(INHERITED), agreement("dss")),
        ceiling=agreement("standalone"),
        below_ceiling=agreement(INHERITED),
        gap=Estimate(value=-3.5),
    )
    one = Fidelity(
        **{"supernet_digest": "0" * 16, "space": "x", "space_digest": "1" * 16, "data": "digits", "seed": 0},
        **{"search_images": 100, "budget": ("1MFLOPs",), "images": 1000, "recipe": {"epochs": 5}},
        within=measured,
        spread=measured,
        versions={"psvit": "0.1.0"},
    )
    write_fidelities(place / "fidelity.yaml", (one,))
    return (place / "fidelity.yaml").read_bytes()


def _summarise(path: Path) -> None:
    for one in read_fidelities(path):
        assert one.subject
        assert one.evidence
        one.summary(Budget.parse("0.9..1MFLOPs"))


def _study(space: SearchSpace, path: Path) -> bytes:
    study = Study(space, open_storage(path), config={"seed": 0})
    proposals = tuple(Candidates(space, Budget()).propose([space[0], space[1]], "uniform"))
    study.tell(study.ask(Batch(number=0, proposals=proposals)), [space[0], space[1]], [Score(value=1.5)] * 2)
    study.beat()
    study.ask(Batch(number=1, proposals=proposals[:1]))
    return path.read_bytes()


def _reopen(space: SearchSpace, path: Path) -> None:
    study = Study(space, open_storage(path), config={"seed": 0}, process="another")
    study.ask(Batch(number=study.next_number, proposals=()))
    trial_table(study).to_csv()
    Study(space, open_storage(path), config={"seed": 0}).pending()


def _beside(path: Path, original: Path) -> Path:
    """The damaged file with whole weights beside it."""
    path.with_suffix(".safetensors").write_bytes(original.with_suffix(".safetensors").read_bytes())
    return path


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("score: inherited", "score: x", "within: agreements must have one of the score inherited"),
        ("limits:\n      macs: [100000, 1000000]", "limits: {}", "within.limits: "),
    ],
)
def test_a_fidelity_that_lacks_what_searches_ask_for_is_refused(tmp_path, before, after, expected):
    text = _fidelities(tmp_path).decode()
    assert before in text
    (tmp_path / "fidelity.yaml").write_text(text.replace(before, after, 1))
    with pytest.raises(InputError) as refused:
        read_fidelities(tmp_path / "fidelity.yaml")
    assert expected in str(refused.value)


@pytest.mark.slow(seconds=90)
def test_damaged_input_ends_in_one_line_soon_and_in_little_memory(tmp_path, record_property):
    made = list(kinds(tmp_path))
    rng = np.random.default_rng(SEED)
    wrong, refused, most = [], 0, {"seconds": (0.0, ""), "bytes": (0.0, "")}
    tracemalloc.start()
    for case in range(CASES):
        name, whole, read = made[case % len(made)]
        content = damaged(whole, rng)
        file = tmp_path / f"{case % 7}-{name}"
        file.write_bytes(content)
        tracemalloc.reset_peak()
        before, began = tracemalloc.get_traced_memory()[0], time.process_time()
        try:
            read(file)
        except InputError as error:
            refused += 1
            if "\n" in str(error):
                wrong.append((name, case, f"several lines: {error}"))
        except Exception as error:
            wrong.append((name, case, f"{type(error).__name__}: {error}"))
        took, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1] - before
        for unit, value in (("seconds", took), ("bytes", peak)):
            most[unit] = max(most[unit], (value, f"{name}, case {case}"))
        if took > SECONDS or peak > BYTES:
            wrong.append((name, case, f"{took:.1f} s, {peak:,} bytes"))
        file.unlink()
    tracemalloc.stop()
    record_property("refused", refused)
    for unit, (value, where) in most.items():
        record_property(unit, value)
        record_property(f"most {unit}", where)
    assert not wrong, "\n".join(f"{name}, case {case}: {what[:200]}" for name, case, what in wrong[:40])
    # Most damage is found; a comment, a word of a name or a pixel may be changed without being wrong.
    assert refused > CASES / 2
