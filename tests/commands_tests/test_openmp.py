"""How threads wait is settled before PyTorch is loaded: in every command, in what it starts, and nowhere else."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from psvit.executors.openmp import waiting_settings
from psvit.io.shipped import find

NAMES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")

OURS = {"GOMP_SPINCOUNT": "10000"}

ARGUMENTS = {
    "psvit-supernet": ("--data", "digits"),
    "psvit-search": ("--budget", "1MFLOPs"),
    "psvit-latency": ("--space", "psvit-2d-digits", "--out", "table.yaml"),
    "psvit-fidelity": ("--supernet", "runs/supernet", "--budget", "1MFLOPs"),
    "psvit-retrain": (str(find("arch", "deit-tiny")), "--data", "digits"),
    "psvit-export": ("runs/network", "--to", "onnx"),
    "psvit-predict": ("runs/network", "."),
}
"""What makes a command load PyTorch, before or after it finds out that there is no such supernet or network."""

PREAMBLE = f"""
import json, os, runpy, sys
from importlib.abc import MetaPathFinder

class Watch(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        # In place of loading it: say what it would find, and end.
        if name == "torch":
            told = json.dumps({{name: os.environ[name] for name in {NAMES!r} if name in os.environ}})
            os.write(1, f"{{told}}\\n".encode())  # at once, since another process may write as well
            os._exit(0)

sys.meta_path.insert(0, Watch())
assert "torch" not in sys.modules
"""


def environment(**own):
    return {name: value for name, value in os.environ.items() if name not in NAMES} | own


@pytest.fixture
def found_by_torch(python, script, tmp_path):
    """Runs a command until it loads PyTorch; returns the settings that it would find then, one a process."""

    def found(command, *launcher, **own):
        code = f"{PREAMBLE}\nsys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
        done = subprocess.run(
            [*launcher, python, "-c", code, script(command), *ARGUMENTS[command]],
            cwd=tmp_path, env=environment(**own), capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return found


@pytest.mark.parametrize("command", ARGUMENTS)
def test_every_command_has_it_set_when_torch_is_loaded(found_by_torch, command):
    assert found_by_torch(command) == [OURS]


@pytest.mark.parametrize(
    "own",
    [{"GOMP_SPINCOUNT": "5"}, {"OMP_WAIT_POLICY": "passive"}, {"GOMP_SPINCOUNT": "5", "OMP_WAIT_POLICY": "active"}],
    ids=str,
)
def test_what_the_user_has_set_stays(found_by_torch, own):
    assert found_by_torch("psvit-supernet", **own) == [own]


@pytest.mark.slow
def test_processes_of_torchrun_have_it_set(found_by_torch, python):
    torchrun = (python, "-m", "torch.distributed.run", "--no-python", "--nproc-per-node", "2", "--standalone")
    assert found_by_torch("psvit-supernet", *torchrun) == [OURS, OURS]
    own = {"OMP_WAIT_POLICY": "passive"}
    assert found_by_torch("psvit-supernet", *torchrun, **own) == [own, own]


def test_it_takes_effect(python):
    """PyTorch's OpenMP library says what it has understood when it is loaded."""
    code = """
import click
from psvit.cli import run
run(click.Command("psvit-something", callback=lambda: __import__("torch") and None), [])
"""
    told = subprocess.run(
        [python, "-c", code],
        env=environment(OMP_DISPLAY_ENV="verbose"), capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    understood = [line.strip() for line in told.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    assert understood == ["GOMP_SPINCOUNT = '10000'"]


def test_processes_that_prepare_images_have_it_set_also_where_they_are_spawned(python, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import json, multiprocessing, os
import click
from psvit.cli import run

def settings():
    return {{name: os.environ[name] for name in {NAMES!r} if name in os.environ}}

@click.command()
def command():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(json.dumps(pool.apply(settings)))

if __name__ == "__main__":
    run(command, [])
"""
    )
    done = subprocess.run([python, script], env=environment(), capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == OURS


def test_importing_changes_no_environment(python):
    code = """
import os
before = dict(os.environ)
import psvit, psvit.cli, psvit.executors.openmp, psvit.search.cli, psvit.retrain.delivery.cli
psvit.Architecture, psvit.SearchSpace.load("psvit-2d-digits")
assert dict(os.environ) == before
"""
    subprocess.run([python, "-c", code], cwd="/", env=environment(), check=True, timeout=60)


def test_the_users_settings_are_handed_on_as_they_are(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    assert waiting_settings() == OURS
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    assert waiting_settings() == {"OMP_WAIT_POLICY": "passive"}
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert waiting_settings() == {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "7"}
