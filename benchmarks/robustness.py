"""What becomes of runs that are killed, of commands that are started many times at once, and of damaged files.

    python benchmarks/robustness.py kills --out runs/robustness        kills a search 100 times, other commands 20 times
    python benchmarks/robustness.py starts --out runs/robustness       starts a search 300 times on one folder at once
    python benchmarks/robustness.py fuzz --out runs/robustness         damages 10,000 files
    python benchmarks/robustness.py show --out runs/robustness         prints what was found, as Markdown

`kills` starts a command, kills all of its processes (SIGKILL) when the first has used a random part of the processor
time that a whole run takes, from the first import to the last file, and starts the same line again. A run that ends is
compared with two that nothing stopped, and the next one begins in a new folder. `robust/kept.py` says what counts as
lost. No kill may cost more epochs than the longest training has; how many were trained again is shown.

`starts` forks its processes from one that has imported psvit, because 300 with a PyTorch of their own need more memory
than most machines have. They wait for one another, and then call the command as a shell would. So everything but the
import happens at once.

`fuzz` runs `tests/commands_tests/test_fuzz.py` with more cases and another seed.

Calls may be interrupted and repeated: they continue with what is written in the folder (`robustness.journal`). Linux
alone has the clock and the memory that are read here.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Semaphore
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from command_line import at_least, run_script
from robust.kept import Finished, look
from robust.lines import LINES, Line, prepare

from psvit.errors import InputError
from psvit.io.journal import Journal

KILLED = -signal.SIGKILL
EPOCH, STARTED = "psvit.train.train_log: epoch ", "started: "
"""What the log of a run says of an epoch that was trained, and of each start."""

COLUMNS = ("command", "seconds", "kills", "before a record", "runs", "epochs repeated a kill", "files equal", "wrong")
"""Of the table of kills: processor seconds of a whole run, kills before there was a record or checkpoint, runs that
ended by themselves, files that are equal to the last byte in whole runs, and how often something was wrong."""

PRELOADED = ["psvit.search.cli", "psvit.search.run", "psvit.search.report.document", "sklearn.linear_model"]
"""What processes that are forked have imported already: what a search imports."""

FUZZ = Path(__file__).resolve().parents[1] / "tests/commands_tests/test_fuzz.py"


def main() -> None:
    """Do what the first word says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    for action in (kills, starts, fuzz, show):
        one = actions.add_parser(action.__name__, help=(action.__doc__ or "").splitlines()[0])
        one.set_defaults(action=action)
        one.add_argument("--out", type=Path, required=True, help="folder of what is run and found")
        if action is kills:
            one.add_argument("--commands", nargs="+", choices=list(LINES), default=list(LINES))
            one.add_argument("--kills", type=at_least(1), help="of each; default: 100 of a search, 20 of others")
        if action is starts:
            one.add_argument("--processes", type=at_least(2), default=300)
        if action is fuzz:
            one.add_argument("--cases", type=at_least(1), default=10_000)
        if action in (kills, fuzz):
            one.add_argument("--seed", type=at_least(0), default=1)
    options = parser.parse_args()
    run_script(parser, options.action, options)


def _journal(options: argparse.Namespace) -> Journal:
    """What was found so far."""
    options.out = options.out.resolve()
    return Journal(options.out / "robustness.journal", {"schema": "robustness"})


def _add(journal: Journal, record: dict[str, Any]) -> None:
    journal.add(record)
    print(json.dumps(record), flush=True)


# --- kills


@dataclass(frozen=True)
class Attempt:
    """A command that was started once.

    Attributes:
        status: what it ended with, or `KILLED`.
        seconds: of the processor, that its first process had used when it was last looked at.
    """

    status: int
    seconds: float


def kills(options: argparse.Namespace) -> None:
    """Kill commands at random moments, repeat them, and say whether anything was lost."""
    journal = _journal(options)
    for name in options.commands:
        line = LINES[name]
        whole = _whole(line, options.out, journal)
        _kill_often(line, options.kills or line.kills, options, whole, journal)


def _whole(line: Line, out: Path, journal: Journal) -> Finished:
    """What two runs that nothing stops come to, and how long the second of them takes; they run if they have not."""
    prepare(out, line, lambda words, folder: _run(words, folder))
    folders = [out / line.name / f"whole-{number}" for number in range(2)]
    known = next((record for record in journal.records if record.get("whole") == line.name), None)
    if known is None:
        for folder in folders:
            _begin(line, folder, out)
            attempt = _run(line.words, folder)
            if attempt.status:
                raise InputError(f"{line.name}: ended with status {attempt.status}; {_log(folder)} says why")
        text = _log(folders[1]).read_text()
        longest = max((int(part.split(",")[0]) for part in text.split(EPOCH)[1:]), default=0)
        known = {"whole": line.name, "seconds": attempt.seconds, "epochs": text.count(EPOCH), "longest": longest}
        _add(journal, {**known, "equal": sorted(Finished.of(folders, **_figures(known)).same)})
    return Finished.of(folders, **_figures(known))


