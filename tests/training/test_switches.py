"""The switches of the recipe: losses, sampling, mixing, policies, averaging, schedules, layers."""

import contextlib
import copy
import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
from conftest import TINY, run_in_process, without_times
from tiny_stages import TinyStages
from tiny_train import TinyNet
from torch import nn
from torchvision.ops import sigmoid_focal_loss
from torchvision.transforms import functional as tvf

from chestlab.data import sources
from chestlab.data.phantom import make_phantom
from chestlab.evaluation.metrics import fit_temperature, mean_loss, roc_auc
from chestlab.files.errors import InputError
from chestlab.training.augment import augment, erase, random_warps, to_input
from chestlab.training.averaging import WeightAverage
from chestlab.training.inference import load_model, predict
from chestlab.training.layers import freeze_first, set_drop_paths
from chestlab.training.losses import training_loss
from chestlab.training.lr_finder import STEPS, rising_losses, smooth, steepest
from chestlab.training.mixing import mix
from chestlab.training.optimizer import RATE_GROUPS, make_optimizer, make_scheduler
from chestlab.training.policies import INTENSITY, OPERATIONS, PAIRS, _operate, apply_policy
from chestlab.training.recipe import Recipe
from chestlab.training.sampling import related_images, training_split
from chestlab.training.trainer import Trainer
from model import EfficientChestNet
from model_improved import ResidualChestNet
from model_mobilenet import MobileNetV3Chest
from networks import network_class

BASE = Recipe(name="x")


def recipe(**changes):
    return dataclasses.replace(BASE, **changes)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=6, size=28, seed=0):
    return torch.randint(0, 256, (n, 1, size, size), dtype=torch.uint8, generator=generator(seed))


# Losses.


def test_focal_loss_is_torchvisions_without_alpha():
    logits, labels = torch.randn(50, generator=generator()) * 3, (torch.arange(50) % 3 == 0).float()
    ours = training_loss(logits, labels, recipe(loss="focal", focal_gamma=1.7))
    theirs = sigmoid_focal_loss(logits, labels, alpha=-1, gamma=1.7, reduction="mean")
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_pos_weight_multiplies_the_loss_of_class_1_alone():
    logits, labels = torch.tensor([0.3, -1.2]), torch.tensor([1.0, 0.0])
    plain = [float(training_loss(logits[k : k + 1], labels[k : k + 1], BASE)) for k in (0, 1)]
    weighted = float(training_loss(logits, labels, recipe(pos_weight=0.486)))
    assert weighted == pytest.approx((0.486 * plain[0] + plain[1]) / 2)


def test_balancing_weight_gives_both_official_classes_the_same_say():
    counts, balanced = {1: 1552, 0: 754}, recipe(pos_weight=754 / 1552)
    zero = torch.zeros(1)
    loss = {k: float(training_loss(zero, torch.full((1,), float(k)), balanced)) for k in counts}
    assert counts[1] * loss[1] == pytest.approx(counts[0] * loss[0])


# Sampling.


def test_balanced_sampler_draws_both_classes_equally_often():
    labels = torch.cat([torch.zeros(40), torch.ones(360)])
    trainer = Trainer(
        TinyNet, recipe(sampler="balanced"), (images(400), labels), (images(4), labels[:4])
    )
    share = torch.cat([labels[trainer._order()] for _ in range(20)]).mean()
    assert 0.47 < float(share) < 0.53


def test_related_images_have_one_class_and_more_findings(tmp_path):
    arrays = make_phantom(size=28, train=64, val=24, test=24, seed=3)
    path = tmp_path / "p.npz"
    np.savez(path, **arrays)
    plain = sources.load(str(path))
    data = sources.load(str(path), related=True)  # the cache of the first one lacks them
    again = sources.load(str(path), related=True)
    flags = arrays["train_labels"][data.related.index]
    assert plain.related is None and len(data.related) > 0
    assert (flags[:, [1, 7]].sum(1) == 1).all() and (flags.sum(1) > 1).all()
    assert (data.related.labels == flags[:, 7]).all()
    assert (again.related.images == arrays["train_images"][data.related.index]).all()
    assert not set(data.related.index) & set(data.train.index)
    assert plain.counts() == data.counts()
    together = training_split(data, recipe(related=True))
    assert len(together) == len(data.train) + len(data.related)


