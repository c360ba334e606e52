"""The rules that choose the sentences of a lab report: each at its limit, in two languages."""

import dataclasses
import string

import pytest
from lab_runs import write_run

from chestlab.reporting import (
    lab_conclusions,
    lab_experiments,
    lab_recipe,
    lab_rules,
    lab_verdicts,
)
from chestlab.reporting.lab_facts import Term, facts_of
from chestlab.reporting.lab_messages import LAB_MESSAGES
from chestlab.reporting.lab_wording import LIMITS_OF_RULES, LabWording
from chestlab.reporting.stored_runs import read_history, read_two_class_run
from chestlab.training.recipe import Recipe, as_dict

GROUPS = {
    **lab_rules.DATA,
    **lab_rules.TRAINING,
    **{f"result {name}": topic for name, topic in lab_verdicts.RESULT.items()},
    **lab_verdicts.EVALUATION,
    **{f"confusion {name}": topic for name, topic in lab_verdicts.CONFUSION.items()},
    **lab_verdicts.ROC,
    **lab_verdicts.CALIBRATION,
    **lab_verdicts.SINGLE_NETWORKS,
    **lab_verdicts.EXAMPLES,
    **lab_verdicts.AVERAGE,
    **{f"limit {name}": topic for name, topic in lab_conclusions.LIMITS.items()},
    **{f"conclusion {name}": topic for name, topic in lab_conclusions.CONCLUSION.items()},
}

RULES = [(name, number) for name, topic in GROUPS.items() for number in range(len(topic.rules))]


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
    ("gap", {"train_accuracy": 0.64, "kept_train_accuracy": 0.75}, 0),
    ("gap", {"train_accuracy": 0.64, "kept_train_accuracy": 0.74}, 1),
    ("gap", {"gap_points": 9.4, "gap_margin_points": 9.3}, 2),
    ("gap", {"gap_points": -9.4, "gap_margin_points": 9.3}, 3),
    ("gap", {"gap_points": 9.3, "gap_margin_points": 9.3}, 4),
    ("gap", {"gap_points": -9.3, "gap_margin_points": 9.3}, 4),
    ("result result", {"auc_low": None}, 0),
    ("result result", {}, 1),
    ("result result", {"patients": None}, 2),
    ("result result_findings", {}, 0),
    ("result out_of_fold", {"oof_threshold": 0.5}, 0),
    ("result out_of_fold", {"oof_threshold": None}, 1),
    ("result untested", {"tested": False}, 0),
    ("result untested", {"tested": True}, None),
    ("result goal_on_val", {"val_accuracy": 0.9}, 0),
    ("result goal_on_val", {"val_accuracy": 0.899}, 1),
    ("above_constant", {"lead_low": 0.1}, 0),
    ("above_constant", {"lead_low": -9, "lead_high": -0.1}, 1),
    ("above_constant", {"lead_low": 0}, 2),
    ("above_constant", {"lead_low": -9, "lead_high": 0}, 2),
    ("goal_in_interval", {"tested": False}, 0),
    ("goal_in_interval", {"accuracy_low": 0.9, "accuracy_high": 0.95}, 1),
    ("goal_in_interval", {"accuracy_high": 0.899}, 2),
    ("goal_in_interval", {"accuracy_high": 0.9}, 3),
    ("selection", {"auc_low": None, "epoch_chosen": False}, 0),
    ("selection", {"val_minus_final_points": 5.1}, 1),
    ("selection", {"val_minus_final_points": -5.1}, 2),
    ("selection", {"val_minus_final_points": 5.0}, 3),
    ("selection", {"val_minus_final_points": 5.0, "auc_low": None}, 3),
    ("confusion classes", {"sensitivity": 0.75, "specificity": 0.75}, 0),
    ("confusion classes", {"sensitivity": 0.875, "specificity": 0.75}, 1),
    ("confusion classes", {"sensitivity": 0.75, "specificity": 0.875}, 2),
    ("auc", {"auc_low": None}, 0),
    ("auc", {"auc_low": 0.501}, 1),
    ("auc", {"auc_low": 0.3, "auc_high": 0.499}, 2),
    ("auc", {"auc_low": 0.5}, 3),
    ("temperature", {}, 0),
    ("temperature", {"temperature": None}, None),
    ("certainty", {"overconfidence_low": 0.1}, 0),
    ("certainty", {"overconfidence_low": -9, "overconfidence_high": -0.1}, 1),
    ("certainty", {"overconfidence_low": 0, "overconfidence_high": 9}, 2),
    ("certainty", {"overconfidence_low": -9, "overconfidence_high": 0}, 2),
    ("calibration_error", {}, 0),
    ("single_temperature", {}, 0),
    ("single_certainty", {"single_low": 1.01, "single_high": 1.2}, 0),
    ("single_certainty", {"single_low": 0.8, "single_high": 0.99}, 1),
    ("single_certainty", {"single_low": 1, "single_high": 1.2}, 2),
    ("single_certainty", {"single_low": 0.8, "single_high": 1}, 2),
    ("single_only", {}, 0),
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
    ("limit few", {"units": 29}, 0),
    ("limit few", {"units": 30}, 1),
    ("limit unit", {"unit": Term("unit_image")}, 0),
    ("limit unit", {}, None),
    ("limit seed", {"members": None}, 0),
    ("limit seed", {"members": 5}, None),
    ("limit chosen", {"auc_low": None, "epoch_chosen": False}, 0),
    ("limit chosen", {"chosen_on": "out-of-fold"}, 1),
    ("limit chosen", {"members": None}, 2),
    ("limit chosen", {"members": None, "auc_low": None}, 2),
    ("limit chosen", {"members": None, "epoch_chosen": False}, 3),
    ("limit threshold_interval", {"threshold_low": 0.5, "threshold_high": 0.505}, 0),
    ("limit threshold_interval", {"threshold_low": 0.5, "threshold_high": 0.511}, 1),
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
    ("conclusion better", {"lead_low": 0.1, "auc_low": 0.501}, 1),
    ("conclusion better", {"lead_low": 0, "auc_low": 0.501}, 2),
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


