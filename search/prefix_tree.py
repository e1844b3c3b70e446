"""The prefix tree of a population: what architectures have in common with a supernet's weights, computed once.

An architecture is a sequence of *steps*: embedding, poolings and layers, final norm with classifier. Two architectures
whose first k steps are equal have equal activations after them, bit for bit, because the same operators see the same
numbers. A step says all that its operators depend on, given the steps before it: the place in the supernet's list of
layers, widths, and whether attention is handed on, since a producer that others follow computes its map openly or in
the form that `psvit.nn.layers.choose_sharing` chooses, and one that stands alone does not.

The tree is walked depth first. At a branching, the child whose walk needs least waits least: children are visited in
the order of the number of activations that wait below them, the neediest last, when its parent's activation is handed
over instead of waiting. So at most log2 of the number of architectures activations wait at any moment (the tree's
Strahler number), whatever its depth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from psvit.arch import costs
from psvit.arch.architecture import Architecture, Stage
from psvit.arch.operators import Pool, Stem, Variant, until_operators_change
from psvit.executors.failures import out_of_memory
from psvit.nn.filled import Module, filled
from psvit.nn.layers import Layer, Shared, TokenPool, choose_sharing
from psvit.nn.network import PSViT
from psvit.space.search_space import SearchSpace
from psvit.supernet.supernet import Supernet

Role = Literal["alone", "producer", "sharer"]
"""Of a layer in its attention group: its only one, the first of several, or a later one."""


@dataclass(frozen=True)
class Embedding:
    """From images to the first stage's tokens."""

    variant: Variant
    stem: Stem
    embed_dim: int


@dataclass(frozen=True)
class Pooling:
    """The pooling before the stage whose first layer has the place `begin`."""

    variant: Variant
    begin: int
    pool: Pool
    grid: tuple[int, int]
    dim_in: int
    dim_out: int


@dataclass(frozen=True)
class LayerStep:
    """The layer at a place of the supernet's list."""

    place: int
    tokens: int
    num_heads: int
    embed_dim: int
    hidden_dim: int
    role: Role


@dataclass(frozen=True)
class Head:
    """From the last stage's tokens to logits; every architecture ends in one of its own."""

    variant: Variant
    embed_dim: int


Step = Embedding | Pooling | LayerStep | Head


def steps_of(space: SearchSpace, arch: Architecture) -> tuple[tuple[Step, str], ...]:
    """The steps of an architecture, each with what the names of its parameters begin with in its network.

    Raises:
        ValueError: the architecture is not a member of the space.
    """
    layout = space.layouts[space.check_member(arch)]
    steps: list[tuple[Step, str]] = [(Embedding(arch.variant, arch.stem, arch.stages[0].embed_dim), "")]
    for i, (stage, choices, grid) in enumerate(zip(arch.stages, layout.stages, arch.grids, strict=True)):
        if i:
            before = arch.stages[i - 1].embed_dim
            grid_before = arch.grids[i - 1]
            pooling = Pooling(arch.variant, choices.begin, arch.pools[i - 1], grid_before, before, stage.embed_dim)
            steps.append((pooling, f"stages.{i}.pool."))
        tokens = math.prod(grid) + costs.has_class_token(arch.variant)
        place = choices.begin
        for j, length in enumerate(stage.groups):
            for k in range(length):
                role: Role = "sharer" if k else "producer" if length > 1 else "alone"
                heads = stage.embed_dim // arch.head_dim
                step = LayerStep(place, tokens, heads, stage.embed_dim, stage.hidden_dim, role)
                steps.append((step, f"stages.{i}.groups.{j}.layers.{k}."))
                place += 1
    steps.append((Head(arch.variant, arch.stages[-1].embed_dim), ""))
    return tuple(steps)


