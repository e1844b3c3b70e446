"""Pooling operators and stems of a user's own. Once registered, they are choices like any other.

Files and studies hold only the name of an operator. So every program that builds such a network has to register the
operator first. Workers of a cluster need not: the process that hands out the work tells them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, get_args

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from psvit.arch.operators import POOLINGS, STEMS, Patches, PoolingCost, StemCost, Terms, Variant, pooled
from psvit.nn.layers import POOLING_MODULES, STEM_MODULES
from psvit.nn.live_tensors import LiveTensors

RESERVED = ("proj", "cls_proj")
"""Names of the linear layers beside a pooling operator, which no operator may have; nor the name of anything that a
module has."""

WIDTHS = (8, 16)
"""Channels at which an operator is tried before it is accepted."""

Registration = Callable[[], None]

_REGISTERED: dict[str, Registration] = {}
"""By kind and name, what registers an operator once more, in another process."""

PATCH_SIZES = (4, 2, 8, 16, 1)
"""Patches at which a stem is tried, until one is among those that it accepts."""


def register_pooling(name: str, module: Callable[[Variant, int], nn.Module]) -> None:
    """Make a pooling operator known by a name.

    The module is tried at once, in both variants. Its costs are counted on the meta device, where nothing is computed.
    A supernet keeps the parameters for the widest tokens. A narrower network uses the leading part of each parameter
    along every axis.

    Args:
        name: an identifier, such as `blur`. It appears in files, pictures and reports.
        module: from variant and channels C to a module that pools tokens: (B, C, N) to (B, C, ceil(N / 2)) in `1d`,
            (B, C, rows, columns) to (B, C, ceil(rows / 2), ceil(columns / 2)) in `2d`. It must have no buffers. It must
            have the same parameters at every C, and none may shrink as C grows.

    Raises:
        ValueError: the name is no identifier or is taken, or the module breaks one of these rules; the message says
            which.
    """
    _check_callable("pooling", name, module)
    if name in RESERVED or hasattr(nn.ModuleDict(), str(name)):
        raise ValueError(f"a pooling must not be called {name}, for which modules have another use; name it otherwise")
    for variant in get_args(Variant):
        grid = (1, 7) if variant == "1d" else (5, 4)
        shape = grid[1:] if variant == "1d" else grid
        after = pooled(grid)[1:] if variant == "1d" else pooled(grid)
        what = f"pooling {name!r} in {variant}"
        narrow, wide = (module(variant, width) for width in WIDTHS)
        _check_parameters(what, narrow, wide)
        for made, width in ((narrow, WIDTHS[0]), (wide, WIDTHS[1])):
            _check_output(what, made, (2, width, *shape), (2, width, *after))

    @lru_cache(maxsize=4096)
    def terms(variant: Variant, grid: tuple[int, int], channels: int) -> Terms:
        shape = grid[1:] if variant == "1d" else grid
        return _counted(lambda: module(variant, channels), (1, channels, *shape))

    POOLINGS.add(name, PoolingCost(terms=terms), again=_is_again(f"pooling {name}", module))
    POOLING_MODULES[name] = lambda variant, channels, **dd: _made(lambda: module(variant, channels), **dd)
    _REGISTERED[f"pooling {name}"] = partial(register_pooling, name, module)


def register_stem(
    name: str,
    module: Callable[[int, int, int, int], nn.Module],
    check: Callable[[int, int], None] | None = None,
) -> None:
    """Make a stem known by a name. A stem turns images into tokens.

    Its costs are counted, and its weights shared in a supernet, as those of a pooling operator.

    Args:
        name: an identifier, such as `two_convs`. It appears in files, pictures and reports.
        module: from channels of the image, `embed_dim` D, patch size and patch stride to a module that turns images
            (B, C, height, width) into tokens (B, P, D): one for each patch, row by row. There are
            (height - patch size) / patch stride + 1 rows of patches, and columns by the same rule.
        check: a function of patch size and patch stride that raises a `ValueError` if the stem cannot have these. The
            message names what it needs instead. Without `check`, all sizes are accepted.

    Raises:
        ValueError: the name is no identifier or is taken, or the module breaks one of these rules; the message says
            which.
    """
    _check_callable("stem", name, module)
    accepts = check or (lambda patch_size, patch_stride: None)
    patches = _accepted(name, accepts)
    made = [module(3, width, patches.size, patches.stride) for width in WIDTHS]
    _check_parameters(f"stem {name!r}", *made)
    for one, width in zip(made, WIDTHS, strict=True):
        _check_output(f"stem {name!r}", one, (2, 3, *patches.image_size), (2, patches.number, width))

    @lru_cache(maxsize=4096)
    def terms(patches: Patches, in_chans: int, embed_dim: int) -> Terms:
        shape = (1, in_chans, *patches.image_size)
        return _counted(lambda: module(in_chans, embed_dim, patches.size, patches.stride), shape)

    @lru_cache(maxsize=4096)
    def elements(patches: Patches, in_chans: int, embed_dim: int) -> int:
        with torch.device("meta"):
            stem = module(in_chans, embed_dim, patches.size, patches.stride).eval()
            image = torch.zeros(1, in_chans, *patches.image_size, dtype=torch.float32)
        with torch.inference_mode(), LiveTensors(image, stem.parameters()) as live:
            stem(image)
        return (live.peak - image.nbytes) // image.element_size()

    STEMS.add(name, StemCost(terms=terms, elements=elements, check=accepts), again=_is_again(f"stem {name}", module))
    STEM_MODULES[name] = lambda in_chans, embed_dim, patch_size, patch_stride, **dd: _made(
        lambda: module(in_chans, embed_dim, patch_size, patch_stride), **dd
    )
    _REGISTERED[f"stem {name}"] = partial(register_stem, name, module, check)


def _is_again(what: str, module: Callable[..., nn.Module]) -> bool:
    """Whether a module of this name, from the same place in the same code, was registered before."""
    known = _REGISTERED.get(what)
    before = known.args[1] if isinstance(known, partial) else None
    named = [(getattr(one, "__module__", None), getattr(one, "__qualname__", None)) for one in (before, module)]
    return known is not None and named[0] == named[1] and None not in named[0]


def registered() -> dict[str, Registration]:
    """What this process has registered; it pickles where the modules' classes do."""
    return dict(_REGISTERED)


