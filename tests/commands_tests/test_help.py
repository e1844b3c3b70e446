"""`--help` says what the numbers mean; what it waits for, `test_imports.py` says."""

from __future__ import annotations

import subprocess

import pytest

COMMANDS = (
    "psvit-supernet",
    "psvit-search",
    "psvit-latency",
    "psvit-fidelity",
    "psvit-retrain",
    "psvit-export",
    "psvit-predict",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_goes_to_standard_output(script, command):
    done = subprocess.run([script(command), "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"Usage: {command} ")
    assert done.stderr == ""


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
