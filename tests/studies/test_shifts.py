"""Networks under made-up shifts: what is predicted, stored, counted and written."""

import bz2
import json

import numpy as np
import pytest
from comparisons import tiny_networks  # noqa: F401 (a fixture)
from sklearn.metrics import roc_auc_score

from chestlab.data import folds
from chestlab.data.folds import FRESH_FOLDS_SEED
from chestlab.data.shifts import SHIFTS
from chestlab.evaluation import baselines, out_of_fold
from chestlab.evaluation.looks import FILE_NAME, read_looks
from chestlab.evaluation.out_of_fold import OutOfFold
from chestlab.evaluation.packed_logits import read_packed, rounded
from chestlab.evaluation.prevalence import at_prevalence
from chestlab.evaluation.verdicts import Estimate
from studies import shifts, shifts_page
from studies.frozen_recipes import LOOK_KIND, Frozen
from studies.shifts_page import HARMLESS, HELPS, HURTS, NONE, OPEN, UNTESTED
from studies.study import p_cell

FILES = ["README.id.md", "README.md", "logits.csv.bz2", "shifts.json", "shifts.png"]

FEW = ("bilinear_14", "darker", "inverted")


@pytest.fixture
def command(tiny_networks, phantom_npz, tmp_path, monkeypatch):  # noqa: F811
    """Run the study of two tiny networks and a few shifts; where its results are."""
    monkeypatch.chdir(tmp_path)
    frozen = (
        Frozen("first", "resnet34", "report"),
        Frozen("second", "plain34", "report", {"normalize": "per-image"}),
    )
    few = {name: SHIFTS[name] for name in FEW}
    monkeypatch.setattr(shifts, "FROZEN", frozen)
    monkeypatch.setattr(shifts, "NAMES", ("first", "second"))
    monkeypatch.setattr(shifts, "SHIFTS", few)
    monkeypatch.setattr(out_of_fold, "BOOTSTRAP_RESAMPLES", 200)

    def run(*flags):
        flags = ["--folds", "2", "--repeats", "2", "--device", "cpu", "--name", "a", *flags]
        shifts.main(["--data", str(phantom_npz), *flags])
        return tmp_path / "results" / "studies" / "a"

    return run


def test_figures_recompute_from_the_packed_logits(command, trainings):
    folder = command()
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert len(trainings) == 8
    summary = json.loads((folder / "shifts.json").read_text())
    assert summary["first_seed"] == FRESH_FOLDS_SEED
    assert list(summary["networks"]) == ["first", "second", "hog_rbf_svm"]
    logits = read_packed(folder / "logits.csv.bz2")
    tables = shifts_page.tables_of(summary, logits)
    for network, rows in tables.items():
        oof = logits[network]
        assert list(oof.logits) == [NONE, *FEW] and oof.folds.shape[0] == 2

        def auc(name, oof=oof):
            areas = [
                roc_auc_score(oof.labels[folds == k], values[folds == k])
                for values, folds in zip(oof.logits[name], oof.folds, strict=True)
                for k in (0, 1)
            ]
            return np.mean(areas)

        for row in rows:
            right = (oof.logits[row["shift"]] >= 0) == oof.labels
            before = (oof.logits[NONE] >= 0) == oof.labels
            assert row["auc"] == pytest.approx(auc(row["shift"]))
            assert row["auc_change"] == pytest.approx(auc(row["shift"]) - auc(NONE))
            assert row["accuracy"] == pytest.approx(right.mean())
            assert row["accuracy_change"] == pytest.approx(right.mean() - before.mean())
            assert row["auc_p_holm"] >= row["auc_p"]
    # what each picture's own normalisation takes out: a shift of all grey levels, but for clipping
    change = np.abs(logits["second"].logits["darker"] - logits["second"].logits[NONE])
    other = np.abs(logits["second"].logits["inverted"] - logits["second"].logits[NONE])
    assert np.median(change) < np.median(other)


