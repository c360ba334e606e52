"""A two-stage script with a tiny network: frozen backbone first, then everything."""

import sys
from pathlib import Path

from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from chestlab.runs.run import run
from chestlab.training.recipe import Recipe
from chestlab.training.weights import load_backbone


class TinyStages(nn.Module):
    """A backbone with batch norm and a linear classifier."""

    def __init__(self, start=None):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        )
        if start is not None:
            load_backbone(self.backbone, start)
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 1)
        )

    def forward(self, x):
        return self.classifier(self.backbone(x)).squeeze(1)


RECIPE = Recipe(
    name="stages",
    stage1_epochs=3,
    stage1_lr=1e-2,
    epochs=4,
    lr=1e-3,
    batch_size=16,
    accumulation=2,
    flip=0.5,
    tta="flip",
)

if __name__ == "__main__":
    run(TinyStages, {"report": RECIPE}, imagenet_url="http://127.0.0.1:9/tiny-00000000.pth")
