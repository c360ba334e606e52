"""Soups: the mean of the weights of a fold's networks, and the pages."""

import csv

import numpy as np
import pytest
import torch
from comparisons import tiny_networks  # noqa: F401 (a fixture)
from torch import nn

from chestlab.evaluation import out_of_fold
from chestlab.files.progress import StopSignals
from chestlab.training.inference import predict
from studies import soups
from studies.fold_networks import FoldNetwork
from studies.frozen_recipes import Frozen
from studies.stored_results import read_results

ROWS = ["seed_42", "seed_1042", "average", "soup"]


@pytest.fixture
def flags(tiny_networks, phantom_npz, tmp_path, monkeypatch):  # noqa: F811
    """Flags of a study of a tiny network with two seeds."""
    monkeypatch.chdir(tmp_path)
    frozen = Frozen("first", "resnet34", "report", {"normalize": "per-image"})
    monkeypatch.setattr(soups, "FROZEN", (frozen,))
    monkeypatch.setattr(soups, "RECIPE", "first")
    monkeypatch.setattr(soups, "SEEDS", {"seed_42": 42, "seed_1042": 1042})
    monkeypatch.setattr(soups, "ROWS", ("seed_42", "seed_1042", "soup"))
    monkeypatch.setattr(out_of_fold, "BOOTSTRAP_RESAMPLES", 200)
    words = ["--folds", "3", "--repeats", "2", "--device", "cpu", "--name", "a"]
    return ["--data", str(phantom_npz), *words]


@pytest.fixture
def command(flags, tmp_path):
    """Run the study; where its results are."""

    def run(*more):
        soups.main([*flags, *more])
        return tmp_path / "results" / "studies" / "a"

    return run


def test_a_soup_predicts_with_the_mean_of_the_weights_of_its_fold(command, flags):
    folder = command()
    summary, oof = read_results(folder, "soups", "configurations")
    assert list(summary["configurations"]) == ROWS
    assert summary["configurations"]["soup"]["seeds"] == [42, 1042]
    study = soups.Soups(soups.parser().parse_args(flags), StopSignals())
    for repeat, number in ((0, 2), (1, 0)):
        of_fold = [
            FoldNetwork(study, study.configuration_of(name), repeat, number)
            for name in ("seed_42", "seed_1042")
        ]
        one, other = (of.network() for of in of_fold)
        mean = of_fold[0].configuration.model()
        with torch.no_grad():
            for mine, a, b in zip(
                mean.parameters(), one.parameters(), other.parameters(), strict=True
            ):
                assert not torch.equal(a, b)
                mine.copy_((a + b) / 2)
            for mine, a, b in zip(mean.buffers(), one.buffers(), other.buffers(), strict=True):
                mine.copy_((a + b) / 2 if a.is_floating_point() else a)
        fold, recipe = of_fold[0].fold, of_fold[0].recipe
        images = torch.from_numpy(fold.held_out.images)[:, None]
        logits = predict(mean, images, recipe, tta=recipe.tta)
        stored = oof.logits["soup"][repeat, fold.rows]
        assert stored == pytest.approx(logits, rel=5.1e-4, abs=1e-5)
        assert not np.allclose(stored, oof.logits["average"][repeat, fold.rows], rtol=1e-3)


def test_seeds_of_a_soup_start_from_the_same_weights_and_repeats_from_others():
    built, states = soups.from_one_start(nn.Linear), {}
    for seed in (42, 1042, 2042, 43):
        torch.manual_seed(seed)
        states[seed] = built(3, 2).weight.detach()
        drawn = torch.rand(1)
        torch.manual_seed(seed)
        assert torch.equal(drawn, torch.rand(1))  # what follows is the seed's own
    assert torch.equal(states[42], states[1042]) and torch.equal(states[42], states[2042])
    assert not torch.equal(states[42], states[43])
    torch.manual_seed(42)
    assert torch.equal(states[42], nn.Linear(3, 2).weight)


def test_rows_and_pages_come_from_the_logits(command):
    folder = command()
    _, oof = read_results(folder, "soups", "configurations")
    mean = (oof.logits["seed_42"] + oof.logits["seed_1042"]) / 2
    assert np.allclose(oof.logits["average"], mean, rtol=5.1e-4, atol=0)
    with (folder / "table.csv").open(newline="") as file:
        rows = {row["configuration"]: row for row in csv.DictReader(file)}
    assert float(rows["soup"]["images_seen"]) == 2 * float(rows["seed_42"]["images_seen"])
    for page, start in (("README.md", "Written by"), ("README.id.md", "Ditulis oleh")):
        text = (folder / page).read_text()
        assert f"{start} `python -m studies.soups`" in text and "soups.png" in text
        assert all(f"| `{name}` |" in text for name in ROWS)


def test_what_is_stored_is_not_trained_again(command, monkeypatch):
    folder = command("--only", "seed_42")
    assert list(read_results(folder, "soups", "configurations")[0]["configurations"]) == ["seed_42"]
    fit, trained = FoldNetwork._train, []

    def counted(self, *arguments):
        trained.append(self.configuration.name)
        return fit(self, *arguments)

    monkeypatch.setattr(FoldNetwork, "_train", counted)
    command("--only", "soup")  # trains the members that are missing
    assert trained == ["seed_1042"] * 6
    command()
    assert trained == ["seed_1042"] * 6
    before = (folder / "oof.csv").read_bytes()
    command()
    assert (folder / "oof.csv").read_bytes() == before


def test_the_members_differ_in_their_seeds_alone():
    assert len(set(soups.SEEDS.values())) == len(soups.SEEDS) == 3
    assert (*soups.SEEDS, soups.SOUP) == soups.ROWS
    apart = [seed - 42 for seed in soups.SEEDS.values()]
    assert apart == [0, soups.SEEDS_APART, 2 * soups.SEEDS_APART]
    (frozen,) = (row for row in soups.FROZEN if row.name == soups.RECIPE)
    assert frozen.weights == "imagenet"  # from random numbers there is no common way to average
    known = {*soups.ROWS, soups.TOGETHER}
    assert {name for pair in soups.COMPARISONS for name in pair} <= known
