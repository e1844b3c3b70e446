"""Executors: where independent pieces of work are done, one after the other or at once.

What is done is a function of an item. Both travel to where the work is done, so they pickle; what is large stays where
it is (`Portable`).
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
    """What came of an item.

    Attributes:
        value: the result; `None` if the work failed.
        failure: why it failed.
    """

    value: Result | None = None
    failure: str = ""


class Executor(Protocol):
    """Does work on items."""

    def run(self, work: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[tuple[Item, Outcome[Result]]]:
        """Do the work on every item.

        A `RunError`, memory that ran out, and a process that was lost time after time are outcomes of their item: they
        may be the machine's doing, or the item's alone. Whatever else the work raises is raised here.

        Args:
            work: the work; it pickles.
            items: the items, which pickle as well. An executor may ask for the next only when it can begin with it.

        Yields:
            Each item with its outcome, as soon as that is known.
        """
        ...


class LocalExecutor:
    """Works in this process, one item after the other; the next is asked for when the one before is done."""

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
    """A value that is too large to travel: what is pickled is how to make it, which is done where it is asked for.

    Args:
        make: makes the value; it pickles.
        made: the value, if this process has it already.
    """

    def __init__(self, make: Callable[[], T], made: T | None = None) -> None:
        self._make = make
        self._made = made

    def get(self) -> T:
        """The value, made when it is asked for the first time."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def __reduce__(self) -> tuple[Any, ...]:
        return Portable, (self._make,)
