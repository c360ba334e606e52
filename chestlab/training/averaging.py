"""An exponential moving average of a network's weights (Polyak and Juditsky, 1992)."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """A second network with the moving average of weights and batch-norm statistics.

    The decay of step t is the smaller of ``decay`` and (1 + t) / (10 + t), so that the random
    initial weights soon have no effect. `torch.optim.swa_utils.AveragedModel` has a fixed decay,
    and reads its counter back from the device at every step.

    Attributes:
        model: the averaged network.
        steps: number of updates so far.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        pairs = []
        for average, module in zip(self.model.modules(), model.modules(), strict=True):
            pairs += zip(average.parameters(False), module.parameters(False), strict=True)
            for name, buffer in module.named_buffers(recurse=False):
                if buffer.is_floating_point():
                    pairs.append((getattr(average, name), buffer))
                else:  # a counter of batches, shared by both networks
                    setattr(average, name, buffer)
        self._averages, self._values = zip(*pairs, strict=True)

    def update(self) -> None:
        """Average in the network's present weights."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        get_ema_multi_avg_fn(decay)(self._averages, self._values, None)

    def state_dict(self) -> dict[str, Any]:
        """The averaged network's state dict and the number of updates."""
        return {"steps": self.steps, "model": self.model.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.steps = state["steps"]
        self.model.load_state_dict(state["model"])