def macs_of(space: SearchSpace, step: Step) -> int:
    """The multiply-accumulates of a step for one image; those of an architecture's steps add up to its own."""
    if isinstance(step, Embedding):
        return costs.stem(step.variant, step.stem, space.patches, space.in_chans, step.embed_dim).macs
    if isinstance(step, Pooling):
        return costs.pooling(step.variant, step.pool, step.grid, step.dim_in, step.dim_out).macs
    if isinstance(step, LayerStep):
        sharer = int(step.role == "sharer")
        return costs.layers(step.tokens, step.embed_dim, step.hidden_dim, 1 - sharer, sharer)[0]
    return costs.head(step.embed_dim, space.num_classes).macs


@dataclass(eq=False)
class Node:
    """A distinct prefix: a step after those of its ancestors.

    Attributes:
        step: what it computes.
        arch: an architecture that it is part of.
        prefix: what the names of the step's parameters begin with in that architecture's network.
        children: the steps that follow it, in the order in which they are visited.
        ends: the position in the population of the architecture that ends here, in a head.
        waiting: how many activations wait at most while it and what is below it are computed.
    """

    step: Step
    arch: Architecture
    prefix: str
    children: list[Node] = field(default_factory=list)
    ends: int | None = None
    waiting: int = 0


class PrefixTree:
    """The distinct prefixes of a population.

    Args:
        space: the space that the architectures are of.
        archs: the population, no two equal.
        positions: those of the architectures in a larger population; by default from 0 on.

    Attributes:
        roots: the first steps; several, where first widths differ.
        order: the positions in the order in which their architectures end.
        num_steps: distinct prefixes, each computed once.
        total_steps: the steps of all architectures, computed where nothing is shared.
        macs: multiply-accumulates of the distinct prefixes, for one image.
        total_macs: those of all architectures.

    Raises:
        ValueError: an architecture that is not of the space, or two that are equal.
    """

    def __init__(
        self, space: SearchSpace, archs: Sequence[Architecture], positions: Sequence[int] | None = None
    ) -> None:
        self.roots: list[Node] = []
        self.total_steps = self.macs = self.total_macs = 0
        found: dict[tuple[int, Step], Node] = {}
        for position, arch in zip(range(len(archs)) if positions is None else positions, archs, strict=True):
            siblings, parent = self.roots, 0
            node: Node | None = None
            for step, prefix in steps_of(space, arch):
                macs = macs_of(space, step)
                node = found.get((parent, step))
                if node is None:
                    node = found[parent, step] = Node(step, arch, prefix)
                    siblings.append(node)
                    self.macs += macs
                self.total_steps += 1
                self.total_macs += macs
                siblings, parent = node.children, id(node)
            assert node is not None
            if node.ends is not None:
                raise ValueError(f"two architectures of a population are equal, at {node.ends} and {position}")
            node.ends = position
        self.num_steps = len(found)
        # Children were made after their parents.
        for node in reversed(found.values()):
            node.waiting = _order(node.children)
        _order(self.roots)
        self.order = tuple(node.ends for node in self.nodes() if node.ends is not None)

    def nodes(self) -> list[Node]:
        """All nodes in the order in which they are visited."""
        visited: list[Node] = []
        stack = self.roots[::-1]
        while stack:
            node = stack.pop()
            visited.append(node)
            stack.extend(node.children[::-1])
        return visited


def _order(siblings: list[Node]) -> int:
    """Bring siblings into the order of their visits; returns how many activations wait at most meanwhile."""
    siblings.sort(key=lambda node: node.waiting)
    if not siblings:
        return 0
    *others, last = siblings
    return max([last.waiting, *(1 + node.waiting for node in others)])


# --- computing


class State(NamedTuple):
    """The state between two steps: tokens (B, N, D), or at first images, and a producer's attention."""

    x: Tensor
    shared: Shared | None = None