def test_nothing_is_trained_twice_and_each_shift_is_one_look(command, trainings):
    folder = command("--only", "first")
    assert len(trainings) == 4
    before = read_packed(folder / "logits.csv.bz2")["first"].logits
    command("--only", "second")
    assert len(trainings) == 8
    both = read_packed(folder / "logits.csv.bz2")
    assert list(both) == ["first", "second", "hog_rbf_svm"]
    assert all(np.array_equal(both["first"].logits[name], before[name]) for name in before)
    command()
    assert len(trainings) == 8
    looks = read_looks(folder.parent.parent / "phantom" / FILE_NAME)
    names = [f"a/{name}" for name in ("first", "second") for _ in (NONE, *FEW)]
    assert [look.run for look in looks] == names
    assert {look.kind for look in looks} == {LOOK_KIND}
    assert looks[1].recipe_name == f"report, under {FEW[0]}"


def test_processes_with_different_networks_add_to_the_same_results(command, monkeypatch):
    predict, others = shifts.Shifts.predict, [("--only", "second")]

    def another_process_first(self, *arguments):
        if others:
            command(*others.pop())
        return predict(self, *arguments)

    monkeypatch.setattr(shifts.Shifts, "predict", another_process_first)
    folder = command("--only", "first")
    networks = ["first", "second", "hog_rbf_svm"]
    assert list(read_packed(folder / "logits.csv.bz2")) == networks
    assert list(json.loads((folder / "shifts.json").read_text())["networks"]) == networks
    assert "`second`" in (folder / "README.md").read_text()


def test_another_division_into_folds_is_noticed(command, monkeypatch, capsys):
    fit, fitted = baselines.fit, []
    monkeypatch.setattr(baselines, "fit", lambda *of: fitted.append(len(of[1])) or fit(*of))
    command("--only", "first")
    assert len(fitted) == 4
    fold_rows = folds.fold_rows
    monkeypatch.setattr(folds, "fold_rows", lambda split, k, seed: fold_rows(split, k, seed + 100))
    with pytest.raises(SystemExit) as stop:
        command("--only", "first")
    assert stop.value.code == 2 and "move it away" in capsys.readouterr().err
    command("--only", "first", "--name", "b")
    assert len(fitted) == 8


def test_stored_logits_are_written_again_as_they_are():
    stored = np.array([float(f"{step / 1000:.3f}") for step in range(-30000, 30001)])
    assert np.array_equal(rounded(stored), stored)
    assert rounded(np.array([-1e-9, 0.0019999, np.nan]))[:2].tolist() == [-0.001, 0.001]


