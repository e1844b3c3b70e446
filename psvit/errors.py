"""The one error that means "what you gave me cannot work", as opposed to a defect of this package."""

from __future__ import annotations


class InputError(ValueError):
    """Input from outside (a file, a budget, an option, a folder) that breaks a rule.

    The message is one line: what was wrong, what was received, what is permitted. Commands print it and exit with
    status 2; every other exception is a defect and keeps its traceback.
    """
