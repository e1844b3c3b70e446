"""Pages that go a whole way are true: their commands run in turn as they stand there, and say what is shown, but for
numbers."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"

NUMBER = re.compile(r"\d+(,\d{3})*(\.\d+)?(e[+-]?\d+)?( [kM](?=FLOPs|params)| (s|min|h)\b)?")
REFERENCE = re.compile(r"(DeiT|PiT|HVT)-like, (patch|conv) stem, # layers|evenly pooled, # x avg")
VERDICT = re.compile(r"^(verdict: |cannot tell |adapting the supernet |trial # is # points (ahead of|behind) ).*")
CLASS = re.compile(r"(, \(?'?|\.png: )(zero|one|two|three|four|five|six|seven|eight|nine)\b")


def gist(output):
    """The lines of an output without what differs from machine to machine.

    These are numbers and durations, which digit a network takes an image for, which network is at which place, what
    the verdict is, and how many rows of a kind there are.
    """
    lines = [" ".join(line.split()) for line in output.splitlines() if line.strip(" ─")]
    masked = (CLASS.sub(r"\1another", NUMBER.sub("#", line)) for line in lines)
    named = (VERDICT.sub("verdict", REFERENCE.sub("trial #", line)) for line in masked)
    return [line for line, _ in itertools.groupby(named)]


def commands(page):
    """What a page runs, each with its language and what it is said to print, if anything is."""
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    return [
        (language, text, after[1] if after[0] == "text" else None)
        for (language, text), after in zip(blocks, [*blocks[1:], ("", "")], strict=True)
        if language in ("sh", "python") and not text.startswith("pip install")  # the tests have it all
    ]


def test_the_gist_of_an_output_is_what_is_said_and_not_its_numbers():
    said = "trial 50   96.76 ± 0.80 %\ntrial 97   96.06 ± 1.06 %\n\n ───\n6,468 of [('three', 0.9), ('zero', 1e-07)]"
    assert gist(said) == ["trial # # ± # %", "# of [('three', #), ('another', #)]"]
    assert gist(said) == gist("  trial 1 9 ± 8 %\n6 of [('three', 1), ('nine', 0.25)]\n")
    assert gist(said) != gist("trial 1 9 ± 8 %\nnot measured\n6 of [('three', 1), ('nine', 0.25)]")
    assert gist("verdict: cannot tell\nHVT-like, conv stem, 5 layers 61 %") == ["verdict", "trial # # %"]
    assert gist("accuracy 92, trial 3 of 6,468") == gist("accuracy 9.25, trial 1 of 8")
    assert gist("val/a/7.png: eight 91 %, two 1 %") == gist("val/a/7.png: one 57 %, eight 33 %")
    assert gist("time: 4 min (scoring 59 s)") == gist("time: 1.2 h (scoring 3 min)")


@pytest.mark.parametrize(
    "page",
    [
        pytest.param("tutorial.md", marks=pytest.mark.slow(seconds=150)),
        pytest.param("compress.md", marks=pytest.mark.slow(seconds=150)),
    ],
)
@pytest.mark.timeout(3600)
def test_every_command_of_a_page_runs_and_says_what_is_shown(page, tmp_path, python):
    assert len(commands(page)) > 5
    environment = {**os.environ, "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"}
    environment.pop("COLUMNS", None)  # it may be set here, and tables would be as narrow as that
    different = []
    for language, code, shown in commands(page):
        command = ["bash", "-euo", "pipefail", "-c", code] if language == "sh" else [python, "-c", code]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        # 141 is what a command ends with whose reader, such as head, has seen enough.
        assert done.returncode in (0, 141), f"{code}\n{done.stdout}\n{done.stderr}"
        if shown is not None and gist(shown) != gist(done.stdout):
            different.append(f"{code}\nshown:\n{shown}\nsaid:\n{done.stdout}")
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
