"""Which space a search has: the one that is named, a supernet's, one around a network, or one made for the images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psvit.data import ImageData
from psvit.errors import InputError
from psvit.search.fidelity.record import file_beside, read_fidelities
from psvit.search.request import SearchRequest
from psvit.space.budget import Budget
from psvit.space.search_space import SearchSpace
from psvit.supernet.provenance import check_held_out, read_space
from psvit.train.choices import fit_space

if TYPE_CHECKING:
    from psvit.train.original import Original


def wanted_space(asked: SearchRequest, original: Original | None) -> SearchSpace | None:
    """The space that is named, or `None`. What needs no images of space, supernet and limits is checked here."""
    if original:
        around = SearchSpace.around(original.arch, asked.depths)
        Budget.parse(*asked.limits, space=around)
        return around
    space = asked.space if isinstance(asked.space, SearchSpace) else None
    if asked.space is not None and space is None:
        space = SearchSpace.load(str(asked.space))
    known = space
    if asked.supernet:
        known = read_space(asked.supernet)
        read_fidelities(file_beside(asked.supernet))
    limits = Budget.parse(*asked.limits, space=known)
    if known and (asked.supernet or not (asked.data or asked.image_size)):  # else images change what networks cost
        known.check(limits)
    return space


def choose_space(
    wanted: SearchSpace | None,
    supernet: str | None,
    data: ImageData | None,
    budget: tuple[str, ...],
    image_size: tuple[int, int] | None = None,
    *,
    prefers_shipped: bool = False,
) -> SearchSpace:
    """The space to search: the supernet's, the wanted one, or one for the images and the budget, see `fit_space`.

    Pass the limits as text: `60%` is a share of the largest architecture's cost, which changes with the data's classes.

    Raises:
        InputError: the supernet belongs to another space or other images, or nothing is within the budget.
    """
    if supernet:
        space = read_space(supernet)
        if data and (len(data.classes), data.in_chans) != (space.num_classes, space.in_chans):
            raise InputError(
                f"supernet {supernet!r}: trained for {space.num_classes} classes and {space.in_chans} channels, "
                f"but {data.name!r} has {len(data.classes)} and {data.in_chans}"
            )
        if wanted and not wanted.differs_in_data_only(space):
            raise InputError(f"supernet {supernet!r}: belongs to the space {space.name}, not to {wanted.name}")
        if image_size and image_size != space.image_size:
            height, width = space.image_size
            raise InputError(f"supernet {supernet!r}: sees images of {height} x {width} pixels; leave --image-size out")
        if data:
            check_held_out(supernet, data)
    else:
        limits = Budget.parse(*budget, space=wanted)
        space = fit_space(wanted, data, image_size, limits, prefers_shipped=prefers_shipped)
    space.check(Budget.parse(*budget, space=space))
    return space
