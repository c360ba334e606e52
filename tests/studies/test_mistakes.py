"""Stored logits evaluated again: calibration, the surest mistakes, subgroups, NIH's tables."""

import csv
import gzip
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT

from chestlab.data import sources
from chestlab.data.folds import FRESH_FOLDS_SEED, CrossValidationSplits
from chestlab.data.phantom import make_phantom
from chestlab.data.splits import CLASS_NAMES
from chestlab.evaluation import bootstrap, out_of_fold
from chestlab.evaluation.looks import FILE_NAME, read_looks
from chestlab.evaluation.metrics import sigmoid
from chestlab.evaluation.out_of_fold import OutOfFold
from chestlab.evaluation.verdicts import ALPHA, holm
from chestlab.files.errors import InputError
from chestlab.training.recipe import recipe_hash
from studies import frozen_recipes, mistakes, mistakes_groups, mistakes_page
from studies.stored_results import read_results

OVERCONFIDENT = 6.0  # times the logits that would be right
SEX = {0: "M", 1: "F"}  # of most images of a class, and what the network "best" looks at
RESAMPLES = 500  # the smallest p is 2 / 501, and Holm multiplies it by up to 9


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    for module in (bootstrap, out_of_fold):
        monkeypatch.setattr(module, "BOOTSTRAP_RESAMPLES", RESAMPLES)


def write_npz(path, named=True):
    """A phantom in which patients have two images."""
    arrays = dict(make_phantom(size=28, train=160, val=40, test=12, seed=4))
    for number, split in enumerate(("train", "val", "test")):
        n = len(arrays[f"{split}_images"])
        names = [f"{1000 * number + i // 2:08}_{i % 2:03}.png" for i in range(n)]
        arrays.pop(f"{split}_names", None)
        if named:
            arrays[f"{split}_names"] = np.array(names)
    np.savez(path, **arrays)
    return path


def sexes(images):
    """`SEX` of the label, of every fourth image the other one."""
    wrong = np.arange(len(images)) % 4 == 0
    return np.array([SEX[label ^ int(w)] for label, w in zip(images.labels, wrong, strict=True)])


def write_results(folder, data_path, kinds=None):
    """What `fresh_folds` would have written: "best" looks at the sex and is overconfident."""
    data = sources.load(str(data_path))
    splits = CrossValidationSplits(data, 3, 2, FRESH_FOLDS_SEED)
    rng, shape = np.random.default_rng(8), splits.assignment.shape
    truth = 2.0 * splits.pool.labels - 1
    female = np.where(sexes(splits.pool) == "F", 1.0, -1.0)
    signal = {"best": truth + female, "other": 0.7 * truth, "hog_rbf_svm": 0.5 * truth}
    signal["never_wrong"] = 9 * truth
    taken = "better_14px"  # from results on other images
    signal[taken] = 9 * truth
    scale = {"best": OVERCONFIDENT}
    logits = {n: scale.get(n, 1) * (signal[n] + rng.normal(size=shape)) for n in signal}
    known = {"best": "network", "other": "network", "hog_rbf_svm": "yardstick", taken: "network"}
    kinds = kinds or known
    folder.mkdir(parents=True)
    OutOfFold.of(splits, {name: logits[name] for name in kinds}).write(folder / "oof.csv")
    about = {"recipe_name": "best", "recipe_changes": {}, "recipe": "abc"}
    summary = {
        "data": {"sha256": data.sha256, "source": data.source, "counts": data.counts()},
        "folds": 3,
        "repeats": 2,
        "first_seed": FRESH_FOLDS_SEED,
        "configurations": {n: {"kind": kinds[n], "model": n, **about} for n in kinds},
    }
    if taken in kinds:
        summary["configurations"][taken]["data"] = "of another file"
    (folder / "fresh_folds.json").write_text(json.dumps(summary))
    return folder