def test_related_images_of_patients_who_are_judged_on_stay_out(real_npz):
    from chestlab.data.folds import make_folds

    data = sources.load(str(real_npz), related=True)
    for over in ("train", "train+val"):
        fold = make_folds(data, 5, over)[0]
        judged = fold.val if fold.held_out is None else fold.held_out
        left = related_images(fold)
        assert 0 < len(left) < len(data.related)
        train = training_split(fold, recipe(related=True))
        assert not np.isin(train.patients, judged.patients).any()
        assert not np.isin(train.patients, fold.test.patients).any()
        assert len(train) == len(fold.train) + len(left)


def test_smote_fills_up_the_smaller_class_and_keeps_the_real_images(tmp_path):
    pytest.importorskip("imblearn")
    path = tmp_path / "p.npz"
    np.savez(path, **make_phantom(size=28, train=64, val=24, test=24, seed=3))
    data = sources.load(str(path))
    train = training_split(data, recipe(smote=True))
    assert np.bincount(train.labels).tolist() == [np.bincount(data.train.labels).max()] * 2
    assert (train.images[: len(data.train)] == data.train.images).all()
    assert (train.index[len(data.train) :] == -1).all()


# Mixing.


@pytest.mark.parametrize(
    "changes", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}]
)
def test_labels_are_mixed_in_the_proportion_of_the_pixels(changes):
    torch.manual_seed(0)
    labels = (torch.rand(64) < 0.5).float()
    x = labels[:, None, None, None].expand(64, 1, 16, 16).clone()  # pixels are the label
    mixed, targets = mix(x, labels, recipe(**changes), generator())
    assert torch.allclose(mixed.mean((1, 2, 3)), targets, atol=1e-5)
    assert ((targets > 0.02) & (targets < 0.98)).any() and targets.min() >= 0 and targets.max() <= 1
    if changes == {"cutmix": 1.0}:
        assert set(mixed.unique().tolist()) == {0.0, 1.0}


def test_mixing_takes_labels_of_findings_and_changes_nothing_when_off():
    x, labels = torch.rand(8, 1, 16, 16), (torch.rand(8, 14) < 0.3).float()
    same, same_labels = mix(x, labels, BASE, generator())
    assert same is x and same_labels is labels
    mixed, targets = mix(x, labels, recipe(mixup=1.0), generator())
    assert mixed.shape == x.shape and targets.shape == labels.shape


# Random operations for each image.


def drawn(name, n=6):
    return {key: torch.full((n,), key == name) for key in OPERATIONS}


THEIRS = {
    "brightness": lambda x, s: tvf.adjust_brightness(x, 1 + 0.9 * s),
    "contrast": lambda x, s: tvf.adjust_contrast(x, 1 + 0.9 * s),
    "posterize": lambda x, s: tvf.posterize(x, round(8 - 4 * s)),
    "solarize": lambda x, s: tvf.solarize(x, 255 * (1 - s)),
    "autocontrast": lambda x, s: tvf.autocontrast(x),
    "equalize": lambda x, s: tvf.equalize(x),
    "invert": lambda x, s: tvf.invert(x),
}


@pytest.mark.parametrize("name", THEIRS)
def test_operation_is_torchvisions(name):
    x = images(size=128, seed=3) // 2 + 40
    ours = _operate(x / 255, drawn(name), torch.full((6,), 0.5), torch.ones(6)) * 255
    theirs = THEIRS[name](x, 0.5).float()
    largest = 4 if name == "equalize" else 1.51  # torchvision equalises in whole pixel counts
    assert (ours - theirs).abs().max() <= largest


