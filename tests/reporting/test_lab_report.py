"""The lab report of a run: what it says is in its files, chosen by rules, in two languages."""

import csv
import json
import re
import string

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import visualize
from chestlab.data import leaks, sources
from chestlab.data.phantom import PHANTOM_MARK
from chestlab.data.splits import CLASS_NAMES, FINDINGS, Split
from chestlab.evaluation.alarms import alarms
from chestlab.evaluation.metrics import evaluate_findings, evaluate_probabilities
from chestlab.reporting import (
    lab_conclusions,
    lab_experiments,
    lab_recipe,
    lab_report,
    lab_rules,
    lab_verdicts,
)
from chestlab.reporting.batch_plots import draw_training_batch
from chestlab.reporting.lab_facts import Term, facts_of
from chestlab.reporting.lab_messages import LAB_MESSAGES
from chestlab.reporting.lab_warnings import in_indonesian
from chestlab.reporting.lab_wording import LIMITS_OF_RULES, LabWording
from chestlab.reporting.stored_runs import StoredRun, read_history, read_two_class_run
from chestlab.runs.environment import command, commit
from chestlab.runs.estimated_statistics import lag_alarm
from chestlab.runs.run import run
from chestlab.training.architecture import describe_blocks
from chestlab.training.layers import parameter_count
from chestlab.training.recipe import Recipe, as_dict

GROUPS = {
    **lab_rules.DATA,
    **lab_rules.TRAINING,
    **{f"result {name}": topic for name, topic in lab_verdicts.RESULT.items()},
    **lab_verdicts.EVALUATION,
    **{f"confusion {name}": topic for name, topic in lab_verdicts.CONFUSION.items()},
    **lab_verdicts.ROC,
    **lab_verdicts.CALIBRATION,
    **lab_verdicts.EXAMPLES,
    **lab_verdicts.AVERAGE,
    **{f"limit {name}": topic for name, topic in lab_conclusions.LIMITS.items()},
    **{f"conclusion {name}": topic for name, topic in lab_conclusions.CONCLUSION.items()},
}

RULES = [(name, number) for name, topic in GROUPS.items() for number in range(len(topic.rules))]

SPLITS = {"train": (40, 60), "val": (12, 20), "test": (20, 32)}

EPOCHS = 12


def history_rows():
    """Validation loss lowest in epoch 6, validation accuracy highest in epoch 9."""
    rows = []
    for epoch in range(1, EPOCHS + 1):
        rows.append(
            {
                "epoch": epoch,
                "train_loss": 0.7 - 0.05 * epoch,
                "train_accuracy": 0.6 + 0.03 * epoch,
                "val_loss": 0.4 + 0.011 * abs(epoch - 6) ** 1.5,
                "val_accuracy": (20 + min(epoch, 18 - epoch)) / 32,
                "val_auc": 0.7 + 0.01 * epoch,
                "lr": 0.001,
                "seconds": 2.0 + epoch / 10,
            }
        )
    return rows


