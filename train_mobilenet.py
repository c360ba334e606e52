"""Experiment 3: MobileNetV3-Large from ImageNet, classifier first, then everything, at 128 px.

From random weights it is not worth its time on a few hundred images: with the report's recipe it
learned nothing from 440, and with one like experiment 2's it was not shown to beat HOG features and
an SVM in cross-validation (results/README.md).
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
    flip=0.5,
    tta="flip",
    seed=2024,
)

RECIPES = {"report": REPORT}

if __name__ == "__main__":
    run(MobileNetV3Chest, RECIPES, imagenet_url=IMAGENET_URL)
