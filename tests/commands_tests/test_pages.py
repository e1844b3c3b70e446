"""What pages show is true: their commands and programs run as they stand there, and say what is shown, but for numbers.

Pages that go a whole way run with all that they ask for. On the others, trainings are short and digits are few, which
changes no word of what is run. A command that cannot run here has a comment before its block,
`<!-- not run: REASON -->`; then the commands' own parsers read its options, and what has names is looked up.
"""

from __future__ import annotations

import argparse
import builtins
import contextlib
import itertools
import os
import re
import runpy
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from ray import cloudpickle

cloudpickle.register_pickle_by_value(sys.modules[__name__])

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

WHOLE = ("tutorial.md", "compress.md")
"""Pages that run with all that they ask for."""

BRIEFLY = (
    "README.md",
    "index.md",
    "architecture.md",
    "budgets.md",
    "guide.md",
    "spaces.md",
    "python.md",
    "extending.md",
)
"""Pages that run with short trainings, in this order and in one folder, so that others find what one has made."""

PAGES = sorted({"README.md", "CONTRIBUTING.md", *(path.name for path in DOCS.glob("*.md"))})

BLOCK = re.compile(r"^(?:<!-- not run: ([^\n]+) -->\n)?^```(\w*)\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", re.M | re.S)

OTHERS = {".", "cd", "eval", "git", "head", "ls", "mkdocs", "optuna-dashboard", "pytest", "ruff", "tensorboard"}
"""Programs that pages may name, besides psvit's, Python's and pip."""

NUMBER = re.compile(r"\d+(,\d{3})*(\.\d+)?(e[+-]?\d+)?( [kM](?=FLOPs|params)| (s|min|h)\b)?")
REFERENCE = re.compile(r"(DeiT|PiT|HVT)-like, (patch|conv) stem, # layers|evenly pooled, # x avg")
VERDICT = re.compile(r"^(verdict: |The delivered network |Adapting the supernet ).*")
CAUTION = re.compile(r"^(it|the network that was found) is [\d.]+ points worse")
THREADS = re.compile(r"# threads?\b")
CLASS = re.compile(r"(, \(?'?|\.png: )(zero|one|two|three|four|five|six|seven|eight|nine)\b")


@dataclass(frozen=True, kw_only=True)
class Block:
    """What a page shows to be run.

    Attributes:
        page: its name.
        language: `sh` or `python`.
        text: the commands or the program.
        shown: what it is said to print, if that stands right below.
        reason: why it is not run here; `None` if it is.
    """

    page: str
    language: str
    text: str
    shown: str | None
    reason: str | None

    @property
    def calls(self) -> list[list[str]]:
        """The words of each command of a shell's lines, without what is set before it."""
        text = re.sub(r"<<'(\w+)'\n.*?^\1$", "", self.text.replace("\\\n", " "), flags=re.M | re.S)
        parts = (part for line in text.splitlines() for part in re.split(r"&&|\|", line))
        words = (shlex.split(part, comments=True) for part in parts)
        return [[*itertools.dropwhile(lambda word: re.match(r"\w+=", word), found)] for found in words if found]


def path_of(page):
    return (ROOT if page in ("README.md", "CONTRIBUTING.md") else DOCS) / page


def blocks(page):
    """What a page shows to be run, in order."""
    found = BLOCK.finditer(path_of(page).read_text())
    return [
        Block(page=page, language=one[2], text=one[3], shown=one[4], reason=one[1])
        for one in found
        if one[2] in ("sh", "python")
    ]


def gist(output):
    """The lines of an output without what differs from machine to machine, and with the number of images.

    These are numbers and durations, which digit a network takes an image for, which network is at which place, what
    the verdict is, how many rows of a kind there are, and whether a network is worse than a linear model.
    """
    lines = [" ".join(line.split()) for line in output.splitlines() if line.strip(" ─") and not CAUTION.search(line)]
    masked = (CLASS.sub(r"\1another", THREADS.sub("# threads", NUMBER.sub("#", line))) for line in lines)
    named = (VERDICT.sub("verdict", REFERENCE.sub("trial #", line)) for line in masked)
    return [line for line, _ in itertools.groupby(named)]


