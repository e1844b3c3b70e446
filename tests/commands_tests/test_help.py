"""`--help` answers at once, and says what the numbers mean."""

from __future__ import annotations

import resource
import subprocess

import pytest

COMMANDS = {
    "psvit-supernet": "psvit.supernet.cli",
    "psvit-search": "psvit.search.cli",
    "psvit-latency": "psvit.search.latency.cli",
    "psvit-fidelity": "psvit.search.fidelity.cli",
    "psvit-retrain": "psvit.retrain.cli",
    "psvit-export": "psvit.retrain.delivery.cli",
    "psvit-predict": "psvit.retrain.delivery.cli",
}
MAINS = {"psvit-export": "main_export", "psvit-predict": "main_predict"}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_takes_less_than_a_second(script, command):
    # Processor time, because the wall clock of a busy machine says little.
    def spent():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = spent()
    done = subprocess.run([script(command), "--help"], capture_output=True, text=True, check=True)
    assert spent() - before < 1
    assert done.stdout.startswith(f"Usage: {command} ")
    assert done.stderr == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_loads_no_deep_learning_library(python, command):
    code = f"""
import sys
from {COMMANDS[command]} import {MAINS.get(command, "main")} as main
sys.argv = ["{command}", "--help"]
try:
    main()
except SystemExit as ended:
    assert ended.code == 0
heavy = {{"torch", "timm", "optuna", "sklearn", "ray", "scipy"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([python, "-c", code], capture_output=True, check=True)


@pytest.mark.parametrize("command", ["psvit-search", "psvit-retrain", "psvit-fidelity"])
def test_help_says_that_flops_are_multiply_accumulates(call, command):
    assert "FLOPs are multiply-accumulates" in " ".join(call(command, "--help").out.split())


@pytest.fixture
def one_name(script):
    """Runs `psvit` with some words."""

    def run(*words):
        return subprocess.run([script("psvit"), *words], capture_output=True, text=True)

    return run


def test_one_name_has_all_commands_and_says_its_version(one_name):
    import psvit

    assert one_name("--version").stdout == f"psvit, version {psvit.__version__}\n"
    for words in ((), ("--help",)):
        done = one_name(*words)
        assert done.returncode == 0
        assert all(f"\n  {command.removeprefix('psvit-')} " in done.stdout for command in COMMANDS)
    done = one_name("serach")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("psvit: ")
    assert "serach" in done.stderr


@pytest.mark.parametrize("command", ["psvit-search", "psvit-predict"])
def test_a_subcommand_is_the_command(one_name, script, command):
    name = command.removeprefix("psvit-")
    for words in (["--help"], ["--nonsense"]):
        alone = subprocess.run([script(command), *words], capture_output=True, text=True)
        done = one_name(name, *words)
        assert (done.returncode, done.stdout, done.stderr) == (alone.returncode, alone.stdout, alone.stderr)