def _figures(known: dict[str, Any]) -> dict[str, Any]:
    return {name: known[name] for name in ("seconds", "epochs", "longest")}


def _kill_often(line: Line, wanted: int, options: argparse.Namespace, whole: Finished, journal: Journal) -> None:
    """Kill a command so often, and bring the run that was killed last to its end."""
    while True:
        statuses = [record["status"] for record in journal.records if record.get("killed") == line.name]
        killed = statuses.count(KILLED)
        is_begun = bool(statuses) and statuses[-1] == KILLED
        if killed >= wanted and not is_begun:
            return
        folder = options.out / line.name / f"{len(statuses) - killed}"
        if not is_begun:
            _begin(line, folder, options.out)
        rng = np.random.default_rng([options.seed, zlib.crc32(line.name.encode()), len(statuses)])
        limit = rng.uniform(0, whole.seconds) if killed < wanted else float("inf")
        before = look(folder)
        attempt = _run(line.words, folder, limit, late=rng.uniform(0, 0.02))
        after = look(folder)
        wrong = [*before.lost(after), *after.unreadable]
        record = {"killed": line.name, "status": attempt.status, "seconds": attempt.seconds}
        record |= {"before": before.num_records, "after": after.num_records, "documents": len(after.documents)}
        if attempt.status != KILLED:
            log = _log(folder).read_text()
            record |= {"epochs": log.count(EPOCH), "begun": log.count(STARTED)}
            wrong += _wrong_in_the_end(attempt, folder, whole)
            if not wrong:
                shutil.rmtree(folder)
        _add(journal, {**record, "wrong": wrong})


def _wrong_in_the_end(attempt: Attempt, folder: Path, whole: Finished) -> list[str]:
    """What is wrong with a run that has ended, however often it was killed before."""
    log = _log(folder).read_text()
    if attempt.status:
        return [f"ended with status {attempt.status}: {log.splitlines()[-1]}"]
    epochs, restarts = log.count(EPOCH), log.count(STARTED) - 1
    too_many = epochs > whole.epochs + restarts * whole.longest
    repeated = [f"{epochs} epochs with {restarts} kills, {whole.epochs} without"] if too_many else []
    return whole.differences(folder) + repeated


def _log(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.log")


def _begin(line: Line, folder: Path, out: Path) -> None:
    """Make a new folder with what the command needs."""
    shutil.rmtree(folder, ignore_errors=True)
    _log(folder).unlink(missing_ok=True)
    folder.mkdir(parents=True)
    for name in line.copied:
        shutil.copytree(out / "inputs" / name, folder / name)


def _run(words: Sequence[str], folder: Path, limit: float = float("inf"), late: float = 0.0) -> Attempt:
    """Run a command to its end, or kill it `late` seconds after its first process has used so much of the processor."""
    with _log(folder).open("ab") as said:
        said.write(f"{STARTED}{' '.join(words)}\n".encode())
        said.flush()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "psvit", *words],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
        )  # fmt: skip
    try:
        while (used := _processor_seconds(process.pid)) < limit and process.poll() is None:
            time.sleep(0.005)
        time.sleep(late)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return Attempt(process.wait(), used)


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- simultaneous starts


def starts(options: argparse.Namespace) -> None:
    """Start a search many times at once on one folder, and say who gets in."""
    journal, line = _journal(options), LINES["search"]
    whole = _whole(line, options.out, journal)
    folder, said = options.out / "starts" / "run", options.out / "starts" / "said"
    _begin(line, folder, options.out)
    shutil.rmtree(said, ignore_errors=True)
    said.mkdir()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    ready, (gate, opener) = context.Semaphore(0), context.Pipe(duplex=False)
    processes = [
        context.Process(target=start, args=(ready, gate, line.words, folder, said / f"{number:03}.txt"))
        for number in range(options.processes)
    ]
    for process in processes:
        process.start()
    for _ in processes:
        ready.acquire()
    opener.close()
    for process in processes:
        process.join()
    ended = [json.loads(path.read_text()) for path in sorted(said.glob("*.json"))]
    refused = [one for one in ended if one["status"] == 2]
    most = {
        f"most {name}": max((one[name] for one in refused), default=None)
        for name in ("seconds", "processor_seconds", "own_mb", "rss_mb")
    }
    wrong = [*_wrong_starts(options.processes, ended), *look(folder).unreadable, *whole.differences(folder)]
    statuses = dict(Counter(str(one["status"]) for one in ended))
    _add(journal, {"starts": options.processes, "statuses": statuses, **most, "wrong": wrong})


