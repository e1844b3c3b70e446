"""The network that an architecture describes.

The family is reconstructed from the abstract of arXiv 2108.03428; its authors published no code. In 1d, a network of
one stage without sharing is DeiT (arXiv 2012.12877), parameter by parameter; norms, initialisation and head are
DeiT's. In 2d there is no class token: the final norm comes before the mean over the last tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.fx
from timm.layers import global_pool_nlc, register_notrace_function, resample_abs_pos_embed, trunc_normal_
from timm.models._features import feature_take_indices
from timm.models._input import update_model_input_size
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from psvit.arch.architecture import Architecture
from psvit.errors import InputError
from psvit.nn.layers import STEM_MODULES, AttentionGroup, Sharing, TokenPool


class PSViTStage(nn.Module):
    """A stage with the pooling before it.

    Args:
        pool: the pooling, or an identity before the first stage.
        groups: the attention groups.
    """

    def __init__(self, pool: nn.Module, groups: Iterable[AttentionGroup]) -> None:
        super().__init__()
        self.pool = pool
        self.grad_checkpointing = False
        self.groups = nn.ModuleList(groups)

    def forward(self, x: Tensor) -> Tensor:
        """From the tokens of the stage before to this stage's, (B, N, D) each."""
        x = self.pool(x)
        for group in self.groups:
            if self.grad_checkpointing and self.training:
                x = checkpoint(group, x, use_reentrant=False)
            else:
                x = group(x)
        return x


