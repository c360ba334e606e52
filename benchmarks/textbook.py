"""The training loop of a textbook, which `train_speed.py` compares `engine.py` with.

A data set class with PIL and torchvision transforms for one image at a time, two loader processes,
`loss.item()` in every step, validation after every epoch, float32 and AdamW as they come. The same
model, recipe, batch size, schedule and clipping as ours.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from chestlab.data.splits import Split
from chestlab.training.recipe import Recipe


class ChestDataset(Dataset):
    """Images of a split as PIL images through a transform, labels as floats."""

    def __init__(self, split: Split, transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.images, self.labels = split.images, split.labels
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = self.transform(Image.fromarray(self.images[index]))
        return image, torch.tensor(self.labels[index], dtype=torch.float32)


def make_transform(recipe: Recipe, training: bool) -> Callable[[Image.Image], torch.Tensor]:
    """The recipe's resizing, augmentation (in training) and fixed normalisation."""
    steps: list[Callable] = []
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
    dataset = ChestDataset(split, make_transform(recipe, training))
    return DataLoader(dataset, recipe.batch_size, shuffle=training, num_workers=workers)


def make_scheduler(
    optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int
) -> torch.optim.lr_scheduler.LRScheduler | None:
    """PyTorch's own class for the recipe's schedule.

    Args:
        steps: optimiser steps to an epoch.

    Raises:
        ValueError: a schedule that no recipe measured here has.
    """
    if recipe.schedule == "constant":
        return None
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
    loader: Iterable[tuple[torch.Tensor, torch.Tensor]],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None,
    recipe: Recipe,
    device: torch.device,
) -> list[float]:
    """Train on every batch once; returns the loss of each."""
    criterion = nn.BCEWithLogitsLoss()
    model.train()
    losses = []
    batches = len(loader)
    for number, (images, labels) in enumerate(loader, 1):
        images, labels = images.to(device), labels.to(device)
        loss = criterion(model(images), labels)
        (loss / recipe.accumulation).backward()
        losses.append(loss.item())
        if number % recipe.accumulation and number < batches:
            continue
        if recipe.clip:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        optimizer.zero_grad()
        if recipe.schedule == "onecycle":
            scheduler.step()
    return losses


def predict(
    model: nn.Module,
    loader: Iterable[tuple[torch.Tensor, torch.Tensor]],
    device: torch.device,
    tta: str = "none",
) -> tuple[np.ndarray, np.ndarray, float]:
    """Logits (N,), labels (N,) and mean loss; under ``flip`` logits averaged with the mirror's."""
    criterion = nn.BCEWithLogitsLoss(reduction="sum")
    model.eval()
    logits, truth, total = [], [], 0.0
    with torch.no_grad():
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            outputs = model(images)
            if tta == "flip":
                outputs = (outputs + model(torch.flip(images, [3]))) / 2
            total += criterion(outputs, labels).item()
            logits.append(outputs.cpu().numpy())
            truth.append(labels.cpu().numpy())
    logits, truth = np.concatenate(logits), np.concatenate(truth)
    return logits, truth, total / len(truth)


def train(
    build: Callable[[], nn.Module],
    recipe: Recipe,
    train_split: Split,
    val_split: Split,
    device: torch.device,
) -> list[dict[str, float]]:
    """Train for the recipe's epochs, keeping the best weights; returns a row per epoch."""
    from sklearn.metrics import roc_auc_score

    torch.manual_seed(recipe.seed)
    train_loader = make_loader(train_split, recipe, training=True)
    val_loader = make_loader(val_split, recipe, training=False)
    model = build().to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=recipe.lr,
        betas=(recipe.beta1, recipe.beta2),
        weight_decay=recipe.weight_decay,
    )
    steps = -(-len(train_loader) // recipe.accumulation)
    scheduler = make_scheduler(optimizer, recipe, steps)
    history, best = [], -1.0
    for _ in range(recipe.epochs):
        losses = train_epoch(model, train_loader, optimizer, scheduler, recipe, device)
        logits, labels, val_loss = predict(model, val_loader, device)
        if recipe.schedule == "plateau":
            scheduler.step(val_loss)
        accuracy = float(np.mean((logits >= 0) == (labels == 1)))
        if accuracy > best:
            best, _best_weights = accuracy, copy.deepcopy(model.state_dict())
        history.append(
            {
                "train_loss": float(np.mean(losses)),
                "val_loss": val_loss,
                "val_accuracy": accuracy,
                "val_auc": float(roc_auc_score(labels, logits)),
            }
        )
    return history
