"""The recipe of experiment 1, the schedules, the step, early stopping, and the model's shape."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from chestlab.evaluation import metrics
from chestlab.files.errors import InputError
from chestlab.training import trainer as trainer_module
from chestlab.training.device import resolve_amp
from chestlab.training.inference import predict
from chestlab.training.layers import parameter_count
from chestlab.training.optimizer import PER_STEP, make_scheduler
from chestlab.training.recipe import Recipe
from chestlab.training.trainer import Trainer
from chestlab.training.trainer_state import HISTORY_COLUMNS
from model import EfficientChestNet
from train import REPORT


class Linear(nn.Module):
    """Logistic regression on the pixels: small enough to follow by hand."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 1)

    def forward(self, x):
        return self.linear(x.flatten(1)).squeeze(1)


def tensors(n, seed=0, side=8):
    """Images whose brightness tells the class, with noise."""
    g = torch.Generator().manual_seed(seed)
    labels = (torch.arange(n) % 2).float()
    noise = torch.randint(0, 120, (n, 1, side, side), generator=g)
    return (noise + 80 * labels[:, None, None, None]).to(torch.uint8), labels


def rates(recipe, steps_per_epoch):
    """The learning rate of every step of a run."""
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=recipe.lr)
    scheduler = make_scheduler(optimizer, recipe, steps_per_epoch)
    seen = []
    for _ in range(recipe.epochs):
        for _ in range(steps_per_epoch):
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if recipe.schedule in PER_STEP:
                scheduler.step()
        if recipe.schedule not in PER_STEP:
            scheduler.step()
    return np.array(seen)


def test_efficientchestnet_has_the_reports_1_28_million_parameters():
    assert parameter_count(EfficientChestNet()) == 1_279_377


@pytest.mark.parametrize("side", [28, 33, 64])
def test_efficientchestnet_maps_grey_images_to_one_logit_each(side):
    model = EfficientChestNet().eval()
    logits = model(torch.randn(3, 1, side, side))
    assert logits.shape == (3,)
    assert logits.dtype == torch.float32


def test_report_recipe_is_the_reports():
    wanted = {
        "epochs": 100,
        "batch_size": 32,
        "lr": 1e-3,
        "weight_decay": 1e-4,
        "beta1": 0.9,
        "beta2": 0.999,
        "schedule": "onecycle",
        "warmup": 0.05,
        "div_factor": 10,
        "final_div_factor": 100,
        "clip": 1.0,
        "monitor": "val_accuracy",
        "patience": 15,
        "mean": 0.5,
        "std": 0.5,
        "normalize": "fixed",
        "accumulation": 1,
    }
    assert {key: getattr(REPORT, key) for key in wanted} == wanted
    for augmentation in ("flip", "rotate", "translate", "scale", "label_smoothing"):
        assert getattr(REPORT, augmentation) == 0


def test_onecycle_rises_for_5_percent_from_a_tenth_and_falls_to_a_thousandth():
    curve = rates(REPORT, steps_per_epoch=10)
    assert len(curve) == 1000
    assert curve[0] == pytest.approx(1e-4)
    assert curve.argmax() == 49
    assert curve.max() == pytest.approx(1e-3)
    assert curve[-1] == pytest.approx(1e-6)
    falling = np.diff(curve[49:])
    assert falling.std() < 1e-9  # linear
    assert (falling < 0).all()


