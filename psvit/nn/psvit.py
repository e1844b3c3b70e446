"""The entry points of the family in timm: `psvit`, which builds any architecture, and the named networks.

timm lists networks by the last part of their module's name: `timm.list_models(module="psvit")`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, get_pretrained_cfg, register_model
from torch import nn

from psvit.arch.architecture import Architecture, ArchitectureFile
from psvit.nn.checkpoint_filter import checkpoint_filter_fn
from psvit.nn.layers import STEM_MODULES
from psvit.nn.network import PSViT, resolve

# timm looks here for the entry points of a module that registers models.
__all__ = [
    "create_model",
    "psvit",
    "psvit_1d_base",
    "psvit_1d_small",
    "psvit_1d_tiny",
    "psvit_2d_base",
    "psvit_2d_small",
    "psvit_2d_tiny",
]


def _first_conv(arch: Architecture) -> str | None:
    """The name of the convolution that sees the image, which timm adapts where weights are for other channels."""
    stem = STEM_MODULES[arch.stem](
        arch.in_chans, arch.stages[0].embed_dim, arch.patch_size, arch.patch_stride, device="meta"
    )
    names = (name for name, module in stem.named_modules() if isinstance(module, nn.Conv2d))
    return next((f"patch_embed.{name}" for name in names), None)


def _cfg() -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "fixed_input_size": True,
        "pool_size": None,
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "license": "apache-2.0",
    }


default_cfgs = generate_default_cfgs(
    {
        "psvit": _cfg(),
        "psvit_1d_tiny": _cfg(),
        "psvit_1d_small": _cfg(),
        "psvit_1d_base": _cfg(),
        "psvit_2d_tiny": _cfg(),
        "psvit_2d_small": _cfg(),
        "psvit_2d_base": _cfg(),
    }
)


def _is_own_cfg(variant: str, cfg: Any) -> bool:
    """Whether a cfg is the one above, which timm's scripts pass as well; any other stays as it is given."""
    if cfg is None or isinstance(cfg, str):
        return cfg is None
    as_dict = cfg if isinstance(cfg, dict) else cfg.to_dict()
    own = get_pretrained_cfg(variant)
    return own is not None and as_dict == own.to_dict()


def _trained_on(arch_file: Any, arch: Architecture) -> dict[str, Any]:
    """How images are prepared for the weights beside an architecture's file, if that says what they were trained on.

    Args:
        arch_file: the file, or an architecture in another form.
        arch: what is in it.
    """
    if not isinstance(arch_file, str | Path):
        return {}
    data = ArchitectureFile.load(arch_file).provenance.get("data")
    if not isinstance(data, dict) or len(data.get("mean") or ()) != arch.in_chans:
        return {}
    return {"mean": tuple(data["mean"]), "std": tuple(data["std"]), "crop_pct": 1.0}


def _create_psvit(variant: str, pretrained: bool, arch: Any, **kwargs: Any) -> PSViT:
    given, arch_file = resolve(arch), arch
    arch = resolve(given, *(kwargs.pop(name, None) for name in ("num_classes", "in_chans", "img_size")))
    if kwargs.get("features_only") and arch.variant == "1d":
        # What timm raises where a family gives no feature maps.
        raise RuntimeError(
            "features_only: 1d networks give no feature maps, because pooled along the sequence, tokens have no grid; "
            "forward_intermediates gives tokens"
        )
    if _is_own_cfg(variant, kwargs.get("pretrained_cfg")):
        # What the network is made for says how to prepare images; a file's weights are for the architecture as given.
        described = given if pretrained else arch
        other = (0.5,) * described.in_chans
        kwargs["pretrained_cfg_overlay"] = {
            "num_classes": described.num_classes,
            "input_size": (described.in_chans, *described.image_size),
            "first_conv": _first_conv(described),
            **({"mean": other, "std": other} if described.in_chans != 3 else {}),
            **_trained_on(arch_file, described),
            **(kwargs.get("pretrained_cfg_overlay") or {}),
        }
    feature_cfg = {"out_indices": kwargs.pop("out_indices", tuple(range(len(arch.stages)))), "feature_cls": "getter"}
    if kwargs.get("features_only") and "output_fmt" in kwargs:
        feature_cfg["output_fmt"] = kwargs.pop("output_fmt")
    model: PSViT = build_model_with_cfg(
        PSViT,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=feature_cfg,
        arch=arch,
        # Said again, because timm fills in what is not given from the cfg of the weights.
        num_classes=arch.num_classes,
        in_chans=arch.in_chans,
        img_size=arch.image_size,
        **kwargs,
    )
    return model


@register_model
def psvit(pretrained: bool = False, **kwargs: Any) -> PSViT:
    """The network of `arch=`, an architecture's value, dict or file; without it, that of `psvit_2d_tiny`.

    Whoever goes through all of timm's names builds it without arguments.
    """
    return _create_psvit("psvit", pretrained, **{"arch": "psvit-2d-tiny", **kwargs})


@register_model
def psvit_1d_tiny(pretrained: bool = False, **kwargs: Any) -> PSViT:
    """PSViT-1D of DeiT-Ti's MACs (1.25 G, 13.5 M parameters); chosen by hand, not searched."""
    return _create_psvit("psvit_1d_tiny", pretrained, **{"arch": "psvit-1d-tiny", **kwargs})


@register_model
def psvit_1d_small(pretrained: bool = False, **kwargs: Any) -> PSViT:
    """PSViT-1D of DeiT-S's MACs (4.62 G, 43.5 M parameters); chosen by hand, not searched."""
    return _create_psvit("psvit_1d_small", pretrained, **{"arch": "psvit-1d-small", **kwargs})


@register_model
def psvit_1d_base(pretrained: bool = False, **kwargs: Any) -> PSViT:
    """PSViT-1D of DeiT-B's MACs (17.7 G, 160 M parameters); chosen by hand, not searched."""
    return _create_psvit("psvit_1d_base", pretrained, **{"arch": "psvit-1d-base", **kwargs})


@register_model
def psvit_2d_tiny(pretrained: bool = False, **kwargs: Any) -> PSViT:
    """PSViT-2D of DeiT-Ti's MACs (1.25 G, 19.5 M parameters); chosen by hand, not searched."""
    return _create_psvit("psvit_2d_tiny", pretrained, **{"arch": "psvit-2d-tiny", **kwargs})


@register_model
def psvit_2d_small(pretrained: bool = False, **kwargs: Any) -> PSViT:
    """PSViT-2D of DeiT-S's MACs (4.61 G, 75.5 M parameters); chosen by hand, not searched."""
    return _create_psvit("psvit_2d_small", pretrained, **{"arch": "psvit-2d-small", **kwargs})


@register_model
def psvit_2d_base(pretrained: bool = False, **kwargs: Any) -> PSViT:
    """PSViT-2D of DeiT-B's MACs (17.6 G, 256 M parameters); chosen by hand, not searched."""
    return _create_psvit("psvit_2d_base", pretrained, **{"arch": "psvit-2d-base", **kwargs})


def create_model(arch: Architecture | dict[str, Any] | str | Path, **kwargs: Any) -> PSViT:
    """Build the network of an architecture.

    Args:
        arch: a value, its dict, or the path of its file.
        **kwargs: of `PSViT`, or of `timm.create_model` such as `checkpoint_path`.

    Raises:
        InputError: the architecture breaks a rule, or its file cannot be read.
    """
    import timm

    model = timm.create_model("psvit", arch=arch if isinstance(arch, str | Path) else resolve(arch).to_dict(), **kwargs)
    assert isinstance(model, PSViT)
    return model
