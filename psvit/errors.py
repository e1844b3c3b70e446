"""The errors that a command answers with one line instead of a traceback."""

from __future__ import annotations


class InputError(ValueError):
    """Input from outside (a file, a budget, an option, a folder) that breaks a rule.

    The message is one line: what was wrong, what was received, what is permitted. Commands print it and exit with
    status 2; every other exception is a defect, whose traceback they keep in a file.

    Attributes:
        is_shared: whether each of several processes that `torchrun` started finds it, so that one of them may speak
            for all; a corrupt image is found by the one that reads it.
    """

    is_shared = True

    def __init__(self, message: str) -> None:
        # What was received may hold line breaks.
        super().__init__(" ".join(message.splitlines()))


class RunError(RuntimeError):
    """A run that could not come to its end although nothing was wrong with its input.

    Commands print the line and exit with status 1.
    """


class DivergedError(RunError):
    """Training came to a loss or to weights that are no numbers."""


class ShortMemoryError(RunError):
    """Training needs more memory than the device has."""


class NoisyMachineError(RunError):
    """Repeated measurements differ too much to say how long something takes."""


class MismatchError(RunError):
    """A runtime gives other outputs than the network it was given."""


class LostWorkersError(RunError):
    """Workers on a cluster do not start, or are lost for good; the same command continues on other workers."""


class UnmetBudgetError(RunError):
    """Nothing that was found keeps a limit that only measuring can tell."""
