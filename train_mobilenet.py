"""Experiment 3: MobileNetV3-Large from ImageNet, classifier first, then everything, at 128 px.

From random weights (`--weights none`) on a few hundred images add `--batch-norm estimated`:
torchvision builds this network with a batch-norm momentum of 0.01, and running averages then lag
behind the weights for the whole training, so that it seems to learn nothing.
"""

from chestlab import Recipe, run
from model_mobilenet import IMAGENET_URL, MobileNetV3Chest

# What `python train_mobilenet.py` trains with: edit a number here, or give it as a flag.
REPORT = Recipe(
    name="mobilenetv3",
    stage1_epochs=30,
    stage1_lr=1e-3,
    epochs=120,
    lr=1e-4,
    patience=40,
    batch_size=48,
    accumulation=2,
    weight_decay=0.01,
    clip=1.0,
    monitor="val_accuracy",
    image_size=128,
    mean=0.449,  # of ImageNet's three channels together
    std=0.226,
    stem="mean",
    flip=0.5,
    tta="flip",
    seed=2024,
)

RECIPES = {"report": REPORT}

if __name__ == "__main__":
    run(MobileNetV3Chest, RECIPES, imagenet_url=IMAGENET_URL)
