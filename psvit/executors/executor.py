"""Executors: do independent pieces of work, one after the other or at once, here or on a cluster.

A piece of work is a function and an item. Both may be sent to other processes, so both must pickle. Large values are
not sent; they are made again where they are needed (`Portable`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from psvit.executors.failures import failure_of

Item = TypeVar("Item")
Result = TypeVar("Result")
T = TypeVar("T")


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """The outcome of the work on one item.

    Attributes:
        value: the result; `None` if the work failed.
        failure: why the work failed; empty if it did not.
    """

    value: Result | None = None
    failure: str = ""


class Executor(Protocol):
    """Does work on items."""

    def at_once(self) -> int:
        """On how many items it works at the same time."""
        ...

    def run(self, work: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[tuple[Item, Outcome[Result]]]:
        """Do the work on every item.

        If the work raises a `RunError`, runs out of memory, or loses its process several times, only its item fails,
        because the item or the machine may be the cause. Any other exception is raised here.

        Args:
            work: the function that does the work; it pickles.
            items: the items, which pickle as well. The next one is asked for only when work on it can begin.

        Yields:
            Each item with its outcome, as soon as that is known.
        """
        ...


class LocalExecutor:
    """Works in this process, on one item after the other."""

    def at_once(self) -> int:
        """One."""
        return 1

    def run(self, work: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[tuple[Item, Outcome[Result]]]:
        """See `Executor`."""
        for item in items:
            yield item, attempt(work, item)


def attempt(work: Callable[[Item], Result], item: Item) -> Outcome[Result]:
    """Do the work on one item."""
    try:
        return Outcome(value=work(item))
    except Exception as error:
        failure = failure_of(error)
        if not failure:
            raise
        return Outcome(failure=failure)


class Portable(Generic[T]):
    """A value that is too large to be sent to other processes.

    Instead of the value, the function that makes it is pickled. Each process makes the value when it first needs it.

    Args:
        make: the function that makes the value; it pickles.
        made: the value, if this process has it already.
    """

    def __init__(self, make: Callable[[], T], made: T | None = None) -> None:
        self._make = make
        self._made = made

    def get(self) -> T:
        """The value. It is made at the first call."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def __reduce__(self) -> tuple[Any, ...]:
        return Portable, (self._make,)