def test_trained_takes_the_repeats_that_are_there(command, trainings, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        command("--trained")
    assert stop.value.code == 2 and "--trained" in capsys.readouterr().err
    assert not trainings and not list(tmp_path.iterdir())
    command("--only", "first")
    weights = sorted(
        (tmp_path / "trained_models").rglob("trained.pth"), key=lambda p: p.stat().st_mtime_ns
    )
    weights[0].unlink()  # of a fold of the first repeat
    folder = command("--trained")
    assert len(trainings) == 4
    summary = json.loads((folder / "shifts.json").read_text())
    assert summary["networks"]["first"]["repeats"] == [2] and "second" not in summary["networks"]
    logits = read_packed(folder / "logits.csv.bz2")
    assert logits["first"].folds.shape[0] == 1 and logits["hog_rbf_svm"].folds.shape[0] == 2
    text = (folder / "README.md").read_text()
    assert "`first`: repeat 2." in text and "One repeat gives no verdict." in text


def test_both_languages_have_every_row_and_redrawing_changes_nothing(command):
    folder = command()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for page, labels in (
        ("README.md", ("14 px and back, bilinear", "brightness -40", "negative")),
        ("README.id.md", ("14 px lalu kembali, bilinear", "kecerahan -40", "negatif")),
    ):
        text = before[page].decode()
        for label in labels:
            assert text.count(f"| {label} |") == 4  # at a glance, and of each network
        assert text.count("| `first` |") == text.count("| `second` |") == 3
    with pytest.raises(SystemExit):
        shifts.main(["--redraw", str(folder)])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_results_of_other_folds_are_not_mixed_in_and_damage_is_told(command, capsys):
    folder = command("--only", "first")
    with pytest.raises(SystemExit) as stop:
        command("--repeats", "3")
    assert stop.value.code == 2 and "move it away" in capsys.readouterr().err
    table = folder / "logits.csv.bz2"
    text = bz2.decompress(table.read_bytes())
    for content in (b"", text, bz2.compress(text[: len(text) // 2]), bz2.compress(b"a,b\n1,2\n")):
        table.write_bytes(content)
        with pytest.raises(SystemExit) as stop:
            shifts.main(["--redraw", str(folder)])
        assert stop.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1


def oof_of(labels, logits, repeats=1):
    n = len(labels)
    folds = np.tile(np.arange(n) % 2, (repeats, 1))
    values = np.tile(np.asarray(logits, float), (repeats, 1))
    return OutOfFold(np.full(n, "train"), np.arange(n), labels, None, folds, {NONE: values})


def test_another_prevalence_weights_the_classes():
    labels = np.repeat([1, 0], [20, 80]).astype(np.uint8)
    found = np.repeat([1, -1, 1, -1], [15, 5, 8, 72])  # sensitivity 0.75, specificity 0.9
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(out_of_fold, "BOOTSTRAP_RESAMPLES", 300)
        own, half = (at_prevalence(oof_of(labels, found), NONE, share) for share in (0.2, 0.5))
    assert own["accuracy"][0] == pytest.approx((15 + 72) / 100)
    assert own["ppv"][0] == pytest.approx(15 / 23) and own["npv"][0] == pytest.approx(72 / 77)
    assert half["accuracy"][0] == pytest.approx((0.75 + 0.9) / 2)
    assert half["ppv"][0] == pytest.approx(0.75 / 0.85)
    assert half["npv"][0] == pytest.approx(0.9 / 1.15)
    assert half["accuracy"][1].std() == pytest.approx(
        np.sqrt(0.75 * 0.25 / 20 + 0.9 * 0.1 / 80) / 2, rel=0.2
    )


@pytest.mark.parametrize(
    ("value", "low", "holm", "seeds", "verdict"),
    [
        (-0.05, -0.08, "refuted", 3, HURTS),
        (0.05, 0.02, "supported", 3, HELPS),
        (-0.002, -0.009, "undecided", 3, HARMLESS),
        (-0.002, -0.011, "undecided", 3, OPEN),
        (-0.05, -0.08, "undecided", 1, UNTESTED),
    ],
)
def test_a_shift_is_harmless_only_where_a_loss_is_excluded(value, low, holm, seeds, verdict):
    change = Estimate(value, low, 0.1, 0.01, 10, 0.1, 0.0, seeds)
    assert shifts_page._verdict(change, holm, 0.01) == verdict


def test_noise_is_pooled_over_networks_with_their_own_repeats():
    noise = shifts_page._noise([np.array([0.1, 0.2, 0.3]), np.array([0.0, 0.4])])
    assert noise.freedom == 3 and noise.variance == pytest.approx((0.02 + 0.08) / 3)


def test_every_shift_has_a_label_in_both_languages():
    for labels in shifts_page.LABELS.values():
        assert set(labels) == {kind for kind, _ in SHIFTS.values()}


def test_a_p_value_shows_on_which_side_of_the_limit_it_lies():
    assert [p_cell(p) for p in (0.0502, 0.05, 0.0496, 0.0004)] == [
        "0.0502",
        "0.050",
        "0.050",
        "< 0.001",
    ]
