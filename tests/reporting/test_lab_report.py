"""The lab report of a run: what it says is in its files, chosen by rules, in two languages."""

import csv
import json
import re
import sys

import numpy as np
import pytest
import torch
from lab_runs import SPLITS, pages_of, write_run
from PIL import Image
from torch import nn

import visualize
from chestlab.data import leaks, sources
from chestlab.data.phantom import PHANTOM_MARK
from chestlab.data.splits import CLASS_NAMES, FINDINGS, Split
from chestlab.evaluation.alarms import alarms
from chestlab.evaluation.metrics import evaluate_findings, evaluate_probabilities
from chestlab.reporting import (
    lab_experiments,
    lab_report,
)
from chestlab.reporting.batch_plots import draw_training_batch
from chestlab.reporting.lab_warnings import in_indonesian
from chestlab.reporting.stored_runs import StoredRun
from chestlab.runs.environment import command, commit
from chestlab.runs.estimated_statistics import lag_alarm
from chestlab.runs.run import run
from chestlab.training.architecture import describe_blocks
from chestlab.training.layers import parameter_count
from chestlab.training.recipe import Recipe


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """Figures, folder, and the pages of a run on X-rays."""
    folder = tmp_path_factory.mktemp("results") / "one"
    metrics = write_run(folder)
    return metrics, folder, pages_of(folder)


def numbers(text, language):
    """The numbers of a text in its order, without thousands and with a decimal point."""
    found = re.findall(r"(?<![\w.,])[-+]?\d[\d.,]*\d|(?<![\w.,])[-+]?\d", text)
    if language == "id":
        found = [number.translate(str.maketrans(".,", ",.")) for number in found]
    return [number.replace(",", "") for number in found]


def tables_of(page):
    """Every table of a page: lists of cells."""
    tables, rows = [], []
    for line in [*page.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip(" *") for cell in line.strip("|").split("|")])
        elif rows:
            tables.append([rows[0], *rows[2:]])
            rows = []
    return tables


# Numbers.


