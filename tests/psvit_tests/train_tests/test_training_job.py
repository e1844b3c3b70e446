"""Training jobs: what makes two of them equal, and that they travel."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from psvit.arch.architecture import Architecture, Stage
from psvit.errors import InputError
from psvit.train.recipe import Recipe
from psvit.train.training_job import TrainingJob

ARCH = Architecture(
    variant="2d",
    image_size=(8, 8),
    in_chans=1,
    num_classes=10,
    patch_size=2,
    patch_stride=2,
    head_dim=4,
    stages=(Stage(embed_dim=8, groups=(2,), mlp_ratio=2), Stage(embed_dim=12, groups=(1,), mlp_ratio=1)),
    pools=("conv",),
)
JOB = TrainingJob(arch=ARCH, recipe=Recipe(epochs=2, batch_size=32, lr=0.003), seed=3, num_images=64, label="one")


@pytest.mark.parametrize(("num_images", "digest"), [(None, "59ca55410e4eec8b"), (64, "52ce37914e113639")])
def test_a_digest_is_what_version_0_1_wrote_into_journals(num_images, digest):
    assert replace(JOB, num_images=num_images).digest == digest


def test_jobs_that_differ_in_anything_but_their_label_are_different():
    others = [
        replace(JOB, arch=Architecture.from_dict({**ARCH.to_dict(), "pools": ["max"]})),
        replace(JOB, recipe=JOB.recipe.override({"epochs": 3})),
        replace(JOB, seed=4),
        replace(JOB, init="0123456789abcdef"),
        replace(JOB, split="all_train"),
        replace(JOB, num_images=65),
        replace(JOB, num_images=None),
    ]
    assert len({JOB, *others}) == len({one.digest for one in (JOB, *others)}) == 1 + len(others)
    same = replace(JOB, label="another")
    assert (same, same.digest, hash(same)) == (JOB, JOB.digest, hash(JOB))


def test_a_job_travels_and_is_written_down():
    job = replace(JOB, init="0123456789abcdef", split="all_train")
    for copied in (pickle.loads(pickle.dumps(job)), TrainingJob.from_dict(job.to_dict())):
        assert (copied, copied.label, copied.digest) == (job, "one", job.digest)
    with pytest.raises(InputError, match="lr"):
        TrainingJob.from_dict({**job.to_dict(), "recipe": {**job.recipe.to_dict(), "lr": -1}})
