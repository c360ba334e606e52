"""The optimiser is torch's own, without what torch loads around it."""

import subprocess
import sys
from pathlib import Path

import torch

from chestlab.training.optimizer import AdamW

ROOT = Path(__file__).resolve().parent.parent


def test_it_moves_weights_and_keeps_state_as_torchs_does():
    def after(kind, steps=5):
        weights = torch.nn.Parameter(torch.linspace(-1, 1, 12).reshape(3, 4))
        optimizer = kind([weights], lr=0.1, weight_decay=0.2, fused=True)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        for step in range(steps):
            weights.grad = weights.detach().cos() * step
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            fresh = kind([weights], lr=1.0, fused=True)
            fresh.load_state_dict(optimizer.state_dict())
        return weights, fresh.state_dict()

    (own, own_state), (torchs, torchs_state) = after(AdamW), after(torch.optim.AdamW)
    assert torch.equal(own, torchs)
    assert own_state["param_groups"] == torchs_state["param_groups"]
    assert own_state["state"].keys() == torchs_state["state"].keys() == {0}
    for name, value in torchs_state["state"][0].items():
        assert torch.equal(own_state["state"][0][name], value)


def test_training_does_not_load_the_compiler():
    code = """
import sys, torch
from engine import Trainer
from train import REPORT
data = torch.zeros(64, 1, 28, 28, dtype=torch.uint8), torch.arange(64) % 2 * 1.0
from model import EfficientChestNet
trainer = Trainer(EfficientChestNet, REPORT, data, data)
trainer.run_epoch()
trainer.load_state_dict(trainer.state_dict(), None)
sys.exit("torch._dynamo" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