def test_sentences_tell_the_numbers_of_the_files(reported):
    metrics, folder, pages = reported
    with (folder / "history.csv").open(newline="") as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    with (folder / "test_probabilities.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    labels = np.array([int(row["label"]) for row in table])
    p = np.array([float(row["probability"]) for row in table])
    with (folder / "val_probabilities.csv").open(newline="") as file:
        of_val = list(csv.DictReader(file))
    losses = [row["val_loss"] for row in rows]
    lowest = losses.index(min(losses))
    train, val, test = (metrics[split] for split in SPLITS)
    low, high = (100 * end for end in test["accuracy_ci95"])
    auc_low, auc_high = test["auc_ci95"]
    lead = [100 * end for end in test["gain_over_constant_ci95"][1]]
    (tn, fp), (fn, tp) = test["confusion"]
    last_four = [100 * row["val_accuracy"] for row in rows[-4:]]  # a third of 12 epochs
    two_errors = 50 * np.hypot(*(np.ptp(f["accuracy_ci95"]) for f in (train, val)))
    certain = [max(x, 1 - x) for x in p]
    unsure = [-100 * end for end in reversed(test["overconfidence_ci95"])]
    chances = [float(row["probability"]) for row in of_val]
    wrong = [x for x, row in zip(chances, of_val, strict=True) if (x >= 0.45) != int(row["label"])]
    sure = sum((x if x >= 0.45 else 1 - x) >= 0.9 for x in wrong)
    kept, last = rows[8], rows[-1]
    expected = {  # beginning of a sentence, and the numbers that follow
        "On 52 test images": [52, 26, 100 * test["accuracy"], 95, low, high],
        "the AUC **": [test["auc"], auc_low, auc_high],
        "on the validation images that": [100 * val["accuracy"]],
        "60 of the 100 training images": [60, 100, 60.0, 1.5],
        "would be right on": [100 * 32 / 52],
        "The 52 test images are of": [52, 26, 2, 26],
        "Training stopped early": [12, 40, 3, 9],
        "the training loss fell from": [rows[0]["train_loss"], kept["train_loss"]],
        "the validation loss went from": [losses[0], losses[8]],
        "The validation loss was lowest": [lowest + 1, losses[lowest]],
        "% higher in the last one": [losses[-1], rows[lowest]["train_loss"], last["train_loss"]],
        "Over the last 4 epochs": [4, min(last_four), max(last_four), 100 / 32],
        "At a threshold of 0.5": [0.5, 90, 1, 12, 9, 9, 100 * kept["val_accuracy"]],
        "The finished network is right": [100 * train["accuracy"], 100 * val["accuracy"]],
        "difference of up to": [two_errors],
        "The accuracy on the test": [100 * test["accuracy"] - 100 * 32 / 52, *lead, 100 * 32 / 52],
        "(sensitivity": [100 * tp / (tp + fn), tn, tn + fp, 100 * tn / (tn + fp)],
        "images the AUC is": [test["auc"], auc_low, auc_high, 100 * test["auc"], 0.5],
        "more probable class has a": [100 * np.mean(certain), 100 * np.mean((p >= 0.5) == labels)],
        "underconfident by": [100 * (np.mean((p >= 0.5) == labels) - np.mean(certain)), *unsure],
        f"{len(wrong)} of the 32 validation": [len(wrong), 32, *([sure] if sure else []), 90],
        "interval of the accuracy is": [high - low, 52, 26],
        "was trained once": [7],
        "The epoch and the threshold": [0.45],
        "validation images: not reached": [100 * val["accuracy"]],
    }
    rise = 100 * (losses[-1] / losses[lowest] - 1)
    assert f"and {rise:.0f} % higher in the last one" in pages[0]
    for start, values in expected.items():
        found = numbers(pages[0][pages[0].index(start) :], "en")[: len(values)]
        shown = [shown_as(value, text) for value, text in zip(values, found, strict=True)]
        assert found == shown, start


def shown_as(value, text):
    """A number with as many decimals as a text has."""
    return f"{value:.{len(text.partition('.')[2])}f}"


@pytest.mark.parametrize(("language", "page"), [("en", 0), ("id", 1)])
def test_tables_tell_the_figures_of_the_files(reported, language, page):
    metrics, _, pages = reported
    tables = tables_of(pages[page])
    counts, blocks, _, figures, classes, errors, cost, _ = tables
    for row, (split, (negatives, positives)) in zip(counts[1:], SPLITS.items(), strict=True):
        share = f"{100 * positives / (negatives + positives):.1f}"
        cells = [str(negatives), str(positives), str(negatives + positives), share]
        assert numbers(" ".join(row[1:]), language) == cells, split
    assert numbers(" ".join(blocks[1][2:]), language) == ["8", "14", "14", "1000", "2.50"]
    assert numbers(" ".join(blocks[-1]), language) == ["1234", "3.73"]
    for row, split in zip(figures[1:], SPLITS, strict=True):
        of = metrics[split]
        (low, high), (auc_low, auc_high) = of["accuracy_ci95"], of["auc_ci95"]
        cells = [of["n"], 100 * of["accuracy"], 100 * low, 100 * high, of["auc"], auc_low, auc_high]
        cells += [of[key] for key in ("sensitivity", "specificity", "balanced_accuracy", "f1")]
        found = numbers(" ".join(row[1:]).replace("<br>", " "), language)
        assert found == [shown_as(v, t) for v, t in zip([*cells, of["brier"]], found, strict=True)]
    (tn, fp), (fn, tp) = metrics["test"]["confusion"]
    for row, (right, n, said) in zip(
        classes[1:], ((tn, tn + fp, tn + fn), (tp, tp + fn, tp + fp)), strict=True
    ):
        cells = [n, right, 100 * right / n, said, right, 100 * right / said, 2 * right / (n + said)]
        found = numbers(" ".join(row[1:]), language)
        assert found == [shown_as(v, t) for v, t in zip(cells, found, strict=True)]
    chances = [float(numbers(row[3], language)[0]) for row in errors[1:]]
    assert chances == sorted(chances, reverse=True) and len(chances) <= 5
    assert "1:23" in [row[1] for row in cost]
    shown = " ".join(" ".join(row[1:]) for row in cost)
    assert {"456", "1.25", "12.3", "5.0", "3.73"} <= set(numbers(shown, language))


# Languages.

ENGLISH = re.compile(r"\b(the|of|and|is|are|was|were|with|which|images|network|not|every)\b", re.I)


def prose(page):
    """A page without code, links and file names."""
    page = re.sub(r"`[^`]*`|\]\([^)]*\)|^    .*$", "", page, flags=re.MULTILINE)
    for name in ("[English", "Wang et al., CVPR 2017", "squeeze-and-excitation"):
        page = page.replace(name, "")
    return page


def test_no_english_sentence_is_left_on_the_indonesian_page(reported):
    _, _, pages = reported
    assert not ENGLISH.findall(prose(pages[1])), ENGLISH.findall(prose(pages[1]))
    assert len(pages[0].splitlines()) == len(pages[1].splitlines())


def test_decimal_commas_are_on_the_indonesian_page_only(reported):
    _, _, (english, indonesian) = reported
    figures = tables_of(english)[3], tables_of(indonesian)[3]
    assert "." in figures[0][1][4] and "," not in figures[0][1][4]
    assert "," in figures[1][1][4] and "." not in figures[1][1][4].replace("s.d.", "")


def warnings_of_every_kind():
    constant = {"val": np.full(24, 0.4), "test": np.full(24, 0.4) + 0.01}
    flat = [{"train_loss": 0.7, "train_accuracy": 0.9} for _ in range(4)]
    given = {name: np.ones(24, bool) for name in constant}
    images = np.zeros((4, 8, 8), np.uint8)
    split = Split(images, np.array([0, 0, 1, 1]), np.arange(4), patients=np.array(["1"] * 4))
    figures = {"running": {"auc": 0.5}, "estimated": {"auc": 0.8}}
    return [
        *alarms(constant, given, flat, 4, 0.6, 24),
        *alarms(constant),
        *alarms(constant, given, flat, 4, 0.6, 24, batch_norm=False),
        *leaks.split_warnings({"train": split, "val": split, "test": split}),
        *lag_alarm({"val": figures}),
        *lag_alarm({"val": figures | {"running": {"auc": None}}}),
    ]


def test_every_warning_is_told_in_indonesian():
    warnings = warnings_of_every_kind()
    assert len(warnings) >= 12
    for warning in [*warnings, f"member seed42: {warnings[0]}"]:
        translated = in_indonesian(warning)
        assert translated is not None, warning
        assert not ENGLISH.findall(translated), translated
        assert ("batch" in warning) == ("batch" in translated)
        assert ("more epochs (only 4 " in warning) == ("lebih banyak epoch (baru 4)" in translated)
        assert re.findall(r"\d{2,}", warning)[:1] == re.findall(r"\d{2,}", translated)[:1]


def test_the_title_says_where_a_recipe_was_changed(tmp_path):
    write_run(tmp_path / "one", recipe_name="best", recipe_changes={})
    assert ", recipe best\n" in pages_of(tmp_path / "one")[0]
    write_run(tmp_path / "two", recipe_name="best", recipe_changes={"epochs": 3})
    english, indonesian = pages_of(tmp_path / "two")
    assert ", recipe best with changes\n" in english
    assert ", resep best dengan perubahan\n" in indonesian


def test_warnings_stand_on_top_and_unknown_ones_are_marked_as_english(tmp_path):
    warnings = [warnings_of_every_kind()[0], "something new <b>happened</b>"]
    write_run(tmp_path / "one", warnings=warnings)
    english, indonesian = pages_of(tmp_path / "one")
    for page, word in ((english, "In short"), (indonesian, "Ringkasan")):
        assert page.index("> **") < page.index(word) and page.count("\n> **") == 2
        assert "<b>" not in page.replace("\\<b", "")
    assert "**Peringatan** (pesan program, berbahasa Inggris): something new" in indonesian


# Runs of every kind.


def test_the_recipe_of_an_own_network_is_not_called_published(tmp_path):
    write_run(tmp_path / "ours")
    write_run(tmp_path / "own", model="MyNet")
    write_run(tmp_path / "same", model="MyNet", recipe_changes={}, recipe_published={})
    assert "`lr` 0.01 (published: 0.001)" in pages_of(tmp_path / "ours")[0]
    english, indonesian = pages_of(tmp_path / "own")
    assert "`lr` 0.01 (in the script: 0.001)" in english and "published:" not in english
    assert "`lr` 0,01 (di skrip: 0,001)" in indonesian or "(di skrip: 0.001)" in indonesian
    assert "Nothing was changed from the recipe of the script." in pages_of(tmp_path / "same")[0]


def test_phantoms_are_marked_at_every_heading_figure_and_table(tmp_path):
    data = {"source": f"{PHANTOM_MARK} (28 px)", "size": 28, "sha256": "cd" * 32, "phantom": True}
    counts = {s: dict(zip(CLASS_NAMES, n, strict=True)) for s, n in SPLITS.items()}
    write_run(tmp_path / "one", data=data | {"counts": counts})
    Image.new("L", (8, 8)).save(tmp_path / "one" / "roc_curve.png")
    for page in pages_of(tmp_path / "one"):
        marked = [line for line in page.splitlines() if line.startswith(("#", "*T", "*F", "*G"))]
        assert len(marked) > 15
        assert all(PHANTOM_MARK in line for line in marked), marked
        assert f"> **{PHANTOM_MARK}.**" in page
        assert "90 %" not in page.split("\n## ")[-1]  # a goal on X-rays
        assert "Wang et al." not in page


def test_a_run_without_test_says_so_and_quotes_validation(tmp_path):
    metrics = write_run(tmp_path / "one", test=False)
    english, indonesian = pages_of(tmp_path / "one")
    assert (
        f"On 32 validation images the accuracy is **{100 * metrics['val']['accuracy']:.1f} %**"
        in (english.replace(" of 16 patients", ""))
    )
    assert "The test images were not evaluated." in english
    assert "Citra uji tidak dievaluasi." in indonesian


def test_a_run_of_an_older_version_has_no_environment_and_no_blocks(tmp_path):
    write_run(tmp_path / "one", architecture=None)
    english, _ = pages_of(tmp_path / "one")
    assert "Its layers are not listed" in english
    assert "did not record more" in english


def test_the_environment_is_told_where_it_is_stored(tmp_path):
    write_run(tmp_path / "one")
    (tmp_path / "one" / "report").mkdir()
    about = {"finished": "2026-11-26T16:23:27+00:00", "command": "python train.py --resume"}
    about |= {"commit": "46c3170d8a85-dirty", "python": "3.11.7", "packages": {"torch": "2.14.1"}}
    about |= {"system": "Linux", "device_name": "A <fast> card", "threads": 2}
    (tmp_path / "one" / "report" / "environment.json").write_text(json.dumps(about))
    english, indonesian = pages_of(tmp_path / "one")
    assert "\n    python train.py --resume\n" in english
    assert "had been interrupted" in english and "pernah terhenti" in indonesian
    assert "finished on 2026-11-26" in english
    assert "46c3170d8a85, with changes that are not committed" in english
    assert "python 3.11.7, torch 2.14.1" in english and "A \\<fast\\> card" in english


def test_the_fourteen_findings_have_their_own_tables(tmp_path):
    rng = np.random.default_rng(3)
    figures = {}
    for split, n in (("train", 60), ("val", 50), ("test", 40)):
        labels = (rng.random((n, 14)) < 0.3).astype(int)
        labels[:, 13] = 0
        figures[split] = evaluate_findings(labels, labels + rng.normal(0, 1, (n, 14)), FINDINGS)
    counts = {split: dict.fromkeys(FINDINGS, 5) for split in ("train", "val", "test")}
    metrics = write_run(tmp_path / "one")
    del metrics["threshold"]
    metrics |= figures | {"data": metrics["data"] | {"counts": counts}, "tta": "none"}
    run = StoredRun(tmp_path / "one", metrics, {})
    lab_report.write_lab_report(run, tmp_path, ())
    page = (tmp_path / "one" / "README.md").read_text()
    mean = figures["test"]["auc"]
    assert f"On 40 test images the mean AUC of 13 findings is **{mean:.3f}**" in page
    (table,) = (table for table in tables_of(page) if table[0][:2] == ["finding", "images"])
    assert len(table) == 15 and table[14][0] == "hernia" and table[14][2].startswith("-")
    assert float(table[1][2].split()[0]) == round(
        figures["test"]["auc_per_finding"]["atelectasis"], 3
    )
    assert "sensitivity" not in page and "| split | images | AUC |" in page
    assert "**Better than chance: supported.**" in page


def test_an_average_tells_its_members_and_what_averaging_gained(tmp_path):
    gain = {
        "accuracy": 0.01,
        "accuracy_ci95": [-0.02, 0.03],
        "auc": 0.02,
        "auc_ci95": [0.005, 0.04],
    }
    members = [
        {"name": f"seed{k}", "seconds": 30.0 * k, "threshold": 0.5, "best_epoch": k}
        | {"epochs_run": 12, "val": {"accuracy": 0.8, "auc": 0.9}, "test": {"accuracy": 0.7}}
        | ({"threshold_ci95": [0.4, 0.625]} if k == 3 else {})
        | {"test": {"accuracy": 0.7 + k / 100, "auc": 0.85}}
        for k in (1, 2, 3)
    ]
    spread = {
        split: {m: {"mean": 0.123 + n, "sd": 0.01} for m in ("accuracy", "auc")}
        for n, split in enumerate(("val", "test"))
    }
    best = {"name": "seed2", "chosen_on": "accuracy, then AUC, on val"}
    write_run(
        tmp_path / "one",
        history=False,
        kind="3 seeds",
        members=members,
        mean_and_sd=spread,
        best_member=best | {"gain_of_the_average": {"test": gain}},
        threshold_chosen_on="val",
        seed=None,
        best_epoch=None,
        train=None,
    )
    english, indonesian = pages_of(tmp_path / "one")
    assert "EfficientChestNet, average of 3 seeds, recipe report" in english.splitlines()[0]
    assert "is +0.020 above that of the best member, seed2 (+0.005 to +0.040)" in english
    (table,) = (table for table in tables_of(english) if table[0][0] == "member")
    assert [row[0] for row in table[1:]] == [
        "seed1",
        "seed2",
        "seed3",
        "mean",
        "standard deviation",
    ]
    assert table[2][5:] == ["2 of 12", "0.50", "1:00"]
    assert table[3][6] == "0.50<br>(0.40 to 0.62)"
    assert "rerata 3 seed" in indonesian.splitlines()[0]
    assert "Training stopped" not in english and "was trained once" not in english


def with_oof(folder, probabilities, origin):
    """The run of a folder with out-of-fold predictions; labels alternate."""
    labels = np.arange(len(probabilities)) % 2
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["oof"] = evaluate_probabilities(labels, probabilities, 0.5)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    rows = zip(np.arange(len(labels)), labels, probabilities, strict=True)
    lines = [f"{origin},{index},{label},{p}\n" for index, label, p in rows]
    head = "split,index,label,probability\n"
    (folder / "oof_probabilities.csv").write_text(head + "".join(lines))


def test_validation_images_out_of_fold_are_said_to_be_so_of_averages_alone(tmp_path):
    said = "The validation images are a part of the out-of-fold images"
    average = {
        "kind": "2 folds over train+val",
        "members": [{"name": f"fold{k}", "seconds": 1.0, "threshold": 0.5} for k in (1, 2)],
        "mean_and_sd": {},
        "best_member": {"name": "fold1", "chosen_on": "x", "gain_of_the_average": {}},
        "threshold_chosen_on": "out-of-fold",
    }
    spread = np.linspace(0.1, 0.9, 40)
    for origin, expected in (("val", True), ("train", False)):
        write_run(tmp_path / origin, history=False, **average)
        with_oof(tmp_path / origin, spread, origin)
        english, indonesian = pages_of(tmp_path / origin)
        assert (said in english) == ("bagian dari citra out-of-fold" in indonesian) == expected
    figures = {"accuracy": 0.8, "auc": 0.9}
    for member in average["members"]:
        member["held_out"] = figures
    average["mean_and_sd"] = {"held_out": {m: {"mean": 0.8, "sd": 0.1} for m in figures}}
    blend = average | {"kind": "2 runs", "blend": ["fold1", "fold2"]}
    write_run(tmp_path / "blend", history=False, **blend)
    with_oof(tmp_path / "blend", spread, "val")
    english, _ = pages_of(tmp_path / "blend")
    assert "by accuracy and then AUC on the out-of-fold images." in english
    assert "| member | out-of-fold: accuracy | out-of-fold: AUC |" in english
    write_run(tmp_path / "one", yardstick=True)
    with_oof(tmp_path / "one", spread, "val")
    assert said not in pages_of(tmp_path / "one")[0]


def test_the_auc_of_constant_outputs_is_undefined_in_training_and_out_of_fold_too(tmp_path):
    folder = tmp_path / "one"
    recipe = {"name": "majority"}
    folds = {"folds": 4}
    write_run(folder, history=False, yardstick=True, recipe=recipe, cross_validation=folds)
    per_fold = np.repeat([0.66, 0.664, 0.665, 0.666], 10)
    with_oof(folder, per_fold, "train")
    figures = tables_of(pages_of(folder)[0])[1]
    assert [row[3] == "-" for row in figures[1:]] == [False, False, True, False]
    metrics = json.loads((folder / "metrics.json").read_text())
    for split in ("val", "test"):  # as the majority class gives them
        path = folder / f"{split}_probabilities.csv"
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        labels = np.array([int(row["label"]) for row in rows])
        constant = np.full(len(labels), 0.66)
        metrics[split] = evaluate_probabilities(labels, constant, 0.45)
        lines = [f"{row['index']},{row['label']},0.66\n" for row in rows]
        path.write_text("index,label,probability\n" + "".join(lines))
    (folder / "metrics.json").write_text(json.dumps(metrics))
    english, _ = pages_of(folder)
    figures = tables_of(english)[1]
    assert [row[0] for row in figures[1:]] == ["training", "validation", "out-of-fold", "test"]
    assert [row[3] for row in figures[1:]] == ["-"] * 4
    assert "Out of fold, on the" not in english and "was chosen on the" not in english
    assert "Choices were made" not in english and "points apart" not in english


def test_a_threshold_has_an_interval_where_one_is_stored(tmp_path):
    write_run(tmp_path / "older")
    for page, interval in zip(pages_of(tmp_path / "older"), ("0.45.", "0,45."), strict=True):
        assert f"{interval} " in page
        assert "resampled, the threshold" not in page and "ambangnya" not in page
    write_run(tmp_path / "one", threshold_ci95=[0.31, 0.66])
    english, indonesian = pages_of(tmp_path / "one")
    assert "its probability is at least 0.45 (0.31 to 0.66)." in english
    assert "When the patients are resampled, the threshold moves between 0.31 and 0.66" in english
    assert "paling sedikit 0,45 (0,31 s.d. 0,66)." in indonesian
    assert "diambil ulang per pasien, ambangnya bergeser antara 0,31 dan 0,66" in indonesian


def test_the_calibration_of_single_networks_is_a_table_and_not_applied(tmp_path):
    before = {"loss": 0.5, "loss_ci95": [0.4, 0.6], "brier": 0.2, "brier_ci95": [0.1, 0.3]}
    after = {"loss": 0.45, "loss_ci95": [0.4, 0.5], "brier": 0.19, "brier_ci95": [0.1, 0.28]}
    change = {"loss": -0.05, "loss_ci95": [-0.08, 0.0], "brier": -0.01, "brier_ci95": [-0.02, 0.0]}
    stages = {
        "before": before | {"ece": 0.125, "ece_by_chance": 0.031},
        "after": after | {"ece": 0.0625, "ece_by_chance": 0.04},
        "change": change | {"ece": -0.0625},
    }
    temperature = {"n": 1498, "temperature": 1.5, "temperature_ci95": [1.2, 1.75]}
    write_run(tmp_path / "one", calibration_out_of_fold=temperature | stages)
    pages = pages_of(tmp_path / "one")
    (english,) = (table for table in tables_of(pages[0]) if table[0][0] == "measure")
    assert english[0] == ["measure", "without temperature", "with temperature", "change"]
    loss = ["log loss", "0.500<br>(0.400 to 0.600)", "0.450<br>(0.400 to 0.500)"]
    assert english[1] == [*loss, "-0.050<br>(-0.080 to +0.000)"]
    assert english[2][0] == "Brier score" and english[2][2] == "0.190<br>(0.100 to 0.280)"
    assert english[3] == ["expected calibration error", "0.125", "0.062", "-0.062"]
    assert english[4][1:] == ["0.031", "0.040", "-"]
    assert "divided by 1.50 (1.20 to 1.75). Single networks of this recipe are over" in pages[0]
    assert "is not applied to the average" in pages[0] and "on 1,498 out-of-fold" in pages[0]
    (indonesian,) = (table for table in tables_of(pages[1]) if table[0][0] == "ukuran")
    assert indonesian[1][3] == "-0,050<br>(-0,080 s.d. +0,000)"
    assert "tidak diterapkan pada rerata" in pages[1] and "1.498 citra" in pages[1]
    assert not ENGLISH.findall(prose(pages[1]).replace("out-of-fold", ""))
    assert len(pages[0].splitlines()) == len(pages[1].splitlines())


@pytest.mark.parametrize("model", ["EfficientChestNet", "MobileNetV3Chest", "SEResNet34"])
def test_a_start_from_weights_of_ones_own_is_neither_from_scratch_nor_imagenets(tmp_path, model):
    write_run(tmp_path / "one", model=model, starting_weights={"source": "chests_final.pth"})
    page = pages_of(tmp_path / "one")[0]
    question = page.split("**Question.** ")[1].split("\n## ")[0]
    assert "starting from the weights in chests_final.pth?" in question
    assert "What these weights have learnt" in question
    assert "scratch" not in question and "ImageNet" not in question
    assert "Even without" not in question


@pytest.mark.parametrize("name", [*lab_experiments.EXPERIMENTS, "MyNet"])
def test_every_network_has_a_question_and_a_hypothesis(tmp_path, name):
    write_run(tmp_path / "one", model=name, starting_weights={"source": "imagenet"})
    english, indonesian = pages_of(tmp_path / "one")
    for page, question in ((english, "**Question.**"), (indonesian, "**Pertanyaan.**")):
        assert question in page and "{" not in page
    number = lab_experiments.EXPERIMENTS[name].number if name != "MyNet" else 0
    assert english.startswith(
        f"# Lab report, experiment {number}: " if number else "# Lab report: "
    )


def test_the_experiments_are_those_of_the_project():
    from networks import NETWORKS, network_class

    built = {known.build.__name__ for known in NETWORKS.values()} - {"torchvision_chest"}
    assert built | {"DenseNet121Chest", "TorchvisionChest", "TimmChest"} == set(
        lab_experiments.EXPERIMENTS
    )
    assert all(network_class(name) for name in lab_experiments.EXPERIMENTS)


# Beside the pages.


def test_a_fault_of_the_report_is_one_line_and_ends_no_run(tmp_path, monkeypatch, capsys):
    write_run(tmp_path / "one")

    def broken(*arguments, **values):
        raise RuntimeError("no\npage")

    monkeypatch.setattr(lab_report, "render", broken)
    lab_report.report_on(tmp_path / "one", tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert "RuntimeError: no page" in line and "python visualize.py" in line
    assert not (tmp_path / "one" / "README.md").exists()


def test_a_report_that_a_crash_left_out_comes_with_resume_and_members_have_none(
    tmp_path, phantom_npz, monkeypatch, no_pictures
):
    from tiny_train import RECIPE, TinyNet

    monkeypatch.chdir(tmp_path)
    flags = ["--data", str(phantom_npz), "--epochs", "1", "--device", "cpu", "--name", "one"]
    run(TinyNet, {"report": RECIPE}, flags)
    page = tmp_path / "results/one/README.id.md"
    before = page.read_text(encoding="utf-8")
    page.unlink()
    run(TinyNet, {"report": RECIPE}, [*flags, "--resume"])
    assert without_time(page.read_text(encoding="utf-8")) == without_time(before)
    run(TinyNet, {"report": RECIPE}, [*flags, "--members", "2"])
    pages = {path.parent.name for path in (tmp_path / "results").rglob("README.md")}
    assert pages == {"one", "one_members"}
    about = json.loads((tmp_path / "results/one_members/report/environment.json").read_text())
    assert about["packages"]["torch"] and about["threads"] >= 1


def without_time(page):
    """A page without what the environment's file says of the moment."""
    return [line for line in page.splitlines() if "UTC" not in line and "python" not in line]


def test_visualize_writes_reports_again_and_html_with_the_pictures_in_it(tmp_path, capsys):
    pytest.importorskip("markdown_it")
    write_run(tmp_path / "one", name="one")
    Image.new("L", (8, 8)).save(tmp_path / "one" / "roc_curve.png")
    flags = "--results-dir", str(tmp_path)
    visualize.main(["report", "one", "--format", "html", *flags])
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 4
    text = (tmp_path / "one" / "report" / "one.id.html").read_text(encoding="utf-8")
    assert '<html lang="id">' in text and "<title>Laporan praktikum, eksperimen 1: " in text
    assert re.findall(r'src="([^"]{22})', text) == ["data:image/png;base64,"]
    assert "README" not in text and "metrics.json" in text and 'href="metrics' not in text
    assert "<table>" in text and "<br>" in text


def test_html_without_the_library_names_the_command(tmp_path, monkeypatch, capsys):
    write_run(tmp_path / "one", name="one")
    monkeypatch.setitem(__import__("sys").modules, "markdown_it", None)
    with pytest.raises(SystemExit) as stopped:
        visualize.main(["report", "one", "--format", "html", "--results-dir", str(tmp_path)])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install markdown-it-py" in line


class Branched(nn.Module):
    """A parameter of its own, a block that runs twice, and one that never does."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5))
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.twice = nn.Conv2d(4, 4, 1)
        self.never = nn.Linear(3, 3)
        self.nothing = nn.Identity()
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
        self.tail = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.ReLU())

    def forward(self, x):
        x = self.tail(self.twice(self.twice(self.stem(x))))
        return self.head(self.nothing(x) * self.scale[0]).squeeze(1)


def test_blocks_add_up_to_the_network():
    model = Branched().eval()
    rows, total = describe_blocks(model, torch.zeros(1, 1, 8, 8))
    assert [row["name"] for row in rows] == ["stem", "twice", "tail", "head", ""]
    assert sum(row["parameters"] for row in rows) == parameter_count(model)
    assert rows[-1]["parameters"] == 5 + 12
    assert [row["multiply_accumulates"] for row in rows] == [2304, 2048, 2048, 4, 0]
    assert total == 6404 and rows[2]["content"] == "2 Conv2d 1x1, ReLU"
    assert rows[0]["output"] == [4, 8, 8] and rows[0]["content"] == "Conv2d 3x3"


def test_a_network_of_few_blocks_is_shown_by_their_parts():
    model = nn.Sequential(nn.Sequential(*(nn.Conv2d(1, 1, 1) for _ in range(6)))).eval()
    rows, _ = describe_blocks(model, torch.zeros(1, 1, 8, 8))
    assert [row["name"] for row in rows] == [f"0.{k}" for k in range(6)]


def test_the_picture_of_a_batch_repeats_and_leaves_the_random_state_alone(tmp_path, phantom_npz):
    data = sources.load(str(phantom_npz))
    recipe = Recipe(name="tiny", flip=0.5, rotate=10, mixup=0.4, image_size=32)
    state = torch.get_rng_state()
    for name in ("a", "b"):
        draw_training_batch(
            data.train.images, data.train.labels, recipe, tmp_path / name, title="t", credit=""
        )
    assert torch.equal(torch.get_rng_state(), state)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_command_names_no_home_and_a_folder_without_git_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    argv = ["train.py", "--data", str(tmp_path / "my file.npz"), "--epochs", "2"]
    monkeypatch.setattr("sys.argv", argv)
    main = sys.modules["__main__"]  # has no file in a worker of xdist
    monkeypatch.setattr(main, "__file__", str(tmp_path / "train.py"), raising=False)
    monkeypatch.setattr(main, "__spec__", None, raising=False)
    assert command() == "python train.py --data '~/my file.npz' --epochs 2"
    assert commit(tmp_path) is None
