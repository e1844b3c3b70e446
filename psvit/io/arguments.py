"""Arguments of functions, of which a wrong type or value is named, as of the command line's options."""

from __future__ import annotations

import math
import operator
import re
from typing import Any

from psvit.errors import InputError


def whole(name: str, value: Any, least: int = 0, most: int | None = None) -> int:
    """A whole number, NumPy's among them.

    Args:
        name: of the argument.
        value: of the argument.
        least: the smallest that is permitted.
        most: the largest; without one, all are.

    Raises:
        InputError: it is none, or too small or too large.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name} must be a whole number, received {value!r}") from None
    if number < least:
        raise InputError(f"{name} must be at least {least}, received {number}")
    if most is not None and number > most:
        raise InputError(f"{name} must be at most {most:,}, received {number}")
    return number


def positive(name: str, value: Any) -> float:
    """A number above 0, such as seconds.

    Raises:
        InputError: it is none.
    """
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not number > 0:
        raise InputError(f"{name} must be a number of more than 0, received {value!r}")
    return number


def several(name: str, value: Any, kinds: tuple[type, ...], permitted: str) -> tuple[Any, ...]:
    """One value or several as a tuple.

    Args:
        name: of the argument.
        value: of the argument: one of the kinds, or any number of them that can be iterated.
        kinds: permitted types.
        permitted: what these are, for people.

    Raises:
        InputError: something in it is of another type.
    """
    try:
        found = (value,) if isinstance(value, kinds) else tuple(value)
    except TypeError:
        found = (value,)
    for one in found:
        if not isinstance(one, kinds):
            raise InputError(f"{name}: must be {permitted}, or several of these; received {one!r}")
    return found


def read_image_size(given: int | str | tuple[int, int]) -> tuple[int, int]:
    """A size as users give it: 224, `224`, `96x64` (height x width), or a pair.

    Raises:
        InputError: it is none.
    """
    if isinstance(given, tuple | list):
        sides = [operator.index(side) if hasattr(side, "__index__") else side for side in given]
    else:
        sides = [int(side) for side in str(given).split("x")] if re.fullmatch(r"\d{1,5}(x\d{1,5})?", str(given)) else []
    if not sides or len(sides) > 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise InputError(f"image_size {given!r}: must be a side in pixels, or height and width, as in 224 and 96x64")
    return sides[0], sides[-1]