def write_tables(folder, data_path):
    """Made-up tables in NIH's columns, one of them gzipped as it is often passed on."""
    data = sources.load(str(data_path))
    pool = CrossValidationSplits(data, 3, 1).pool
    head = ["Image Index", "Finding Labels", "Patient Age", "Patient Gender", "View Position"]
    rows = [
        [name, "Cardiomegaly|Mass" if row == 0 else CLASS_NAMES[label].title(), age, sex, view]
        for row, (name, label, age, sex, view) in enumerate(
            zip(
                pool.names,
                pool.labels,
                [f"{20 + row % 50:03}Y" for row in range(len(pool))],
                sexes(pool),
                np.resize(["PA", "PA", "AP"], len(pool)),
                strict=True,
            )
        )
    ]
    table, boxes = folder / "Data_Entry_2017.csv.gz", folder / "BBox_List_2017.csv"
    with gzip.open(table, "wt", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    drawn = [[row[0], row[1].split("|")[0]] for row in rows[::5]]
    boxes.write_text("\n".join(",".join(row) for row in [["Image Index", "Finding Label"], *drawn]))
    return table, boxes


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Data, results of `fresh_folds`, tables, and the folder of the finished study."""
    folder = tmp_path_factory.mktemp("mistakes")
    data = write_npz(folder / "mine.npz")
    source = write_results(folder / "results" / "studies" / "fresh_folds_mine", data)
    tables = write_tables(folder, data)
    flags = ["--table", str(tables[0]), "--boxes", str(tables[1])]
    with pytest.MonkeyPatch.context() as patch:
        for module in (bootstrap, out_of_fold):
            patch.setattr(module, "BOOTSTRAP_RESAMPLES", RESAMPLES)
        for _ in range(2):  # the second time adds no use
            study(folder, source, data, *flags)
            for draw in ("_draw_reliability", "_draw_mistakes"):
                patch.setattr(mistakes_page, draw, lambda *arguments: None)
    return folder, source, data, tables


def study(folder, source, data, *flags):
    of_data = ["--from", str(source), "--data", str(data)]
    mistakes.main([*of_data, "--results-dir", str(folder / "results"), *flags])


def finished(folder):
    (made,) = (folder / "results" / "studies").glob("mistakes_*")
    return made, json.loads((made / "mistakes.json").read_text())


def rows_by(rows, *keys):
    return {tuple(row[key] for key in keys): row for row in rows}


def test_five_files_are_written_and_each_network_is_counted_once(project):
    made, summary = finished(project[0])
    assert made.name == "mistakes_mine_folds3_repeats2"
    names = ["README.id.md", "README.md", "mistakes.json", "mistakes.png", "reliability.png"]
    assert sorted(path.name for path in made.iterdir()) == names
    assert all((made / name).stat().st_size < 300_000 for name in names)
    looks = read_looks(project[0] / "results" / "phantom" / FILE_NAME)
    assert [look.run for look in looks] == [f"{made.name}/best", f"{made.name}/other"]
    assert {look.kind for look in looks} == {frozen_recipes.LOOK_KIND}
    assert summary["network"]["name"] == "best"


def test_the_surest_mistakes_recompute_from_the_logits(project):
    _, summary = finished(project[0])
    _, oof = read_results(project[1], "fresh_folds", "configurations")
    mean = {name: logits.mean(0) for name, logits in oof.logits.items()}
    wrong = {name: (logits >= 0) != oof.labels for name, logits in mean.items()}
    assert summary["images_wrong"] == wrong["best"].sum()
    listed = [row["row"] for row in summary["mistakes"]]
    rest = np.setdiff1d(np.flatnonzero(wrong["best"]), listed)
    assert wrong["best"][listed].all()
    assert np.all(np.diff(np.abs(mean["best"][listed])) <= 0)
    assert not len(rest) or np.abs(mean["best"][rest]).max() <= np.abs(mean["best"][listed]).min()
    for row in summary["mistakes"]:
        place = row["row"]
        assert (row["split"], row["index"]) == (oof.origin[place], oof.index[place])
        assert row["probability"] == pytest.approx(sigmoid(mean["best"][place]))
        repeats = (oof.logits["best"][:, place] >= 0) != oof.labels[place]
        assert row["wrong_repeats"] == repeats.sum()
        assert row["hog_wrong"] == wrong["hog_rbf_svm"][place]
        assert row["others_wrong"] == wrong["other"][place]
        same = (oof.patients == row["patient"]["patient"]) & (np.arange(len(oof.labels)) != place)
        for label, name in enumerate(CLASS_NAMES):
            assert row["patient"][name] == (same & (oof.labels == label)).sum()
    shared = rows_by(summary["shared"], "configuration")[("hog_rbf_svm",)]
    assert shared["both"] == (wrong["best"] & wrong["hog_rbf_svm"]).sum()
    assert shared["where_wrong"] == pytest.approx(wrong["hog_rbf_svm"][wrong["best"]].mean())


def test_an_overconfident_network_is_helped_by_a_temperature_fitted_on_other_folds(project):
    rows = rows_by(finished(project[0])[1]["calibration"], "configuration")
    best, other = rows["best",], rows["other",]
    assert best["verdict"] == "helps" and best["loss_after"] < best["loss"]
    assert best["ece_after"] < best["ece"] and best["brier_change"] < 0
    # sure probabilities err less by chance than the milder ones after the temperature
    assert 0 < best["ece_by_chance"] < best["ece_by_chance_after"] and "ece_low" not in best
    assert best["temperature_low"] < best["temperature"] < best["temperature_high"]
    assert best["temperature"] > 2 * other["temperature"]
    assert best["p_holm"] >= best["p"]


def _threshold_without_each_fold(labels, logits, folds):
    """(N,) the most accurate of 0.30, 0.31, ... on the images of the other folds."""
    probabilities = 1 / (1 + np.exp(-logits))
    found = np.empty(len(labels))
    for number in set(folds):
        others = folds != number
        hundredths = sorted(range(30, 71), key=lambda t: (abs(t - 50), t))
        accuracies = [
            ((probabilities[others] >= t / 100) == (labels[others] == 1)).mean() for t in hundredths
        ]
        found[~others] = hundredths[int(np.argmax(accuracies))] / 100
    return found


def test_leaving_nothing_out_and_the_nested_threshold_are_the_figures_of_the_folds(project):
    _, summary = finished(project[0])
    _, oof = read_results(project[1], "fresh_folds", "configurations")
    for row in summary["selective"]:
        accuracy = oof.estimate(row["configuration"], "accuracy")
        assert row["without_0"] == pytest.approx(accuracy.value)
        assert row["without_0_low"] == pytest.approx(accuracy.low)
    best = rows_by(summary["selective"], "configuration")["best",]
    assert best["without_50"] > best["without_0"]
    for row in summary["thresholds"]:
        name = row["configuration"]
        gain = oof.estimate(name, "nested_accuracy").value - oof.estimate(name, "accuracy").value
        assert row["nested_gain"] == pytest.approx(gain)
        folds = zip(oof.logits[name], oof.folds, strict=True)
        thresholds = [_threshold_without_each_fold(oof.labels, *pair) for pair in folds]
        assert row["threshold"] == pytest.approx(np.median(thresholds))
        assert 0.3 <= row["threshold_low"] <= row["threshold_high"] <= 0.7
        assert 0.3 <= row["val_threshold_low"] <= row["val_threshold_high"] <= 0.7


def test_a_finished_run_is_found_by_architecture_and_start_also_among_the_studies(tmp_path):
    recipe, data = {"lr": 0.01}, {"sha256": "ab"}
    imagenet = {"source": "imagenet", "sha256": "cd"}
    timm = {"model": "TimmChest", "starting_weights": imagenet}
    arch = {"model_arguments": {"arch": "timm/a"}}
    runs = {
        "studies/a": timm | arch,
        "another_arch": timm | {"model_arguments": {"arch": "timm/b"}},
        "another_start": {"model": "TimmChest", **arch},
        "another_recipe": timm | arch | {"recipe": {"lr": 0.02}},
        "average": timm | arch | {"members": []},
        "dense": {"model": "DenseNet121Chest", "model_arguments": {"arch": "densenet121"}},
        "studies/dense_too": {"model": "DenseNet121Chest"},
        "scratch": {"model": "EfficientChestNet"},
    }
    for name, metrics in runs.items():
        (tmp_path / name).mkdir(parents=True)
        shared = {"recipe": recipe, "data": data, "threshold": 0.4, "val": {"n": 58}}
        (tmp_path / name / "metrics.json").write_text(json.dumps(shared | metrics))
    study = object.__new__(mistakes.Mistakes)
    study.folder, study.data = tmp_path / "studies/mistakes", SimpleNamespace(sha256="ab")
    models = {"lite": ("timm/a", imagenet), "dense": ("densenet121", None)}
    models["efficient"] = "EfficientChestNet", None
    study.networks = list(models)
    study.configurations = {
        name: {"model": model, "recipe": recipe_hash(recipe), "start": start}
        for name, (model, start) in models.items()
    }
    found = {name: run["run"] for name, run in study._run_thresholds().items()}
    assert found == {"lite": "a", "dense": "dense", "efficient": "scratch"}


def test_what_the_network_looks_at_is_named_as_a_possible_shortcut(project):
    made, summary = finished(project[0])
    found = {row["property"]: row for row in summary["properties"]}
    assert found["sex"]["shortcut"] and found["sex"]["matched"] < -0.01
    assert not found["view"]["shortcut"] and not found["age"]["shortcut"]
    page = (made / "README.md").read_text()
    assert "Possible shortcuts after Holm's correction for 9 properties" in page
    groups = rows_by(summary["subgroups"], "property", "group")
    _, oof = read_results(project[1], "fresh_folds", "configurations")
    view = np.resize([True, True, False], len(oof.labels))
    right = ((oof.logits["best"] >= 0) == oof.labels)[:, view].mean()
    assert groups["view", "PA"]["accuracy"] == pytest.approx(right)
    assert groups["view", "PA"]["images"] == view.sum()
    # the first box is around another finding than the label
    assert groups["marked", "yes"]["images"] == len(oof.labels[::5]) - 1
    assert {row["table"] for row in summary["mistakes"] if row["row"]} == {""}
    ends = [groups["age", f"quarter {k}"] for k in (1, 4)]
    assert ends[0]["from"] == 20 and ends[1]["to"] == 69
    p_values = [row["p_holm"] for row in summary["comparisons"]]
    assert len(p_values) > 15 and max(p_values) == 1


def test_a_shortcut_needs_both_conditions_after_a_correction_for_all_properties(project):
    _, summary = finished(project[0])
    rows = {row["property"]: row for row in summary["properties"]}
    assert len(rows) == 9
    for row in rows.values():
        for name, p, null in (("alone_auc", "alone_p", 0.5), ("link", "link_p", 0)):
            assert (row[p] < ALPHA) == (row[f"{name}_low"] > null or row[f"{name}_high"] < null)
        same = (row["alone_auc"] - 0.5) * row["link"] >= 0
        assert row["p"] == (max(row["alone_p"], row["link_p"]) if same else 1)
        assert row["shortcut"] == (row["p_holm"] < ALPHA)
    assert [r["p_holm"] for r in rows.values()] == holm([r["p"] for r in rows.values()])
    assert rows["sex"]["p"] == pytest.approx(2 / (1 + RESAMPLES))
    assert rows["sex"]["p_holm"] == pytest.approx(9 * rows["sex"]["p"])


def test_both_languages_show_the_same_numbers_and_are_written_again_from_the_json(
    project, tmp_path
):
    made, summary = finished(project[0])
    _, oof = read_results(project[1], "fresh_folds", "configurations")
    pages = {}
    for name in ("README.md", "README.id.md"):
        text = (made / name).read_text(encoding="utf-8")
        rows = "\n".join(line for line in text.splitlines() if line.startswith("| "))
        pages[name] = re.findall(r"\d+[.,]?\d*", rows)
        assert "PHANTOM" in text and "arxiv" not in text
    assert [n.replace(",", ".") for n in pages["README.id.md"]] == pages["README.md"]
    mistakes_page.write_texts(tmp_path, summary, oof)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (made / path.name).read_bytes()


def test_without_names_nothing_is_said_of_patients_and_tables(tmp_path, monkeypatch):
    for draw in ("_draw_reliability", "_draw_mistakes"):
        monkeypatch.setattr(mistakes_page, draw, lambda *arguments: None)
    data = write_npz(tmp_path / "plain.npz", named=False)
    source = write_results(tmp_path / "fresh", data)
    study(tmp_path, source, data)
    made, summary = finished(tmp_path)
    assert summary["concentration"] is None and summary["mistakes"][0]["patient"] is None
    page = (made / "README.md").read_text()
    assert "`--table Data_Entry_2017.csv` (NIH's table) was not given" in page
    assert not {"sex", "images_of_patient"} & {row["property"] for row in summary["subgroups"]}


def test_a_network_without_mistakes_has_a_page(tmp_path):
    data = write_npz(tmp_path / "mine.npz")
    kinds = {"never_wrong": "network", "hog_rbf_svm": "yardstick"}
    study(tmp_path, write_results(tmp_path / "fresh", data, kinds), data)
    made, summary = finished(tmp_path)
    assert summary["mistakes"] == [] and summary["shared"][0]["where_wrong"] is None
    assert "| `hog_rbf_svm` | 0 | - |" in (made / "README.md").read_text()


def refused(capsys, folder, *arguments):
    """What is said of flags that cannot be used; nothing is written."""
    with pytest.raises(SystemExit) as stop:
        study(folder, *arguments)
    assert stop.value.code == 2
    assert not list((folder / "results" / "studies").glob("mistakes_*"))
    error = capsys.readouterr().err.splitlines()
    return next(line for line in error if line.startswith("error"))


def test_what_cannot_be_used_is_refused_in_one_line(project, tmp_path, capsys):
    _, source, data, (table, boxes) = project
    other = write_npz(tmp_path / "other.npz", named=False)
    assert "is of other images or folds" in refused(capsys, tmp_path, source, other)
    assert "fresh_folds.json is missing" in refused(capsys, tmp_path, tmp_path / "nowhere", data)
    lacking = write_results(tmp_path / "lacking", data)
    summary = json.loads((lacking / "fresh_folds.json").read_text())
    del summary["configurations"]["other"]["recipe"]
    (lacking / "fresh_folds.json").write_text(json.dumps(summary))
    assert "'other' in 'configurations' lacks 'recipe'" in refused(capsys, tmp_path, lacking, data)
    only = write_results(tmp_path / "only", data, {"hog_rbf_svm": "yardstick"})
    assert "no network yet" in refused(capsys, tmp_path, only, data)
    with gzip.open(table, "rt") as file:
        (tmp_path / "short.csv").write_text("".join(file.readlines()[:9]))
    for flag, file, message in (
        ("--table", boxes, "lacks the column 'Patient Age'"),
        ("--boxes", table, "lacks the column 'Finding Label'"),
        ("--table", tmp_path / "short.csv", "of the images, '"),
        ("--table", tmp_path / "absent.csv", "cannot be read as a table: No such file"),
    ):
        assert message in refused(capsys, tmp_path, source, data, flag, str(file))


@pytest.mark.parametrize(("separator", "start"), [(",", b""), (";", b"\xef\xbb\xbf"), ("\t", b"")])
def test_tables_are_read_as_spreadsheets_save_them(project, tmp_path, separator, start):
    _, _, data, (table, boxes) = project
    pool = CrossValidationSplits(sources.load(str(data)), 3, 1).pool
    expected = mistakes_groups.read_tables(pool, table, boxes)
    assert expected.ages[0] == 20 and expected.sexes.tolist() == sexes(pool).tolist()
    saved = []
    for path, text in ((table, gzip.decompress(table.read_bytes())), (boxes, boxes.read_bytes())):
        saved.append(tmp_path / path.name)  # one called .gz that is not gzipped any more
        saved[-1].write_bytes(start + text.replace(b",", separator.encode()))
    found = mistakes_groups.read_tables(pool, *saved)
    for key, values in vars(expected).items():
        assert np.array_equal(getattr(found, key), values), key


def test_short_and_contradicting_rows_of_tables_are_named_with_their_line(
    project, tmp_path, capsys
):
    _, _, data, (table, _) = project
    pool = CrossValidationSplits(sources.load(str(data)), 3, 1).pool
    head, first, *rows = gzip.decompress(table.read_bytes()).decode().splitlines()
    changed = tmp_path / "table.csv"

    def read(*lines):
        changed.write_text("\n".join(lines))
        return mistakes_groups.read_tables(pool, changed, None)

    assert len(read(head, first, "cut,off", "", "x", *rows).ages) == len(pool)
    said = "rows left out, as they have fewer than 5 cells: 2, the first in line 3"
    assert said in capsys.readouterr().err
    read(head, first, *rows, first)
    name = first.split(",")[0]
    for wrong, message in (
        ([first.replace("020Y", "abc"), *rows], "line 2: 'abc' is no age in years"),
        ([first, *rows, first.replace("020Y", "021Y")], f"line 202: '{name}' is there already in"),
        ([first.split(",")[0]], "has no row with 5 cells below its first line; read are CSV files"),
        ([], "has no row with 5 cells"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            read(head, *wrong)
    changed.write_bytes("ä".encode("latin-1"))
    with pytest.raises(InputError, match="line 1: is no text in UTF-8; read are CSV files in UTF"):
        mistakes_groups.read_tables(pool, changed, None)


def test_tables_need_names(tmp_path):
    pool = CrossValidationSplits(
        sources.load(str(write_npz(tmp_path / "plain.npz", named=False))), 3, 1
    ).pool
    with pytest.raises(InputError, match="need file names"):
        mistakes_groups.read_tables(pool, tmp_path / "any.csv", None)


def test_a_black_border_is_what_lies_outside_of_the_bright_rectangle():
    images = np.full((3, 10, 10), 200, np.uint8)
    images[1, :2] = images[1, :, 5:] = mistakes_groups.BLACK
    images[2] = 0
    assert mistakes_groups.border_shares(images) == pytest.approx([0, 1 - 0.8 * 0.5, 1])


@pytest.mark.parametrize("made", sorted((ROOT / "results" / "studies").glob("mistakes_*")))
def test_the_committed_page_is_written_again_from_committed_files(made, tmp_path):
    summary = json.loads((made / "mistakes.json").read_text())
    folder = made.parent / made.name.replace("mistakes", "fresh_folds")
    _, oof = read_results(folder, "fresh_folds", "configurations")
    mistakes_page.write_texts(tmp_path, summary, oof)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (made / path.name).read_bytes()