def test_the_gist_of_an_output_is_what_is_said_and_not_its_numbers():
    said = "trial 50   96.76 ± 0.80 %\ntrial 97   96.06 ± 1.06 %\n\n ───\n6,468 of [('three', 0.9), ('zero', 1e-07)]"
    assert gist(said) == ["trial # # ± # %", "# of [('three', #), ('another', #)]"]
    assert gist(said) == gist("  trial 1 9 ± 8 %\n6 of [('three', 1), ('nine', 0.25)]\n")
    assert gist(said) != gist("trial 1 9 ± 8 %\nnot measured\n6 of [('three', 1), ('nine', 0.25)]")
    assert gist("verdict: trial 2 gained\nHVT-like, conv stem, 5 layers 61 %") == ["verdict", "trial # # %"]
    assert gist("accuracy 92, trial 3 of 6,468") == gist("accuracy 9.25, trial 1 of 8")
    assert gist("val/a/7.png: eight 91 %, two 1 %") == gist("val/a/7.png: one 57 %, eight 33 %")
    assert gist("time: 4 min (scoring 59 s)") == gist("time: 1.2 h (scoring 3 min)")


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is_and_is_run_or_says_why_not(page):
    fences = re.findall(r"^```(.*)$", path_of(page).read_text(), re.M)
    assert set(fences[1::2]) <= {""}
    assert set(fences[::2]) <= {"sh", "python", "text", "yaml"}
    marks = re.findall(r"^<!-- not run:", path_of(page).read_text(), re.M)
    assert len(marks) == sum(block.reason is not None for block in blocks(page))
    if page not in (*WHOLE, *BRIEFLY):
        assert not to_run(page)
    assert all(block.reason is None for block in blocks(page) if block.language == "python")


def read_options(command, words):
    """Read options as the command does, and look up what their values name."""
    from psvit.cli import read_duration, read_settings
    from psvit.executors.workers import Workers
    from psvit.io.shipped import find
    from psvit.search.cli import EVALUATORS, SEARCHERS
    from psvit.search.objectives import read_objectives
    from psvit.space.budget import Budget
    from psvit.space.search_space import SearchSpace
    from psvit.train.recipe import SupernetRecipe

    given = command.make_context(command.name, [*words]).params
    given = {name: value for name, value in given.items() if value not in (None, ())}
    assert given.get("evaluator", "trained") in EVALUATORS
    assert given.get("searcher", "random") in SEARCHERS
    read_duration("--time", given.get("time_text", "1s"))
    for name in ("settings", "supernet_settings"):
        assert read_settings(given.get(name, ())).keys() <= SupernetRecipe.model_fields.keys()
    read_objectives(given.get("objectives_text", "score").split(","), "accuracy")
    for kind, name in (("space", "space_name"), ("recipe", "recipe"), ("recipe", "supernet_recipe")):
        if not given.get(name, ".yaml").endswith(".yaml"):
            find(kind, given[name])
    Workers.parse(given.get("workers", "ray"))
    if budgets := given.get("budgets"):
        Budget.parse(*budgets, space=SearchSpace.load("psvit-1d-small"))


class Parsed(Exception):
    """A script has read its options."""


def check(words, monkeypatch):
    """Read the options of a call without running it."""
    from psvit.commands.cli import load

    program, *arguments = words
    if program.startswith("psvit-"):
        read_options(load(program.removeprefix("psvit-")), arguments)
    elif program == "torchrun":
        from torch.distributed.run import get_args_parser

        started = get_args_parser().parse_args(arguments)
        check([started.training_script, *started.training_script_args], monkeypatch)
    elif words[:3] == ["python", "-m", "venv"]:
        assert len(arguments) == 3
    elif program == "python":
        script, *arguments = arguments
        read = argparse.ArgumentParser.parse_args

        def parse(parser, *_):
            read(parser, arguments)
            raise Parsed

        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
        with pytest.raises(Parsed):
            runpy.run_path(str(ROOT / script), run_name="__main__")
        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", read)
    elif program == "pip":
        setup = ConfigParser()
        setup.read(ROOT / "setup.cfg")
        extras = {extra for word in arguments for extra in re.findall(r"[\w]+", "".join(re.findall(r"\[(.*)\]", word)))}
        assert extras <= {*setup["options.extras_require"]}
    else:
        assert program in OTHERS or (ROOT / program).is_file()


