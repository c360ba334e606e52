"""Experiment 2: the residual version of EfficientChestNet, from scratch with augmentation."""

from chestlab import Recipe, run
from model_improved import ResidualChestNet

# What `python train_improved.py` trains with: edit a number here, or give it as a flag.
BEST = Recipe(
    name="residualchestnet",
    epochs=120,
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
    tta="warps",
    cpu_bf16=True,
)

# The original course report's values: python train_improved.py --recipe report
REPORT = Recipe(
    name="residualchestnet_report",
    epochs=30,
    batch_size=32,
    lr=5e-4,
    weight_decay=5e-4,
    schedule="plateau",
    gamma=0.5,
    plateau_patience=5,
    clip=1.0,
    monitor="val_accuracy",
    patience=15,
    rotate=15,
    translate=0.1,
    scale=0.1,
    flip=0.5,
    seed=42,
    cpu_bf16=True,
)

RECIPES = {"best": BEST, "report": REPORT}  # the first is the default

if __name__ == "__main__":
    run(ResidualChestNet, RECIPES)
