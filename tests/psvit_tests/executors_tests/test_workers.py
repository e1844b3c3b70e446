"""How the workers of a cluster are named."""

import pytest

from psvit.errors import InputError
from psvit.executors.workers import Workers


@pytest.mark.parametrize(
    ("text", "workers"),
    [
        ("ray", Workers("ray")),
        ("ray:gpus=0.25", Workers("ray", 0.25)),
        ("ray:gpus=1", Workers("ray", 1)),
        ("ray://head:10001", Workers("ray://head:10001")),
        ("ray://head:10001:gpus=.5", Workers("ray://head:10001", 0.5)),
        ("ray://[fe80::1]:10001:gpus=0.5", Workers("ray://[fe80::1]:10001", 0.5)),
    ],
)
def test_an_address_and_a_share_of_a_gpu(text, workers):
    assert Workers.parse(text) == workers


@pytest.mark.parametrize("text", ["", "cluster", "ray:", "ray:gpus", "ray:gpus=", "ray:cpus=2", "http://head:10001"])
def test_anything_else_is_answered_with_what_is_permitted(text):
    with pytest.raises(InputError, match=r"--workers .*: permitted are ray and ray://host:port"):
        Workers.parse(text)


@pytest.mark.parametrize("gpus", ["0", "0.001", "1.5", "2", "1.2.3", "."])
def test_a_worker_takes_a_part_of_one_gpu(gpus):
    with pytest.raises(InputError, match=r"from 0.01 to 1, received"):
        Workers.parse(f"ray:gpus={gpus}")