def test_sharpness_at_no_strength_and_identity_change_nothing():
    x = images() / 255
    for name in ("identity", "sharpness", "brightness", "contrast", "rotate", "shear_x"):
        same = _operate(x, drawn(name), torch.zeros(6), torch.ones(6))
        assert torch.allclose(same, x, atol=1e-4), name
    assert len(PAIRS) == 25 and {name for pair in PAIRS for name, _, _ in pair} <= set(OPERATIONS)
    assert set(INTENSITY) < set(OPERATIONS)


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": "randaugment", "magnitude": 0.7},
        {"policy": "autoaugment"},
        {"jitter": 0.3},
        {"erase": 1.0},
        {"vertical_flip": 0.5},
    ],
)
def test_each_image_of_a_batch_is_drawn_for_by_itself(changes):
    x = (images(1, seed=5) / 255).expand(64, 1, 28, 28)
    out = augment(x, recipe(**changes), generator())
    assert out.shape == x.shape and out.min() >= 0 and out.max() <= 1
    assert len({image.numpy().tobytes() for image in out}) > (
        1 if "vertical_flip" in changes else 10
    )
    assert torch.equal(out, augment(x, recipe(**changes), generator()))


def test_an_eraser_blacks_out_a_tenth_or_so_of_an_image_as_often_as_asked():
    out = erase(torch.ones(4000, 1, 32, 32), 0.5, generator())
    gone = (out == 0).float().mean((1, 2, 3))
    assert 0.45 < float((gone > 0).float().mean()) < 0.55
    assert 0.05 < float(gone[gone > 0].mean()) < 0.15 and gone.max() < 0.25


def test_a_policy_changes_a_random_number_of_images_by_differing_amounts():
    x = images(200) / 255
    out = apply_policy(x, "autoaugment", 0.3, generator())
    unchanged = (out == x).all(3).all(2).all(1)
    assert 0 < int(unchanged.sum()) < 100


# Averaged weights, layers, schedules.


def test_the_average_follows_the_weights_with_the_decay_it_says():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = WeightAverage(model, 0.9)
    wanted = model[0].weight.detach().clone()
    for step in range(1, 30):
        with torch.no_grad():
            model[0].weight.add_(torch.randn(2, 3))
            model[1].num_batches_tracked += 1
        average.update()
        decay = min(0.9, (1 + step) / (10 + step))
        wanted = decay * wanted + (1 - decay) * model[0].weight.detach()
    assert torch.allclose(average.model[0].weight, wanted, atol=1e-5)
    assert int(average.model[1].num_batches_tracked) == 29
    assert not any(p.requires_grad for p in average.model.parameters())


def test_layer_decay_lets_the_rate_rise_from_the_first_layer_to_the_last():
    model = MobileNetV3Chest()
    optimizer = make_optimizer(model, recipe(lr=1e-3, layer_decay=0.1))
    rates = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    ordered = [rates[p] for p in model.parameters()]
    assert ordered[0] == pytest.approx(1e-4) and ordered[-1] == pytest.approx(1e-3)
    assert ordered == sorted(ordered) and len(optimizer.param_groups) == RATE_GROUPS
    assert len(rates) == len(list(model.parameters()))
    assert len(make_optimizer(model, BASE).param_groups) == 1


def test_freezing_half_of_the_backbone_leaves_its_weights_and_statistics_alone():
    x, labels = images(16, 32), (torch.arange(16) % 2).float()
    trainer = Trainer(MobileNetV3Chest, recipe(freeze=0.5, batch_size=8), (x, labels), (x, labels))
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    trainer.run_epoch()
    changed = [not torch.equal(v, before[k]) for k, v in trainer.model.state_dict().items()]
    names = list(before)
    backbone = [c for c, name in zip(changed, names, strict=True) if name.startswith("backbone")]
    assert not any(backbone[: len(backbone) // 3]) and any(backbone[len(backbone) // 2 :])
    assert len(freeze_first(MobileNetV3Chest(), 0.0)) == 0


def test_restarts_are_torchs_after_the_warm_up():
    parameter = [nn.Parameter(torch.zeros(1))]
    ours = torch.optim.SGD(parameter, lr=0.1)
    theirs = torch.optim.SGD(parameter, lr=0.1)
    schedule = make_scheduler(ours, recipe(schedule="restarts", restart_epochs=2, epochs=14), 5)
    torchs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(theirs, T_0=10, T_mult=2)
    for _ in range(70):
        assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], abs=1e-9)
        ours.step()
        schedule.step()
        theirs.step()
        torchs.step()


