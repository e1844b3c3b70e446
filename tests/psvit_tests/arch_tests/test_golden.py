"""What version 0.1 wrote: files and digests of its networks and spaces stay as they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from psvit.arch.architecture import Architecture, ArchitectureFile
from psvit.space.search_space import SearchSpace

BEST = Path(__file__).parent / "golden" / "best-0.1.yaml"
"""Written by version 0.1: psvit-search --data digits --budget 1MFLOPs --trials 48 --seed 3."""

ARCHITECTURES = {
    "deit-base": "a94b52fcd8d4f194",
    "deit-small": "6ef8126c7377c55b",
    "deit-tiny": "1f27cb680b1fc84d",
    "psvit-1d-base": "ccb82014eae5c9e2",
    "psvit-1d-small": "0841c2219980af06",
    "psvit-1d-tiny": "edbde5e4d18664ac",
    "psvit-2d-base": "73835d6fed32cb5a",
    "psvit-2d-small": "065f5fa50179db08",
    "psvit-2d-tiny": "b6c354f597430783",
}
SPACES = {
    "psvit-1d-base": "8e48c81428c2e87c",
    "psvit-1d-small": "552fc000d76856af",
    "psvit-1d-tiny": "c7bdf12bbc0db5fb",
    "psvit-2d-base": "c0ea72c0f14e052b",
    "psvit-2d-digits": "7d8850e9b359fd48",
    "psvit-2d-nano": "51b28e28636b99bd",
    "psvit-2d-small": "8cd5d422337ea943",
    "psvit-2d-tiny": "e32a735bf1878cc3",
}


@pytest.mark.parametrize(("name", "digest"), ARCHITECTURES.items())
def test_shipped_architectures_keep_their_digests(name, digest):
    assert Architecture.load(name).digest == digest


@pytest.mark.parametrize(("name", "digest"), SPACES.items())
def test_shipped_spaces_keep_their_digests(name, digest):
    assert SearchSpace.load(name).digest == digest


def test_a_found_network_is_written_as_it_was(tmp_path):
    found = ArchitectureFile.load(BEST)
    assert found.arch.stem == "patch"
    assert (found.digest, found.arch.digest) == ("c05ccf00c93df1b5", "ef8b7a7afc675412")
    found.save(tmp_path / "again.yaml")
    assert (tmp_path / "again.yaml").read_bytes() == BEST.read_bytes()


def test_another_stem_is_another_network():
    found = Architecture.load(BEST)
    other = Architecture.from_dict({**found.to_dict(), "stem": "conv"})
    assert other.to_dict()["stem"] == "conv"
    assert other.digest != found.digest
    assert Architecture.from_dict({**found.to_dict(), "stem": "patch"}).digest == found.digest