def write_run(folder, test=True, skill=1.2, history=True, **changes):
    """A run's folder as training leaves it; the kept epoch is the ninth of at most 40."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    figures = {}
    counts = {s: dict(zip(CLASS_NAMES, n, strict=True)) for s, n in SPLITS.items()}
    for split, (negatives, positives) in SPLITS.items():
        labels = np.array([0] * negatives + [1] * positives)
        probabilities = 1 / (1 + np.exp(-skill * (2 * labels - 1) - rng.normal(0, 1, len(labels))))
        patients = np.arange(len(labels)) // 2
        if split == "test" and not test:
            continue
        figures[split] = evaluate_probabilities(labels, probabilities, 0.45, patients)
        if split != "train":
            with (folder / f"{split}_probabilities.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["index", "label", "probability"])
                columns = (3 * np.arange(len(labels))).tolist(), labels.tolist()
                writer.writerows(zip(*columns, probabilities.tolist(), strict=True))
    if history:
        with (folder / "history.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(history_rows()[0]))
            writer.writeheader()
            writer.writerows(history_rows())
    recipe = as_dict(Recipe(name="tiny", epochs=40, patience=3, lr=0.01, flip=0.5, rotate=10))
    metrics = {
        "name": folder.name,
        "model": "EfficientChestNet",
        "parameters": 1234,
        "data": {"source": "chestmnist_small.npz", "size": 28, "sha256": "ab" * 32}
        | {"counts": counts, "phantom": False},
        "recipe": recipe,
        "recipe_name": "report",
        "recipe_changes": {"lr": 0.01},
        "recipe_published": {"lr": 0.001},
        "seed": 7,
        "device": "cpu",
        "amp": "fp32",
        "torch": torch.__version__,
        "epochs_run": EPOCHS,
        "best_epoch": 9,
        "threshold": 0.45,
        "tta": "flip",
        "bootstrap_unit": "patient",
        "seconds": 83.4,
        "images_per_second": 456.0,
        "test": None,
        **figures,
        "architecture": [
            {"name": "a", "content": "Conv2d 3x3", "output": [8, 14, 14], "parameters": 1000}
            | {"multiply_accumulates": 2_500_000},
            {"name": "b", "content": "Linear", "output": [1], "parameters": 234}
            | {"multiply_accumulates": 1_230_000},
        ],
        "costs": {
            "input_size": 28,
            "multiply_accumulates": 3_730_000,
            "inference_batch1": {"median_ms": 1.25, "low_ms": 1.0, "high_ms": 1.5},
            "inference_batch64": None,
            "peak_memory_bytes": 12_345_678,
            "checkpoint_bytes": 5_000_000,
        },
        "warnings": [],
        **changes,
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return metrics


def pages_of(folder, looks=()):
    """The run's report in English and in Indonesian."""
    run = read_two_class_run(folder / "metrics.json")
    paths = lab_report.write_lab_report(run, folder.parent, looks)
    assert [path.name for path in paths] == ["README.md", "README.id.md"]
    return [path.read_text(encoding="utf-8") for path in paths]


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


# Rules.


def facts(**changes):
    """Facts of a run for which every topic has what it needs, changed."""
    known = {
        "majority": Term("pneumothorax"),
        "minority": Term("cardiomegaly"),
        "final": Term("split_test"),
        "unit": Term("unit_patient"),
        "monitor": Term("monitor_val_accuracy"),
        "gain_split": Term("split_test"),
        "member_split": Term("split_test"),
        "chosen_on": "val",
        "best_member": "seed42",
        "tested": True,
        "phantom": False,
        "warned": False,
        "xrays_of_nih": True,
        "epoch_chosen": True,
        "goal": 0.9,
        "auc_low": 0.6,
        "auc_high": 0.8,
        "accuracy_low": 0.7,
        "accuracy_high": 0.8,
        "constant_accuracy": 0.6,
        "best_epoch": 9,
        "epochs_run": 12,
        "planned_epochs": 12,
        "stage1_epochs": 0,
        "lowest_val_loss_epoch": 6,
        "window": 10,
        "size": 28,
        "looks": 1,
        "train_accuracy": 0.9,
        "constant_train_accuracy": 0.6,
    }
    every = {name for topic in GROUPS.values() for name in topic.needs}
    every |= {name for rule in all_rules() for text in (rule.en, rule.id) for name in fields(text)}
    every -= LIMITS_OF_RULES.keys()
    return dict.fromkeys(sorted(every), 1) | known | {"patients": 5} | changes


def all_rules():
    return [rule for topic in GROUPS.values() for rule in topic.rules]


def fields(text):
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


