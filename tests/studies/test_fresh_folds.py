"""Frozen recipes on folds of their own: seeds, averages, nested thresholds, counted uses."""

import csv
import dataclasses
import json
import shutil
import sys
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from comparisons import tiny_networks, trained  # noqa: F401 (fixtures)
from sklearn.metrics import roc_auc_score

import networks
from chestlab.data.folds import FOLDS_SEED, FRESH_FOLDS_SEED
from chestlab.evaluation import out_of_fold
from chestlab.evaluation.looks import FILE_NAME, Look, read_looks, record
from chestlab.evaluation.metrics import choose_threshold, sigmoid
from chestlab.evaluation.out_of_fold import ESTIMATED_KIND, NESTED_ACCURACY, OutOfFold
from chestlab.files.errors import InputError
from chestlab.reporting.fresh_results import read_fresh_folds
from chestlab.runs import crossval
from chestlab.runs.crossval import Configuration
from studies import fresh_folds, fresh_folds_page, frozen_recipes, study
from studies.network_names import network_name
from studies.stored_results import read_results

NAMES = ["first", "second", "first_twisted"]
pytestmark = pytest.mark.usefixtures("tiny_networks")


@pytest.fixture
def command(tiny_networks, phantom_npz, tmp_path, monkeypatch):  # noqa: F811
    """Run the study of three configurations in a folder of its own; where its results are."""
    monkeypatch.chdir(tmp_path)
    frozen = (
        frozen_recipes.Frozen("first", "resnet34", "report"),
        frozen_recipes.Frozen("second", "plain34", "report", {"normalize": "per-image"}),
        frozen_recipes.Frozen("first_twisted", "resnet34", "report", {"rotate": 5.0}),
    )
    monkeypatch.setattr(frozen_recipes, "FROZEN", frozen)
    monkeypatch.setattr(frozen_recipes, "AVERAGES", {frozen_recipes.AVERAGE: ("first", "second")})
    pairs = (("second", "first"), ("second", "hog_rbf_svm"), (frozen_recipes.AVERAGE, "second"))
    monkeypatch.setattr(frozen_recipes, "COMPARISONS", pairs)
    monkeypatch.setattr(out_of_fold, "BOOTSTRAP_RESAMPLES", 200)

    def run(*flags):
        flags = ["--folds", "3", "--device", "cpu", "--name", "a", *flags]
        fresh_folds.main(["--data", str(phantom_npz), *flags])
        return tmp_path / "results" / "studies" / "a"

    return run


