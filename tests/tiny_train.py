"""A training script with a network so small that a test can run it many times."""

import sys
from pathlib import Path

from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from chestlab.runs.run import run
from chestlab.training.recipe import Recipe


class TinyNet(nn.Module):
    """Two convolutions, dropout, batch norm: one of each thing whose state a resume must carry."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(8, 1),
        )

    def forward(self, x):
        return self.layers(x).squeeze(1)


def with_fault(fault, at, base=TinyNet):
    """A network whose batch number ``at`` in training calls ``fault`` first."""

    class Net(base):
        batches = 0

        def forward(self, x):
            if self.training:
                Net.batches += 1
                if Net.batches == at:
                    fault()
            return super().forward(x)

    Net.__name__, Net.__module__ = base.__name__, base.__module__
    return Net


RECIPE = Recipe(
    name="tiny",
    epochs=4,
    batch_size=16,
    lr=1e-2,
    schedule="onecycle",
    warmup=0.25,
    flip=0.5,
    rotate=10,
    patience=50,
)

if __name__ == "__main__":
    run(TinyNet, {"report": RECIPE})
