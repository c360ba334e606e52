"""Pages of studies in two languages: the same figures, written again from their own files."""

import csv
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from chestlab.data import sources
from chestlab.data.folds import FRESH_FOLDS_SEED, CrossValidationSplits
from chestlab.data.splits import SPLITS
from chestlab.evaluation.out_of_fold import OutOfFold
from chestlab.files.atomic import atomic_write
from chestlab.files.errors import InputError
from chestlab.files.progress import StopSignals
from chestlab.reporting import family_page
from chestlab.reporting.front_messages import SWITCHES_IN_INDONESIAN
from chestlab.reporting.lab_warnings import warning_in
from chestlab.reporting.overview import PAGES
from chestlab.reporting.page import Wording
from studies import baselines, blend, learning_curve, seeds, strides, tune
from studies.redraw import redraw
from studies.stored_results import read_results
from studies.switches import SWITCHES

STUDIES = ROOT / "results" / "studies"

WRITERS = {  # of the pages that are made of stored tables, without a bootstrap
    "resnet34_family": family_page.write_pages,
    "seeds": seeds.write_page,
    "strides": strides.write_page,
    "tune": tune.write_page,
}

OTHERS = ("ablation", "learning_curve")  # which tests/studies/test_ablation.py writes again

ANSWERS = {"en": "**In short.** ", "id": "**Ringkasan.** "}


def folders(*kinds):
    return sorted(path for kind in kinds for path in STUDIES.glob(f"{kind}_*"))


def by_name(path):
    return path.name


def pages_of(folder):
    return {code: (folder / page).read_text(encoding="utf-8") for code, page in PAGES.items()}


def numbers_of_tables(text, decimal):
    rows = "\n".join(line for line in text.splitlines() if line.startswith("| "))
    thousands = {".": ",", ",": "."}[decimal]
    found = re.findall(rf"\d[\d{thousands}]*(?:{re.escape(decimal)}\d+)?", rows)
    return [number.replace(thousands, "").replace(decimal, ".") for number in found]


@pytest.mark.parametrize("folder", folders(*WRITERS, *OTHERS), ids=by_name)
def test_both_languages_have_the_same_figures_an_answer_on_top_and_a_link(folder):
    pages = pages_of(folder)
    for code, other in (("en", "id"), ("id", "en")):
        top = "\n".join(pages[code].splitlines()[:5])
        assert f"({PAGES[other]})" in top and ANSWERS[code] in top
    english, indonesian = (
        numbers_of_tables(pages[code], mark) for code, mark in (("en", "."), ("id", ","))
    )
    assert len(english) > 10
    assert sorted(english) == sorted(indonesian)  # a claim's words may have another order


@pytest.mark.parametrize("folder", folders(*WRITERS), ids=by_name)
def test_the_committed_page_is_written_again_from_committed_files(folder, tmp_path):
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    for page in PAGES.values():
        (copy / page).unlink()
    kind = next(kind for kind in WRITERS if folder.name.startswith(kind))
    WRITERS[kind](copy)
    assert pages_of(copy) == pages_of(folder)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_folder_without_the_studys_file_is_named(kind, tmp_path):
    with pytest.raises(InputError, match=tmp_path.name):
        WRITERS[kind](tmp_path)
    assert not list(tmp_path.iterdir())


def test_stored_gradients_are_drawn_again(tmp_path):
    (folder,) = folders("resnet34_family_findings")
    copy = tmp_path / "family"
    shutil.copytree(folder, copy)
    before = (copy / "gradients.png").read_bytes()
    about = json.loads((copy / family_page.FILE).read_text())
    layers = [{"first": 4.0, "last": 1.0}] * len(about["seeds"])
    networks = {"Plain-34": layers, "ResNet-34": layers}
    about |= {"gradients": {"start": networks, "best": networks}, "gradient_images": 64}
    (copy / family_page.FILE).write_text(json.dumps(about))
    family_page.write_pages(copy)
    assert (copy / "gradients.png").read_bytes() != before