BOUNDARIES = [  # topic, facts, number of the rule that must be chosen (None: none)
    ("imbalance", {"majority_share": 0.55}, 0),
    ("imbalance", {"majority_share": 0.549}, 1),
    ("shift", {"shift_of_shares": 0.05}, 0),
    ("shift", {"shift_of_shares": 0.049}, None),
    ("stages", {"stage1_epochs": 1}, 0),
    ("stages", {"stage1_epochs": 0}, None),
    ("stopped", {"monitor": Term("monitor_last")}, 0),
    ("stopped", {"stage1_epochs": 9}, 1),
    ("stopped", {"stage1_epochs": 8, "planned_epochs": 20}, 2),
    ("stopped", {"best_epoch": 12}, 3),
    ("stopped", {"best_epoch": 12, "planned_epochs": 13}, 2),
    ("stopped", {"best_epoch": 11}, 4),
    ("losses", {"best_epoch": 1}, 0),
    ("losses", {"first_train_loss": 0.7, "kept_train_loss": 0.69}, 1),
    ("losses", {"first_train_loss": 0.7, "kept_train_loss": 0.7}, 2),
    ("val_loss", {"epochs_run": 1}, 0),
    ("val_loss", {"lowest_val_loss_epoch": 12}, 1),
    ("val_loss", {"val_loss_rise": 0.101, "warned": True}, 2),
    (
        "val_loss",
        {"val_loss_rise": 0.101, "last_train_loss": 0.1, "train_loss_at_lowest": 0.2},
        3,
    ),
    (
        "val_loss",
        {"val_loss_rise": 0.101, "last_train_loss": 0.2, "train_loss_at_lowest": 0.2},
        4,
    ),
    ("val_loss", {"val_loss_rise": 0.10}, 5),
    ("settled", {"window": 2}, 0),
    ("settled", {"window": 3, "window_images": 0}, 1),
    ("settled", {"window_images": 3}, 2),
    ("settled", {"window_images": 2}, 3),
    ("goal_in_epochs", {"epochs_at_goal": 0}, 0),
    ("goal_in_epochs", {"epochs_at_goal": 1}, 1),
    ("statistics", {"estimated_minus_running": 0.051}, 0),
    ("statistics", {"estimated_minus_running": 0.05}, 1),
    ("gap", {"train_accuracy": 0.64, "highest_train_accuracy": 0.75}, 0),
    ("gap", {"train_accuracy": 0.64, "highest_train_accuracy": 0.74}, 1),
    ("gap", {"gap_points": 9.4, "gap_margin_points": 9.3}, 2),
    ("gap", {"gap_points": -9.4, "gap_margin_points": 9.3}, 3),
    ("gap", {"gap_points": 9.3, "gap_margin_points": 9.3}, 4),
    ("gap", {"gap_points": -9.3, "gap_margin_points": 9.3}, 4),
    ("result result", {"auc_low": None}, 0),
    ("result result", {}, 1),
    ("result result", {"patients": None}, 2),
    ("result result_findings", {}, 0),
    ("result out_of_fold", {}, 0),
    ("result untested", {"tested": False}, 0),
    ("result untested", {"tested": True}, None),
    ("result goal_on_val", {"val_accuracy": 0.9}, 0),
    ("result goal_on_val", {"val_accuracy": 0.899}, 1),
    ("above_constant", {"accuracy_low": 0.601}, 0),
    ("above_constant", {"accuracy_low": 0.5, "accuracy_high": 0.599}, 1),
    ("above_constant", {"accuracy_low": 0.6}, 2),
    ("above_constant", {"accuracy_low": 0.5, "accuracy_high": 0.6}, 2),
    ("goal_in_interval", {"tested": False}, 0),
    ("goal_in_interval", {"accuracy_low": 0.9, "accuracy_high": 0.95}, 1),
    ("goal_in_interval", {"accuracy_high": 0.899}, 2),
    ("goal_in_interval", {"accuracy_high": 0.9}, 3),
    ("selection", {"val_minus_final_points": 5.1}, 0),
    ("selection", {"val_minus_final_points": -5.1}, 1),
    ("selection", {"val_minus_final_points": 5.0}, 2),
    ("confusion classes", {"sensitivity": 0.75, "specificity": 0.75}, 0),
    ("confusion classes", {"sensitivity": 0.875, "specificity": 0.75}, 1),
    ("confusion classes", {"sensitivity": 0.75, "specificity": 0.875}, 2),
    ("auc", {"auc_low": None}, 0),
    ("auc", {"auc_low": 0.501}, 1),
    ("auc", {"auc_low": 0.3, "auc_high": 0.499}, 2),
    ("auc", {"auc_low": 0.5}, 3),
    ("temperature", {}, 0),
    ("temperature", {"temperature": None}, None),
    ("certainty", {"overconfidence_points": 5.1}, 0),
    ("certainty", {"overconfidence_points": -5.1}, 1),
    ("certainty", {"overconfidence_points": 5.0}, 2),
    ("errors", {"val_wrong": 0}, 0),
    ("errors", {"val_wrong": 1, "val_certain_wrong": 1}, 1),
    ("errors", {"val_wrong": 1, "val_certain_wrong": 0}, 2),
    ("members_alone", {}, 0),
    ("gain", {"gain_auc_low": 0.001}, 0),
    ("gain", {"gain_auc_low": -0.01, "gain_auc_high": -0.001}, 1),
    ("gain", {"gain_auc_low": 0, "gain_auc_high": 0.1}, 2),
    ("gain", {"gain_auc_low": -0.1, "gain_auc_high": 0}, 2),
    ("limit generated", {"phantom": True}, 0),
    ("limit generated", {"phantom": False}, None),
    ("limit width", {}, 0),
    ("limit width", {"unit": Term("unit_image")}, 1),
    ("limit unit", {"unit": Term("unit_image")}, 0),
    ("limit unit", {}, None),
    ("limit seed", {"members": None}, 0),
    ("limit seed", {"members": 5}, None),
    ("limit chosen", {"chosen_on": "out-of-fold"}, 0),
    ("limit chosen", {"members": None}, 1),
    ("limit chosen", {"members": None, "epoch_chosen": False}, 2),
    ("limit looks", {"looks": 0}, 0),
    ("limit looks", {"tested": False}, 0),
    ("limit looks", {"looks": 1}, 1),
    ("limit looks", {"looks": 2}, 2),
    ("limit labels", {}, 0),
    ("limit labels", {"xrays_of_nih": False}, None),
    ("limit pixels", {"size": 1023}, 0),
    ("limit pixels", {"size": 1024}, None),
    ("limit classes", {}, 0),
    ("conclusion better", {"auc_low": None}, 0),
    ("conclusion better", {"accuracy_low": 0.601, "auc_low": 0.501}, 1),
    ("conclusion better", {"accuracy_low": 0.6, "auc_low": 0.501}, 2),
    ("conclusion better", {"auc_low": 0.5}, 3),
    ("conclusion better_findings", {"auc_low": 0.501}, 0),
    ("conclusion better_findings", {"auc_low": 0.5}, 1),
    ("conclusion goal", {"val_accuracy": 0.899}, 0),
    ("conclusion goal", {"val_accuracy": 0.9, "tested": False}, 1),
    ("conclusion goal", {"val_accuracy": 0.9, "accuracy_low": 0.9}, 2),
    ("conclusion goal", {"val_accuracy": 0.9, "accuracy_low": 0.899}, 3),
]


