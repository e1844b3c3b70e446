"""The tutorial is true: its commands run as they stand there, one after the other in one folder."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).resolve().parents[2] / "docs/tutorial.md"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_command_of_the_tutorial_runs(tmp_path, python):
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```", TUTORIAL.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) > 8
    environment = {**os.environ, "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"}
    for language, code in blocks:
        if code.startswith("pip install"):
            continue  # the tests run in an environment that has it all
        command = ["bash", "-euo", "pipefail", "-c", code] if language == "sh" else [python, "-c", code]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        # 141 is what a command ends with whose reader, such as head, has seen enough.
        assert done.returncode in (0, 141), f"{code}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "runs/network/network-onnx/network.onnx").is_file()
    assert len((tmp_path / "runs/front-networks/networks.csv").read_text().splitlines()) > 2
