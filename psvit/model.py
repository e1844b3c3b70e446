"""PSViT: the network that an architecture describes, as a timm model.

The family is reconstructed from the abstract of arXiv 2108.03428; its authors published no code. In 1d, a network of
one stage without sharing is DeiT (arXiv 2012.12877), parameter by parameter; norms, initialisation and head are
DeiT's. In 2d there is no class token: the final norm comes before the mean over the last tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import trunc_normal_
from timm.models import build_model_with_cfg, register_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from psvit.architecture import Architecture, Stage
from psvit.layers import AttentionGroup, PatchEmbed, TokenPool

__all__ = ["PSViT", "create_model", "psvit"]


class PSViTStage(nn.Module):
    """A stage with the pooling before it.

    Args:
        pool: the pooling, or an identity before the first stage.
        stage: width, groups and MLP ratio.
        head_dim: channels per head.
        drop_path: one probability for each layer.
    """

    def __init__(self, pool: nn.Module, stage: Stage, head_dim: int, drop_path: list[float], **dd: Any) -> None:
        super().__init__()
        self.pool = pool
        self.grad_checkpointing = False
        rates = iter(drop_path)
        self.groups = nn.ModuleList(
            AttentionGroup(
                length,
                stage.embed_dim,
                stage.embed_dim // head_dim,
                stage.hidden_dim,
                [next(rates) for _ in range(length)],
                **dd,
            )
            for length in stage.groups
        )

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
        global_pool: `token` or `avg` as the variant has it, or empty to hand all tokens to the classifier.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last layer; it grows linearly from 0 at the first.
        device: where to make the parameters.
        dtype: their type.

    Raises:
        InputError: the architecture breaks a rule.
    """

    def __init__(
        self,
        arch: Architecture | dict[str, Any] | str | Path,
        num_classes: int | None = None,
        in_chans: int | None = None,
        img_size: int | tuple[int, int] | None = None,
        global_pool: str | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.arch = arch = resolve(arch, num_classes, in_chans, img_size)
        self.num_classes = arch.num_classes
        self.in_chans = arch.in_chans
        self.has_class_token = arch.variant == "1d"
        own_pool = "token" if self.has_class_token else "avg"
        self.global_pool = own_pool if global_pool is None else global_pool
        _check_pool(self.global_pool, own_pool)
        self.num_prefix_tokens = int(self.has_class_token)
        self.embed_dim = self.num_features = self.head_hidden_size = arch.stages[-1].embed_dim

        width = arch.stages[0].embed_dim
        rows, columns = arch.grids[0]
        self.patch_embed = PatchEmbed(arch.in_chans, width, arch.patch_size, arch.patch_stride, **dd)
        if self.has_class_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width, **dd))
        self.pos_embed = nn.Parameter(torch.zeros(1, rows * columns + self.num_prefix_tokens, width, **dd))

        rates = [drop_path_rate * layer / max(1, arch.depth - 1) for layer in range(arch.depth)]
        stages = []
        self.feature_info = []
        for index, stage in enumerate(arch.stages):
            pool: nn.Module = nn.Identity()
            if index:
                before, operator = arch.stages[index - 1].embed_dim, arch.pools[index - 1]
                pool = TokenPool(arch.variant, operator, arch.grids[index - 1], before, stage.embed_dim, **dd)
            stages.append(PSViTStage(pool, stage, arch.head_dim, rates[: stage.depth], **dd))
            rates = rates[stage.depth :]
            reduction = arch.patch_stride * 2**index
            self.feature_info.append({"num_chs": stage.embed_dim, "reduction": reduction, "module": f"stages.{index}"})
        self.stages = nn.ModuleList(stages)
        self.norm = nn.LayerNorm(self.embed_dim, eps=1e-6, **dd)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = _classifier(self.embed_dim, self.num_classes, dd)
        # On the meta device there is nothing to initialise, and a supernet builds thousands of such networks.
        if not self.pos_embed.is_meta:
            init_weights(self)

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
        if global_pool is not None:
            _check_pool(global_pool, "token" if self.has_class_token else "avg")
            self.global_pool = global_pool
        self.num_classes = num_classes
        self.arch = resolve(self.arch, num_classes)
        self.head = _classifier(
            self.embed_dim, num_classes, {"device": self.pos_embed.device, "dtype": self.pos_embed.dtype}
        )

    def embed(self, x: Tensor) -> Tensor:
        """From images (B, C, height, width) to the first stage's tokens (B, N, D), positions added.

        Raises:
            ValueError: images of another size, whose tokens would get positions that are not theirs.
        """
        if tuple(x.shape[-2:]) != self.arch.image_size:
            raise ValueError(f"images must be {self.arch.image_size} pixels, received {tuple(x.shape[-2:])}")
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

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """From tokens (B, N, D) to logits (B, classes), or to what the classifier sees."""
        if self.global_pool == "token":
            x = x[:, 0]
        elif self.global_pool == "avg":
            x = x.mean(dim=1)
        x = self.head_drop(x)
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


