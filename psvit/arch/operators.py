"""Operators: pooling operators and stems by name, and what each costs.

`psvit.nn.layers` holds their modules. Those of a user come in through `psvit.register_pooling` and
`psvit.register_stem`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, NamedTuple, TypeVar

from pydantic import AfterValidator

from psvit.arch import stem

if TYPE_CHECKING:
    from functools import _lru_cache_wrapper

Variant = Literal["1d", "2d"]

Entry = TypeVar("Entry")


class Terms(NamedTuple):
    """MACs and parameters of a part of a network; parts add up."""

    macs: int
    num_params: int

    def __add__(self, other: object) -> Terms:
        assert isinstance(other, Terms)
        return Terms(self.macs + other.macs, self.num_params + other.num_params)


class Patches(NamedTuple):
    """How an image is cut: square patches, which may overlap, in rows and columns.

    Attributes:
        size: side of a patch in pixels.
        stride: distance between neighbouring patches in pixels.
        rows: number of patches one below the other.
        columns: number of patches side by side.
    """

    size: int
    stride: int
    rows: int
    columns: int

    @property
    def number(self) -> int:
        """Number of patches."""
        return self.rows * self.columns

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows, self.columns

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""
        rows, columns = ((number - 1) * self.stride + self.size for number in (self.rows, self.columns))
        return rows, columns


_FORGETTING: list[Callable[[], None]] = []
"""What empties the caches of what was made with operators."""

Cached = TypeVar("Cached", bound="_lru_cache_wrapper[Any]")


def until_operators_change(cached: Cached) -> Cached:
    """A cache that is emptied when an operator is replaced, because costs and modules in it may be of the old one."""
    _FORGETTING.append(cached.cache_clear)
    return cached


class Registry(Generic[Entry]):
    """Entries by name.

    Args:
        what: what its entries are, for messages.
        register: the function that a user calls to add one, for messages.
    """

    def __init__(self, what: str, register: str) -> None:
        self._what = what
        self._register = register
        self._entries: dict[str, Entry] = {}

    def __getitem__(self, name: str) -> Entry:
        return self._entries[self.check(name)]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def add(self, name: str, entry: Entry, again: bool = False) -> None:
        """Make an entry known, or replace it by itself made anew (`again`), as a notebook's cell that runs twice does.

        Raises:
            ValueError: the name is no identifier, or is taken.
        """
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"the name of a {self._what} must be an identifier, received {name!r}")
        if name in self._entries and not again:
            raise ValueError(f"a {self._what} {name!r} is registered already; choose another name")
        self._entries[name] = entry
        if again:
            for forget in _FORGETTING:
                forget()

    def check(self, name: str) -> str:
        """The name, if something is known by it.

        Raises:
            ValueError: nothing is; lists what is known.
        """
        if name not in self._entries:
            *others, last = map(repr, self._entries)
            raise ValueError(
                f"must be {', '.join(others)} or {last}, received {name!r}; {self._register} makes others known"
            )
        return name


@dataclass(frozen=True, kw_only=True)
class PoolingCost:
    """The costs of a pooling operator.

    Attributes:
        terms: from variant, rows and columns of the tokens that come in (one row in 1d) and channels.
    """

    terms: Callable[[Variant, tuple[int, int], int], Terms]


@dataclass(frozen=True, kw_only=True)
class StemCost:
    """The costs of a stem, and the patches that it can make tokens of.

    Attributes:
        terms: from patches, channels of the image, and `embed_dim`; without positions and class token.
        elements: from the same, the most numbers that are alive in it at once, the image not counted.
        check: from the size and the stride of patches; raises a `ValueError` if the stem cannot make tokens of them.
    """

    terms: Callable[[Patches, int, int], Terms]
    elements: Callable[[Patches, int, int], int]
    check: Callable[[int, int], None]


POOLINGS: Registry[PoolingCost] = Registry("pooling", "psvit.register_pooling")
STEMS: Registry[StemCost] = Registry("stem", "psvit.register_stem")

Pool = Annotated[str, AfterValidator(POOLINGS.check)]
"""The name of a pooling operator."""

Stem = Annotated[str, AfterValidator(STEMS.check)]
"""The name of a stem."""


def pooled(grid: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of tokens after a pooling: kernel 3, stride 2 and padding 1 leave half of n, rounded up."""
    rows, columns = grid
    return -(-rows // 2), -(-columns // 2)


# --- the operators that come with the package


def _no_weights(variant: Variant, grid: tuple[int, int], d: int) -> Terms:
    return Terms(0, 0)


def _depthwise(variant: Variant, grid: tuple[int, int], d: int) -> Terms:
    kernel = {"1d": 3, "2d": 9}[variant]
    return Terms(kernel * d * math.prod(pooled(grid)), (kernel + 1) * d)


def _patch_terms(patches: Patches, in_chans: int, d: int) -> Terms:
    weights = in_chans * patches.size**2 * d
    return Terms(patches.number * weights, weights + d)


def _patch_elements(patches: Patches, in_chans: int, d: int) -> int:
    return patches.number * d


def _conv_terms(patches: Patches, in_chans: int, d: int) -> Terms:
    total = Terms(0, 0)
    for one in stem.convolutions(in_chans, d, patches.size):
        weights = stem.KERNEL**2 * one.in_chans * one.out_chans
        outputs = patches.number * (patches.size // one.reduction) ** 2
        total += Terms(outputs * weights, weights + one.out_chans)
    return total


def _conv_elements(patches: Patches, in_chans: int, d: int) -> int:
    # A convolution has its input beside its output, and so has the GELU after it; the first one's input is the image.
    planned = stem.convolutions(in_chans, d, patches.size)
    outputs = [patches.number * (patches.size // one.reduction) ** 2 * one.out_chans for one in planned]
    pairs = [before + after for before, after in itertools.pairwise(outputs)]
    return max(outputs[0], *pairs, *(2 * output for output in outputs[:-1]))


POOLINGS.add("max", PoolingCost(terms=_no_weights))
POOLINGS.add("avg", PoolingCost(terms=_no_weights))
POOLINGS.add("conv", PoolingCost(terms=_depthwise))
STEMS.add("patch", StemCost(terms=_patch_terms, elements=_patch_elements, check=lambda size, stride: None))
STEMS.add("conv", StemCost(terms=_conv_terms, elements=_conv_elements, check=stem.check))