def test_findings_that_a_run_has_one_output_for_are_named_with_the_run(tmp_path):
    (folder,) = folders("resnet34_family_findings")
    copy = tmp_path / "family"
    shutil.copytree(folder, copy)
    about = json.loads((copy / family_page.FILE).read_text())
    about["constant_outputs"] = {"test": [["hernia", "ResNet-34", 123]]}
    (copy / family_page.FILE).write_text(json.dumps(about))
    family_page.write_pages(copy)
    pages = pages_of(copy)
    assert "output for all images: test hernia (ResNet-34 with seed 123).\n\n#" in pages["en"]
    assert "sama untuk semua citra: uji hernia (ResNet-34 dengan seed 123).\n\n#" in pages["id"]


def test_a_decided_hypothesis_is_in_the_answer_and_an_undecided_one_is_not():
    (folder,) = folders("resnet34_family_findings")
    answers = {
        code: re.search(rf"^{re.escape(ANSWERS[code])}(.+?)\n\n", text, re.M | re.S)[1]
        for code, text in pages_of(folder).items()
    }
    assert "Modified is better than ResNet-34 (test AUC): supported" in answers["en"]
    assert "Modified lebih baik daripada ResNet-34 (AUC uji): didukung" in answers["id"]
    with (folder / "verdicts.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if not row["note"]]
    undecided = [row["hypothesis"] for row in rows if row["verdict_holm"] == "undecided"]
    assert undecided == ["SE adds 1 to 3 points"]
    assert "SE" not in answers["en"] and "SE" not in answers["id"]


def test_what_files_hold_in_english_is_translated_by_the_message_that_says_it():
    english, indonesian = Wording("en"), Wording("id")
    note = "run for 3 epochs only"
    assert english.translated(note, "note_seed", "note_short") == note
    assert indonesian.translated(note, "note_seed", "note_short") == "hanya dijalankan 3 epoch"
    assert indonesian.translated("something else", "note_short") == "something else"
    assert indonesian.baseline("Majority class") == "Kelas mayoritas"
    assert indonesian.baseline("EfficientChestNet") == "EfficientChestNet"


def test_alarms_of_configurations_are_translated():
    alarm = (
        "`+ ema`: outputs are nearly constant: the middle 90 % of the logits span 0.078 on fold 2 "
        "of repeat 3; such figures are no evidence of what can be learnt"
    )
    assert warning_in("en", alarm) == alarm
    text = warning_in("id", alarm)
    assert text.startswith("`+ ema`: keluarannya hampir sama")
    assert "merentang 0,078 pada fold 2 ulangan 3;" in text
    assert warning_in("id", "`x`: unheard of") == "`x`: unheard of"


def test_every_switch_is_told_in_indonesian():
    assert {switch.name for switch in SWITCHES} <= SWITCHES_IN_INDONESIAN.keys()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["nosuch.py", "--name", "x"], "'nosuch.py' is no script here; there are resnet_"),
        (["train.py", "--name", "x", "--seeds", "3"], "--seeds: two or more are compared"),
        (["train.py", "--name", "x", "--seeds", "3", "3"], "and none twice"),
        (["train.py", "--name", "../x"], "../x"),
        (["train.py"], "--name"),
        (
            ["resnet_plain.py", "--name", "x"],
            "trains Plain34 and ResNet34, and the table is of one",
        ),
        (["train.py", "--name", "x", "--folds", "5"], "--folds: each seed trains one network"),
        (["train.py", "--name", "x", "--members=2"], "--members: each seed trains one network"),
        (["resnet_se.py", "--name", "x", "--task", "findings"], "'findings': the table is of"),
    ],
)
def test_seeds_refuses_what_it_cannot_use(flags, message, capsys):
    with pytest.raises(SystemExit) as stop:
        seeds.main(flags)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1


@pytest.mark.parametrize("study", [baselines, blend, learning_curve, strides])
def test_a_file_without_14_columns_is_refused_with_the_line_that_mends_it(
    study, phantom_npz, tmp_path, monkeypatch, capsys
):
    """The classes are not guessed: of one label per image it is not known which class is 1."""
    monkeypatch.chdir(tmp_path)
    arrays = dict(np.load(phantom_npz))
    arrays |= {f"{split}_labels": arrays[f"{split}_labels"][:, 7] for split in SPLITS}
    np.savez("vector.npz", **arrays)
    runs = ["one", "two"] if study is blend else []
    classes = ["--classes", "pneumothorax,cardiomegaly"]
    for more, message in (([], "commands without that flag"), (classes, "with 14 label columns")):
        with pytest.raises(SystemExit) as stop:
            study.main([*runs, "--data", "vector.npz", *more])
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.count("\n") == 1 and message in error
    assert [path.name for path in tmp_path.iterdir()] == ["vector.npz"]