@pytest.mark.parametrize("build", [EfficientChestNet, ResidualChestNet])
def test_stochastic_depth_leaves_out_branches_in_training_alone(build):
    torch.manual_seed(0)
    model, x = build().eval(), torch.randn(4, 1, 28, 28)
    names, before = list(model.state_dict()), model(x)
    set_drop_paths(model, 0.5)
    assert list(model.state_dict()) == names and torch.equal(model(x), before)
    rates = [m.p for m in model.modules() if type(m).__name__ == "StochasticDepth"]
    assert rates == sorted(rates) and rates[-1] == 0.5 and len(rates) > 2
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model.train()
    assert not torch.equal(model(x), model(x))


def test_stochastic_depth_is_refused_without_residual_branches():
    with pytest.raises(InputError, match="no residual branches"):
        set_drop_paths(TinyNet(), 0.1)


# What is judged, and how.


def test_warps_at_test_time_do_not_depend_on_the_neighbours():
    one = recipe(rotate=10, translate=0.1, scale=0.1, flip=0.5, tta_warps=3)
    torch.manual_seed(0)
    model, x = TinyNet().eval(), images(9)
    together = predict(model, x, one, tta="warps")
    alone = np.concatenate([predict(model, x[k : k + 1], one, tta="warps") for k in range(9)])
    assert np.allclose(together, alone, atol=1e-6)
    assert not np.allclose(together, predict(model, x, one, tta="flip"))
    assert len(random_warps(one, x.device)) == 3
    views = [to_input(x, one), to_input(x, one).flip(-1)]
    views += [to_input(x, one, warp=warp) for warp in random_warps(one, x.device)]
    with torch.inference_mode():
        mean = sum(model(view) for view in views) / 5
    assert np.allclose(together, mean.numpy(), atol=1e-6)


def test_temperature_makes_the_loss_least_and_keeps_the_order():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    logits = 6 * (labels - 0.5 + rng.normal(0, 1.2, 400))
    temperature = fit_temperature(labels, logits)
    assert temperature > 1.5
    best = mean_loss(labels, logits / temperature)
    assert all(best <= mean_loss(labels, logits / (temperature * f)) for f in (0.9, 1.1))
    assert roc_auc(labels, logits) == roc_auc(labels, logits / temperature)


def test_the_last_epoch_is_kept_where_nothing_is_to_be_chosen():
    labels = (torch.arange(32) % 2).float()
    parts = (images(32), labels), (images(8, seed=1), labels[:8])
    trainer = Trainer(TinyNet, recipe(monitor="last", epochs=3, patience=1, ema=0.9), *parts)
    while not trainer.finished:
        trainer.run_epoch()
    assert trainer.best_epoch == len(trainer.history) == 3
    kept, averaged = trainer.best_weights, trainer.average.model.state_dict()
    assert all(torch.equal(kept[name], averaged[name]) for name in averaged)
    assert any(not torch.equal(kept[k], v) for k, v in trainer.model.state_dict().items())


ALL_ON = {
    **{"--ema": 0.9, "--mixup": 0.2, "--cutmix": 1, "--erase": 0.5, "--jitter": 0.2},
    **{"--policy": "randaugment", "--vertical-flip": 0.1, "--sampler": "balanced"},
    **{"--loss": "focal", "--pos-weight": 0.5, "--monitor": "last", "--schedule": "restarts"},
    **{"--restart-epochs": 1, "--layer-decay": 0.5, "--tta": "warps", "--temperature": "on"},
    **{"--related": "on", "--label-smoothing": 0.05, "--drop-path": 0.1},
}


def test_a_run_with_every_switch_predicts_what_it_wrote(tmp_path, phantom_npz, no_pictures):
    switches = [word for pair in ALL_ON.items() for word in pair]
    arguments = ["--data", phantom_npz, "--device", "cpu", *switches, "--epochs", 2]
    result = run_in_process("train.py", *arguments, "--name", "one", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "results/one/metrics.json").read_text())
    assert metrics["temperature"] > 0 and metrics["best_epoch"] == 2
    assert metrics["recipe"]["related"] is True
    model = load_model(tmp_path / "trained_models/one_best.pth", network_class)
    data = sources.load(str(phantom_npz))
    with (tmp_path / "results/one/test_probabilities.csv").open(newline="") as file:
        stored = [float(row["probability"]) for row in csv.DictReader(file)]
    assert np.array_equal(model.probabilities(data.test.images), stored)


