"""The two helps of every training script."""

from __future__ import annotations

import dataclasses

import pytest
from conftest import ROOT, rest_slow, run_script

from chestlab.training.recipe import Recipe

SCRIPTS = sorted(
    path.name
    for pattern in ("train*.py", "resnet_*.py")
    for path in ROOT.glob(pattern)
    if path.name != "train_minimal.py"
)


# Quick: a network of our own, and one with a backbone.
@pytest.mark.parametrize("script", rest_slow(SCRIPTS, "train.py", "train_mobilenet.py"))
def test_help_fits_a_screen_and_names_what_is_changed_first(script, tmp_path):
    ended = run_script(script, "--help", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert len(lines) <= 40
    assert all(len(line) <= 100 for line in lines if "{" not in line)
    flags = ("--recipe", "--data", "--epochs", "--batch-size", "--lr", "--weight-decay")
    for flag in (*flags, "--seed", "--device", "--resume", "--overwrite", "--name", "--help-all"):
        assert flag in ended.stdout
    assert not list(tmp_path.iterdir())


def test_help_all_names_every_hyperparameter(tmp_path):
    ended = run_script("train.py", "--help-all", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    for field in dataclasses.fields(Recipe):
        if field.metadata:
            assert f"--{field.name.replace('_', '-')} " in ended.stdout
    for flag in ("--members", "--folds", "--folds-over", "--find-lr", "--weights"):
        assert flag in ended.stdout
