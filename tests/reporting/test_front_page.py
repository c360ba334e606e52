"""The first page of results: its answer is that of the files, with or without fresh folds."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from test_report import front_of, make_run, make_run_out_of_fold, page_of, write_names

from chestlab.evaluation.looks import read_looks, record
from chestlab.evaluation.out_of_fold import OutOfFold
from chestlab.reporting import front_page, overview
from chestlab.reporting.look_tables import all_looks

SOURCE = {"source": "small.npz", "sha256": "ab" * 32}


def write_fresh_folds(results_dir, skills, *averages):
    """A study on fresh folds.

    ``skills`` are by (model, recipe) or (model, recipe, start): how far logits lie from 0.
    """
    folder = results_dir / "studies" / "fresh_folds_small"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 1], 40)
    folds = np.stack([np.arange(120) % 4, np.arange(120) // 3 % 4])
    logits = {
        "_".join(of): skill * (2.0 * labels - 1) + rng.normal(size=(2, 120))
        for of, skill in skills.items()
    }
    about = {
        "_".join((model, recipe, *start)): {
            "kind": "yardstick" if model == "svm" else "network",
            "model": model,
            "recipe_name": recipe,
            "recipe_changes": {},
            **({"start": {"source": start[0]}} if start else {}),
        }
        for model, recipe, *start in skills
    }
    for members in averages:
        name = "average" if "average" not in about else "another_average"
        logits[name] = np.mean([logits[member] for member in members], axis=0)
        models = "; ".join(about[member]["model"] for member in members)
        start = {key: of for key, of in about[members[-1]].items() if key == "start"}
        about[name] = {"kind": "average", "model": models, **start}
    patients = np.array([f"{i // 2}" for i in range(120)])
    origin = np.array(["train"] * 120)
    oof = OutOfFold(origin, np.arange(120), labels, patients, folds, logits)
    oof.write(folder / "oof.csv")
    summary = {"data": SOURCE, "folds": 4, "repeats": 2, "configurations": about}
    (folder / "fresh_folds.json").write_text(json.dumps(summary))
    (folder / "README.md").write_text("# Fresh folds\n")
    oof.classical = frozenset(name for name, of in about.items() if of["kind"] == "yardstick")
    return oof


def row_of(page, label):
    line = next(line for line in page.splitlines() if line.startswith(f"| [{label}]("))
    return [cell.strip() for cell in line.strip("| ").split(" | ")]


def test_the_best_on_fresh_folds_is_named_with_its_figures_and_bold_only_if_clearly_best(tmp_path):
    write_names(tmp_path)
    make_run(tmp_path, "one_small", model="EfficientChestNet", recipe_name="best")
    make_run(tmp_path, "two_small", model="ResidualChestNet", recipe_name="best", noise=1)
    skills = {("EfficientChestNet", "best"): 2.5, ("ResidualChestNet", "best"): 0.3}
    oof = write_fresh_folds(tmp_path, skills)
    page = front_of(tmp_path)
    auc = oof.estimate("EfficientChestNet_best", "auc")
    text = f"{auc.value:.3f} ({auc.low:.3f} to {auc.high:.3f})"
    assert f"Best so far: experiment 1 (EfficientChestNet), with an AUC of {text}" in page
    assert "2 x 4-fold cross-validation over the 120 images of 60 patients" in page
    ahead = "Its AUC is above that of experiment 2 (ResidualChestNet): p is below 0.05 after Holm"
    assert ahead in page and "may be chance" not in page
    assert "As the highest of 2 rows these figures are optimistic (2 configurations" in page
    details = page_of(tmp_path)
    gain = oof.gain("EfficientChestNet_best", "ResidualChestNet_best", "auc")
    lead = f"| {gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f}) | < 0.001 | < 0.001 |"
    assert f"| 2 ResidualChestNet {lead}" in details
    assert row_of(page, "1 EfficientChestNet")[1].startswith(f"**{auc.value:.3f}**<br>")
    assert not row_of(page, "2 ResidualChestNet")[1].startswith("**")

    shutil.rmtree(tmp_path / "studies")
    write_fresh_folds(tmp_path, dict.fromkeys(skills, 1.5))
    page = front_of(tmp_path)
    assert re.search(
        r"may be chance over experiment [12] \(\w+ChestNet\); it is therefore not bold", page
    )
    assert not any(row_of(page, name)[1].startswith("**") for name in ("1 EfficientChestNet",))

    shutil.rmtree(tmp_path / "studies")
    svm = {"yardstick": True, "recipe": {"name": "svm_best"}, "model": "svm"}
    make_run(tmp_path / "studies", "svm_small", **svm)
    write_fresh_folds(tmp_path, {**dict.fromkeys(skills, 1.5), ("svm", "best"): 0.0})
    page = front_of(tmp_path)
    assert "Its AUC is above that of svm: p is below 0.05 after Holm's correction for its 2" in page
    assert re.search(r"may be chance over experiment [12] \(\w+ChestNet\);", page)


def test_what_was_not_measured_on_fresh_folds_says_so(tmp_path):
    make_run(tmp_path, "one_small", model="EfficientChestNet", recipe_name="best")
    make_run(tmp_path, "five_small", model="Plain34", recipe_name="cosine")
    make_run(tmp_path, "tiny_small", noise=2)
    page = front_of(tmp_path)
    assert "**Not measured yet on fresh folds.**" in page and "not measured yet" not in page
    write_fresh_folds(tmp_path, {("EfficientChestNet", "report"): 1.0})
    page = front_of(tmp_path)
    assert row_of(page, "5 Plain-34")[1:3] == row_of(page, "TinyNet")[1:3]
    assert row_of(page, "5 Plain-34")[1:3] == ["not measured yet", "-"]
    assert row_of(page, "1 EfficientChestNet")[1] == "not measured yet"
    assert "3 networks of the table are not measured there yet," in page
    other = row_of(page, "1 EfficientChestNet, report")
    assert other[1] not in ("not measured yet", "-") and other[3:] == ["-"] * 3
    assert "(studies/fresh_folds_small/README.md)" in other[0]
    changed = {"recipe_changes": {"stage1_epochs": 0}}  # as of a start from random numbers
    make_run(tmp_path, "two_small", model="EfficientChestNet", recipe_name="report", **changed)
    page = front_of(tmp_path)
    assert row_of(page, "1 EfficientChestNet, report")[1] not in ("not measured yet", "-")
    assert row_of(page, "1 EfficientChestNet")[1] == "not measured yet"
    assert page.count("| [1 EfficientChestNet, report]") == 1
    order = [page.index(f"| [{name}") for name in ("1 Eff", "5 Plain", "TinyNet")]
    assert order == sorted(order)


def test_the_best_network_has_a_row_of_what_it_does_beside_its_recipe(tmp_path):
    imagenet = {"starting_weights": {"source": "imagenet"}, "recipe_changes": {"mean": 0.5}}
    make_run(tmp_path, "four_small", model="DenseNet121Chest", recipe_name="best", **imagenet)
    make_run(tmp_path, "one_small", model="EfficientChestNet", recipe_name="best", noise=1)
    skills = {
        ("DenseNet121Chest", "best", "imagenet"): 1.0,
        ("EfficientChestNet", "best"): 1.0,
        ("DenseNet121Chest", "related", "imagenet"): 1.5,
    }
    oof = write_fresh_folds(tmp_path, skills)
    path = tmp_path / "studies" / "fresh_folds_small" / "fresh_folds.json"
    summary = json.loads(path.read_text())
    _, _, best = (summary["configurations"]["_".join(of)] for of in skills)
    summary["configurations"]["DenseNet121Chest_best_imagenet"]["recipe_changes"] = {"mean": 0.5}
    best |= {"recipe_name": "best", "recipe_changes": {"mean": 0.5, "related": True}}
    path.write_text(json.dumps(summary))
    page = front_of(tmp_path)
    value = oof.estimate("DenseNet121Chest_related_imagenet", "auc").value
    row = row_of(page, "4 DenseNet-121, related True")
    assert row[1].replace("**", "").startswith(f"{value:.3f}<br>") and row[3:] == ["-"] * 3
    assert row_of(page, "4 DenseNet-121")[1] not in ("not measured yet", row[1])
    assert "From ImageNet's weights: 4 DenseNet-121; 4 DenseNet-121, related True.\n" in page
    best |= {"recipe_name": "other"}  # is of no recipe that a run has
    path.write_text(json.dumps(summary))
    assert "related" not in front_of(tmp_path)


def test_an_average_and_baselines_have_rows_with_their_figures_on_fresh_folds(tmp_path):
    make_run(tmp_path, "one_small", model="EfficientChestNet", recipe_name="best")
    svm = {"yardstick": True, "recipe": {"name": "svm_best"}, "model": "svm"}
    make_run(tmp_path / "studies", "svm_small", noise=2, **svm)
    skills = {("EfficientChestNet", "best"): 1.0, ("ResidualChestNet", "best"): 1.1}
    average = ["EfficientChestNet_best", "ResidualChestNet_best"]
    oof = write_fresh_folds(tmp_path, skills | {("svm", "best"): 0.5}, average)
    page = front_of(tmp_path)
    for label, name in (("Average of 1 and 2", "average"), ("svm", "svm_best")):
        value = oof.estimate(name, "auc").value
        assert row_of(page, label)[1].startswith(f"{value:.3f}<br>")
    assert "(studies/fresh_folds_small/README.md)" in row_of(page, "Average of 1 and 2")[0]
    assert "Best so far: the average of experiments 1 and 2 (2 networks), with" in page


def test_the_same_xrays_in_another_size_have_a_sentence_without_rows_taken_over(tmp_path):
    make_run(tmp_path, "one_small", model="EfficientChestNet", recipe_name="best")
    skills = {("EfficientChestNet", "best"): 0.7, ("ResidualChestNet", "best"): 1.1}
    oof = write_fresh_folds(tmp_path, skills, ["_".join(of) for of in skills])
    alone = front_of(tmp_path)
    folder = tmp_path / "studies" / "fresh_folds_small"
    other = shutil.copytree(folder, folder.with_name("fresh_folds_large"))  # sorts before it
    summary = json.loads((other / "fresh_folds.json").read_text())
    summary["data"] = {"source": "large.npz", "sha256": "cd" * 32}
    summary["configurations"]["ResidualChestNet_best"]["data"] = SOURCE["sha256"]
    (other / "fresh_folds.json").write_text(json.dumps(summary))
    page = front_of(tmp_path)
    (line,) = (line for line in page.splitlines() if "`large.npz`" in line)
    assert page.replace(f"{line}\n\n", "") == alone  # is about the study of more networks
    assert "(studies/fresh_folds_large/README.md)" in line and "Residual" not in line
    for name in ("EfficientChestNet_best", "average"):
        auc, accuracy = (oof.estimate(name, measure).value for measure in ("auc", "accuracy"))
        assert re.search(rf"`{name}` with an AUC of {auc:.3f} \(", line)
        assert re.search(rf"`{name}`[^`]* accuracy of {100 * accuracy:.1f} % \(", line)
    oof.labels[0] = 1 - oof.labels[0]  # other images
    oof.write(other / "oof.csv")
    assert front_of(tmp_path) == alone


def test_several_seeds_are_a_mean_and_stand_in_the_place_of_one_run(tmp_path, monkeypatch):
    make_run(tmp_path, "one_small", model="EfficientChestNet", recipe_name="best")
    make_run(tmp_path, "two_small", model="EfficientChestNet", recipe_name="report", noise=1)
    folder = tmp_path / "studies" / "seeds_small"
    folder.mkdir(parents=True)
    runs = [{s: {"accuracy": a, "auc": a + 0.1} for s in ("val", "test")} for a in (0.6, 0.7, 0.8)]
    about = {"model": "EfficientChestNet", "recipe_name": "report", "recipe_changes": {}}
    (folder / "seeds.json").write_text(json.dumps(about | {"data": SOURCE, "runs": runs}))
    (folder / "README.md").write_text("# Seeds\n")
    page = front_of(tmp_path)
    cells = row_of(page, "1, report's recipe (3 seeds)")
    assert cells[1] == "70.0 %<br>±\u00a010.0" and cells[3] == "0.800<br>±\u00a00.100"
    table = page[page.index("| experiment") :]
    assert "(two_small/" not in table and "(one_small/" in table
    drawn = []
    monkeypatch.setattr(front_page, "draw_front", lambda points, *_, **__: drawn.extend(points))
    front_of(tmp_path)
    write_fresh_folds(tmp_path, {("EfficientChestNet", "report"): 1.0})
    front_of(tmp_path)
    kinds = [point.kinds for point in drawn if "report's recipe" in point.label]
    assert kinds == [("seeds", "seeds"), ("network", "seeds")]  # an interval, not a deviation
    folder.joinpath("seeds.json").write_text("{}")
    page = front_of(tmp_path)
    assert "(two_small/" in page[page.index("| experiment") :]  # a damaged study is left out


@pytest.mark.parametrize(("skill", "words"), [(0.3, "no run reaches"), (9.0, "is reached** by")])
def test_the_goal_is_told_of_val_and_of_test_with_images_and_patients(tmp_path, skill, words):
    write_names(tmp_path)
    metrics = make_run(tmp_path, "one_small", skill)
    page = front_of(tmp_path)
    said = next(line for line in page.splitlines() if line.startswith("**On test"))
    low, high = (100 * end for end in metrics["test"]["accuracy_ci95"])
    figure = f"{100 * metrics['test']['accuracy']:.1f} % ({low:.1f} to {high:.1f})"
    assert words in said and f"[TinyNet](one_small/) with {figure}, on 52 images" in said
    assert "of 26 patients" in said and ("lies below 90 %" in said) == (skill < 1)
    reached = "reached by no run" if skill < 1 else "reached by [TinyNet](one_small/) with"
    assert f"the goal of the course reports:** {reached}" in page
    assert "nothing here says anything about a patient" in page


def test_only_switches_beyond_chance_after_holms_correction_are_said_to_help(tmp_path):
    make_run(tmp_path, "one_small", model="ResidualChestNet", recipe_name="best")
    folder = tmp_path / "studies" / "ablation_residualchestnet"
    folder.mkdir(parents=True)
    about = {"net": "residualchestnet", "recipe_name": "report", "data": SOURCE}
    (folder / "ablation.json").write_text(json.dumps(about))
    head = "configuration,text,kind,auc_gain,auc_gain_low,auc_gain_high,verdict,verdict_holm\n"
    row = "{},words,{},0.09,0.04,0.14,supported,{}\n"
    names = [("- last", "removed", "supported"), ("+ ema", "added", "undecided")]
    names.append(("recipe best", "recipe", "supported"))
    (folder / "table.csv").write_text(head + "".join(row.format(*name) for name in names))
    (folder / "README.md").write_text("# Switches\n")
    page = front_of(tmp_path)
    said = "experiment 2 (ResidualChestNet), `last` (words), on choice folds, whose figures are not"
    assert said in page and "`ema`" not in page and "0.09" not in page
    assert "`last` (mengambil epoch terakhir" in front_of(tmp_path, "id")
    of_other = "in experiment 2 (ResidualChestNet), recipe `best` instead of `report`, on choice"
    assert of_other in page
    (folder / "ablation.json").write_text(json.dumps({**about, "recipe_changes": {"epochs": 40}}))
    changed = "`last` (words), tried in `report` with `epochs 40`, on choice folds"
    assert changed in front_of(tmp_path)
    (folder / "ablation.json").write_text(json.dumps(about))
    write_fresh_folds(tmp_path, {("EfficientChestNet", r): 1.0 for r in ("best", "report")})
    gained = "configuration,over,auc_gain,auc_gain_low,auc_gain_high,verdict_holm\n"
    gained += "EfficientChestNet_best,EfficientChestNet_report,0.2,0.1,0.3,supported\n"
    (tmp_path / "studies" / "fresh_folds_small" / "comparisons.csv").write_text(gained)
    page = front_of(tmp_path)
    assert (
        of_other in page and "(EfficientChestNet), recipe `best` instead of `report`: +0.2" in page
    )


def test_a_moved_run_is_not_counted_twice_and_looks_at_phantoms_are_apart(tmp_path):
    make_run(tmp_path, "one_small")
    (look,) = all_looks(tmp_path)
    named = dataclasses.replace(look, run="family/runs/seed42", note="")
    record(tmp_path / "test_looks.csv", named)
    assert len(all_looks(tmp_path)) == 1  # the line is of the folder under its older name
    (tmp_path / "studies").mkdir()
    shutil.move(tmp_path / "one_small", tmp_path / "studies" / "one_small")
    record(tmp_path / "test_looks.csv", dataclasses.replace(named, run="one_small"))
    assert [look.run for look in all_looks(tmp_path)] == ["family/runs/seed42", "one_small"]
    make_run(tmp_path, "two_small")
    record(tmp_path / "test_looks.csv", dataclasses.replace(named, run="two_small"))
    assert len(all_looks(tmp_path)) == len(read_looks(tmp_path / "test_looks.csv")) == 3


def test_pages_of_a_folder_without_networks_are_written(tmp_path):
    make_run(tmp_path / "studies", "svm_small", yardstick=True, recipe={"name": "hog_rbf_svm"})
    page = front_of(tmp_path)
    assert "[HOG + RBF SVM](studies/svm_small/)" in page
    assert overview.write_report(tmp_path, "id")[0].exists()


def test_validation_images_out_of_fold_are_of_the_networks_that_did_not_train_on_them(tmp_path):
    blend = {"blend": ["a", "b"], "kind": "2 runs", "members": [{"networks": 5}] * 2}
    models = "EfficientChestNet + ResidualChestNet"
    make_run_out_of_fold(tmp_path, "blend_small", 9.0, model=models, **blend)
    skills = {("EfficientChestNet", "best"): 1.0, ("ResidualChestNet", "best"): 1.1}
    write_fresh_folds(tmp_path, skills, ["EfficientChestNet_best", "ResidualChestNet_best"])
    page = front_of(tmp_path)
    said = next(line for line in page.splitlines() if line.startswith("**Validation accuracy"))
    assert "reached by [the average of experiments 1 and 2, out of fold](blend_small/)" in said
    assert "networks" not in said and "of one trained network" not in page
    note = "on val of the networks that did not train on the image (out of fold), on test of all 10"
    assert f"Average of 1 and 2: on fresh folds of one network each, {note}." in page
    assert "(10 networks)](blend_small/) with" in page  # on test all of them are averaged

    shutil.rmtree(tmp_path / "blend_small")
    folds = {"kind": "5 folds over train+val", "members": [{}] * 5, "model": "ResidualChestNet"}
    make_run_out_of_fold(tmp_path, "folds_small", 9.0, **folds)
    assert "reached by [ResidualChestNet, out of fold](folds_small/)" in front_of(tmp_path)


def test_the_weights_that_a_network_starts_from_are_noted_from_its_files(tmp_path):
    note = {"source": "none", "note": "random initialisation, not the report's experiment"}
    make_run(tmp_path, "three_small", model="MobileNetV3Chest", starting_weights=note)
    imagenet = {"source": "imagenet"}
    make_run(tmp_path, "four_small", model="DenseNet121Chest", starting_weights=imagenet, noise=1)
    make_run(tmp_path, "one_small", model="EfficientChestNet", noise=2)
    page = front_of(tmp_path)
    random = "not the report's experiment, which starts from ImageNet's: 3 MobileNetV3-Large.\n"
    assert f"From random weights, {random}" in page
    assert "| [3 MobileNetV3-Large](three_small/), random weights |" in page
    assert page.count(", random weights") == 1
    assert "From ImageNet's weights: 4 DenseNet-121.\n" in page
    assert "dari bobot ImageNet: 3 MobileNetV3-Large." in front_of(tmp_path, "id")


def test_a_network_from_a_file_of_weights_has_rows_of_its_own(tmp_path):
    file, of = "chests_final.pth", {"model": "DenseNet121Chest", "recipe_name": "best"}
    names = ("DenseNet121Chest", "best", "imagenet"), ("DenseNet121Chest", "best", file)
    for n, (*_, source) in enumerate(names):
        make_run(tmp_path, f"{n}_small", starting_weights={"source": source}, noise=n, **of)
    skills = {("EfficientChestNet", "best"): 1.0, names[0]: 1.1, names[1]: 1.2}
    averages = [["EfficientChestNet_best", "_".join(name)] for name in names]
    oof = write_fresh_folds(tmp_path, skills, *averages)
    page, indonesian = front_of(tmp_path), front_of(tmp_path, "id")
    for label, name in (
        ("4 DenseNet-121", "_".join(names[0])),
        ("4 DenseNet-121 from chests", "_".join(names[1])),
        ("Average of 1 and 4", "average"),
        ("Average of 1 and 4 from chests", "another_average"),
    ):
        value = oof.estimate(name, "auc").value
        assert row_of(page, label)[1].startswith(f"{value:.3f}<br>")
        translated = label.replace("from", "dari").replace("Average of", "Rerata")
        row_of(indonesian, translated.replace("and", "dan"))
    assert "the average of experiments 1 and 4 from chests (2 networks)" in page
    assert "From weights of an earlier training: 4 DenseNet-121 from chests.\n" in page
    assert "From ImageNet's weights: 4 DenseNet-121.\n" in page


def test_networks_of_one_architecture_are_counted_in_an_average(tmp_path):
    make_run(tmp_path, "four_small", model="DenseNet121Chest", recipe_name="best")
    make_run(tmp_path, "one_small", model="EfficientChestNet", recipe_name="best", noise=1)
    skills = {
        ("EfficientChestNet", "best"): 1.0,
        ("DenseNet121Chest", "best"): 1.1,
        ("DenseNet121Chest", "report"): 1.2,
    }
    write_fresh_folds(tmp_path, skills, ["_".join(of) for of in skills])
    page = front_of(tmp_path)
    row_of(page, "Average of 1 and 4 (2 x)")
    assert "the average of experiments 1 and 4 (2 x) (3 networks)" in page


def test_the_picture_has_a_row_for_each_of_two_recipes(tmp_path, monkeypatch):
    make_run(tmp_path, "one_small", model="EfficientChestNet", recipe_name="best")
    make_run(tmp_path, "two_small", model="ResidualChestNet", recipe_name="best", noise=1)
    write_fresh_folds(
        tmp_path, {("EfficientChestNet", "report"): 1.0, ("ResidualChestNet", "best"): 1.0}
    )
    drawn = {}
    monkeypatch.setattr(
        front_page, "draw_front", lambda points, *_, **options: drawn.update(options, points=points)
    )
    front_of(tmp_path)
    with_values = [(point.label, point.left is None) for point in drawn["points"]]
    assert with_values == [
        ("1 EfficientChestNet", True),
        ("1 EfficientChestNet, report", False),
        ("2 ResidualChestNet", False),
    ]


def test_the_subset_of_chestmnist_is_said_to_be_one(tmp_path):
    results = tmp_path / "results"
    make_run(results, "one_small")
    assert "subset" not in front_of(results)
    subset = {"source": "chestmnist_nih_subset_28.npz"}
    make_run(results / "studies", "other_small", data=subset | {"sha256": "cd" * 32}, noise=1)
    make_run(results / "studies", "third_small", data=subset | {"sha256": "cd" * 32}, noise=2)
    page = front_of(results)
    assert "a subset of ChestMNIST, not its official file: 184 X-rays of" in page
    assert "docs/studies.md" not in page  # which is not there
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "studies.md").write_text("# Studies\n")
    assert "(../docs/studies.md#the-data-behind-the-results)" in front_of(results)
    assert "subset ChestMNIST, bukan berkas resminya: 184 foto" in front_of(results, "id")


def test_a_network_with_other_strides_has_a_row_and_figures_of_its_own(tmp_path):
    write_names(tmp_path)
    fast = {"strides": "2122"}
    make_run(tmp_path, "one_small", model="EfficientChestNet", recipe_name="best", noise=1)
    about = {"model": "EfficientChestNet", "model_arguments": fast, "recipe_name": "best"}
    make_run(tmp_path, "fast_small", **about)
    name = "EfficientChestNet (strides 2122)"
    oof = write_fresh_folds(tmp_path, {("EfficientChestNet", "best"): 0.3, (name, "best"): 2.5})
    front = front_of(tmp_path)
    for label, of in (("1 EfficientChestNet", "EfficientChestNet"), (f"1 {name}", name)):
        auc = oof.estimate(f"{of}_best", "auc")
        assert f"{auc.value:.3f}" in row_of(front, label)[1]
