"""Experiment 1: EfficientChestNet, SE bottlenecks, trained from scratch."""

from chestlab import Recipe, run
from model import EfficientChestNet

# What `python train.py` trains with: edit a number here, or give it as a flag.
BEST = Recipe(
    name="efficientchestnet",
    epochs=40,
    batch_size=32,
    lr=2e-3,
    weight_decay=0.05,
    schedule="onecycle",
    warmup=0.3,
    ema=0.99,
    monitor="last",
    normalize="per-image",
    flip=0.5,
    rotate=10,
    translate=0.1,
    scale=0.1,
    tta="flip",
)

# The original course report's values: python train.py --recipe report
REPORT = Recipe(
    name="efficientchestnet_report",
    epochs=100,
    batch_size=32,
    lr=1e-3,
    weight_decay=1e-4,
    schedule="onecycle",
    warmup=0.05,
    div_factor=10,
    final_div_factor=100,
    clip=1.0,
    monitor="val_accuracy",
    patience=15,
    normalize="fixed",
    mean=0.5,
    std=0.5,
    seed=42,
)

RECIPES = {"best": BEST, "report": REPORT}  # the first is the default

if __name__ == "__main__":
    run(EfficientChestNet, RECIPES)
