"""Cores that may be used, and threads that keep to them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from psvit.io.cores import usable_cores
from psvit.train import choices

ALLOWED = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


@pytest.mark.skipif(len(ALLOWED) < 2, reason="there is one core")
def test_cores_are_those_of_the_affinity():
    program = "import os; os.sched_setaffinity(0, {%d}); from psvit.io.cores import usable_cores; print(usable_cores())"
    found = subprocess.run([sys.executable, "-c", program % min(ALLOWED)], capture_output=True, text=True, check=True)
    assert int(found.stdout) == 1 <= usable_cores() <= len(ALLOWED)


@pytest.mark.parametrize(("cores", "before", "after"), [(2, 5, 2), (8, 3, 3)])
def test_threads_are_no_more_than_cores(cores, before, after, monkeypatch):
    monkeypatch.setattr(choices, "usable_cores", lambda: cores)
    threads = torch.get_num_threads()
    torch.set_num_threads(before)
    try:
        choices.choose_device("cpu")
        assert torch.get_num_threads() == after
    finally:
        torch.set_num_threads(threads)