@pytest.mark.parametrize(("name", "changes", "expected"), BOUNDARIES)
def test_each_rule_is_chosen_up_to_its_limit(name, changes, expected):
    known = {key: value for key, value in facts(**changes).items() if value is not None}
    chosen = GROUPS[name].choose(known)
    assert (None if chosen is None else GROUPS[name].rules.index(chosen)) == expected
    for language in ("en", "id"):
        if chosen is not None:
            assert "{" not in LabWording(language).sentence(chosen, known)


def test_every_rule_is_reached_by_one_of_these_limits():
    assert {(name, number) for name, _, number in BOUNDARIES if number is not None} == set(RULES)


def test_a_topic_without_its_facts_says_nothing():
    for topic in GROUPS.values():
        for missing in topic.needs:
            assert topic.choose({k: v for k, v in facts().items() if k != missing}) is None


def test_both_languages_tell_the_same_numbers():
    for rule in all_rules():
        assert fields(rule.en) == fields(rule.id), rule.en
    pairs = [
        (text, entry.id) for row in lab_recipe.ROWS for entry in row.entries for text in [entry.en]
    ]
    experiments = [*lab_experiments.EXPERIMENTS.values(), lab_experiments.OTHER]
    pairs += [e.question for e in experiments] + [e.reason for e in experiments]
    pairs += [text for texts in lab_experiments.AVERAGES.values() for text in texts]
    pairs += LAB_MESSAGES.values()
    for english, indonesian in pairs:
        assert fields(english) == fields(indonesian), english