def test_seeds_ends_as_the_training_that_failed(capfd, tmp_path):
    with pytest.raises(SystemExit) as stop:
        flags = "--data", "phantom", "--results-dir", str(tmp_path), "--nosuch"
        seeds.main(["train.py", "--name", "x", *flags])
    error = capfd.readouterr().err
    assert stop.value.code == 2 and "--nosuch" in error and "Traceback" not in error
    assert not list(tmp_path.iterdir())


FINISHED = ROOT / "results" / "efficientchestnet_chestmnist_nih_subset_28"


def copy_of_finished(folder, seed, **changes):
    """A finished run of experiment 1 with another seed."""
    folder.mkdir(parents=True)
    for split in ("val", "test"):
        shutil.copy(FINISHED / f"{split}_probabilities.csv", folder)
    metrics = json.loads((FINISHED / "metrics.json").read_text())
    metrics["recipe"]["seed"] = seed
    text = json.dumps(metrics | {"name": folder.name, "seed": seed} | changes)
    (folder / "metrics.json").write_text(text)


class TrainedBySeeds:
    """A stand-in for the trainings of `studies.seeds`: writes the run that a command asks for.

    Attributes:
        data: ``--data`` of each.
        changes: of the metrics of the runs, by name.
    """

    def __init__(self):
        self.data, self.changes = [], {}

    def __call__(self, command):
        given = dict(pairwise(command))
        self.data.append(given["--data"])
        folder = Path(given["--results-dir"]) / ("phantom" * (given["--data"] == "phantom"))
        name = given["--name"]
        copy_of_finished(folder / name, int(given["--seed"]), **self.changes.get(name, {}))
        return 0


@pytest.fixture
def trained_by_seeds(monkeypatch):
    stand_in = TrainedBySeeds()
    monkeypatch.setattr(seeds, "status_of", stand_in)
    return stand_in


def test_seeds_tabulates_what_the_script_has_trained_and_not_an_older_run_of_the_name(
    trained_by_seeds, tmp_path, monkeypatch, capsys
):
    def unavailable(*arguments):
        raise sources.NotAvailable("no network")

    monkeypatch.setattr(sources, "_official", unavailable)
    copy_of_finished(tmp_path / "x", 42, best_epoch=1)
    flags = "--seeds", "42", "123", "--results-dir", str(tmp_path), "--source-size", "28"
    seeds.main(["train.py", "--name", "x", *flags])
    about = json.loads((tmp_path / "phantom/studies/seeds_x/seeds.json").read_text())
    assert [run["seed"] for run in about["runs"]] == [42, 123]
    assert [run["best_epoch"] for run in about["runs"]] == [40, 40]
    assert trained_by_seeds.data == ["phantom", "phantom"]
    assert not (tmp_path / "studies").exists()


def test_seeds_refuses_a_run_that_differs_in_more_than_the_seed(trained_by_seeds, tmp_path, capsys):
    trained_by_seeds.changes["x_seed123"] = {"tta": "none"}
    with pytest.raises(SystemExit) as stop:
        flags = "--seeds", "42", "123", "--results-dir", str(tmp_path), "--data", "small.npz"
        seeds.main(["train.py", "--name", "x", *flags])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert "'x' and 'x_seed123' differ in more than the seed: choose another --name" in error
    assert not (tmp_path / "studies").exists()


@pytest.mark.skipif(os.name == "nt", reason="no process can send a signal there")
def test_seeds_passes_a_signal_on_and_waits_for_the_end_of_the_training(tmp_path):
    """A training that is killed at once would lose its epoch."""
    training = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: time.sleep(0.1) or sys.exit(143))\n"
        "pathlib.Path(sys.argv[1]).touch()\n"
        "time.sleep(60)"
    )

    def stop():
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    with StopSignals():
        threading.Thread(target=stop, daemon=True).start()
        status = seeds.status_of([sys.executable, "-c", training, str(tmp_path / "ready")])
    assert status == 143