def rows_of(path):
    with path.open(newline="") as file:
        return {row["configuration"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize(("repeats", "end"), [([], ""), (["--repeats", "2"], "_repeats2")])
def test_its_folder_has_the_plain_name_with_the_usual_repeats(phantom_npz, tmp_path, repeats, end):
    flags = ["--data", str(phantom_npz), "--device", "cpu", *repeats]
    parser = study.comparison_parser("fresh_folds", "", frozen=True)
    parser.set_defaults(repeats=fresh_folds.REPEATS, results_dir=tmp_path)
    parser.set_defaults(models_dir=tmp_path / "models", only=(), chests=None)
    folder = fresh_folds.FreshFolds(parser.parse_args(flags), None).folder
    assert folder.name == f"fresh_folds_{phantom_npz.stem}{end}"


def test_its_folds_are_not_those_that_recipes_are_chosen_on(command, trained):  # noqa: F811
    folder = command("--only", "first")
    summary = json.loads((folder / "fresh_folds.json").read_text())
    most = study.REPEATS.metadata["high"]
    assert summary["first_seed"] == FRESH_FOLDS_SEED
    assert not FOLDS_SEED <= FRESH_FOLDS_SEED < FOLDS_SEED + most
    assert summary["repeats"] == 3


@pytest.mark.usefixtures("trained")
def test_average_and_nested_accuracy_recompute_from_the_logits(command):
    folder = command()
    oof, rows = OutOfFold.read(folder / "oof.csv"), rows_of(folder / "table.csv")
    logits = (oof.logits["first"] + oof.logits["second"]) / 2
    assert oof.logits[frozen_recipes.AVERAGE] == pytest.approx(logits, rel=5.1e-4)
    right = []
    for values, folds in zip(sigmoid(oof.logits["first_twisted"]), oof.folds, strict=True):
        for fold in np.unique(folds):
            inside = folds == fold
            threshold = choose_threshold(oof.labels[~inside], values[~inside])
            right += ((values[inside] >= threshold) == oof.labels[inside]).tolist()
    assert float(rows["first_twisted"][NESTED_ACCURACY]) == pytest.approx(np.mean(right))
    better = rows_of(folder / "comparisons.csv")["second"]
    assert float(better["auc_gain"]) > 0


@pytest.mark.usefixtures("trained")
def test_means_over_repeats_recompute_and_change_no_other_figure(command, monkeypatch):
    folder = command()
    oof, rows = OutOfFold.read(folder / "oof.csv"), rows_of(folder / "means.csv")
    assert set(rows) == {"first", "second", frozen_recipes.AVERAGE}
    for name, row in rows.items():
        mean = oof.logits[name].mean(0)
        areas = [
            roc_auc_score(oof.labels[folds == fold], mean[folds == fold])
            for folds in oof.folds
            for fold in np.unique(folds)
        ]
        assert float(row["auc"]) == pytest.approx(np.mean(areas))
        assert float(row["accuracy"]) == pytest.approx(np.mean((mean >= 0) == oof.labels))
        assert row["networks"] == ("6" if name == frozen_recipes.AVERAGE else "3")
        assert f"| `{name}` | {row['networks']} |" in (folder / "README.md").read_text()
    table, compared = ((folder / f"{n}.csv").read_text() for n in ("table", "comparisons"))
    monkeypatch.setattr(fresh_folds_page, "means_over_repeats", lambda summary, oof: [])
    fresh_folds_page.write_page(folder)
    assert (folder / "table.csv").read_text() == table
    assert (folder / "comparisons.csv").read_text() == compared
    assert "## Several networks" not in (folder / "README.md").read_text()


@pytest.mark.usefixtures("trained")
def test_each_configuration_is_counted_once_and_test_is_not_read(command):
    folder = command("--only", "first")
    folder = command()
    command()
    path = folder.parent.parent / "phantom" / FILE_NAME
    looks = read_looks(path)
    assert [look.run for look in looks] == [f"a/{name}" for name in NAMES]
    elsewhere = dataclasses.replace(looks[0], run="shifts/first", evaluation="other")
    record(path, elsewhere)
    summary = json.loads((folder / "fresh_folds.json").read_text())
    counted = {"first": 2, "second": 1, "first_twisted": 1}
    assert fresh_folds_page._uses(folder, summary) == counted
    assert {look.kind for look in looks} == {frozen_recipes.LOOK_KIND}
    assert all(look.images.startswith("train+val ") for look in looks)


@pytest.mark.parametrize(
    ("network", "spelt", "counted"),
    [
        ("densenet121", ["densenet121", "DenseNet121Chest", "TorchvisionChest"], 2),
        ("resnet50", ["resnet50", "DenseNet121Chest", "TorchvisionChest"], 2),
        ("timm/resnet18", ["timm/resnet18", "TimmChest", "timm/resnet34", "ResNet34"], 2),
        ("resnet34", ["ResNet34", "ResNet34", "resnet34"], 2),
        ("efficientchestnet", ["EfficientChestNet", "EfficientChestNet (strides 2122)"], 1),
        ("efficientchestnet_fast", ["EfficientChestNet", "EfficientChestNet (strides 2122)"], 1),
    ],
)
def test_uses_of_a_network_are_counted_in_whichever_way_it_is_spelt(
    network, spelt, counted, tmp_path
):
    if network.startswith("timm/"):
        pytest.importorskip("timm", reason="needs timm: pip install timm")
    known = networks.network(network, "cpu")
    configuration = Configuration("a", known.build, known.recipe, known.arguments)
    folder = tmp_path / "results" / "studies" / "a"
    folder.mkdir(parents=True)
    for number, name in enumerate(spelt):
        of_look = ("r", frozen_recipes.LOOK_KIND, name, "report", "hash", "data", "images")
        record(folder.parents[1] / FILE_NAME, Look(*of_look, evaluation=str(number)))
    about = {"kind": "network", "model": network_name(configuration), "recipe": "hash"}
    summary = {"data": {"sha256": "data"}, "configurations": {"a": about}}
    assert fresh_folds_page._uses(folder, summary) == {"a": counted}


def test_what_the_results_hold_is_not_trained_again_but_a_changed_recipe_is(
    command,
    trained,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    folder = command("--only", "first", "second")
    assert "`first_twisted`" in (folder / "README.md").read_text().split("Data:")[0]
    number = len(trained)
    for store in (tmp_path / "trained_models" / crossval.STORE).iterdir():
        store.unlink()
    command("--only", "first", "second")
    assert len(trained) == number
    changed = dataclasses.replace(frozen_recipes.FROZEN[0], changes={"rotate": 9.0})
    monkeypatch.setattr(frozen_recipes, "FROZEN", (changed, *frozen_recipes.FROZEN[1:]))
    command("--only", "first", "second")
    assert len(trained) == number + 9
    assert len(read_looks(folder.parent.parent / "phantom" / FILE_NAME)) == 3


def test_another_seed_of_the_same_recipe_is_trained_anew(
    command,
    tiny_networks,  # noqa: F811
    trained,  # noqa: F811
    monkeypatch,
):
    folder = command("--only", "first")
    stored = json.loads((folder / "fresh_folds.json").read_text())
    number, before = len(trained), (folder / "oof.csv").read_text()
    recipe = tiny_networks.recipes["report"]
    assert stored["configurations"]["first"]["seed"] == recipe.seed
    monkeypatch.setitem(
        tiny_networks.recipes, "report", dataclasses.replace(recipe, seed=recipe.seed + 100)
    )
    command("--only", "first")
    assert len(trained) == 2 * number and (folder / "oof.csv").read_text() != before
    del stored["configurations"]["first"]["seed"]  # as an earlier version wrote it
    (folder / "fresh_folds.json").write_text(json.dumps(stored))
    command("--only", "first")
    assert len(trained) == 2 * number


def test_a_configuration_that_is_frozen_no_more_stays_in_the_results(
    command,
    trained,  # noqa: F811
    monkeypatch,
):
    few = ["--folds", "2", "--repeats", "1"]
    folder = command(*few, "--only", "first", "second")
    before = OutOfFold.read(folder / "oof.csv").logits["first"]
    renamed = dataclasses.replace(frozen_recipes.FROZEN[0], name="renamed")
    monkeypatch.setattr(frozen_recipes, "FROZEN", (renamed, *frozen_recipes.FROZEN[1:]))
    number = len(trained)
    for _ in range(2):
        command(*few, "--only", "second")
    assert len(trained) == number
    summary, oof = read_results(folder, "fresh_folds", "configurations")
    assert list(summary["configurations"])[-1] == "first"
    assert np.array_equal(oof.logits["first"], before)
    assert list(rows_of(folder / "table.csv"))[-1] == "first"


@pytest.mark.usefixtures("trained")
def test_what_was_measured_now_replaces_what_the_results_hold(command, monkeypatch):
    few = ["--folds", "2", "--repeats", "1", "--only", "first"]
    folder = command(*few)
    summary, oof = read_results(folder, "fresh_folds", "configurations")
    right = {name: oof.logits[name].copy() for name in ("first", *frozen_recipes.BASELINES)}
    for name in right:
        oof.logits[name][:] = 0
    oof.add("first_estimated", oof.logits["first"])  # of an older recipe
    entries = summary["configurations"]
    entries["first_estimated"] = {**entries["first"], "kind": ESTIMATED_KIND}
    entries["first"]["recipe"] = "0" * 16
    oof.write(folder / "oof.csv")
    (folder / "fresh_folds.json").write_text(json.dumps(summary))
    command(*few)
    summary, oof = read_results(folder, "fresh_folds", "configurations")
    for name, logits in right.items():
        assert np.array_equal(oof.logits[name], logits)
    assert "first_estimated" not in oof.logits


@pytest.mark.usefixtures("trained")
def test_processes_with_different_configurations_add_to_the_same_results(command, monkeypatch):
    few, measure = ["--folds", "2", "--repeats", "1"], crossval.cross_validate

    def another_process_first(configuration, *others):
        if configuration.name == "first":
            command(*few, "--only", "second")
        return measure(configuration, *others)

    monkeypatch.setattr(crossval, "cross_validate", another_process_first)
    folder = command(*few, "--only", "first")
    summary, oof = read_results(folder, "fresh_folds", "configurations")
    names = {"first", "second", frozen_recipes.AVERAGE, *frozen_recipes.BASELINES}
    assert set(summary["configurations"]) == names
    mean = (oof.logits["first"] + oof.logits["second"]) / 2
    assert oof.logits[frozen_recipes.AVERAGE] == pytest.approx(mean, rel=5.1e-4)


def test_without_timm_the_others_are_trained_and_a_line_says_how_to_get_it(
    command,
    tiny_networks,  # noqa: F811
    trained,  # noqa: F811
    tmp_path,
    monkeypatch,
    capsys,
):
    name = frozen_recipes.TRANSFERRED
    missing = frozen_recipes.Frozen(name, "timm/resnet18", "transfer", {}, "imagenet")
    monkeypatch.setattr(frozen_recipes, "FROZEN", (*frozen_recipes.FROZEN[:1], missing))
    names = {True: networks.network, False: lambda name, device: tiny_networks}
    monkeypatch.setattr(
        study, "network", lambda name, device: names[name.startswith("timm/")](name, device)
    )
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(SystemExit) as stop:
        command("--only", name)
    errors = [line for line in capsys.readouterr().err.splitlines() if name in line]
    assert stop.value.code == 2 and errors[0].startswith(f"error: --only {name}: ")
    assert not (tmp_path / "results" / "studies").exists()
    folder = command()
    told = [line for line in capsys.readouterr().err.splitlines() if name in line]
    assert len(told) == len(errors) == 1 and told[0].startswith(f"NOTE: {name} is not trained: ")
    assert {configuration.name for configuration in trained} == {"first"}
    for page in ("README.md", "README.id.md"):
        head = (folder / page).read_text().split("Data:")[0]
        assert f" `{name}`. " in head and " `efficientnet_lite` " in head
        assert "`pip install -r requirements-timm.txt`" in head


@pytest.mark.usefixtures("trained")
def test_results_of_other_folds_are_not_mixed_in(command, capsys):
    command("--only", "first")
    with pytest.raises(SystemExit) as stop:
        command("--repeats", "2")
    assert stop.value.code == 2
    assert "move it away" in capsys.readouterr().err


@pytest.mark.usefixtures("trained")
def test_both_languages_have_every_row_and_redrawing_changes_nothing(command):
    folder = command()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in ("README.md", "README.id.md"):
        for configuration in (*NAMES, frozen_recipes.AVERAGE, *frozen_recipes.BASELINES):
            assert f"| `{configuration}` |" in before[name].decode()
    with pytest.raises(SystemExit):
        fresh_folds.main(["--redraw", str(folder)])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("name", [frozen.name for frozen in frozen_recipes.FROZEN])
def test_every_frozen_configuration_exists_and_is_unlike_the_others(name, monkeypatch):
    from networks import network

    frozen = next(frozen for frozen in frozen_recipes.FROZEN if frozen.name == name)
    if frozen.network.startswith("timm/"):
        pytest.importorskip("timm", reason="needs timm: pip install timm")
    recipe = network(frozen.network).recipes[frozen.recipe]
    for key, value in frozen.changes.items():
        assert getattr(recipe, key) != value


def test_comparisons_name_what_is_measured():
    known = {frozen.name for frozen in frozen_recipes.FROZEN}
    known |= {*frozen_recipes.AVERAGES, *frozen_recipes.BASELINES}
    known |= {frozen_recipes.of_smaller(name) for name in known}
    assert {name for members in frozen_recipes.AVERAGES.values() for name in members} <= known
    assert {name for pair in frozen_recipes.COMPARISONS for name in pair} <= known


def test_damaged_results_are_named(command, trained, tmp_path):  # noqa: F811
    folder = command("--only", "first")
    (folder / "oof.csv").write_text("damaged")
    with pytest.raises(InputError, match=r"oof\.csv"):
        fresh_folds_page.write_page(folder)


def test_a_row_for_images_of_another_size_is_neither_trained_nor_missed(
    command,
    trained,  # noqa: F811
    monkeypatch,
    capsys,
):
    larger = dataclasses.replace(frozen_recipes.FROZEN[0], name="larger", size=64)
    monkeypatch.setattr(frozen_recipes, "FROZEN", (*frozen_recipes.FROZEN, larger))
    pairs = (*frozen_recipes.COMPARISONS, ("larger", "first"))
    monkeypatch.setattr(frozen_recipes, "COMPARISONS", pairs)
    folder = command()
    text = (folder / "README.md").read_text()
    assert "larger" not in text and "were fixed; those missing" not in text
    assert "larger" not in json.loads((folder / "fresh_folds.json").read_text())["configurations"]
    number = len(trained)
    with pytest.raises(SystemExit, match="2"):
        command("--only", "larger")
    assert "--only larger: it is for images of 64 px" in capsys.readouterr().err
    assert len(trained) == number


def test_rows_of_smaller_images_are_taken_over_averaged_and_counted_with_theirs(
    command,
    trained,  # noqa: F811
    monkeypatch,
    capsys,
):
    taken, both = frozen_recipes.of_smaller("second", 14), "both"
    averages = {**frozen_recipes.AVERAGES, both: ("first", taken)}
    pairs = (
        *frozen_recipes.COMPARISONS,
        ("first", frozen_recipes.of_smaller("first", 14)),
        (both, taken),
    )
    monkeypatch.setattr(frozen_recipes, "AVERAGES", averages)
    monkeypatch.setattr(frozen_recipes, "COMPARISONS", pairs)
    monkeypatch.setattr(frozen_recipes, "NAMED", frozenset(chain(*averages.values(), *pairs)))
    folder = command()
    assert "14px" not in (folder / "oof.csv").read_text()
    assert both not in rows_of(folder / "table.csv")

    smaller = shutil.copytree(folder, folder.with_name("smaller"))
    summary = json.loads((smaller / "fresh_folds.json").read_text())
    summary["data"] |= {"size": 14, "sha256": "5" * 64}
    (smaller / "fresh_folds.json").write_text(json.dumps(summary))
    there = OutOfFold.read(smaller / "oof.csv")
    there.add("second", -there.logits["second"])  # of smaller images it learned the opposite
    there.write(smaller / "oof.csv")
    number = len(trained)
    assert command() == folder and len(trained) == number

    oof, rows = OutOfFold.read(folder / "oof.csv"), rows_of(folder / "table.csv")
    assert {name for name in rows if name.endswith("14px")} == {taken, "first_14px"}
    assert oof.logits[taken] == pytest.approx(there.logits["second"])
    mean = (oof.logits["first"] + there.logits["second"]) / 2
    assert oof.logits[both] == pytest.approx(mean, rel=5.1e-4, abs=1e-6)
    assert float(rows[taken]["auc"]) == pytest.approx(1 - float(rows["second"]["auc"]))
    gains = rows_of(folder / "comparisons.csv")
    assert gains["first"]["over"] == "first_14px" and float(gains["first"]["auc_gain"]) == 0
    assert gains[both]["over"] == taken
    for page in ("README.md", "README.id.md"):
        text = (folder / page).read_text()
        assert f"| `{both}` |" in text and f"`first`, `{taken}`" in text
    looks = folder.parent.parent / "phantom" / FILE_NAME
    of_smaller = dataclasses.replace(read_looks(looks)[1], run="b/second", data="5" * 64)
    record(looks, of_smaller)
    here = json.loads((folder / "fresh_folds.json").read_text())
    uses = fresh_folds_page._uses(folder, here)
    assert uses == dict.fromkeys((*NAMES, taken), 1) | {"first_14px": 0}
    (front,) = (of for of in read_fresh_folds(folder.parent.parent) if of.folder == folder)
    assert taken not in front.configurations and both in front.configurations

    for page, words in (("README.md", "of 28 px, see above"), ("README.id.md", "28 px, lihat di")):
        assert words in (folder / page).read_text()
    assert "- `both`: the mean of the logits" in (folder / "README.md").read_text()

    fewer = shutil.copytree(smaller, smaller.with_name("zz_fewer"))  # the other one has more rows
    del summary["configurations"]["first"]
    (fewer / "fresh_folds.json").write_text(json.dumps(summary))
    there.logits = {name: 2 * of for name, of in there.logits.items() if name != "first"}
    there.write(fewer / "oof.csv")
    before = (folder / "oof.csv").read_bytes()
    assert (command() / "oof.csv").read_bytes() == before

    (smaller / "oof.csv").write_text("damaged")
    shutil.rmtree(fewer)
    capsys.readouterr()
    assert command() == folder and f"NOTE: '{Path(*smaller.parts[-3:])}'" in capsys.readouterr().err
    assert {*rows_of(folder / "table.csv")} == {
        *NAMES,
        frozen_recipes.AVERAGE,
        *frozen_recipes.BASELINES,
    }


def test_arguments_of_a_frozen_network_are_its_constructors():
    (row,) = (one for one in frozen_recipes.FROZEN if one.size == 64)
    known = networks.network(row.network)
    start = Configuration(row.network, known.build, known.recipe, known.arguments)
    of = SimpleNamespace(configuration=lambda *names: (known, start))
    _, configuration = frozen_recipes.frozen_configuration(of, row)
    assert configuration.arguments == {"strides": "2221"} and configuration.name == row.name
    assert network_name(configuration) == "EfficientChestNet (strides 2221)"
