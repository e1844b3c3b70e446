"""TrainingState: all that training changes, and so all that a checkpoint holds; its parts are timm's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from timm.data import Mixup
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from psvit.train.recipe import Recipe
from psvit.train.training_loader import TrainingLoader


@dataclass
class TrainingState:
    """Everything that training changes. A checkpoint holds all of it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: CosineLRScheduler
    averaged: ModelEmaV3 | None
    mixup: Mixup | None
    scaler: torch.amp.GradScaler
    device: torch.device
    step: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)
    # Of the epoch so far: the sum of the losses, seconds in all, and those in which batches were waited for.
    loss: Tensor = field(default_factory=lambda: torch.zeros(()))
    seconds: float = 0.0
    waited: float = 0.0

    @classmethod
    def begun(
        cls, model: nn.Module, recipe: Recipe, steps: int, num_classes: int, device: torch.device
    ) -> TrainingState:
        """Before the first step."""
        optimizer = make_optimizer(model, recipe)
        state = cls(
            model=model,
            optimizer=optimizer,
            scheduler=_schedule(optimizer, recipe, steps),
            averaged=ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None,
            mixup=_mixup(recipe, num_classes),
            scaler=torch.amp.GradScaler(device.type, enabled=recipe.precision == "float16"),
            device=device,
        )
        state.begin_epoch()
        return state

    @property
    def modules(self) -> list[nn.Module]:
        """The model that is trained and, if there is one, its average. The last of these is what training gives."""
        return [self.model, *([self.averaged.module] if self.averaged else [])]

    @property
    def lr(self) -> float:
        """The learning rate; where layers have rates of their own, that of the last one, which is the recipe's."""
        return float(max(group["lr"] for group in self.optimizer.param_groups))

    @property
    def is_finite(self) -> bool:
        """Whether the loss and all weights are numbers; looking makes a GPU wait."""
        weights = [weight.detach() for module in self.modules for weight in module.parameters()]
        return bool(torch.isfinite(self.loss) & torch.isfinite(nn.utils.get_total_norm(weights)))

    def begin_epoch(self) -> None:
        """Set back what is of an epoch."""
        self.loss = torch.zeros((), device=self.device)
        self.seconds = self.waited = 0.0

    def row(self, recipe: Recipe, loader: TrainingLoader) -> dict[str, float]:
        """The row of the log for the epoch that ends here."""
        return {
            "epoch": self.step // loader.steps,
            "lr": self.lr,
            "loss": self.loss.item() / loader.steps,
            "images_per_second": loader.steps * loader.batch_size / self.seconds,
            "waiting_for_data": self.waited / self.seconds,
        }

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The state as tensors and as what JSON can hold."""
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.averaged:
            tensors |= {f"averaged/{name}": tensor for name, tensor in self.averaged.module.state_dict().items()}
        tensors["epoch/loss"] = self.loss
        about: dict[str, Any] = {
            "step": self.step,
            "log": self.rows,
            "seconds": self.seconds,
            "waited": self.waited,
            "scaler": self.scaler.state_dict(),
        }
        # Optimisers keep numbers and tensors in both places: by parameter, and by group.
        saved = self.optimizer.state_dict()
        for part, entries in (("state", saved["state"]), ("group", dict(enumerate(saved["param_groups"])))):
            about[part] = {}
            for index, values in entries.items():
                tensors |= {f"{part}/{index}/{key}": value for key, value in values.items() if torch.is_tensor(value)}
                about[part][index] = {key: value for key, value in values.items() if not torch.is_tensor(value)}
        return tensors, about

    def restore(self, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        """Take the state that was saved."""
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "averaged": {}, "epoch": {}, "state": {}, "group": {}}
        for name, tensor in tensors.items():
            part, _, name_within = name.partition("/")
            parts[part][name_within] = tensor
        self.model.load_state_dict(parts["model"])
        if self.averaged:
            self.averaged.module.load_state_dict(parts["averaged"])
        for part in ("state", "group"):
            for name, tensor in parts[part].items():
                index, _, key = name.partition("/")
                about[part][index][key] = tensor
        state = {int(index): values for index, values in about["state"].items()}
        self.optimizer.load_state_dict({"state": state, "param_groups": list(about["group"].values())})
        self.scaler.load_state_dict(about["scaler"])
        self.loss = parts["epoch"]["loss"].to(self.device)
        self.step, self.rows = about["step"], about["log"]
        self.seconds, self.waited = about["seconds"], about["waited"]


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Timm's optimiser; AdamW in the form that passes over the weights once."""
    given: dict[str, Any] = {"betas": recipe.opt_betas, "eps": recipe.opt_eps}
    given = {name: value for name, value in given.items() if value is not None}
    if recipe.opt in ("adam", "adamw"):
        given["fused"] = True
    return create_optimizer_v2(
        model,
        opt=recipe.opt,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        layer_decay=recipe.layer_decay,
        **given,
    )


def _schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int) -> CosineLRScheduler:
    """Cosine with linear warm-up, by steps."""
    warmup_lr = recipe.min_lr if recipe.warmup_lr is None else recipe.warmup_lr
    return CosineLRScheduler(
        optimizer,
        t_initial=recipe.epochs * steps_per_epoch,
        lr_min=min(recipe.min_lr, recipe.lr),
        warmup_t=round(recipe.warmup_epochs * steps_per_epoch),
        warmup_lr_init=min(warmup_lr, recipe.lr),
        t_in_epochs=False,
    )


def _mixup(recipe: Recipe, num_classes: int) -> Mixup | None:
    """Timm's mixup and cutmix, if the recipe has either."""
    if not recipe.mixes:
        return None
    return Mixup(
        mixup_alpha=recipe.mixup,
        cutmix_alpha=recipe.cutmix,
        prob=recipe.mixup_prob,
        label_smoothing=recipe.smoothing,
        num_classes=num_classes,
    )