def _check_pool(global_pool: str, own_pool: str) -> None:
    if global_pool not in ("", own_pool):
        raise ValueError(f"global_pool must be {own_pool!r} for this variant, or empty, received {global_pool!r}")


def _classifier(embed_dim: int, num_classes: int, dd: dict[str, Any]) -> nn.Module:
    return nn.Linear(embed_dim, num_classes, **dd) if num_classes else nn.Identity()


def resolve(
    arch: Architecture | dict[str, Any] | str | Path,
    num_classes: int | None = None,
    in_chans: int | None = None,
    img_size: int | tuple[int, int] | None = None,
) -> Architecture:
    """The architecture in any accepted form, with other images or classes where they are given.

    Raises:
        InputError: it breaks a rule, or its file cannot be read.
    """
    if isinstance(arch, str | Path):
        arch = Architecture.load(arch)
    data = arch.to_dict() if isinstance(arch, Architecture) else dict(arch)
    if num_classes is not None:
        data["num_classes"] = num_classes
    if in_chans is not None:
        data["in_chans"] = in_chans
    if img_size is not None:
        data["image_size"] = [img_size, img_size] if isinstance(img_size, int) else list(img_size)
    return Architecture.from_dict(data)


@register_model
def psvit(pretrained: bool = False, **kwargs: Any) -> PSViT:
    """The network of `arch=`, an architecture's value, dict or file; for `timm.create_model("psvit", arch=...)`."""
    if "arch" not in kwargs:
        raise TypeError("psvit needs arch=, an architecture as a value, a dict or the path of its file")
    arch = resolve(kwargs.pop("arch"), *(kwargs.pop(name, None) for name in ("num_classes", "in_chans", "img_size")))
    cfg = {
        "num_classes": arch.num_classes,
        "input_size": (arch.in_chans, *arch.image_size),
        "fixed_input_size": True,
        "pool_size": None,
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    kwargs["pretrained_cfg"] = kwargs.get("pretrained_cfg") or cfg
    # A dict is what timm can store beside the weights and build from again.
    model: PSViT = build_model_with_cfg(PSViT, "psvit", pretrained, arch=arch.to_dict(), **kwargs)
    return model


def create_model(arch: Architecture | dict[str, Any] | str | Path, **kwargs: Any) -> PSViT:
    """Build the network of an architecture.

    Args:
        arch: a value, its dict, or the path of its file.
        **kwargs: of `PSViT`, or of `timm.create_model` such as `checkpoint_path`.

    Raises:
        InputError: the architecture breaks a rule, or its file cannot be read.
    """
    import timm

    model = timm.create_model("psvit", arch=resolve(arch).to_dict(), **kwargs)
    assert isinstance(model, PSViT)
    return model