def test_baselines_refuse_the_flags_of_a_probe_without_one(capsys):
    with pytest.raises(SystemExit) as stop:
        baselines.main(["--weights", "none", "--image-size", "64"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert "error: --weights, --image-size: for --probe alone" in error


@pytest.fixture
def stored(phantom_npz, tmp_path):
    """Results of a study of two networks, in two repeats of three fresh folds of 88 images."""
    data = sources.load(str(phantom_npz))
    splits = CrossValidationSplits(data, 3, 2, FRESH_FOLDS_SEED)
    logits = np.random.default_rng(0).normal(size=(2, *splits.assignment.shape))
    OutOfFold.of(splits, {"one": logits[0], "two": logits[1]}).write(tmp_path / "oof.csv")
    summary = {
        "data": {"source": data.source, "sha256": data.sha256, "counts": data.counts()},
        "folds": 3,
        "repeats": 2,
        "first_seed": FRESH_FOLDS_SEED,
        "networks": {name: {"kind": "network"} for name in ("one", "two")},
    }
    (tmp_path / "study.json").write_text(json.dumps(summary))
    return tmp_path


def refusal(folder):
    """The line that damaged results are refused with."""
    with pytest.raises(InputError) as error:
        read_results(folder, "study", "networks")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_results_are_read_as_written_also_with_a_byte_order_mark_and_windows_lines(stored):
    summary, oof = read_results(stored, "study", "networks")
    text = (stored / "oof.csv").read_text()
    (stored / "oof.csv").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    again, marked = read_results(stored, "study", "networks")
    assert again == summary and np.array_equal(marked.folds, oof.folds)
    assert all(np.array_equal(marked.logits[name], oof.logits[name]) for name in ("one", "two"))


def cells_changed(**by_column):
    """Line 5 of a table with other cells."""

    def change(text):
        head, *rows = (line.split(",") for line in text.splitlines())
        for column, cell in by_column.items():
            rows[3][head.index(column.replace("_", " "))] = cell
        return "\n".join(map(",".join, [head, *rows]))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "", "oof.csv' is empty"),
        (lambda text: text.replace(",", ";"), "has ';' between its columns, as spreadsheets"),
        (lambda text: text.replace(",", "\t"), "has a tab between its columns"),
        (lambda text: text.replace("label,", "class,"), "lacks the column 'label'"),
        (lambda text: text.replace("two 1,", "one 1,"), "has the column 'one 1' twice"),
        (lambda text: text.replace(",two 2", ",two 3"), "the column 'two 3' is not in its place"),
        (lambda text: text[: text.rindex(",")], "line 89: has 9 cells; the first line has 10"),
        (lambda text: text.splitlines()[0], "no row below its first line"),
        (lambda text: text.replace(text.splitlines()[4] + "\n", ""), "there are logits of "),
        (lambda text: text + text.splitlines()[4], "line 90: image 3 of train is there already"),
        (cells_changed(one_2="nan"), "line 5: one 2 is 'nan'; wanted is a finite number"),
        (cells_changed(two_1=""), "line 5: two 1 is empty; wanted is a finite number"),
        (cells_changed(two_2="1e999"), "line 5: two 2 is '1e999'; wanted is a finite number"),
        (cells_changed(label="2"), "line 5: label is '2'; wanted is an integer from 0 to 1"),
        (cells_changed(split="test"), "line 5: split is 'test'; wanted is train or val"),
        (cells_changed(index="3.0"), "line 5: index is '3.0'; wanted is an integer from 0 up"),
        (cells_changed(fold_1="0"), "line 5: fold 1 is '0'; wanted is an integer from 1 up"),
        (cells_changed(fold_1="9"), "has not the folds 1 to 3, as 'folds' tells"),
        (cells_changed(patient="x"), "line 2: patient is empty; wanted is a patient"),
        (cells_changed(one_1='"x'), "line 89: no valid CSV"),
    ],
)
def test_a_damaged_table_of_logits_is_refused_with_the_line(stored, change, message):
    path = stored / "oof.csv"
    path.write_text(change(path.read_text()))
    assert message in refusal(stored)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["folds"], None, "'folds' is missing; wanted is an integer from 2 up"),
        (["folds"], "3", "'folds' is '3'; wanted is an integer from 2 up"),
        (["folds"], 4, "has not the folds 1 to 4"),
        (["repeats"], 3, "oof.csv has 2 repeats, and 'repeats' is 3"),
        (["repeats"], True, "'repeats' is 'True'"),
        (["first_seed"], "7001", "'first_seed' is '7001'; wanted is an integer from 0 up"),
        (["first_seed"], -1, "'first_seed' is '-1'; wanted is an integer from 0 up"),
        (["data"], [], "'data' is missing or no object"),
        (["data", "sha256"], None, "'sha256' in 'data' is missing or no text"),
        (["data", "counts", "val"], 3, "'counts' in 'data' lacks the number of images"),
        (["data", "counts", "val", "pneumothorax"], 99, "of pneumothorax in val, of 99 told"),
        (["networks"], [], "'networks' is missing or no object"),
        (["networks", "one"], {"kind": 1}, "'one' in 'networks' has no 'kind'"),
        (["networks", "three"], {"kind": "network"}, "'three' is in the latter alone"),
    ],
)
def test_a_summary_that_does_not_fit_is_refused_with_the_key(stored, keys, value, message):
    path = stored / "study.json"
    summary = within = json.loads(path.read_text())
    for key in keys[:-1]:
        within = within[key]
    within[keys[-1]] = value
    path.write_text(json.dumps(summary))
    assert message in refusal(stored)