def test_training_with_every_switch_goes_on_bit_for_bit():
    one = recipe(
        epochs=4,
        batch_size=8,
        **{"ema": 0.9, "mixup": 0.2, "cutmix": 1.0, "erase": 0.5, "jitter": 0.2, "rotate": 9},
        **{"policy": "randaugment", "vertical_flip": 0.1, "sampler": "balanced", "loss": "focal"},
        **{"schedule": "restarts", "restart_epochs": 1, "layer_decay": 0.5, "monitor": "last"},
    )
    labels = (torch.arange(40) % 2).float()
    parts = (images(40), labels), (images(8, seed=1), labels[:8])
    whole = Trainer(TinyNet, one, *parts)
    while not whole.finished:
        whole.run_epoch()
    first = Trainer(TinyNet, one, *parts)
    first.run_epoch()
    state = copy.deepcopy(first.state_dict())
    second = Trainer(TinyNet, one, *parts)
    second.load_state_dict(state, None)
    while not second.finished:
        second.run_epoch()
    for name, value in whole.best_weights.items():
        assert torch.equal(value, second.best_weights[name]), name
    assert without_times(whole.history) == without_times(second.history)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--freeze", "0.5"], "--freeze: this network has no backbone"),
        (["--drop-path", "0.1"], "--drop-path: this network has no residual branches"),
        (["--find-lr", "--members", "2"], "--find-lr goes with none of"),
        (["--tta", "warps", "--rotate", "0"], "--tta warps needs --rotate, --translate or --scale"),
    ],
)
def test_a_switch_that_does_not_fit_is_refused_in_one_line(tmp_path, phantom_npz, flags, message):
    result = run_in_process(TINY, "--data", phantom_npz, *flags, cwd=tmp_path)
    assert result.returncode == 2 and message in result.stderr
    assert len(result.stderr.splitlines()) == 1 and not any(tmp_path.iterdir())


# The learning-rate finder.


def test_the_steepest_fall_is_found_on_a_curve_that_has_one():
    rates = np.geomspace(1e-6, 1, 150)
    curve = 0.7 - 0.4 / (1 + np.exp(-4 * np.log(rates / 1e-3))) + np.maximum(0, rates - 0.05) * 9
    assert 0.7e-3 < steepest(rates, curve) < 1.5e-3
    assert np.allclose(smooth(np.full(30, 2.5)), 2.5)


@pytest.mark.parametrize(("freeze", "stopped"), [(1.0, False), (0.5, False), (0.0, True)])
def test_the_finder_gives_weights_and_statistics_back(freeze, stopped):
    """Frozen batch norms stay in evaluation mode, or the search would move their statistics."""
    torch.manual_seed(0)
    train = images(48), (torch.arange(48) % 2).float()
    trainer = Trainer(TinyStages, recipe(freeze=freeze, batch_size=16), train, train)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    norm = trainer.model.backbone[1]
    frozen, modes, statistics = norm in trainer.frozen_modules, set(), []

    def check():
        modes.add(norm.training)
        statistics.append(norm.running_mean.clone())
        if stopped and len(statistics) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) if stopped else contextlib.nullcontext():
        rising_losses(trainer, np.geomspace(1e-4, 1e-2, 8), check)
    assert modes == {not frozen} and frozen == (freeze == 1.0)
    kept = all(torch.equal(value, before["backbone.1.running_mean"]) for value in statistics)
    assert kept == frozen
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_find_lr_writes_its_curve_and_leaves_everything_else_alone(tmp_path, phantom_npz):
    result = run_in_process(TINY, "--data", phantom_npz, "--find-lr", "--name", "one", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    suggested = float(result.stdout.split("--lr ")[1].split()[0])
    with (tmp_path / "results/one/lr_finder.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert 1e-6 < suggested < 1 and 20 < len(rows) <= STEPS
    assert {p.name for p in (tmp_path / "results/one").iterdir()} == {
        "lr_finder.csv",
        "lr_finder.png",
    }
    assert not any((tmp_path / "trained_models").glob("**/*.pth"))