def test_every_recipe_of_the_project_is_told_in_rows():
    recipe = as_dict(Recipe(name="tiny"))
    known = {name for row in lab_recipe.ROWS for entry in row.entries for name in fields(entry.en)}
    more = {"first_epochs", "second_epochs", "input_size"}
    assert known - more <= recipe.keys()
    values = lab_recipe.recipe_values({"recipe": recipe, "data": {"size": 28}})
    for row in lab_recipe.ROWS:
        for entry in row.entries:
            assert isinstance(entry.holds(values), bool)


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
    (tn, fp), (fn, tp) = test["confusion"]
    last_ten = [100 * row["val_accuracy"] for row in rows[-10:]]
    error = sum(f["accuracy"] * (1 - f["accuracy"]) / f["n"] for f in (train, val)) ** 0.5
    certain = [max(x, 1 - x) for x in p]
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
        "Over the last 10 epochs": [10, min(last_ten), max(last_ten), 100 / 32],
        "At a threshold of 0.5": [0.5, 90, 1, 12, 9, 9, 100 * kept["val_accuracy"]],
        "The finished network is right": [100 * train["accuracy"], 100 * val["accuracy"]],
        "difference of up to": [200 * error],
        "of the accuracy on the test": [low, high, 100 * 32 / 52],
        "(sensitivity": [100 * tp / (tp + fn), tn, tn + fp, 100 * tn / (tn + fp)],
        "images the AUC is": [test["auc"], auc_low, auc_high, 100 * test["auc"], 0.5],
        "more probable class has a": [100 * np.mean(certain), 100 * np.mean((p >= 0.5) == labels)],
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


def test_facts_have_the_names_that_rules_use(reported):
    _, folder, _ = reported
    run = read_two_class_run(folder / "metrics.json")
    known = facts_of(run, read_history(folder), None, 3).keys()
    of_averages = [rule for topic in lab_verdicts.AVERAGE.values() for rule in topic.rules]
    elsewhere = {name for rule in of_averages for name in fields(rule.en)}
    elsewhere |= {"patients", "temperature", "findings_n", "oof_n", "oof_auc"}
    elsewhere |= {"oof_accuracy", "oof_auc_low", "oof_auc_high", "first_epoch_at_goal"}
    elsewhere |= {"running_auc", "estimated_auc", "estimated_minus_running", "members"}
    needed = {name for topic in GROUPS.values() for name in topic.needs}
    needed |= {name for rule in all_rules() for name in fields(rule.en)}
    assert needed - LIMITS_OF_RULES.keys() - elsewhere <= known


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
        assert re.findall(r"\d{2,}", warning)[:1] == re.findall(r"\d{2,}", translated)[:1]


def test_warnings_stand_on_top_and_unknown_ones_are_marked_as_english(tmp_path):
    warnings = [warnings_of_every_kind()[0], "something new <b>happened</b>"]
    write_run(tmp_path / "one", warnings=warnings)
    english, indonesian = pages_of(tmp_path / "one")
    for page, word in ((english, "In short"), (indonesian, "Ringkasan")):
        assert page.index("> **") < page.index(word) and page.count("\n> **") == 2
        assert "<b>" not in page.replace("\\<b", "")
    assert "**Peringatan** (pesan program, berbahasa Inggris): something new" in indonesian


# Runs of every kind.


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
    assert "rerata 3 seed" in indonesian.splitlines()[0]
    assert "Training stopped" not in english and "was trained once" not in english


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
    assert built | {"DenseNet121Chest", "TorchvisionChest"} == set(lab_experiments.EXPERIMENTS)
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
    monkeypatch.setattr("__main__.__file__", str(tmp_path / "train.py"))
    monkeypatch.delattr("__main__.__spec__")
    assert command() == "python train.py --data '~/my file.npz' --epochs 2"
    assert commit(tmp_path) is None