def test_batch_norm_is_not_advised_where_its_statistics_are_estimated(stored):
    oof = OutOfFold.read(stored / "oof.csv")
    oof.logits["one"] = np.abs(oof.logits["one"])
    oof.write(stored / "oof.csv")
    summary = json.loads((stored / "study.json").read_text())
    advice = {}
    for changes in ({}, {"batch_norm": "estimated"}):
        summary["networks"]["one"]["recipe_changes"] = changes
        (stored / "study.json").write_text(json.dumps(summary))
        _, oof = read_results(stored, "study", "networks")
        advice[len(changes)] = [text for text in oof.alarms() if text.startswith("`one`")]
    assert advice[0] and all("--batch-norm" in text for text in advice[0])
    assert len(advice[1]) == len(advice[0]) and "--batch-norm" not in "".join(advice[1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "study.json' is empty"),
        (b'{"folds": 3,\n', "study.json', line 2: no valid JSON, it ends early"),
        (b"[]", "wanted is a JSON object"),
        (b'{"folds": NaN}', "NaN is no number"),
        ("{}".encode("utf-16"), "is UTF-16 text; wanted is UTF-8"),
        (b'{\n"\xff": 1}', "study.json', line 2: is no text in UTF-8"),
    ],
)
def test_a_file_that_is_no_json_object_is_refused(stored, content, message):
    (stored / "study.json").write_bytes(content)
    assert message in refusal(stored)


def test_a_folder_of_another_study_is_named(stored):
    (stored / "study.json").rename(stored / "ablation.json")
    assert "study.json is missing: it is of another study, with ablation.json" in refusal(stored)
    assert "is no folder of results" in refusal(stored / "oof.csv")


def test_redrawing_changes_all_files_or_none(tmp_path):
    (tmp_path / "README.md").write_text("old")

    def write_page(folder, lacking=True):
        atomic_write(folder / "table.csv", "new")
        atomic_write(folder / "README.md", "new")
        if lacking:
            raise KeyError("recipes")

    with pytest.raises(InputError, match="its files lack 'recipes': take the files"):
        redraw(tmp_path, write_page)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "old"
    redraw(tmp_path, lambda folder: write_page(folder, lacking=False))
    assert {path.read_text() for path in tmp_path.iterdir()} == {"new"}


def test_a_study_that_lacks_what_its_page_shows_is_refused_in_one_line(tmp_path, capsys):
    (folder,) = folders("strides")
    copy = tmp_path / "strides"
    shutil.copytree(folder, copy)
    about = json.loads((copy / strides.FILE).read_text())
    about["layouts"][0]["auc"] = "high"
    (copy / strides.FILE).write_text(json.dumps(about))
    before = pages_of(copy)
    with pytest.raises(SystemExit) as stop:
        strides.main(["--redraw", str(copy)])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert "hold a value of another kind than the page shows" in error
    assert pages_of(copy) == before
