"""The speed benchmark: that it runs, and that its opponent trains the same thing."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import math
import re
import zipfile
from functools import partial

import numpy as np
import pytest
import torch
from conftest import run_script
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader

from benchmarks import busy, cpu_step, memory, on_card, results, run_times, textbook, train_speed
from chestlab.data import npz, sources, splits
from chestlab.evaluation.metrics import mean_loss
from chestlab.training.recipe import Recipe
from chestlab.training.trainer import Trainer, predict
from model import EfficientChestNet

RECIPE = Recipe(
    name="same",
    epochs=2,
    patience=2,
    batch_size=16,
    lr=1e-3,
    schedule="onecycle",
    warmup=0.25,
    seed=3,
)


@pytest.fixture(scope="module")
def data(phantom_npz):
    return sources.load(str(phantom_npz))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_card_its_command_says_so_in_one_line(tmp_path):
    result = run_script("benchmarks/on_card.py", "--out", tmp_path, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("error: there is no CUDA device; --quick")
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_for_a_card_measures_both_experiments(tmp_path):
    result = run_script("benchmarks/on_card.py", "--quick", "--out", tmp_path, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    text = (tmp_path / "ON_CARD.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in text.splitlines() if re.match(r"\| \d \|", line)]
    assert [row[0].strip() for row in rows] == ["1", "2"]
    for row in rows:
        textbook, ours, ratio = (float(row[i]) for i in (1, 3, 4))
        assert ratio == pytest.approx(textbook / ours, rel=0.05)
        assert float(row[5].replace(",", "")) == pytest.approx(64 / ours, rel=0.1)
        assert float(row[7]) == pytest.approx(100 * ours, rel=0.01)


@pytest.mark.slow
def test_a_quick_run_writes_a_table_with_finite_ratios_and_the_figure(tmp_path):
    """One row, the start and the figure: the other rows are the same code with other networks."""
    rows = "--rows", "efficientchestnet", "start", "scaling"
    result = run_script(
        "benchmarks/train_speed.py", "--quick", "--threads", 1, "--out", tmp_path, *rows,
        cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    text = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    assert len(cells) == 1 + 2
    for row in cells[1:]:
        figures = [float(figure) for cell in row[1:5] for figure in re.findall(r"-?[\d.]+", cell)]
        assert len(figures) == 5
        assert all(math.isfinite(figure) for figure in figures)
    assert torch.__version__ in text
    assert "PHANTOM DATA" in text
    assert (tmp_path / "scaling.png").stat().st_size > 10_000
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["RESULTS.json", "RESULTS.md", "scaling.png"]


@pytest.mark.parametrize(
    ("schedule", "accumulation"),
    [
        ("constant", 2),
        pytest.param("onecycle", 1, marks=pytest.mark.slow),
        pytest.param("plateau", 1, marks=pytest.mark.slow),
    ],
)
def test_the_textbook_loop_and_ours_have_the_same_losses(schedule, accumulation, data):
    """With the order made equal, nothing augmented and no dropout, two epochs of both."""
    recipe = dataclasses.replace(RECIPE, schedule=schedule, accumulation=accumulation)
    build = partial(EfficientChestNet, dropout=(0.0, 0.0))
    cpu = torch.device("cpu")
    trainer = Trainer(build, recipe, data.train.to(cpu), data.val.to(cpu))
    order = torch.Generator().set_state(trainer.shuffle.get_state())
    model = copy.deepcopy(trainer.model).to(memory_format=torch.contiguous_format)
    optimizer = textbook.make_optimizer(model, recipe)
    scheduler = textbook.make_scheduler(optimizer, recipe, trainer.steps_per_epoch)
    train = textbook.make_loader(data.train, recipe, training=True, workers=0)
    val = textbook.make_loader(data.val, recipe, training=False, workers=0)
    for epoch in range(recipe.epochs):
        ours = trainer.run_epoch()
        rows = torch.randperm(len(data.train), generator=order)
        batches = [batch.tolist() for batch in rows.split(recipe.batch_size)]
        loader = DataLoader(train.dataset, batch_sampler=batches)
        theirs = textbook.run_epoch(model, loader, val, optimizer, scheduler, recipe)
        tolerance = 1e-5 if epoch == 0 else 1e-3  # rounding grows from step to step
        assert theirs["train_loss"] == pytest.approx(ours["train_loss"], rel=tolerance)
        assert theirs["val_loss"] == pytest.approx(ours["val_loss"], rel=10 * tolerance)
        if epoch == 0:
            assert theirs["train_accuracy"] == pytest.approx(ours["train_accuracy"])
        if epoch == 0:  # after the last step of all PyTorch's one-cycle class goes on below zero
            rates = [o.param_groups[0]["lr"] for o in (optimizer, trainer.optimizer)]
            assert rates[0] == pytest.approx(rates[1], rel=1e-6)


def test_the_textbook_evaluates_mirror_images_as_ours_does(data):
    torch.manual_seed(0)
    model = EfficientChestNet()
    recipe = dataclasses.replace(RECIPE, image_size=0, tta="flip")
    images, labels = data.test.to(torch.device("cpu"))
    loader = textbook.make_loader(data.test, recipe, training=False, workers=0)
    loss, accuracy, auc = textbook.evaluate(textbook.WithMirror(model), loader)
    expected = predict(model, images, recipe, tta="flip")
    assert loss == pytest.approx(mean_loss(labels.numpy(), expected), abs=1e-5)
    assert accuracy == pytest.approx(((expected >= 0) == (labels.numpy() == 1)).mean())
    assert auc == pytest.approx(roc_auc_score(labels, expected))


def test_the_made_source_is_read_as_chestmnist_is(tmp_path):
    path = tmp_path / "source.npz"
    train_speed.make_source(path, 0.002)
    loaded = npz.filter_npz(path)
    assert loaded.size == 224
    with np.load(path) as whole:
        for split in splits.SPLITS:
            kept = splits.two_class_mask(whole[f"{split}_labels"])
            expected = whole[f"{split}_images"][kept]
            assert (getattr(loaded, split).images == expected).all()
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("train_images.npy")
    assert 1.2 < info.file_size / info.compress_size < 5


def test_the_fit_of_a_step_finds_its_two_parts(tmp_path):
    steps = {batch: 0.004 + 0.001 * batch for batch in (2, 8, 32, 128)}
    result = {"steps": steps, "sizes": {100: 50.0, 1000: 60.0}, "batch_size": 32}
    fixed, per_image = results.draw_scaling(result, tmp_path / "figure.png", "made up")
    assert (fixed, per_image) == pytest.approx((0.004, 0.001))


def test_figures_measured_before_are_kept_until_the_versions_change(tmp_path, monkeypatch):
    options = argparse.Namespace(threads=1, device="cpu")
    row = results.comparison("first", [[2.0, 2.2, 3.0], [1.0, 1.0, 1.0]], ">= 2")
    assert (row["ratio"], row["low"], row["high"], row["repeats"]) == (2.2, 2.0, 3.0, 3)
    results.Results(tmp_path, options, "a.npz").add("rows", "start", row)
    again = results.Results(tmp_path, options, "a.npz")
    again.add("rows", "residual", row | {"title": "second"})
    page = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert page.index("| second |") < page.index("| first |")  # in the order of `ORDER`
    results.Results(tmp_path, options, "b.npz").add("notes", "x", "of other data")
    page = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert "| first |" in page and "Of other data." in page
    monkeypatch.setattr(results, "versions", lambda: "others")
    results.Results(tmp_path, options, "a.npz").add("rows", "residual", row)
    page = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert page.count("| first |") == 1 and "| second |" not in page and "others" in page


@pytest.mark.parametrize(
    ("module", "command"),
    [
        (memory, "python benchmarks/memory.py"),
        (on_card, "python benchmarks/on_card.py"),
        (train_speed, "python benchmarks/train_speed.py"),
        (run_times, "python -m benchmarks.run_times"),
        (busy, "python -m benchmarks.busy"),
        (cpu_step, "python -m benchmarks.cpu_step"),
    ],
)
def test_usage_names_the_command_that_starts_a_benchmark(module, command, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["x.py", "--help"])
    with pytest.raises(SystemExit):
        module.main()
    assert capsys.readouterr().out.startswith(f"usage: {command} [")
    assert command in module.__doc__
