"""What several test files of this room share: small spaces, and a switch for fused attention."""

from __future__ import annotations

import contextlib
import itertools

import pytest
import timm.layers.config
from hypothesis import strategies as st
from timm.layers import set_fused_attn

from psvit.arch.architecture import Architecture, Stage
from psvit.space.search_space import Layout, SearchSpace, StageChoices


@pytest.fixture(scope="session")
def fused_attention():
    """A context manager: whether networks built inside it use fused attention or compute their maps openly."""
    return set_fused_attention


@contextlib.contextmanager
def set_fused_attention(enable: bool):
    with pytest.MonkeyPatch.context() as patch:
        # timm offers no way back to the setting before, so the variable behind it is recorded.
        patch.setattr(timm.layers.config, "_USE_FUSED_ATTN", timm.layers.config._USE_FUSED_ATTN)
        set_fused_attn(enable)
        yield


def make_small_space(kind: str) -> SearchSpace:
    """A space on a grid that is rectangular and odd: `1d`, `2d`, or `mixed`.

    The first two have three layouts and 210 members with every kind of choice. The third holds networks of both
    variants, with heads of different widths, behind either stem, and two layouts of one stage that differ in depth.
    """
    stages = {
        1: (StageChoices(begin=0, embed_dim=(4, 8), depth=(1, 2, 3), max_group=2, mlp_ratio=(1, 2)),),
        2: (
            StageChoices(begin=0, embed_dim=(4, 8), depth=(1, 2), max_group=2, mlp_ratio=(1.5,)),
            StageChoices(begin=2, embed_dim=(4, 8, 12), depth=(1, 2), max_group=1, mlp_ratio=(1,)),
        ),
        3: (
            StageChoices(begin=0, embed_dim=(4, 8), depth=(1,), max_group=1, mlp_ratio=(2,)),
            StageChoices(begin=1, embed_dim=(8,), depth=(2,), max_group=2, mlp_ratio=(1,)),
            StageChoices(begin=3, embed_dim=(8, 12), depth=(1, 2), max_group=2, mlp_ratio=(1, 2)),
        ),
    }
    pools = {1: (), 2: (("max", "avg", "conv"),), 3: (("conv", "max"), ("avg",))}
    if kind == "mixed":
        deep = (StageChoices(begin=1, embed_dim=(4, 8), depth=(4,), max_group=3, mlp_ratio=(1,)),)
        both = ("patch", "conv")
        layouts = [
            Layout(variant="1d", head_dim=4, stem=both, stages=stages[1]),
            Layout(variant="2d", head_dim=4, stages=stages[2], pools=pools[2]),
            Layout(variant="1d", head_dim=2, stem=("conv",), stages=deep),
            Layout(variant="2d", head_dim=2, stem=("conv", "patch"), stages=stages[3], pools=pools[3]),
        ]
    else:
        layouts = [Layout(variant=kind, head_dim=4, stages=stages[n], pools=pools[n]) for n in stages]
    return SearchSpace(
        name=f"small-{kind}",
        image_size=(8, 10),
        in_chans=2,
        num_classes=3,
        patch_size=2,
        patch_stride=2,
        layouts=tuple(layouts),
    )


@pytest.fixture(scope="session", params=["1d", "2d", "mixed"])
def small_space(request):
    """`make_small_space` of every kind."""
    return make_small_space(request.param)


@pytest.fixture(scope="session")
def brute_force():
    """A function that lists the members of a space straight from the meaning of its choices."""
    return list_members


def list_members(space: SearchSpace) -> list[Architecture]:
    common = {name: getattr(space, name) for name in set(Architecture.model_fields) & set(SearchSpace.model_fields)}
    members = []
    for layout in space.layouts:
        common |= {"variant": layout.variant, "head_dim": layout.head_dim}
        stages = [list_stages(choices) for choices in layout.stages]
        for chosen, pools, stem in itertools.product(
            itertools.product(*stages), itertools.product(*layout.pools), layout.stem
        ):
            widths = [stage.embed_dim for stage in chosen]
            if widths == sorted(widths):
                members.append(Architecture(stages=chosen, pools=pools, stem=stem, **common))
    return members


def list_stages(choices: StageChoices) -> list[Stage]:
    return [
        Stage(embed_dim=embed_dim, groups=groups, mlp_ratio=mlp_ratio)
        for embed_dim in choices.embed_dim
        for mlp_ratio in choices.mlp_ratio
        for depth in choices.depth
        for parts in range(1, depth + 1)
        for groups in itertools.product(range(1, choices.max_group + 1), repeat=parts)
        if sum(groups) == depth
    ]


@pytest.fixture(scope="session")
def generated_spaces():
    """A strategy for spaces of up to three layouts on small, possibly odd and rectangular grids."""
    return small_spaces()


@st.composite
def small_spaces(draw) -> SearchSpace:
    patch_size = draw(st.integers(1, 3))
    patch_stride = draw(st.integers(1, patch_size))
    # Grids of 4 to 7 patches a side leave tokens for two poolings.
    rows, columns = draw(st.integers(4, 7)), draw(st.integers(4, 7))
    image_size = tuple((count - 1) * patch_stride + patch_size for count in (rows, columns))
    kinds = st.tuples(st.sampled_from(["1d", "2d"]), st.integers(1, 3))
    # A convolutional stem needs patches that do not overlap.
    stems = ["patch", "conv"] if patch_stride == patch_size else ["patch"]
    return SearchSpace(
        name="generated",
        image_size=image_size,
        in_chans=draw(st.integers(1, 3)),
        num_classes=draw(st.integers(1, 5)),
        patch_size=patch_size,
        patch_stride=patch_stride,
        layouts=tuple(
            draw(layouts_of(variant, number, stems))
            for variant, number in draw(st.lists(kinds, min_size=1, max_size=3, unique=True))
        ),
    )


@st.composite
def layouts_of(draw, variant: str, stages: int, stems: list[str]) -> Layout:
    head_dim = draw(st.sampled_from([2, 4]))
    chosen: list[StageChoices] = []
    for _ in range(stages):
        widths = {head_dim * heads for heads in draw(st.sets(st.integers(1, 4), min_size=1, max_size=3))}
        begin = 0
        if chosen:
            # Neither the smallest nor the largest width may shrink.
            before = chosen[-1]
            widths = {width for width in widths if width >= before.embed_dim[0]}
            widths.add(max([*widths, before.embed_dim[-1]]))
            begin = before.end + draw(st.integers(0, 1))
        depths = draw(st.sets(st.integers(1, 4), min_size=1, max_size=3))
        chosen.append(
            StageChoices(
                begin=begin,
                embed_dim=tuple(sorted(widths)),
                depth=tuple(sorted(depths)),
                max_group=draw(st.integers(1, max(depths))),
                mlp_ratio=tuple(sorted(draw(st.sets(st.sampled_from([0.5, 1.0, 1.5, 2.0]), min_size=1, max_size=2)))),
            )
        )
    operators = st.permutations(["max", "avg", "conv"])
    pools = tuple(tuple(draw(operators)[: draw(st.integers(1, 3))]) for _ in range(stages - 1))
    stem = tuple(draw(st.permutations(stems))[: draw(st.integers(1, len(stems)))])
    return Layout(variant=variant, head_dim=head_dim, stem=stem, stages=tuple(chosen), pools=pools)
