"""A textbook's training loop for the networks and recipes that `train_speed.py` measures.

Pillow and torchvision transforms for one image at a time, loader processes, ``loss.item()`` in
every step, validation after every epoch, float32 and AdamW as they come.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from chestlab.data.splits import Split
from chestlab.training.recipe import Recipe
from train_minimal import evaluate


class TwoClassDataset(Dataset):
    """Images (N, S, S) uint8, each through the transform, and labels (N,) as floats."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: Callable) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, np.float32]:
        return self.transform(self.images[row]), np.float32(self.labels[row])


def make_transform(recipe: Recipe, training: bool) -> Callable[[np.ndarray], torch.Tensor]:
    """The recipe's resizing, augmentation (in training) and fixed normalisation."""
    steps: list[Callable] = [transforms.ToPILImage()]
    if recipe.image_size:
        steps.append(transforms.Resize((recipe.image_size, recipe.image_size)))
    if training and (recipe.rotate or recipe.translate or recipe.scale):
        steps.append(
            transforms.RandomAffine(
                degrees=recipe.rotate,
                translate=(recipe.translate, recipe.translate),
                scale=(1 - recipe.scale, 1 + recipe.scale),
                interpolation=transforms.InterpolationMode.BILINEAR,
            )
        )
    if training and recipe.flip:
        steps.append(transforms.RandomHorizontalFlip(recipe.flip))
    steps += [transforms.ToTensor(), transforms.Normalize([recipe.mean], [recipe.std])]
    return transforms.Compose(steps)


def make_loader(split: Split, recipe: Recipe, training: bool, workers: int = 2) -> DataLoader:
    """Batches of the recipe's size, shuffled in training."""
    dataset = TwoClassDataset(split.images, split.labels, make_transform(recipe, training))
    return DataLoader(dataset, recipe.batch_size, shuffle=training, num_workers=workers)


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """PyTorch's AdamW with the recipe's values."""
    return torch.optim.AdamW(
        model.parameters(),
        lr=recipe.lr,
        betas=(recipe.beta1, recipe.beta2),
        weight_decay=recipe.weight_decay,
    )


def make_scheduler(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> Any:
    """PyTorch's own class for the recipe's schedule, or an object whose ``step`` does nothing.

    Args:
        optimizer: whose rate is set.
        recipe: with the schedule.
        steps: optimiser steps to an epoch.

    Raises:
        ValueError: a schedule that no recipe measured here has.
    """
    if recipe.schedule == "constant":
        return SimpleNamespace(step=lambda *loss: None)
    if recipe.schedule == "plateau":
        return torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=recipe.gamma, patience=recipe.plateau_patience
        )
    if recipe.schedule == "onecycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=recipe.lr,
            total_steps=recipe.epochs * steps,
            pct_start=recipe.warmup,
            anneal_strategy="linear",
            cycle_momentum=False,
            div_factor=recipe.div_factor,
            final_div_factor=recipe.final_div_factor,
        )
    raise ValueError(f"the textbook loop has no schedule '{recipe.schedule}'")


def train_epoch(
    model: nn.Module,
    loader: DataLoader,
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    clip: float,
    accumulation: int,
) -> tuple[float, float]:
    """Train on every batch once, with a step after ``accumulation``; mean loss and accuracy."""
    model.train()
    device = next(model.parameters()).device
    losses, correct = [], 0
    for number, (images, labels) in enumerate(loader, 1):
        images, labels = images.to(device), labels.to(device)
        logits = model(images)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
        (loss / accumulation).backward()
        losses.append(loss.item())
        correct += ((logits >= 0) == (labels == 1)).sum().item()
        if number % accumulation == 0 or number == len(loader):
            nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
    return float(np.mean(losses)), correct / len(loader.dataset)


def run_epoch(
    model: nn.Module,
    train_loader: DataLoader,
    val_loader: DataLoader,
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    recipe: Recipe,
) -> dict[str, float]:
    """Train on every batch once and validate, in float32; returns both losses and accuracies."""
    plateau = recipe.schedule == "plateau"
    train_loss, train_accuracy = train_epoch(
        model,
        train_loader,
        optimizer,
        SimpleNamespace(step=lambda: None) if plateau else scheduler,
        clip=recipe.clip or math.inf,
        accumulation=recipe.accumulation,
    )
    val_loss, val_accuracy, val_auc = evaluate(model, val_loader)
    if plateau:
        scheduler.step(val_loss)
    return {
        "train_loss": train_loss,
        "train_accuracy": train_accuracy,
        "val_loss": val_loss,
        "val_accuracy": val_accuracy,
        "val_auc": val_auc,
    }


def train(
    build: Callable[[], nn.Module],
    recipe: Recipe,
    train_split: Split,
    val_split: Split,
    device: torch.device,
    compiled: bool = False,
) -> list[dict[str, float]]:
    """Train for the recipe's epochs; returns a row per epoch, see `run_epoch`.

    ``compiled``: the network by `torch.compile`.
    """
    torch.manual_seed(recipe.seed)
    train_loader = make_loader(train_split, recipe, training=True)
    val_loader = make_loader(val_split, recipe, training=False)
    model = build().to(device)
    if compiled:
        model.compile()
    optimizer = make_optimizer(model, recipe)
    scheduler = make_scheduler(optimizer, recipe, -(-len(train_loader) // recipe.accumulation))
    return [
        run_epoch(model, train_loader, val_loader, optimizer, scheduler, recipe)
        for _ in range(recipe.epochs)
    ]


class WithMirror(nn.Module):
    """A network whose logits are averaged with those of the mirrored images."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 1, H, W) to logits (N,)."""
        return (self.model(images) + self.model(torch.flip(images, [3]))) / 2
