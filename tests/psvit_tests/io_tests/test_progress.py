"""Progress bars: rate and time left however slow the steps are, log lines above the bar, lines off a terminal."""

from __future__ import annotations

import io
import logging
import re
from contextlib import contextmanager, redirect_stderr
from functools import partial

import pytest
from rich.console import Console

from psvit.cli import set_up_logging
from psvit.io.announcements import Silence
from psvit.io.progress import in_time, progress_bar


class Clock:
    """Time that passes when it is told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    """Standard error that is a terminal."""

    def isatty(self):
        return True

    @property
    def rows(self):
        """What stands on it in the end, without what was overwritten: a bar moves up and rewrites its line."""
        rows, place = [""], 0
        for part in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)", self.getvalue()):
            if part == "\n":
                place += 1
                rows += [""] * (place + 1 - len(rows))
            elif part == "\x1b[2K":
                rows[place] = ""
            elif match := re.fullmatch(r"\x1b\[(\d+)A", part):
                place -= int(match[1])
            elif part == "\r":
                continue
            elif not part.startswith("\x1b"):
                rows[place] += part
        return [row.rstrip() for row in rows if row.strip()]


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def terminal(monkeypatch):
    """A wide terminal, to be standard error; pytest puts its own there after the fixtures."""
    for name in ("NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm", "COLUMNS": "160", "LINES": "40"}.items():
        monkeypatch.setenv(name, value)
    return Terminal()


def last(terminal):
    return terminal.rows[-1]


@pytest.mark.parametrize(
    ("seconds", "rate", "left"),
    [
        # 32 of 256 in the first step, so 224 are left.
        (1, "32.0 trials/s", "0:00:07"),
        (31, "1.0 trials/s", "0:03:37"),
        (100, "19.2 trials/min", "0:11:40"),
        (1600, "1.2 trials/min", "3:06:40"),
        (14400, "8.0 trials/h", "28:00:00"),
    ],
)
def test_rate_and_time_left_appear_after_the_first_step_however_long_it_takes(terminal, clock, seconds, rate, left):
    with redirect_stderr(terminal), progress_bar("search", 256, "trials", clock=clock) as advance:
        clock.now += seconds
        advance(32, "best 71.5")
    assert "search" in last(terminal)
    assert "32/256" in last(terminal)
    assert rate in last(terminal)
    assert left in last(terminal)
    assert last(terminal).endswith("best 71.5")


def test_what_was_done_before_is_no_part_of_the_rate(terminal, clock):
    with redirect_stderr(terminal), progress_bar("search", 256, "trials", done=128, clock=clock) as advance:
        for _ in range(2):
            clock.now += 64
            advance(32, "")
    assert "192/256 30.0 trials/min 0:02:08" in last(terminal)


def test_nothing_is_known_before_anything_is_done(terminal, clock):
    with redirect_stderr(terminal), progress_bar("search", 256, "trials", done=128, clock=clock):
        clock.now += 64
    assert "128/256" in last(terminal)
    assert "trials/" not in last(terminal)
    assert "-:--:--" in last(terminal)


def test_the_rate_follows_the_last_thousand_steps(terminal, clock):
    with redirect_stderr(terminal), progress_bar("training", 10**6, "images", clock=clock) as advance:
        for seconds in [10.0] * 1000 + [1.0] * 1100:
            clock.now += seconds
            advance(100, "")
    assert "100.0 images/s" in last(terminal)


@pytest.fixture
def written(clock):
    """A stream that is no terminal, and bars that write to it."""
    stream = io.StringIO()
    Silence.begin(clock.now)
    yield stream, partial(progress_bar, console=Console(file=stream), clock=clock)
    Silence.begin()


def test_what_is_done_soon_says_nothing_where_there_is_no_terminal(written, clock):
    stream, bar = written
    with bar("search", 2, "trials") as advance:
        clock.now += 1
        advance(1, "")
    assert stream.getvalue() == ""


def test_where_there_is_no_terminal_a_line_comes_at_least_every_30_seconds(written, clock):
    stream, bar = written
    with bar("search", 1000, "trials", done=100) as advance:
        for _ in range(30):
            clock.now += 4
            advance(8, "best 71.5")
    assert stream.getvalue().splitlines() == [
        f"search: {done} of 1,000 trials, 2.0/s, {left}, best 71.5"
        for done, left in [(156, "7 min left"), (212, "7 min left"), (268, "6 min left"), (324, "6 min left")]
    ]


def test_of_many_short_steps_one_speaks_in_the_end(written, clock):
    stream, bar = written
    for number in range(4):
        with bar(f"training {number}", 100, "images") as advance:
            for _ in range(2):
                clock.now += 5
                advance(50, "")
    assert stream.getvalue() == "training 2: 50 of 100 images, 10.0/s, 5 s left\n"


def test_a_slow_step_is_told_of_when_it_is_done(written, clock):
    stream, bar = written
    with bar("search", 10, "trials") as advance:
        clock.now += 1800
        advance(1, "")
        clock.now += 1800
        advance(0, "")
    assert stream.getvalue().splitlines() == [
        "search: 1 of 10 trials, 2.0/h, 4.5 h left",
        "search: 1 of 10 trials, 1.0/h, 9.0 h left",
    ]


def test_what_goes_on_within_a_step_does_not_keep_the_steps_from_being_told(written, clock):
    stream, bar = written
    with bar("search", 4, "trials") as advance:
        for _ in range(4):
            with bar("score", 6, "images") as score:
                for _ in range(6):
                    clock.now += 10
                    score(1, "")
            advance(1, "best 3")
    said = stream.getvalue().splitlines()
    assert [line.partition(",")[0] for line in said if line.startswith("search")] == [
        f"search: {number} of 4 trials" for number in (1, 2, 3, 4)
    ]
    assert len([line for line in said if line.startswith("score")]) == 8


def test_durations_are_short():
    assert [in_time(seconds) for seconds in (0.2, 59, 61, 5000, 6000)] == ["1 s", "59 s", "1 min", "83 min", "1.7 h"]


def test_a_bar_within_another_has_a_line_of_its_own_and_goes_when_it_ends(terminal, clock):
    with redirect_stderr(terminal), progress_bar("search", 3, "trials", clock=clock) as advance:
        for trial in range(3):
            with progress_bar("score", 40, "images", clock=clock) as score:
                for _ in range(40):
                    clock.now += 1
                    score(1, "")
                *above, outer, inner = terminal.rows
                assert outer.startswith("search")
                assert f"{trial}/3" in outer
                assert inner.startswith("score")
                assert above == []
            advance(1, f"best {trial}")
    (line,) = terminal.rows
    assert "3/3" in line
    assert line.endswith("best 2")
    with redirect_stderr(terminal), progress_bar("another", 1, "trial", clock=clock) as advance:
        advance(1, "")
    assert last(terminal).startswith("another")


@contextmanager
def logging_anew():
    """Logging as a command sets it up, afterwards as it was before."""
    root, ours = logging.getLogger(), logging.getLogger("psvit")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    root.handlers = []
    set_up_logging(verbose=True)
    try:
        yield logging.getLogger("psvit.somewhere")
    finally:
        root.handlers = handlers
        root.setLevel(levels[0])
        ours.setLevel(levels[1])


def test_log_lines_stand_above_the_bar_and_never_on_its_line(terminal, clock):
    with logging_anew() as logger, redirect_stderr(terminal):
        logger.info("before")
        with progress_bar("search", 4, "trials", clock=clock) as advance:
            for step in range(3):
                clock.now += 40
                advance(1, "")
                logger.info("batch %d [bold] of many", step)
        logger.info("after")
    *lines, bar, after = terminal.rows
    assert [re.sub(r"^\S+ \S+ ", "", line) for line in lines] == [
        "psvit.somewhere: before",
        *(f"psvit.somewhere: batch {step} [bold] of many" for step in range(3)),
    ]
    assert bar.startswith("search")
    assert "3/4" in bar
    assert after.endswith("psvit.somewhere: after")


def test_log_lines_are_plain_where_there_is_no_terminal():
    stream = io.StringIO()
    with logging_anew() as logger, redirect_stderr(stream), progress_bar("search", 4, "trials") as advance:
        advance(1, "")
        logger.info("batch %d", 1)
    (line,) = stream.getvalue().splitlines()
    assert line.endswith(" psvit.somewhere: batch 1")