def start(ready: Semaphore, gate: Connection, words: Sequence[str], folder: Path, said: Path) -> None:
    """Call a search when the gate is opened for all, and write down how it ended; in a process of its own."""
    from psvit.search.cli import main as command

    gc.freeze()  # what is looked through for garbage is not shared any more with the process that was forked
    os.chdir(folder)
    with said.open("wb", buffering=0) as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.argv = [f"psvit-{words[0]}", *words[1:]]
    ready.release()
    gate.poll(None)  # the end of the pipe is seen by all at the same moment
    released, used = time.monotonic(), time.process_time()
    status: object = None
    try:
        command()
    except SystemExit as ended:
        status = ended.code or 0
    finally:
        sys.stdout.flush()
        memory = Path("/proc/self/smaps_rollup").read_text().splitlines()
        outcome = {
            "status": status,
            "seconds": time.monotonic() - released,
            "processor_seconds": time.process_time() - used,
            "own_mb": sum(int(line.split()[1]) for line in memory if line.startswith("Private_")) / 1024,
            "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "lines": said.read_text().splitlines(),
        }
        said.with_suffix(".json").write_text(json.dumps(outcome))


def _wrong_starts(processes: int, ended: list[dict[str, Any]]) -> list[str]:
    """What is wrong with how processes ended that began at once."""
    statuses = Counter(one["status"] for one in ended)
    wrong = [] if statuses == {0: 1, 2: processes - 1} else [f"of {processes}, so many ended with: {dict(statuses)}"]
    # On a machine that is as busy as that, some also say how far they are with reading images.
    errors = [[line for line in one["lines"] if not line.startswith("reading ")] for one in ended if one["status"]]
    return wrong + [f"said: {said}" for said in errors if len(said) != 1 or "another process is at work" not in said[0]]


# --- damaged files


def fuzz(options: argparse.Namespace) -> None:
    """Damage files by the thousand, and say how long and how much memory reading one takes at most."""
    journal, results = _journal(options), options.out / "fuzz.xml"
    results.unlink(missing_ok=True)
    subprocess.run(
        [sys.executable, "-P", "-m", "pytest", FUZZ, "-m", "slow", "-n", "0", "--timeout", "0", "--junitxml", results],
        env={**os.environ, "PSVIT_FUZZ_CASES": str(options.cases), "PSVIT_FUZZ_SEED": str(options.seed)},
        check=False,
    )  # fmt: skip
    if not results.exists():
        raise InputError(f"{FUZZ}: pytest did not run it")
    test = next(one for one in ElementTree.parse(results).iter("testcase"))
    measured = {one.attrib["name"]: one.attrib["value"] for one in test.iter("property")}
    wrong = [str(one.get("message")) for kind in ("failure", "error") for one in test.iter(kind)]
    whole_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    _add(journal, {"fuzz": options.cases, "seed": options.seed, **measured, "process_mb": whole_mb, "wrong": wrong})


# --- what was found


def show(options: argparse.Namespace) -> None:
    """Print what was found, as Markdown."""
    records = _journal(options).records
    libraries = ", ".join(f"{name} {version(name)}" for name in ("psvit", "torch", "optuna"))
    print(f"Python {platform.python_version()}, {libraries}, {os.cpu_count()} CPUs\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for known in records:
        if "whole" in known:
            print(f"| {' | '.join(_row(known, records))} |")
    for one in records:
        if "starts" in one or "fuzz" in one:
            print("; ".join(f"{name} {_shown(value)}" for name, value in one.items()))
    for one in records:
        for what in one.get("wrong", ()):
            print(f"{one.get('killed', '')}: {what}")


def _row(known: dict[str, Any], records: list[dict[str, Any]]) -> list[str]:
    """What was found about a command that was killed."""
    tried = [one for one in records if one.get("killed") == known["whole"]]
    killed = [one for one in tried if one["status"] == KILLED]
    ended = [one for one in tried if one["status"] != KILLED]
    repeated = sum(max(0, one["epochs"] - known["epochs"]) for one in ended) / max(1, len(killed))
    wrong = sum(bool(one["wrong"]) for one in tried)
    early = sum(one["after"] == 0 for one in killed)
    figures = (len(killed), early, len(ended), f"{repeated:.2f}", len(known["equal"]), wrong)
    return [f"`psvit-{known['whole']}`", f"{known['seconds']:.1f}", *map(str, figures)]


def _shown(value: object) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which ends what it runs as well
    main()