class Weights:
    """The modules of steps with a supernet's weights, each made once, when it is first asked for.

    Slices are taken as `Supernet.slices` takes them, so they are equal in layout too and operators round alike. They
    are of the weights at that moment: a supernet that is trained on needs new ones.

    Args:
        supernet: the weights.
    """

    def __init__(self, supernet: Supernet) -> None:
        self._supernet = supernet
        self._made: dict[Step, Callable[[State], State]] = {}
        self._slices: dict[tuple[str, int | None, int, torch.Size], Tensor] = {}

    def __getitem__(self, node: Node) -> Callable[[State], State]:
        """What computes a node's step."""
        if node.step not in self._made:
            self._made[node.step] = self._make(node)
        return self._made[node.step]

    def _make(self, node: Node) -> Callable[[State], State]:
        step = node.step
        if isinstance(step, LayerStep):
            return self._layer(node, step)
        if isinstance(step, Pooling):
            bare = _bare_pooling(step.variant, step.pool, step.grid, step.dim_in, step.dim_out)
            pool = self._filled(bare, node.arch, node.prefix)
            return lambda state: State(pool(state.x))
        first, last = _bare_ends(_of_one_layer(node.arch, step.embed_dim))
        if isinstance(step, Embedding):
            embedding = self._filled(first, node.arch, node.prefix)
            return lambda state: State(embedding.embed(state.x))
        classifier = self._filled(last, node.arch, node.prefix)
        return lambda state: State(classifier.forward_head(classifier.norm(state.x)))

    def _layer(self, node: Node, step: LayerStep) -> Callable[[State], State]:
        heads = step.num_heads
        layer = self._filled(
            _bare_layer(step.embed_dim, heads, step.hidden_dim, step.role == "sharer"), node.arch, node.prefix
        )
        hands_on = step.role != "alone"

        def compute(state: State) -> State:
            B, N, _ = state.x.shape
            hand_on = choose_sharing(B, N, heads, state.x.device.type) if hands_on else None
            return State(*layer(state.x, state.shared, hand_on))

        return compute

    def _filled(self, bare: Module, arch: Architecture, prefix: str) -> Module:
        """A module with an architecture's slices for parameters."""
        own = bare.named_parameters(remove_duplicate=False)
        slices = {name: self._slice(arch, prefix + name, parameter.shape) for name, parameter in own}
        return filled(bare, slices, training=False)

    def _slice(self, arch: Architecture, name: str, shape: torch.Size) -> Tensor:
        """A parameter of an architecture; steps of one place and width have it in common, because some are copies."""
        source = self._supernet.source(arch, name)
        key = (source.name, source.qkv.start if source.qkv else None, source.skip, shape)
        if key not in self._slices:
            self._slices[key] = source.of(self._supernet.get_parameter(source.name), shape)
        return self._slices[key]


def run(tree: PrefixTree, weights: Weights, images: Tensor, found: Callable[[int, Tensor], None]) -> dict[int, str]:
    """Compute a tree's architectures for one batch, each distinct prefix once.

    Call it under `torch.inference_mode` or `torch.no_grad`. Memory: beside what the running step needs, no more than
    log2 of the number of architectures activations are alive, one of them for each branching above it that has steps
    to come. What a step runs out of memory in is left out.

    Args:
        tree: the architectures.
        weights: for the tree's steps.
        images: (B, C, height, width).
        found: called with the position of every architecture and its logits (B, classes), as they are known.

    Returns:
        By position, the reasons why the others could not be computed.
    """
    stuck: dict[int, str] = {}
    stack = [(node, State(images)) for node in reversed(tree.roots)]
    while stack:
        node, state = stack.pop()
        reason = ""
        try:
            state = weights[node](state)
            if node.ends is not None:
                found(node.ends, state.x)
        except Exception as error:
            reason = out_of_memory(error)
            if not reason:
                raise
        if reason:
            stuck |= dict.fromkeys(_ends_below(node), reason)
            continue
        for child in reversed(node.children):
            # A map outlives its producer only as long as a sharer is to come.
            stack.append((child, state if _shares(child) else State(state.x)))
    return stuck


def _shares(node: Node) -> bool:
    return isinstance(node.step, LayerStep) and node.step.role == "sharer"