@pytest.mark.parametrize("steps", [3, 10])
def test_onecycle_is_torchs(steps):
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=1e-3,
        total_steps=100 * steps,
        pct_start=0.05,
        anneal_strategy="linear",
        cycle_momentum=False,
        div_factor=10,
        final_div_factor=100,
    )
    expected = []
    for _ in range(100 * steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    np.testing.assert_allclose(rates(REPORT, steps), expected)


def test_cosine_with_warm_up():
    recipe = Recipe(name="r", lr=0.1, epochs=10, schedule="cosine", warmup=0.1)
    curve = rates(recipe, steps_per_epoch=10)
    np.testing.assert_allclose(curve[:10], 0.01 * np.arange(1, 11))
    expected = [0.05 * (1 + math.cos(math.pi * i / 90)) for i in range(90)]
    np.testing.assert_allclose(curve[10:], expected)


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("schedule", ["cosine", "onecycle"])
def test_a_very_short_run_with_warm_up_has_finite_positive_rates(schedule, epochs):
    recipe = Recipe(name="r", lr=0.1, epochs=epochs, schedule=schedule, warmup=0.9)
    for steps in (1, 2, 7):
        curve = rates(recipe, steps)
        assert np.isfinite(curve).all()
        assert (curve > 0).all()
        assert curve.max() <= 0.1 + 1e-12


def test_step_schedule_cuts_tenfold_every_five_epochs():
    recipe = Recipe(name="r", lr=6e-4, epochs=12, schedule="step", step_size=5, gamma=0.1)
    curve = rates(recipe, steps_per_epoch=2)
    np.testing.assert_allclose(curve, [6e-4] * 10 + [6e-5] * 10 + [6e-6] * 4)


def test_constant_schedule():
    assert set(rates(Recipe(name="r", lr=1e-3, epochs=3), 4)) == {1e-3}


def test_plateau_halves_after_patience_epochs_without_a_lower_val_loss(monkeypatch):
    recipe = Recipe(
        name="r", lr=0.1, epochs=9, schedule="plateau", plateau_patience=2, gamma=0.5, patience=99
    )
    losses = iter([1.0, 0.9, 0.9, 0.9, 0.9, 0.8, 0.8, 0.8, 0.8])
    trainer = Trainer(Linear, recipe, tensors(8), tensors(4))
    real = metrics.mean_loss
    monkeypatch.setattr(trainer_module, "mean_loss", lambda labels, logits: next(losses))
    while not trainer.finished:
        trainer.run_epoch()
    assert real(np.array([1]), np.array([0.0])) == pytest.approx(math.log(2))
    assert [row["lr"] for row in trainer.history] == [0.1] * 5 + [0.05] * 4


@pytest.mark.parametrize(("n", "batch", "accumulation"), [(12, 4, 1), (12, 4, 3), (11, 4, 2)])
def test_a_step_uses_the_gradient_of_the_mean_over_all_its_images(n, batch, accumulation):
    """Also where accumulation does not divide the epoch and the last batch is short."""
    images, labels = tensors(n)
    recipe = Recipe(
        name="r", batch_size=batch, accumulation=accumulation, lr=0.01, clip=0.0, epochs=1
    )
    trainer = Trainer(Linear, recipe, (images, labels), tensors(4))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(2 * recipe.seed))

    torch.manual_seed(recipe.seed)
    twin = Linear()
    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.01, weight_decay=recipe.weight_decay)
    for rows in order.split(batch * accumulation):
        x = (images[rows] / 255 - 0.5) / 0.5
        loss = nn.functional.binary_cross_entropy_with_logits(twin(x), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trainer.run_epoch()
    torch.testing.assert_close(trainer.model.linear.weight, twin.linear.weight)


def test_clipping_bounds_the_norm_of_all_gradients(monkeypatch):
    seen = []
    real = nn.utils.clip_grad_norm_

    def spy(parameters, limit):
        parameters = list(parameters)
        result = real(parameters, limit)
        seen.append(math.sqrt(sum(float(p.grad.square().sum()) for p in parameters)))
        return result

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", spy)
    recipe = Recipe(name="r", batch_size=4, epochs=1, clip=1e-3)
    Trainer(Linear, recipe, tensors(12), tensors(4)).run_epoch()
    assert len(seen) == 3
    assert all(norm <= 1.001e-3 for norm in seen)


def test_an_epoch_takes_every_image_once_and_drops_only_a_lone_last_one(monkeypatch):
    taken = []
    real = Trainer._gradients

    def spy(self, rows):
        taken.extend(rows.tolist())
        return real(self, rows)

    monkeypatch.setattr(Trainer, "_gradients", spy)
    for n, expected in ((12, 12), (14, 14), (13, 12)):
        taken.clear()
        Trainer(Linear, Recipe(name="r", batch_size=4), tensors(n), tensors(4)).run_epoch()
        assert len(taken) == len(set(taken)) == expected


def test_running_accuracy_and_loss_are_those_of_the_epoch():
    recipe = Recipe(name="r", batch_size=5, epochs=1, lr=1e-12)  # the weights stand still
    images, labels = tensors(12)
    trainer = Trainer(Linear, recipe, (images, labels), tensors(4))
    row = trainer.run_epoch()
    logits = predict(trainer.model, images, recipe)
    truth = labels.numpy()
    assert row["train_accuracy"] == pytest.approx(np.mean((logits >= 0) == (truth == 1)))
    assert row["train_loss"] == pytest.approx(
        np.mean(np.logaddexp(0, logits) - truth * logits), abs=1e-5
    )


def scripted(values, **recipe):
    """Train on a script of validation figures; return the trainer when it has finished."""
    trainer = Trainer(Linear, Recipe(name="r", **recipe), tensors(8), tensors(4))
    for i, value in enumerate(values, 1):
        assert not trainer.finished
        trainer._remember(
            {
                **dict.fromkeys(HISTORY_COLUMNS, 0.0),
                "epoch": i,
                trainer.recipe.monitor: value,
            }
        )
    return trainer


def test_early_stopping_waits_patience_epochs_after_the_best():
    trainer = scripted([0.6, 0.8, 0.7, 0.8, 0.75], epochs=100, patience=3)
    assert trainer.finished
    assert trainer.best_epoch == 2  # a tie does not count as better


def test_early_stopping_on_loss_looks_for_the_lowest():
    trainer = scripted([0.6, 0.4, 0.5, 0.41], epochs=100, patience=2, monitor="val_loss")
    assert trainer.best_epoch == 2


def test_a_run_ends_at_its_last_epoch():
    assert scripted([0.1, 0.2, 0.3], epochs=3, patience=3).finished


def test_a_state_of_other_tensors_is_told_in_one_line():
    trainer = scripted([])
    with pytest.raises(InputError, match=r"not fit the network .*linear\.weight") as told:
        trainer.load_state_dict({"model": {"weight": torch.zeros(1)}}, None)
    assert "\n" not in str(told.value)


def test_label_smoothing_moves_the_targets():
    recipe = Recipe(name="r", batch_size=12, epochs=1, lr=1e-12, label_smoothing=0.1)
    images, labels = tensors(12)
    trainer = Trainer(Linear, recipe, (images, labels), tensors(4))
    row = trainer.run_epoch()
    logits = torch.from_numpy(predict(trainer.model, images, recipe))
    targets = torch.where(labels == 1, 0.95, 0.05).double()
    expected = nn.functional.binary_cross_entropy_with_logits(logits, targets)
    assert row["train_loss"] == pytest.approx(float(expected), abs=1e-5)


def test_two_trainings_with_one_seed_are_identical_and_another_seed_differs():
    def weights(seed):
        recipe = Recipe(name="r", batch_size=4, epochs=2, flip=0.5, rotate=10, seed=seed)
        trainer = Trainer(Linear, recipe, tensors(12), tensors(4))
        for _ in range(2):
            trainer.run_epoch()
        return trainer.model.linear.weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_augmentation_does_not_change_the_order_of_the_images(monkeypatch):
    orders = []
    real = Trainer._gradients

    def spy(self, rows):
        orders[-1].extend(rows.tolist())
        return real(self, rows)

    monkeypatch.setattr(Trainer, "_gradients", spy)
    for rotate in (0.0, 10.0):
        orders.append([])
        recipe = Recipe(name="r", batch_size=4, rotate=rotate)
        trainer = Trainer(Linear, recipe, tensors(12), tensors(4))
        trainer.run_epoch()
        trainer.run_epoch()
    assert orders[0] == orders[1]


def test_amp_auto_is_bf16_on_a_cpu_only_where_the_recipe_gains_and_the_processor_can(monkeypatch):
    cpu = torch.device("cpu")
    for native in (True, False):
        monkeypatch.setattr(
            torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda native=native: native
        )
        assert resolve_amp(Recipe(name="r"), cpu) is None
        wanted = torch.bfloat16 if native else None
        assert resolve_amp(Recipe(name="r", cpu_bf16=True), cpu) == wanted
    assert resolve_amp(Recipe(name="r", amp="off", cpu_bf16=True), cpu) is None
    assert resolve_amp(Recipe(name="r", amp="bf16"), cpu) == torch.bfloat16


def test_a_state_of_another_device_goes_on_in_the_form_of_this_one():
    """As from MPS, which keeps ``fused`` off and another layout, to a CPU or a card."""

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3, padding=1)
            self.deeper = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            return self.deeper(self.conv(x)).mean((1, 2, 3))

    recipe = Recipe(name="r", batch_size=8, epochs=4, lr=0.01, patience=9)

    def trainer(epochs):
        made = Trainer(Small, recipe, tensors(32), tensors(16, seed=1))
        for _ in range(epochs):
            made.run_epoch()
        return made

    straight, half = trainer(4), trainer(2)
    state = half.state_dict()
    state["device"] = "mps"
    for group in state["optimizer"]["param_groups"]:
        group["fused"] = False
    for of_parameter in state["optimizer"]["state"].values():
        for name, value in of_parameter.items():
            of_parameter[name] = value.contiguous()
    state["noise"] = half.noise.get_state()[:16]  # a stream of another device, which is not read
    resumed = trainer(0)
    resumed.load_state_dict(state, half.best_weights)
    own = trainer(1).optimizer
    assert [g["fused"] for g in resumed.optimizer.param_groups] == [
        g["fused"] for g in own.param_groups
    ]
    for parameter, of_parameter in resumed.optimizer.state.items():
        assert of_parameter["exp_avg"].stride() == parameter.stride()
    for _ in range(2):
        resumed.run_epoch()
    losses = [[row["train_loss"] for row in one.history] for one in (resumed, straight)]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_bf16_training_on_a_cpu_learns_with_float32_weights():
    recipe = Recipe(name="r", batch_size=8, epochs=5, lr=0.01, amp="bf16", patience=9)
    trainer = Trainer(Linear, recipe, tensors(64), tensors(32, seed=1))
    while not trainer.finished:
        trainer.run_epoch()
    assert trainer.model.linear.weight.dtype == torch.float32
    assert trainer.history[-1]["val_auc"] > 0.95


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_training_on_cuda_learns_in_mixed_precision():
    for amp in ("auto", "fp16"):
        recipe = dataclasses.replace(REPORT, epochs=3, amp=amp)
        split = [t.cuda() for t in tensors(256, side=28)]
        trainer = Trainer(EfficientChestNet, recipe, tuple(split), tuple(split))
        while not trainer.finished:
            trainer.run_epoch()
        assert trainer.history[-1]["val_auc"] > 0.95
