"""How float32 is computed on a GPU; whether one is there is made up."""

from __future__ import annotations

import pytest
import torch

from psvit.nn.precision import float32_products


def settings():
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(("precision", "rounds"), [("high", True), ("highest", False)])
def test_products_and_convolutions_round_alike_and_only_in_the_block(precision, rounds, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = settings()

    @float32_products(precision)
    def inside():
        assert settings() == (precision, rounds)
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            inside()
        assert settings() == before
    with float32_products(precision, "cpu"):
        assert settings() == before