def _ends_below(node: Node) -> list[int]:
    """The positions of the architectures that a node is part of."""
    ends = [] if node.ends is None else [node.ends]
    return ends + [position for child in node.children for position in _ends_below(child)]


# Modules without memory of their own, to be filled with slices. Making one takes a millisecond and more, and a space
# has few kinds of them.


@lru_cache(maxsize=1024)
def _bare_layer(embed_dim: int, num_heads: int, hidden_dim: int, shares: bool) -> Layer:
    return Layer(embed_dim, num_heads, hidden_dim, shares, device="meta")


@until_operators_change
@lru_cache(maxsize=1024)
def _bare_pooling(variant: Variant, pool: Pool, grid: tuple[int, int], dim_in: int, dim_out: int) -> TokenPool:
    return TokenPool(variant, pool, grid, dim_in, dim_out, device="meta")


def _of_one_layer(arch: Architecture, embed_dim: int) -> Architecture:
    """A network with the same beginning and end, of another width and with a single layer between them."""
    stage = Stage(embed_dim=embed_dim, groups=(1,), mlp_ratio=1.0)
    return Architecture(**{**dict(arch), "stages": (stage,), "pools": ()})


@until_operators_change
@lru_cache(maxsize=1024)
def _bare_ends(arch: Architecture) -> tuple[PSViT, PSViT]:
    """A network that can only embed, and one that can only classify."""
    first, last = PSViT(arch, device="meta"), PSViT(arch, device="meta")
    for network, others in ((first, ("stages", "norm", "head")), (last, ("stages", "patch_embed"))):
        for name in others:
            setattr(network, name, nn.Identity())
    for name in ("pos_embed", "cls_token"):
        last.register_parameter(name, None)
    return first, last


# --- distribution


def cut(space: SearchSpace, archs: Sequence[Architecture], k: int) -> list[list[int]]:
    """Cut a population into at most `k` parts that can be evaluated apart, along its tree.

    A part is a run of neighbours in the tree's order, so that what its members share is mostly still computed once.
    Of all ways to cut that order into `k` runs, the largest part's cost, the multiply-accumulates of its own distinct
    steps, is the least possible. With C of the whole tree and P of its costliest architecture, no part costs more than
    C / k + 2 P, and all parts together cost at most C + (k - 1) P.

    Args:
        space: the space that the architectures are of.
        archs: the population, no two equal.
        k: how many parts are wanted.

    Returns:
        The positions of each part, ascending; none is empty. There are fewer than `k` where more would not make the
        largest part cheaper.

    Raises:
        ValueError: fewer than one part.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, received {k}")
    order = PrefixTree(space, archs).order
    paths = [[step for step, _ in steps_of(space, archs[position])] for position in order]
    whole = [sum(macs_of(space, step) for step in path) for path in paths]
    new = [
        sum(macs_of(space, step) for step in path[_shared_length(before, path) :])
        for before, path in zip([[], *paths], paths, strict=False)
    ]
    low, high = max(whole, default=0), sum(new)
    while low < high:
        middle = (low + high) // 2
        if len(_runs(whole, new, middle)) <= k:
            high = middle
        else:
            low = middle + 1
    return [sorted(order[i] for i in run) for run in _runs(whole, new, high)]


def _shared_length(one: list[Step], other: list[Step]) -> int:
    """How many steps two architectures have in common."""
    length = 0
    while length < min(len(one), len(other)) and one[length] == other[length]:
        length += 1
    return length


def _runs(whole: list[int], new: list[int], most: int) -> list[list[int]]:
    """Runs of neighbours that cost at most `most` each, every one as long as it can be, so as few as possible."""
    runs: list[list[int]] = []
    spent = 0
    for i, (alone, added) in enumerate(zip(whole, new, strict=True)):
        if runs and spent + added <= most:
            runs[-1].append(i)
            spent += added
        else:
            runs.append([i])
            spent = alone
    return runs