@pytest.mark.parametrize("page", PAGES)
def test_commands_have_the_options_that_pages_give_them(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for block in blocks(page):
        for words in block.calls if block.language == "sh" else ():
            if words[:2] != ["python", "-"] and words[0] != "cat":
                check(words, monkeypatch)


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_sentences_exist_and_have_such_options(page):
    from psvit.commands.cli import load

    text = re.sub(r"^```.*?^```", "", path_of(page).read_text(), flags=re.M | re.S)
    for said in re.findall(r"`(psvit-[a-z]+ [^`]+)`", text):
        name, *words = said.split()
        known = {option for parameter in load(name.removeprefix("psvit-")).params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known | {"--help"}


def test_the_reference_and_the_site_leave_nothing_out():
    import psvit

    named = re.findall(r"^::: psvit\.(\w+)$", (DOCS / "reference.md").read_text(), re.M)
    assert sorted(named) == sorted({*psvit.__all__} - {"__version__"})
    nav = re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert {*nav} == {*(path.name for path in DOCS.glob("*.md")), "contributing.md", "changelog.md"}


def test_links_of_the_readme_lead_somewhere():
    """Those of all other pages are followed when the site is built."""
    links = re.findall(r"\]\((?!\w+:)([^)#]+)(?:#([^)]+))?\)", (ROOT / "README.md").read_text())
    assert len(links) > 10
    for target, anchor in links:
        assert (ROOT / target).exists()
        if anchor:
            headings = re.findall(r"^#+ (.*)$", (ROOT / target).read_text(), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [pytest.param(page, marks=pytest.mark.slow(seconds=150)) for page in WHOLE])
@pytest.mark.timeout(3600)
def test_every_command_of_a_page_runs_and_says_what_is_shown(page, tmp_path, python):
    shown = [block for block in to_run(page) if not block.text.startswith("pip install")]
    assert len(shown) > 5
    environment = {**os.environ, "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"}
    environment.pop("COLUMNS", None)  # it may be set here, and tables would be as narrow as that
    different = []
    for block in shown:
        code = block.text
        command = ["bash", "-euo", "pipefail", "-c", code] if block.language == "sh" else [python, "-c", code]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        # 141 is what a command ends with whose reader, such as head, has seen enough.
        assert done.returncode in (0, 141), f"{code}\n{done.stdout}\n{done.stderr}"
        if block.shown is not None and gist(block.shown) != gist(done.stdout):
            different.append(f"{code}\nshown:\n{block.shown}\nsaid:\n{done.stdout}")
        if code.startswith("python - <<") and "train_test_split" in code:
            # With a sixth of the images every training takes a sixth of the time, and only numbers are others.
            for folder in (tmp_path / "images/train").iterdir():
                for number, path in enumerate(sorted(folder.iterdir())):
                    if number % 6:
                        path.unlink()
    assert not different, "\n".join(different)
    if page == "tutorial.md":
        assert (tmp_path / "runs/network/network-onnx/network.onnx").is_file()
        assert len((tmp_path / "runs/front-networks/networks.csv").read_text().splitlines()) > 2


SHORTLY = """
import functools
import numpy as np
import psvit
import psvit.data.sources
import sklearn.datasets
from psvit.retrain import run as retraining
from psvit.search import estimate, run as search
from psvit.supernet import run as training
from psvit.search.latency import measure
from psvit.train.recipe import Recipe

def briefly(module, name, **instead):
    whole = getattr(module, name)

    @functools.wraps(whole)
    def call(*args, **given):
        has_images = any(given.get(key) for key in ("data", "supernet"))
        scored = has_images or any(given.get(key) for key in ("evaluator", "searcher"))
        # Where nothing scores candidates, there are no trials, and without images nothing is trained.
        fits = {"trials": scored or len(given.get("objectives", ())) > 1, "recipe": has_images}
        for key, value in instead.items():
            if given.get(key) in (None, (), {}) and fits.get(key, True):
                given[key] = value
        if "seconds" in given:
            given["seconds"] = None
        return whole(*args, **given)

    setattr(module, name, call)

short = Recipe(epochs=4, batch_size=128, lr=0.002, interpolation="bilinear")
few = {"epochs": 2, "warmup_epochs": 0, "batch_size": 128}
briefly(search, "run_search", trials=4, recipe=short, supernet_settings={})
briefly(retraining, "retrain_network", settings=few)
briefly(retraining, "retrain_networks", settings=few)
briefly(training, "train_supernet", settings=few)
estimate._measured = lambda *args: 0.001
measure.MAX_SPREAD = measure.MAX_PREEMPTIONS = np.inf  # latencies of a busy machine will do
measure.SECONDS = 0.01
digits = sklearn.datasets.load_digits()
chosen = np.concatenate([np.flatnonzero(digits.target == digit)[:40] for digit in range(10)])
table = np.column_stack([digits.data, digits.target])[chosen]
psvit.data.sources.read_digits = lambda: table
digits.update(images=digits.images[chosen], data=digits.data[chosen], target=digits.target[chosen])
sklearn.datasets.load_digits = lambda **given: (digits.data, digits.target) if given.get("return_X_y") else digits
"""
"""What makes searches and trainings of a process brief, and gives it 40 digits a class."""


@contextlib.contextmanager
def printing_to(file: Path) -> Iterator[None]:
    with file.open("w") as out, contextlib.redirect_stdout(out):
        yield


def to_run(page):
    return [block for block in blocks(page) if block.reason is None]


def run_page(page, folder, shortly):
    """Run what a page shows in this process, whose searches and trainings are made brief; what is printed is kept."""
    import logging

    from psvit.cli import run
    from psvit.commands.cli import load

    os.chdir(folder)
    exec(shortly, {})
    names = {"__name__": "__main__", "__builtins__": builtins}
    environment = {**os.environ, "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"}
    for number, block in enumerate(to_run(page)):
        with printing_to(folder / f"{page}.{number}.txt"):
            if block.language == "python":
                exec(compile(block.text, f"{page}, program {number}", "exec"), names)
                continue
            for line in block.text.splitlines():
                words = shlex.split(line)
                if not words[0].startswith("psvit-") or {"&&", "|", ";"} & {*words}:
                    done = subprocess.run(["bash", "-euc", line], env=environment, capture_output=True, text=True)
                    print(done.stdout, end="")
                    assert done.returncode == 0, done.stderr
                    continue
                sys.argv = words
                with pytest.raises(SystemExit) as ended:
                    run(load(words[0].removeprefix("psvit-")), words[1:])
                assert ended.value.code == 0, line
                logging.getLogger("psvit.announcements").handlers = []


@pytest.mark.slow(seconds=100)
@pytest.mark.timeout(1800)
def test_what_pages_show_runs_with_short_trainings(make_process, tmp_path, few_digits):
    os.symlink(f"{few_digits}/val/3", tmp_path / "FOLDER")
    for name in ("IMAGE", "image.png"):
        os.symlink(f"{few_digits}/val/3/30.png", tmp_path / name)
    different = []
    for page in BRIEFLY:
        process = make_process(run_page, page, tmp_path, SHORTLY)
        process.start()
        process.join()
        assert process.exitcode == 0, page
        for number, block in enumerate(to_run(page)):
            said = (tmp_path / f"{page}.{number}.txt").read_text()
            if block.shown is not None and gist(block.shown) != gist(said):
                different.append(f"{block.text}\nshown:\n{block.shown}\nsaid:\n{said}")
    assert not different, "\n".join(different)


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.ipynb")), ids=lambda path: path.name)
def test_a_notebook_runs_and_holds_no_outputs(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(SHORTLY))
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert not [
        output for cell in notebook.cells for output in cell.get("outputs", ()) if output.output_type == "error"
    ]
