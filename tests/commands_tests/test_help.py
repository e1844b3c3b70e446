"""`--help` says what the numbers mean; what it waits for, `test_imports.py` says."""

from __future__ import annotations

import os
import re
import subprocess

import click
import pytest

from psvit.commands.cli import EXAMPLES, load
from psvit.search.cli import EVALUATORS, SEARCHERS
from psvit.search.request import NAMED
from psvit.search.searchers import SEARCHERS as KNOWN

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


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_stands_under_one_heading(command):
    found = load(command.removeprefix("psvit-"))
    names = {str(parameter.name) for parameter in found.params}
    grouped = [name for group in found.groups.values() for name in group]
    assert len(set(grouped)) == len(grouped)
    assert set(grouped) <= names
    with click.Context(found) as context:
        text = found.get_help(context)
    for parameter in found.params:
        if isinstance(parameter, click.Option):
            assert len(re.findall(rf"^  (-\w, )?{parameter.opts[-1]}(?![\w-])", text, re.MULTILINE)) == 1
    assert found.examples
    assert all(example in text for example in found.examples)


def test_what_a_shell_completes_is_what_is_known():
    assert set(EVALUATORS) == set(NAMED)
    assert set(SEARCHERS) == set(KNOWN)


@pytest.mark.parametrize(
    ("variable", "words", "expected"),
    [
        ("_PSVIT_SEARCH_COMPLETE", "psvit-search --searcher evo", ["evolution"]),
        ("_PSVIT_SEARCH_COMPLETE", "psvit-search --evaluator d", ["dss"]),
        ("_PSVIT_SEARCH_COMPLETE", "psvit-search --space psvit-2d-d", ["psvit-2d-digits"]),
        ("_PSVIT_RETRAIN_COMPLETE", "psvit-retrain --recipe inherited-", ["inherited-digits"]),
        ("_PSVIT_COMPLETE", "psvit pre", ["predict"]),
    ],
)
def test_shells_complete_commands_options_and_values(script, variable, words, expected):
    number = str(len(words.split()) - 1)
    environment = {**os.environ, variable: "bash_complete", "COMP_WORDS": words, "COMP_CWORD": number}
    done = subprocess.run([script(words.split()[0])], env=environment, capture_output=True, text=True)
    assert [line.partition(",")[2] for line in done.stdout.splitlines()] == expected


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
        assert all(f"\n  {example}\n" in done.stdout for example in EXAMPLES)
    for example in EXAMPLES:
        _, name, *words = example.split()
        known = {option for parameter in load(name).params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known
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


@pytest.mark.parametrize(
    ("command", "slip"),
    [
        ("psvit-search", ("--budget", "2GFLOPS2")),
        ("psvit-search", ("--budget", "2GFLOPs", "--time", "soon")),
        ("psvit-search", ("--budget", "2GFLOPs", "--data", "digits", "--set", "epochs")),
        ("psvit-fidelity", ("--supernet", "run", "--budget", "2GFLOPS2")),
    ],
)
def test_a_slip_is_answered_before_pytorch_is_loaded(python, script, command, slip):
    # PyTorch takes seconds to load; here, loading it fails.
    code = "import runpy, sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], "
    code += "run_name='__main__')"
    done = subprocess.run([python, "-c", code, script(command), *slip], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert slip[-1] in done.stderr
