"""What a search leaves behind: a front is there whole, the former or the new one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from psvit.arch.architecture import Architecture, ArchitectureFile
from psvit.arch.costs import cost
from psvit.search.objectives import Objectives
from psvit.search.selection.finalist import Finalist, Look
from psvit.search.trial import Score, Trial
from psvit.search.winner import Evidence, write_front

EVIDENCE = Evidence(
    budget=("1MFLOPs",),
    description={"kind": "inherited accuracy"},
    provenance={"seed": 0},
    objectives=Objectives(names=("accuracy", "macs")),
)


class Killed(BaseException):
    """Stands for the end of the process."""


def front_of(archs):
    return [
        Finalist(
            trial=Trial(
                number=number,
                arch=arch,
                cost=cost(arch),
                score=Score(value=90.0 - number, images=10),
                objectives=(90.0 - number, -float(cost(arch).macs)),
            )
        )
        for number, arch in enumerate(archs)
    ]


def test_beside_the_score_stands_what_the_selection_reached(tiny_space):
    (scored,) = front_of([tiny_space[0]])
    before = EVIDENCE.file(scored, {}).score
    assert (before["value"], before["kind"], before["images"]) == (90.0, "inherited accuracy", 10)
    looks = (Look(epoch=1, accuracies=(90.0,)), Look(epoch=7, accuracies=(95.0, 96.0, 98.5)))
    after = EVIDENCE.file(replace(scored, looks=looks), {}).score
    assert after == {**before, "after_selection": {"accuracy": 96.5, "epochs": 7, "trainings": 3}}


def read(place):
    return {path.name: Architecture.load(path) for path in place.iterdir()}


def test_a_front_has_one_file_a_point_in_order_and_nothing_of_the_one_before(tiny_space, tmp_path):
    archs = [tiny_space[number] for number in range(12)]
    points, place = write_front(tmp_path, EVIDENCE, front_of(archs), None), tmp_path / "pareto"
    assert [Architecture.load(point.file) for point in points] == archs
    assert read(place) == {f"{number:02}.yaml": arch for number, arch in enumerate(archs)}
    write_front(tmp_path, EVIDENCE, front_of(archs[5:8]), None)
    assert read(place) == {f"{number}.yaml": arch for number, arch in enumerate(archs[5:8])}
    assert [path.name for path in tmp_path.iterdir()] == ["pareto"]


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_front_that_is_not_written_to_its_end_leaves_the_one_before(tiny_space, tmp_path, monkeypatch, written):
    archs = [tiny_space[number] for number in range(6)]
    write_front(tmp_path, EVIDENCE, front_of(archs[:2]), None)
    place = tmp_path / "pareto"
    before = read(place)
    saved, save = [], ArchitectureFile.save

    def save_some(self, path):
        if len(saved) == written:
            assert read(place) == before  # at this moment too, which may be the last
            raise Killed
        saved.append(path)
        save(self, path)

    monkeypatch.setattr(ArchitectureFile, "save", save_some)
    with pytest.raises(Killed):
        write_front(tmp_path, EVIDENCE, front_of(archs[2:]), None)
    assert read(place) == before
