"""A training's state at an epoch's end: written for a checkpoint, and read to go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from chestlab.files.errors import InputError

if TYPE_CHECKING:
    from chestlab.training.trainer import Trainer

HISTORY_COLUMNS = (
    "epoch",
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "val_auc",
    "lr",
    "seconds",
)


def state_of(trainer: Trainer) -> dict[str, Any]:
    """Everything the next epoch depends on, as tensors and plain Python values."""
    return {
        "model": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": trainer.scheduler.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "random": torch.get_rng_state(),
        "random_device": (
            None if trainer.device.type == "cpu" else _device_module(trainer).get_rng_state()
        ),
        "shuffle": trainer.shuffle.get_state(),
        "noise": trainer.noise.get_state(),
        "device": trainer.device.type,
        **({"average": trainer.average.state_dict()} if trainer.average else {}),
        "micro_batch": trainer.micro_batch,
        "best_epoch": trainer.best_epoch,
        "first_epoch": trainer.first_epoch,
        "training_seconds": trainer.training_seconds,
        "history": torch.tensor(
            [[row[column] for column in HISTORY_COLUMNS] for row in trainer.history],
            dtype=torch.float64,
        ),
    }


def copied(value: Any) -> Any:
    """Tensors, dicts, lists and plain values with a copy of every tensor, in the CPU's memory."""
    if isinstance(value, torch.Tensor):
        return value.to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copied(item) for item in value)
    return value


def load_state(
    trainer: Trainer, state: dict[str, Any], best_weights: dict[str, torch.Tensor] | None
) -> None:
    """Continue from ``state``: bit-identically on a CPU with equally many threads.

    Args:
        state: of `state_dict`.
        best_weights: of the best epoch, None where that is the state's own.

    Raises:
        InputError: the state is of a network with other tensors.
    """
    try:
        trainer.model.load_state_dict(state["model"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"the state to resume from does not fit the network ({reason}): --overwrite starts anew"
        ) from None
    _load_optimizer(trainer, state)
    trainer.scheduler.load_state_dict(state["scheduler"])
    if trainer.scaler.is_enabled() and state["scaler"]:
        trainer.scaler.load_state_dict(state["scaler"])
    torch.set_rng_state(state["random"])
    if state["device"] == trainer.device.type:  # streams of another device mean nothing here
        trainer.noise.set_state(state["noise"])
        if state["random_device"] is not None:
            _device_module(trainer).set_rng_state(state["random_device"])
    trainer.shuffle.set_state(state["shuffle"])
    if trainer.average:
        trainer.average.load_state_dict(state["average"])
    trainer.micro_batch = state["micro_batch"]
    trainer.best_epoch = state["best_epoch"]
    trainer.first_epoch = state["first_epoch"]
    trainer.training_seconds = state["training_seconds"]
    trainer.history = [
        dict(zip(HISTORY_COLUMNS, values, strict=True)) for values in state["history"].tolist()
    ]
    for row in trainer.history:
        row["epoch"] = int(row["epoch"])
    best = best_weights if best_weights is not None else trainer.eval_model.state_dict()
    trainer.best_weights = {k: v.to(trainer.device, copy=True) for k, v in best.items()}


def _load_optimizer(trainer: Trainer, state: dict[str, Any]) -> None:
    """Load the optimiser's state, of whatever device, in the form that this device's step has."""
    own = [group["fused"] for group in trainer.optimizer.param_groups]
    trainer.optimizer.load_state_dict(state["optimizer"])
    if state["device"] == trainer.device.type:
        return
    for group, fused in zip(trainer.optimizer.param_groups, own, strict=True):
        group["fused"] = fused
        for parameter in group["params"]:
            of_parameter = trainer.optimizer.state.get(parameter, {})
            for name, value in of_parameter.items():
                if name == "step":
                    of_parameter[name] = value.to(parameter.device if fused else "cpu")
                else:  # laid out as the weights are here
                    of_parameter[name] = torch.empty_like(parameter).copy_(value)


def _device_module(trainer: Trainer) -> Any:
    return getattr(torch, trainer.device.type)  # torch.cuda or torch.mps
