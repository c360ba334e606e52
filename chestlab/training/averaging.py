"""An exponential moving average of a network's weights (Polyak and Juditsky, 1992)."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """A second network whose weights and batch-norm statistics follow the first one's slowly.

    The decay of step t is the smaller of ``decay`` and (1 + t) / (10 + t), so that the random
    start is soon forgotten. `torch.optim.swa_utils.AveragedModel` does not have that, and reads its
    counter back from the device at every step.

    Attributes:
        model: the averaged network.
        steps: number of updates so far.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        pairs = []
        for own, followed in zip(self.model.modules(), model.modules(), strict=True):
            pairs += zip(own.parameters(False), followed.parameters(False), strict=True)
            for name, buffer in followed.named_buffers(recurse=False):
                if buffer.is_floating_point():
                    pairs.append((getattr(own, name), buffer))
                else:  # a counter of batches: one for both
                    setattr(own, name, buffer)
        self._own, self._followed = zip(*pairs, strict=True)

    def update(self) -> None:
        """Take one step towards the followed network's present weights."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        get_ema_multi_avg_fn(decay)(self._own, self._followed, None)

    def state_dict(self) -> dict[str, Any]:
        """The averaged network's state dict and the number of updates."""
        return {"steps": self.steps, "model": self.model.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.steps = state["steps"]
        self.model.load_state_dict(state["model"])