def test_facts_have_the_names_that_rules_use(tmp_path):
    folder = tmp_path / "one"
    write_run(folder)
    run = read_two_class_run(folder / "metrics.json")
    known = facts_of(run, read_history(folder), None, 3).keys()
    of_averages = [rule for topic in lab_verdicts.AVERAGE.values() for rule in topic.rules]
    elsewhere = {name for rule in of_averages for name in fields(rule.en)}
    elsewhere |= {"patients", "temperature", "findings_n", "oof_n", "oof_auc"}
    elsewhere |= {"oof_accuracy", "oof_auc_low", "oof_auc_high", "first_epoch_at_goal"}
    elsewhere |= {"running_auc", "estimated_auc", "estimated_minus_running", "members"}
    elsewhere |= {"single_temperature", "single_low", "single_high"}
    elsewhere |= {"threshold_low", "threshold_high", "oof_threshold"}  # in no older version
    elsewhere |= {"units", "exact_low"}  # where patients are unknown, though they were resampled
    needed = {name for topic in GROUPS.values() for name in topic.needs}
    needed |= {name for rule in all_rules() for name in fields(rule.en)}
    assert needed - LIMITS_OF_RULES.keys() - elsewhere <= known


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A run of 12 epochs of which the ninth is kept, and its history."""
    folder = tmp_path_factory.mktemp("rules") / "one"
    write_run(folder)
    return read_two_class_run(folder / "metrics.json"), read_history(folder)


def test_the_training_accuracy_is_that_of_the_kept_epoch_whatever_later_epochs_reached(stored):
    run, history = stored
    metrics = {**run.metrics, "train": run.metrics["train"] | {"accuracy": 0.62}}
    run = dataclasses.replace(run, metrics=metrics)
    rows = [row | {"train_accuracy": 0.97 if row["epoch"] > 9 else 0.66} for row in history]
    known = facts_of(run, rows, None, None)
    assert known["kept_train_accuracy"] == 0.66
    assert lab_rules.TRAINING["gap"].choose(known) is lab_rules.TRAINING["gap"].rules[1]


@pytest.mark.parametrize(
    ("epochs", "window"), [(1, 1), (8, 2), (9, 3), (10, 3), (29, 9), (30, 10), (120, 10)]
)
def test_the_last_epochs_are_a_third_of_all_at_most(stored, epochs, window):
    run, history = stored
    rows = [history[8] | {"val_accuracy": epoch / 1000} for epoch in range(epochs)]
    metrics = {**run.metrics, "best_epoch": 1}
    known = facts_of(dataclasses.replace(run, metrics=metrics), rows, None, None)
    assert known["window"] == window
    assert known["window_low"] == (epochs - window) / 1000
    assert known["window_high"] == (epochs - 1) / 1000