class PSViT(nn.Module):
    """A vision transformer with token pooling and attention sharing.

    Args:
        arch: the architecture: a value, its dict, or the path of its file.
        num_classes: outputs of the classifier instead of the architecture's; 0 leaves it out.
        in_chans: channels of the images instead of the architecture's.
        img_size: height and width in pixels instead of the architecture's.
        global_pool: how tokens become one vector: `token` (1d only, its default), `avg` (the default in 2d), `max`,
            `avgmax`, or empty to hand all tokens to the classifier. Only the class token is left out of a mean.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last layer; it grows linearly from 0 at the first.
        sharing: in which form attention is shared, with equal results: as the `map`, as queries and keys (`qk`), or as
            `choose_sharing` decides (`auto`).
        device: where to make the parameters.
        dtype: their type.

    `torch.jit.script` is not supported; tracing, `torch.fx`, `torch.compile` and `torch.export` are.

    Raises:
        InputError: the architecture breaks a rule.
    """

    # What makes a group; a supernet makes each kind once.
    group: Callable[..., AttentionGroup] = AttentionGroup

    def __init__(
        self,
        arch: Architecture | dict[str, Any] | str | Path,
        num_classes: int | None = None,
        in_chans: int | None = None,
        img_size: int | tuple[int, int] | None = None,
        global_pool: str | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        sharing: Sharing = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self._given_args: dict[str, Any] = {}
        self.arch = arch = resolve(arch, num_classes, in_chans, img_size)
        self.num_classes = arch.num_classes
        self.in_chans = arch.in_chans
        self.has_class_token = arch.variant == "1d"
        self.global_pool = self._permitted_pool(global_pool)
        self.num_prefix_tokens = int(self.has_class_token)
        if sharing not in ("auto", "map", "qk"):
            raise InputError(f"sharing must be auto, map or qk, received {sharing!r}")
        self.embed_dim = self.num_features = self.head_hidden_size = arch.stages[-1].embed_dim

        width = arch.stages[0].embed_dim
        rows, columns = arch.grids[0]
        # timm's name for what turns images into tokens, whatever it is.
        self.patch_embed = STEM_MODULES[arch.stem](
            arch.in_chans, arch.stages[0].embed_dim, arch.patch_size, arch.patch_stride, **dd
        )
        if self.has_class_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width, **dd))
        self.pos_embed = nn.Parameter(torch.zeros(1, rows * columns + self.num_prefix_tokens, width, **dd))

        rates = iter([drop_path_rate * layer / max(1, arch.depth - 1) for layer in range(arch.depth)])
        stages = []
        self.feature_info = []
        for index, stage in enumerate(arch.stages):
            pool: nn.Module = nn.Identity()
            if index:
                before, operator = arch.stages[index - 1].embed_dim, arch.pools[index - 1]
                pool = TokenPool(arch.variant, operator, arch.grids[index - 1], before, stage.embed_dim, **dd)
            heads = stage.embed_dim // arch.head_dim
            groups = [
                self.group(length, stage.embed_dim, heads, stage.hidden_dim, (*islice(rates, length),), sharing, **dd)
                for length in stage.groups
            ]
            stages.append(PSViTStage(pool, groups))
            reduction = arch.patch_stride * 2**index
            self.feature_info.append({"num_chs": stage.embed_dim, "reduction": reduction, "module": f"stages.{index}"})
        self.stages = nn.ModuleList(stages)
        self.norm: nn.Module = nn.LayerNorm(self.embed_dim, eps=1e-6, **dd)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = _classifier(self.embed_dim, self.num_classes, dd)
        # On the meta device there is nothing to initialise, and a supernet builds thousands of such networks.
        if not self.pos_embed.is_meta:
            self.init_weights(needs_reset=False)

    def init_weights(self, mode: str = "", needs_reset: bool = True) -> None:
        """Draw all weights anew, for example after `to_empty()`, which leaves them undefined.

        Args:
            mode: of timm's ways to do so. The family has one, DeiT's, which needs no name.
            needs_reset: whether modules first initialise themselves as PyTorch does. Those of a fresh network have.

        Raises:
            ValueError: another mode, or a registered operator that has parameters and no `reset_parameters()`.
        """
        if mode:
            raise ValueError(f"mode must be empty, received {mode!r}")
        for name, module in self.named_modules() if needs_reset else ():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
            elif name and next(module.parameters(recurse=False), None) is not None:
                raise ValueError(f"{name} has parameters, but no reset_parameters() that draws them")
        init_weights(self)

    @property
    def _model_args(self) -> dict[str, Any]:
        """What timm stores beside saved weights to build the network from again."""
        # Whatever form the architecture was given in, it travels as a dict and as it is by now.
        args = dict(self._given_args)
        if "arch" in args:
            args["arch"] = self.arch.to_dict()
        return args

    @_model_args.setter
    def _model_args(self, args: dict[str, Any]) -> None:
        self._given_args = args

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay leaves alone."""
        return {"pos_embed", "cls_token"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """How parameters fall into layers: by stage, or by attention group with its pooling before the first."""
        if coarse:
            return {"stem": r"^cls_token|pos_embed|patch_embed", "blocks": r"^stages\.(\d+)"}
        return {
            "stem": r"^cls_token|pos_embed|patch_embed",
            "blocks": [
                (r"^stages\.(\d+)\.groups\.(\d+)", None),
                (r"^stages\.(\d+)\.pool", (0,)),
                (r"^norm", (99999,)),
            ],
        }

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every attention group's activations in the backward pass instead of keeping them."""
        for stage in self.stages:
            assert isinstance(stage, PSViTStage)
            stage.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """The linear classifier."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a fresh one; 0 classes leave it out."""
        pool = self.global_pool if global_pool is None else self._permitted_pool(global_pool)
        self.arch = resolve(self.arch, num_classes)
        self.global_pool = pool
        self.num_classes = num_classes
        dd = {"device": self.pos_embed.device, "dtype": self.pos_embed.dtype}
        self.head = _classifier(self.num_features, num_classes, dd).train(self.training)

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Take images of another size from now on; position embeddings are interpolated.

        Raises:
            InputError: the patches do not cover such images exactly, or too few tokens are left to pool.
        """
        arch = resolve(self.arch, img_size=img_size)
        positions = resample_abs_pos_embed(
            self.pos_embed.detach(), list(arch.patches.grid), list(self.arch.patches.grid), self.num_prefix_tokens
        )
        self.pos_embed = nn.Parameter(positions, requires_grad=self.pos_embed.requires_grad)
        for stage, grid in zip(self.stages, (None, *arch.grids), strict=False):
            assert isinstance(stage, PSViTStage)
            if isinstance(stage.pool, TokenPool):
                assert grid
                stage.pool.grid = grid
        self.arch = arch
        update_model_input_size(self, arch.image_size)

    def _permitted_pool(self, global_pool: str | None) -> str:
        own = ("token", "avg", "max", "avgmax") if self.has_class_token else ("avg", "max", "avgmax")
        if global_pool is None:
            return own[0]
        if global_pool not in (*own, ""):
            raise InputError(f"global_pool must be {', '.join(own)} or empty in this variant, received {global_pool!r}")
        return global_pool

    def embed(self, x: Tensor) -> Tensor:
        """From images (B, C, height, width) to the first stage's tokens (B, N, D), positions added.

        Raises:
            ValueError: images of another size, whose tokens would get positions that are not theirs.
        """
        check_size(x, self.arch.image_size)
        x = self.patch_embed(x)
        if self.has_class_token:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        return x + self.pos_embed

    def forward_features(self, x: Tensor) -> Tensor:
        """From images (B, C, height, width) to the last stage's tokens after the final norm, (B, N, D)."""
        x = self.embed(x)
        for stage in self.stages:
            x = stage(x)
        return self.norm(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str | None = None,
        intermediates_only: bool = False,
    ) -> Any:
        """The tokens after some stages, and those that `forward_features` gives.

        Args:
            x: images (B, C, height, width).
            indices: of the stages; a number takes that many of the last, nothing takes all.
            return_prefix_tokens: in 1d, pair every intermediate with the class token (B, 1, D).
            norm: apply the final norm to the last stage's intermediate, the only one that it fits.
            stop_early: leave out the stages after the last wanted one.
            output_fmt: `NCHW`, in 2d only and its default: (B, D, rows, columns); or `NLC`: (B, P, D).
            intermediates_only: leave out the final tokens.

        Returns:
            The intermediates as a list, or a pair of the final tokens (B, N, D) and that list.

        Raises:
            ValueError: a format that the variant does not have.
        """
        formats = ("NLC",) if self.has_class_token else ("NCHW", "NLC")
        output_fmt = output_fmt or formats[0]
        if output_fmt not in formats:
            raise ValueError(
                f"output_fmt must be {' or '.join(formats)} in {self.arch.variant}, received {output_fmt!r}"
            )
        taken, last = _taken(len(self.stages), indices)
        final = len(self.stages) - 1
        intermediates: list[Any] = []
        x = self.embed(x)
        for index, stage in enumerate(self.stages):
            if stop_early and index > last:
                break
            x = stage(x)
            if index in taken:
                tokens = self.norm(x) if norm and index == final else x
                prefix, patches = tokens[:, : self.num_prefix_tokens], tokens[:, self.num_prefix_tokens :]
                if output_fmt == "NCHW":
                    patches = patches.transpose(1, 2).unflatten(2, self.arch.grids[index]).contiguous()
                with_prefix = return_prefix_tokens and self.num_prefix_tokens
                intermediates.append((patches, prefix) if with_prefix else patches)
        if intermediates_only:
            return intermediates
        return x if stop_early and last < final else self.norm(x), intermediates

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the stages after the last wanted one, and with them the norm and the classifier made for them.

        What is left is the network of the shorter architecture.

        Args:
            indices: of the stages whose intermediates are wanted, as in `forward_intermediates`.
            prune_norm: remove the final norm in any case.
            prune_head: remove the classifier in any case.

        Returns:
            The indices as a list of numbers from 0.
        """
        taken, last = _taken(len(self.stages), indices)
        shortened = last < len(self.stages) - 1
        if shortened:
            self.stages = self.stages[: last + 1]
            whole = self.arch.to_dict()
            shorter = {"stages": whole["stages"][: last + 1], "pools": whole["pools"][:last]}
            self.arch = Architecture.from_dict({**whole, **shorter})
            self.embed_dim = self.num_features = self.head_hidden_size = self.arch.stages[-1].embed_dim
        if shortened or prune_norm:
            self.norm = nn.Identity()
        if shortened or prune_head:
            self.reset_classifier(0, "")
        return list(taken)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """From tokens (B, N, D) to logits (B, classes), or to what the classifier sees."""
        x = self.head_drop(global_pool_nlc(x, self.global_pool, num_prefix_tokens=self.num_prefix_tokens))
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """From images (B, C, height, width) to logits (B, classes)."""
        return self.forward_head(self.forward_features(x))


def init_weights(network: nn.Module) -> None:
    """DeiT's initialisation: truncated normal of 0.02 for linear layers and positions, zero biases.

    A supernet is initialised by it too, so that each of its slices is distributed like a network of its own.

    Args:
        network: has `pos_embed` and, in 1d, `cls_token`.
    """
    trunc_normal_(network.get_parameter("pos_embed"), std=0.02)
    if hasattr(network, "cls_token"):
        nn.init.normal_(network.get_parameter("cls_token"), std=1e-6)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)


@torch.fx.wrap
@register_notrace_function
def check_size(x: Tensor, image_size: tuple[int, int]) -> None:
    """Refuse images of another size; a function of its own, because symbolic tracing must not look inside."""
    if tuple(x.shape[-2:]) != image_size:
        raise ValueError(f"images must be {image_size} pixels, received {tuple(x.shape[-2:])}")


def _taken(stages: int, indices: int | Sequence[int] | None) -> tuple[list[int], int]:
    """The wanted stages as numbers from 0, and the last of them."""
    return feature_take_indices(stages, indices if indices is None or isinstance(indices, int) else list(indices))


def _classifier(embed_dim: int, num_classes: int, dd: dict[str, Any]) -> nn.Module:
    return nn.Linear(embed_dim, num_classes, **dd) if num_classes else nn.Identity()


def resolve(
    arch: Architecture | dict[str, Any] | str | Path,
    num_classes: int | None = None,
    in_chans: int | None = None,
    img_size: int | tuple[int, int] | None = None,
) -> Architecture:
    """The architecture in any accepted form, with other images or classes if they are given.

    Raises:
        InputError: it breaks a rule, or its file cannot be read.
    """
    if isinstance(arch, str | Path):
        arch = Architecture.load(arch)
    if not isinstance(arch, Architecture | Mapping):
        raise InputError(
            f"arch: must be an Architecture, its dict, its file or a name; received a {type(arch).__name__}"
        )
    data = arch.to_dict() if isinstance(arch, Architecture) else dict(arch)
    if num_classes is not None:
        data["num_classes"] = num_classes
    if in_chans is not None:
        data["in_chans"] = in_chans
    if img_size is not None:
        data["image_size"] = [img_size, img_size] if isinstance(img_size, int) else list(img_size)
    return Architecture.from_dict(data)
