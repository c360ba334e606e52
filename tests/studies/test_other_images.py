"""Networks that learn images of other findings as well: their losses, their images, the pages."""

import csv

import numpy as np
import pytest
import torch
from comparisons import named_npz, tiny_networks  # noqa: F401 (fixtures)
from torch.nn import functional as F

from chestlab.data.splits import FINDINGS
from chestlab.evaluation import out_of_fold
from chestlab.files.errors import InputError
from chestlab.files.progress import StopSignals
from chestlab.training.distributed import ONE_PROCESS, SharedBatches
from chestlab.training.recipe import Recipe
from studies import other_images
from studies.frozen_recipes import Frozen
from studies.stored_results import read_results

ROWS = ["first", "joint", "consistent"]

RECIPE = Recipe(name="plain")


@pytest.fixture
def flags(tiny_networks, named_npz, tmp_path, monkeypatch):  # noqa: F811
    """Flags of a study of a tiny network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(other_images, "FROZEN", (Frozen("first", "resnet34", "report"),))
    monkeypatch.setattr(other_images, "ALONE", "first")
    monkeypatch.setattr(other_images, "ROWS", tuple(ROWS))
    monkeypatch.setattr(other_images, "COMPARISONS", (("joint", "first"), ("consistent", "first")))
    monkeypatch.setattr(out_of_fold, "BOOTSTRAP_RESAMPLES", 200)
    words = ["--folds", "3", "--repeats", "2", "--device", "cpu", "--name", "a"]
    return ["--data", str(named_npz), *words]


@pytest.fixture
def command(flags, tmp_path):
    """Run the study; where its results are."""

    def run(*more):
        other_images.main([*flags, "--only", *ROWS, *more])
        return tmp_path / "results" / "studies" / "a"

    return run


def test_the_joint_loss_is_that_of_known_classes_and_of_all_findings():
    torch.manual_seed(1)
    outputs, labels = torch.randn(8, 15), torch.randint(0, 2, (8, 15)).float()
    labels[2:, 0] = torch.nan
    loss, correct = other_images.Joint(RECIPE, 2 / 8).loss(
        outputs, labels, SharedBatches(ONE_PROCESS)
    )
    two = F.binary_cross_entropy_with_logits(outputs[:2, 0], labels[:2, 0])
    findings = F.binary_cross_entropy_with_logits(outputs[:, 1:], labels[:, 1:])
    assert loss.item() == pytest.approx((two + findings).item(), rel=1e-6)
    answers = (outputs >= 0).float() == labels  # NaN equals nothing
    assert correct.item() == answers.sum().item()


def test_the_consistent_loss_takes_the_first_warp_where_it_is_sure_and_learns_the_second():
    sure = np.log(0.95 / 0.05)
    first = torch.tensor(
        [0.3, sure + 0.1, sure + 0.1, -sure - 0.1, sure - 0.1, 0.0], requires_grad=True
    )
    second = torch.tensor([1.0, 2.0, -1.0, 0.5, 3.0, -3.0], requires_grad=True)
    labels = torch.tensor([1.0, 0.0, *[torch.nan] * 4])
    loss, correct = other_images.Consistent(RECIPE, 2 / 6).loss(
        torch.cat([first, second]), labels, SharedBatches(ONE_PROCESS)
    )
    bce = F.binary_cross_entropy_with_logits
    known = (bce(first[:2], labels[:2]) + bce(second[:2], labels[:2])) / 2
    told = bce(second[2:4], torch.tensor([1.0, 0.0]), reduction="sum") / 4
    assert loss.item() == pytest.approx((known + told).item(), rel=1e-6)
    assert correct.item() == 1  # of two that are known; one is sure, and wrong
    loss.backward()
    assert first.grad[:2].abs().min() > 0 and first.grad[2:].abs().max() == 0
    assert second.grad[:4].abs().min() > 0 and second.grad[4:].abs().max() == 0


@pytest.mark.parametrize("findings", [False, True])
def test_a_lesson_has_the_labels_of_its_images_and_nobody_who_is_held_out(
    flags,
    named_npz,  # noqa: F811
    findings,
):
    study = other_images.OtherImages(other_images.parser().parse_args(flags), StopSignals())
    fold = study.splits.fold(1, 2, choosing=False)
    images, targets = study.lesson(fold, findings)
    n, times = len(fold.train), other_images.TIMES
    others = study.others.take(~np.isin(study.others.patients, fold.held_out.patients))
    assert 0 < len(others) < len(study.others) and len(images) == times * n + len(others)
    assert torch.equal(images[times * n :, 0], torch.from_numpy(others.images))
    classes = targets[:, 0] if findings else targets
    assert classes[times * n :].isnan().all()
    told = classes[: times * n].reshape(times, n)
    assert np.array_equal(told, np.tile(fold.train.labels, (times, 1)))
    if findings:
        assert np.array_equal(targets[times * n :, 1:], others.labels)
        names = [FINDINGS[int(row.argmax())] for row in targets[:n, 1:]]
        wanted = [("cardiomegaly", "pneumothorax")[label] for label in fold.train.labels]
        assert names == wanted and (targets[: times * n, 1:].sum(1) == 1).all()


def test_without_other_images_there_is_nothing_to_learn_of(
    flags,
    named_npz,  # noqa: F811
    tmp_path,
):
    with np.load(named_npz) as source:
        arrays = dict(source)
    classes = arrays["train_labels"][:, [1, 7]]
    alone = (arrays["train_labels"].sum(1) == 1) & (classes.sum(1) == 1)
    for name in ("images", "labels", "names"):
        arrays[f"train_{name}"] = arrays[f"train_{name}"][alone]
    np.savez(tmp_path / "alone.npz", **arrays)
    flags[1] = str(tmp_path / "alone.npz")
    with pytest.raises(InputError, match="no training images of other findings"):
        other_images.OtherImages(other_images.parser().parse_args(flags), StopSignals())
    options = other_images.parser().parse_args([*flags, "--only", "first"])
    other_images.OtherImages(options, StopSignals())


def test_what_is_left_of_a_joint_network_is_its_first_output():
    layer = torch.nn.Linear(4, 15)
    x = torch.randn(3, 4)
    with torch.no_grad():
        assert torch.allclose(other_images.first_output(layer)(x), layer(x)[:, :1])


def test_rows_and_pages_come_from_the_logits(command, monkeypatch):
    folder = command()
    summary, oof = read_results(folder, "other_images", "configurations")
    assert list(summary["configurations"]) == ROWS
    assert len({oof.logits[name].tobytes() for name in ROWS}) == 3
    with (folder / "table.csv").open(newline="") as file:
        rows = {row["configuration"]: row for row in csv.DictReader(file)}
    for name in ROWS:
        assert float(rows[name]["auc"]) == pytest.approx(oof.estimate(name, "auc").value, abs=1e-6)
    assert rows["joint"]["model"] == rows["first"]["model"]
    assert float(rows["joint"]["images_seen"]) == pytest.approx(
        float(rows["consistent"]["images_seen"]) * 5 / 2
    )
    for page, start in (("README.md", "Written by"), ("README.id.md", "Ditulis oleh")):
        text = (folder / page).read_text(encoding="utf-8")
        assert f"{start} `python -m studies.other_images`" in text and "other_images.png" in text
        assert all(f"| `{name}` |" in text for name in ROWS)

    def fitted(*arguments):
        raise AssertionError("something is trained")

    monkeypatch.setattr(other_images.OtherImages, "fitted", fitted)
    before = (folder / "oof.csv").read_bytes()
    command()
    assert (folder / "oof.csv").read_bytes() == before
    (folder / "other_images.json").unlink()
    command()  # the folds are stored as well
    assert (folder / "oof.csv").read_bytes() == before