def register_missing(registrations: Mapping[str, Registration]) -> None:
    """Register what another process has registered and this one has not."""
    for name, register in registrations.items():
        if name not in _REGISTERED:
            register()


def _accepted(name: str, check: Callable[[int, int], None]) -> Patches:
    """Some patches that a stem accepts, side by side in an odd rectangle."""
    for size in PATCH_SIZES:
        with contextlib.suppress(ValueError):
            check(size, size)
            return Patches(size, size, 3, 5)
    raise ValueError(f"stem {name!r}: check must accept patches of one of {PATCH_SIZES} pixels, and accepts none")


def _made(module: Callable[[], nn.Module], device: Any = None, dtype: Any = None) -> nn.Module:
    """A module on a device, with numbers of a type."""
    with torch.device(device) if device is not None else contextlib.nullcontext():
        made = module()
    return made if dtype is None else made.to(dtype)


def _counted(module: Callable[[], nn.Module], shape: tuple[int, ...]) -> Terms:
    """Multiply-accumulates for an input of some shape, and parameters, as counted on the meta device."""
    made = _made(module, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        made(torch.empty(shape, device="meta"))
    # The counter counts a multiplication and an addition for every multiply-accumulate.
    return Terms(counter.get_total_flops() // 2, sum(parameter.numel() for parameter in made.parameters()))


def _check_callable(kind: str, name: str, module: Any) -> None:
    """Make sure that an operator is made by a function."""
    if not callable(module):
        raise ValueError(f"{kind} {name!r}: must be a function that makes its module, received {module!r}")


def _check_parameters(what: str, narrow: nn.Module, wide: nn.Module) -> None:
    """Make sure that these are modules, and that the narrower one's parameters are a part of the wider one's."""
    if strange := [one for one in (narrow, wide) if not isinstance(one, nn.Module)]:
        raise ValueError(f"{what}: must make a module of PyTorch's, and makes a {type(strange[0]).__name__}")
    if buffers := [name for name, _ in wide.named_buffers()]:
        raise ValueError(f"{what}: its module must have no buffers, and has {', '.join(buffers)}")
    shapes, wider = ({name: tuple(p.shape) for name, p in one.named_parameters()} for one in (narrow, wide))
    if shapes.keys() != wider.keys():
        raise ValueError(f"{what}: its module must have the same parameters at every width, and at {WIDTHS} has others")
    for name, shape in shapes.items():
        if len(shape) != len(wider[name]) or any(a > b for a, b in zip(shape, wider[name], strict=True)):
            raise ValueError(
                f"{what}: its parameters must not shrink where channels grow, "
                f"and {name} is {shape} with {WIDTHS[0]} channels and {wider[name]} with {WIDTHS[1]}"
            )


def _check_output(what: str, module: nn.Module, given: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Make sure that a module has an output of a shape."""
    with torch.no_grad():
        found = module(torch.zeros(given))
    if tuple(found.shape) != wanted:
        raise ValueError(f"{what}: its module must make {wanted} of {given}, and makes {tuple(found.shape)}")
