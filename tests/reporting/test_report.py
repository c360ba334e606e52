"""The pages in `results/`: what they say is in the runs' files, and no more than that."""

import csv
import dataclasses
import json
import re
import shutil
import string
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import TINY, run_in_process
from PIL import Image

import visualize
from chestlab.data import phantom, sources, splits
from chestlab.data.folds import fold_rows
from chestlab.evaluation.looks import Look, read_looks, record
from chestlab.evaluation.metrics import choose_threshold, evaluate_probabilities, roc_auc
from chestlab.evaluation.tasks import SPLIT_TITLES
from chestlab.files.errors import InputError
from chestlab.reporting import mistakes, overview, pairs, stored_runs
from chestlab.reporting.look_tables import all_looks
from chestlab.reporting.messages import MESSAGES

COUNTS = {"train": (40, 60), "val": (12, 20), "test": (20, 32)}


def split_images(split):
    """Row in the source, label and file name of every image of a made-up source."""
    negatives, positives = COUNTS[split]
    labels = np.array([0] * negatives + [1] * positives)
    index = 3 * np.arange(len(labels)) + 5
    names = [f"{split_number(split)}{i // 2:07d}_{i % 2:03d}.png" for i in range(len(labels))]
    return index, labels, names


def split_number(split):
    return list(COUNTS).index(split)


def make_run(results_dir, name, skill=1.0, noise=0, seed=42, test=True, **changes):
    """Write a run's folder as training does, with probabilities ``skill`` away from chance."""
    folder = results_dir / name
    folder.mkdir(parents=True)
    figures, predicted = {}, {}
    rng = np.random.default_rng(noise)
    for split in ("val", "test"):
        index, labels, _ = split_images(split)
        logits = skill * (2 * labels - 1) + rng.normal(0, 1, len(labels))
        predicted[split] = index, labels, 1 / (1 + np.exp(-logits))
    threshold = choose_threshold(*predicted["val"][1:])
    for split, (index, labels, probabilities) in predicted.items():
        if split == "test" and not test:
            continue
        figures[split] = evaluate_probabilities(labels, probabilities, threshold)
        write_table(folder / f"{split}_probabilities.csv", index, labels, probabilities)
    data = {
        "source": "small.npz",
        "sha256": "ab" * 32,
        "phantom": False,
        "counts": {s: dict(zip(splits.CLASS_NAMES, n, strict=True)) for s, n in COUNTS.items()},
    }
    metrics = {
        "name": name,
        "model": "TinyNet",
        "parameters": 12345,
        "data": {**data, **changes.pop("data", {})},
        "recipe": {"name": "tiny", "epochs": 4, "lr": 0.01, "seed": seed},
        "recipe_name": "report",
        "seed": seed,
        "device": "cpu",
        "threshold": threshold,
        "tta": "none",
        "bootstrap_unit": "patient",
        "seconds": 83.0,
        "train": None,
        "test": None,
        **figures,
        **changes,
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return metrics


def make_run_out_of_fold(results_dir, name, skill=1.0, **changes):
    """A run whose validation images are a part of its out-of-fold images, as of folds."""
    metrics = make_run(results_dir, name, skill, **changes)
    folder = results_dir / name
    with (folder / "val_probabilities.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    index, labels = (np.array([int(row[key]) for row in rows]) for key in ("index", "label"))
    probabilities = np.array([float(row["probability"]) for row in rows])
    write_table(folder / "oof_probabilities.csv", index, labels, probabilities, "val")
    metrics |= {"oof": metrics["val"], "threshold_chosen_on": "out-of-fold"}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return metrics


def write_table(path, index, labels, probabilities, origin=None):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow((["split"] if origin else []) + ["index", "label", "probability"])
        for row in zip(index.tolist(), labels.tolist(), probabilities.tolist(), strict=True):
            writer.writerow(([origin] if origin else []) + list(row))


def write_names(results_dir, source="small"):
    with (results_dir / f"{source}_names.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["split", "index", "name", "label"])
        for split in COUNTS:
            index, labels, names = split_images(split)
            writer.writerows(
                (split, *row) for row in zip(index.tolist(), names, labels.tolist(), strict=True)
            )


def page_of(results_dir, language="en"):
    """The page of all runs."""
    return overview.write_report(results_dir, language)[1].read_text(encoding="utf-8")


def front_of(results_dir, language="en"):
    return overview.write_report(results_dir, language)[0].read_text(encoding="utf-8")


def row_of(page, name):
    """Cells of the run's row in the table of all runs."""
    line = next(line for line in page.splitlines() if f"[{name}](" in line)
    return [cell.strip() for cell in line.strip("| ").split(" | ")]


def test_row_states_the_runs_figures(tmp_path):
    metrics = make_run(tmp_path, "one_small")
    cells = row_of(page_of(tmp_path), "one")
    val, test = metrics["val"], metrics["test"]
    low, high = (100 * end for end in test["accuracy_ci95"])
    assert cells[1] == "[one](one_small/)<br>TinyNet · report · seed 42"
    assert cells[2].startswith(f"{100 * val['accuracy']:.1f} %")
    assert cells[3] == ("yes" if val["accuracy"] >= 0.9 else "no")
    assert cells[4] == f"{val['auc']:.3f}"
    interval = f"({low:.1f} to {high:.1f})".replace(" ", "\u00a0")
    assert cells[5] == f"{100 * test['accuracy']:.1f} %<br>{interval}"
    assert cells[6].startswith(f"{test['auc']:.3f}")
    assert cells[7:] == ["1"]


def test_averages_of_folds_are_said_to_have_val_figures_out_of_fold(tmp_path):
    make_run(tmp_path, "one_small")
    seeds = {"kind": "2 seeds", "members": [{}] * 2, "model": "OtherNet"}
    make_run(tmp_path, "seeds_small", skill=1.2, **seeds)
    assert "out of fold" not in page_of(tmp_path)
    folds = {"kind": "2 folds over train+val", "members": [{}] * 2, "model": "OtherNet"}
    make_run_out_of_fold(tmp_path, "folds_small", 9.0, **folds)
    assert "Averages of folds (#1): each val image is predicted only by" in page_of(tmp_path)
    assert "Rerata fold (#1): setiap citra validasi" in page_of(tmp_path, "id")


def test_runs_that_share_the_highest_test_figure_are_all_named(tmp_path):
    make_run(tmp_path, "one_small")
    make_run(tmp_path, "two_small", skill=0.1, noise=1)
    assert "Highest test accuracy: run 1 (one), " in page_of(tmp_path)
    make_run(tmp_path, "three_small")  # the same predictions
    page = page_of(tmp_path)
    assert "Highest test accuracy: run 1 (one) and run 2 (three), not bold because" in page
    assert "of the difference of run 1 to these runs reaches zero: 2" in page
    assert "tertinggi: percobaan 1 (one) dan percobaan 2 (three)," in page_of(tmp_path, "id")


COSTS = {
    "multiply_accumulates": 94_000_000,
    "inference_batch1": {"median_ms": 4.5, "low_ms": 4.25, "high_ms": 5.0},
    "inference_batch64": {"median_ms": 1.5, "low_ms": 1.25, "high_ms": 2.0},
    "peak_memory_bytes": None,
    "checkpoint_bytes": 5_000_000,
}


def test_costs_are_told_without_speeds_that_were_not_measured_side_by_side(tmp_path):
    make_run(tmp_path, "fast", costs=COSTS, seconds=120.0, images_per_second=125.0)
    make_run(tmp_path, "without_costs")
    page = page_of(tmp_path).split("### Cost of each network")[1].split("### ")[0]
    rows = {
        cells[1]: cells
        for line in page.splitlines()
        if line.startswith("| ") and len(cells := line.strip("| ").split(" | ")) == 9
    }
    assert rows.keys() - {"run", "---"} == {"fast", "without_costs"}
    assert rows["without_costs"][3] == "-" and rows["without_costs"][7:] == ["-"] * 2
    assert rows["fast"][2:4] == ["12,345", "94"]
    assert rows["fast"][6:] == ["2:00 (cpu)", "-", "5"]
    assert "4.5" not in page and "125" not in page


def test_a_row_says_what_was_done_otherwise_than_its_recipe(tmp_path):
    make_run(tmp_path, "one", recipe_changes={"epochs": 30, "image_size": 64})
    assert "TinyNet · report, epochs 30, image_size 64 · seed 42" in page_of(tmp_path)


@pytest.mark.parametrize(("language", "stored"), [("en", False), ("id", True)])
def test_a_run_with_warnings_is_marked_wherever_it_is_named(tmp_path, language, stored, capsys):
    make_run(tmp_path, "sound_small", skill=1.5)
    make_run(tmp_path, "other_small", noise=1)
    make_run(tmp_path, "flat_small", **({"warnings": ["the data leak"]} if stored else {}))
    if not stored:  # of an older version: the outputs are all alike
        for split in ("val", "test"):
            path = tmp_path / "flat_small" / f"{split}_probabilities.csv"
            index, labels, _ = split_images(split)
            write_table(path, index, labels, 0.599 + 1e-9 * (index % 3))
        path = tmp_path / "flat_small" / "metrics.json"
        metrics = json.loads(path.read_text())
        for split in ("val", "test"):
            metrics[split]["accuracy"] = float(split_images(split)[1].mean())
        path.write_text(json.dumps(metrics | {"threshold": 0.5}))
    page = page_of(tmp_path, language)
    named = [line for line in page.splitlines() if re.search(r"\bflat\b", line)]
    item = [line for line in named if line.startswith("- ")]
    assert len(named) > 4 and all("flat (!)" in line for line in named if line not in item)
    assert "sound (!)" not in page and "other (!)" not in page
    assert ("the data leak" if stored else "outputs are nearly constant") in item[0]
    cells = row_of(page, "flat (!)")
    assert (cells[4] == cells[6] == "-") == (not stored)
    assert named[0].startswith("| 3 |") or stored  # below all that have an AUC
    visualize.main(["pair", "sound_small", "flat_small", "--results-dir", str(tmp_path)])
    assert "WARNING: flat_small: " in capsys.readouterr().out


def test_pages_of_comparisons_are_linked(tmp_path):
    make_run(tmp_path, "one")
    (tmp_path / "family").mkdir()
    (tmp_path / "family" / "README.md").write_text("# The family")
    (tmp_path / "one" / "README.md").write_text("# An ensemble's own page")
    pages = overview.write_report(tmp_path)
    assert pages[2] == tmp_path / "studies" / "README.md"
    text = pages[2].read_text(encoding="utf-8")
    assert "- [The family](../family/README.md)" in text
    assert "one/README.md" not in text
    assert "(studies/README.md)" in pages[0].read_text(encoding="utf-8")


@pytest.mark.parametrize("skill, reached", [(0.1, "no"), (9.0, "yes")])
def test_goal_is_about_val(tmp_path, skill, reached):
    make_run(tmp_path, "one_small", skill)
    assert row_of(page_of(tmp_path), "one")[3] == reached


PHANTOM = {"source": f"{phantom.PHANTOM_MARK} (28 px)", "sha256": "ef" * 32, "phantom": True}


def test_runs_on_different_data_never_share_a_table_and_phantoms_have_their_own_page(tmp_path):
    make_run(tmp_path, "a_small")
    make_run(tmp_path, "b_other", data={"source": "other.npz", "sha256": "cd" * 32})
    before = page_of(tmp_path)
    make_run(tmp_path / "phantom", "c", data=PHANTOM)
    for name, noise in (("d", 0), ("e", 1)):  # phantoms that were named as a file
        source = {"source": f"{phantom.PHANTOM_MARK} (x.npz)", "sha256": "12" * 32}
        make_run(tmp_path, name, noise=noise, data=PHANTOM | source)
    (tmp_path / "family").mkdir()
    (tmp_path / "family" / "README.md").write_text(f"# Family\n\n{phantom.PHANTOM_MARK}\n")
    files = {path.name for path in tmp_path.iterdir()}
    front, xrays, phantom_front, phantoms, studies = overview.write_report(tmp_path)
    assert front == tmp_path / "README.md" and xrays == tmp_path / "details.md"
    assert phantom_front == tmp_path / "phantom" / "README.md"
    page = xrays.read_text(encoding="utf-8")
    assert page == before  # whatever is tried on phantoms
    assert {path.name for path in tmp_path.iterdir()} == files
    positions = [page.index(f"[{name}]({link}") for name, link in (("b", "b_other"), ("a", "a_sm"))]
    headings = [page.index(text) for text in ("## other.npz", "## small.npz")]
    assert headings[0] < positions[0] < headings[1] < positions[1]
    text = front.read_text(encoding="utf-8")
    assert ("a_small" in text) != ("b_other" in text)  # it is about one kind of images
    assert "Runs on other images: " in text
    for path in (phantom_front, phantoms):
        page = path.read_text(encoding="utf-8")
        assert page.count("**PHANTOM DATA, not ChestMNIST.**") == 1 and "a_small" not in page
        links = [link for link in re.findall(r"\]\(([^)]+)\)", page) if not link.startswith("http")]
        assert links
        for link in links:
            assert (path.parent / link).exists(), link
    assert all(f"[{name}](" in page for name in "cde") and {"c/", "../d/"} <= set(links)
    assert studies.parent == tmp_path / "phantom" / "studies"
    assert "- [Family](../../family/README.md)" in studies.read_text(encoding="utf-8")
    assert "90 %" not in phantom_front.read_text(encoding="utf-8").replace("95 %", "")


def test_without_xrays_the_page_is_the_phantoms(tmp_path):
    make_run(tmp_path / "phantom", "c", data=PHANTOM)
    pages = overview.write_report(tmp_path)
    assert pages == [tmp_path / "README.md", tmp_path / "details.md"]
    for page, link in zip(pages, ("[TinyNet](phantom/c/)", "[c](phantom/c/)"), strict=True):
        text = page.read_text(encoding="utf-8")
        assert text.index("**PHANTOM DATA, not ChestMNIST.**") < text.index(link)


def test_files_of_one_name_with_other_content_are_other_data(tmp_path):
    for number, sha256 in enumerate(("ab" * 32, "cd" * 32)):
        for kind in "xy":
            make_run(tmp_path, f"{kind}{number}_small", noise=number, data={"sha256": sha256})
    page = page_of(tmp_path)
    assert page.count("\n## small.npz") == 2
    assert {p.name for p in tmp_path.glob("*.png")} == {
        "experiments.png",
        "comparison_small_ababab.png",
        "comparison_small_cdcdcd.png",
    }


def test_looks_at_test_are_counted_by_network_over_recipes_members_stages_and_sizes(tmp_path):
    write_names(tmp_path)
    write_names(tmp_path, "large")  # of the same X-rays
    make_run(tmp_path, "a_small", seed=1)
    make_run(tmp_path, "c_small", seed=3, noise=2, test=False)
    stages = {"stage2": {"val": {}, "test": {}}, "threshold": {"val": {}, "test": {}}}
    slower = {"name": "tiny", "epochs": 4, "lr": 0.02, "seed": 1}
    make_run(tmp_path, "d_small", recipe=slower, ladder=stages)
    make_run(tmp_path, "e_small", members=[{}] * 2, kind="2 seeds")
    make_run(tmp_path, "e_small/seed1")
    make_run(tmp_path, "e_small/seed2", test=False)
    make_run(tmp_path, "f_large", data={"source": "large.npz", "sha256": "cd" * 32})
    make_run(tmp_path, "g_small", model="OtherNet")
    blend = {"model": "OtherNet + TinyNet", "kind": "2 runs", "blend": ["a", "g"]}
    make_run(tmp_path, "h_small", members=[{}] * 2, **blend)
    make_run(tmp_path, "i_other", data={"source": "other.npz", "sha256": "ef" * 32})
    page = page_of(tmp_path)
    looks = {name: row_of(page, name)[-1] for name in "acdefghi"}
    assert looks == {**dict.fromkeys("acdef", "7"), "g": "2", "h": "8", "i": "1"}
    assert row_of(page, "c")[5:7] == ["-", "-"]
    assert "average of 2 seeds" in row_of(page, "e")[1]
    rows = [line for line in page.splitlines() if line.startswith("| TinyNet | report | 6 ")]
    assert len(rows) == 2 and rows[0] == rows[1]  # of small.npz and large.npz
    assert "2: changed after a look" in rows[0] and rows[0].endswith("| 6 |")  # reconstructed

    look = Look("a_small", "run", "TinyNet", "report", "", "ab" * 32, "", "first")
    (image_set,) = {look.images for look in all_looks(tmp_path) if look.run == "a_small"}
    for evaluation in ("first", "second"):  # in the place of the reconstructed one
        record(
            tmp_path / "test_looks.csv",
            dataclasses.replace(look, images=image_set, evaluation=evaluation),
        )
    assert row_of(page_of(tmp_path), "a")[-1] == row_of(page_of(tmp_path, "id"), "f")[-1] == "8"


def test_looks_at_one_recipe_share_a_row_that_tells_its_changes(tmp_path):
    make_run(tmp_path, "older_small")  # whose version stored no changes
    make_run(tmp_path, "newer_small", recipe_changes={"lr": 0.01}, noise=1)
    other = {"name": "tiny", "epochs": 4, "lr": 0.02, "seed": 1}
    make_run(tmp_path, "other_small", recipe=other, noise=2)
    make_run(tmp_path, "net_small", model="OtherNet", noise=3)
    page = page_of(tmp_path)
    rows = re.findall(r"^\| (TinyNet|OtherNet) \| (.*?) \| (\d+) \| single", page, re.MULTILINE)
    assert rows == [
        ("OtherNet", "report", "1"),
        ("TinyNet", "report", "1"),
        ("TinyNet", "report, lr 0.01", "2"),
    ]


def test_a_line_of_an_older_version_is_of_the_network_that_its_run_tells(tmp_path):
    arch = {"arch": "timm/resnet18"}
    make_run(tmp_path, "a_small", model="TimmChest", model_arguments=arch, recipe={})
    (stored,) = all_looks(tmp_path)
    assert stored.network == "timm/resnet18"
    record(tmp_path / "test_looks.csv", dataclasses.replace(stored, network="TimmChest", note=""))
    (look,) = all_looks(tmp_path)
    assert (look.network, look.note) == ("timm/resnet18", "")
    assert "TimmChest" not in page_of(tmp_path)


def test_looks_at_other_test_images_of_a_file_are_told(tmp_path):
    make_run(tmp_path, "a_small")
    (stored,) = all_looks(tmp_path)
    assert "more looks" not in page_of(tmp_path)
    others = ("run", "all 14"), ("run", "all of them"), ("fresh folds", "train+val")
    for kind, images in others:
        other = {"run": f"b {images}", "kind": kind, "images": images, "network": "OtherNet"}
        record(tmp_path / "test_looks.csv", dataclasses.replace(stored, **other))
    assert "\n2 more looks are at other sets" in page_of(tmp_path)


def test_hyperparameter_that_an_older_run_lacks_is_off(tmp_path):
    from chestlab.training.recipe import Recipe, as_dict

    make_run(tmp_path, "old_small")
    recipe = as_dict(Recipe(name="tiny", epochs=4, lr=0.01, seed=7))
    make_run(tmp_path, "new_small", recipe=recipe)
    first, second = stored_runs.read_runs(tmp_path)
    assert first.recipe_key == second.recipe_key
    assert len({look.recipe for look in all_looks(tmp_path)}) == 1


@pytest.mark.parametrize(("low", "above"), [(0.0021, True), (0.0019, False), (-0.1, False)])
def test_what_another_seed_of_the_bootstrap_could_turn_is_not_above_zero(low, above):
    gain = {"auc": 0.05, "auc_ci95": [low, 0.1], "auc_ci95_error": 0.001}
    assert pairs.clearly_above(gain, "auc") == above


@pytest.mark.parametrize(
    ("ends", "mark"),
    [((0.0021, 0.1), ""), ((0.0019, 0.1), " ~"), ((-0.1, -0.002), " ~"), ((-0.1, 0.1), "")],
)
def test_an_interval_that_another_seed_could_turn_is_marked(tmp_path, monkeypatch, ends, mark):
    error = {"auc_ci95_error": 0.001, "accuracy_ci95_error": 0.0}
    gain = {"auc": 0.05, "auc_ci95": ends, "accuracy": 0.0, "accuracy_ci95": (0.0, 0.0)} | error
    monkeypatch.setattr(pairs, "difference", lambda *_: gain)
    make_run(tmp_path, "one_small")
    make_run(tmp_path, "two_small")
    shown = pairs.describe_pair(tmp_path, "one_small", "two_small").splitlines()
    low, high = ends
    area = f"AUC +0.050 ({low:+.3f} to {high:+.3f}){mark}"
    assert shown[1] == f"accuracy +0.0 (+0.0 to +0.0) points, {area}"
    assert shown[-1].startswith("~: another seed") == bool(mark)


def test_only_a_supported_best_is_bold(tmp_path):
    make_run(tmp_path, "good_small", skill=4)
    make_run(tmp_path, "poor_small", skill=0, noise=1)
    page = page_of(tmp_path)
    assert [row_of(page, "good")[k].startswith("**") for k in (5, 6)] == [True, True]
    assert not any(cell.startswith("**") for cell in row_of(page, "poor"))
    make_run(tmp_path, "twin_small", skill=4, seed=2)
    page = page_of(tmp_path)
    assert not any(
        cell.startswith("**") for name in ("good", "twin") for cell in row_of(page, name)
    )
    assert "not bold because the interval" in page


def test_rows_are_in_the_order_of_val_with_baselines_below(tmp_path):
    make_run(tmp_path, "low_small", skill=0.3)
    make_run(tmp_path, "high_small", skill=3)
    make_run(tmp_path, "svm_small", skill=9, yardstick=True, recipe={"name": "hog_rbf_svm"})
    page = page_of(tmp_path)
    assert [row_of(page, name)[0] for name in ("high", "low", "svm")] == ["1", "2", "3"]
    assert "HOG + RBF SVM" in row_of(page, "svm")[1] and "seed" not in row_of(page, "svm")[1]
    assert "No baselines yet" not in page


def test_patients_come_from_a_list_of_names_that_fits(tmp_path):
    make_run(tmp_path, "a_small")
    make_run(tmp_path, "b_small", noise=1)
    run = stored_runs.read_runs(tmp_path)[0]
    assert stored_runs.read_patients(tmp_path, run, "test") is None
    assert "paired bootstrap that resamples images" in page_of(tmp_path)
    write_names(tmp_path)
    patients = stored_runs.read_patients(tmp_path, run, "test")
    assert patients.tolist() == [name[:8] for name in split_images("test")[2]]
    page = page_of(tmp_path)
    assert "paired bootstrap that resamples patients" in page
    assert "The 52 test images are of 26 patients, who tell as much as 26 with" in page
    path = tmp_path / "small_names.csv"
    listed = path.read_text()
    lines = listed.splitlines()
    rows = [f"{line},of_{line.split(',')[1]}" for line in lines[1:]]
    path.write_text("\n".join([f"{lines[0]},patient", *rows]))  # a column of its own wins
    patients = stored_runs.read_patients(tmp_path, run, "test")
    assert patients.tolist() == [f"of_{index}" for index in split_images("test")[0].tolist()]
    path.write_text("\n".join([f"{lines[0]},patient", *rows[:-1], f"{lines[-1]},"]))
    assert stored_runs.read_patients(tmp_path, run, "test") is None
    for sha256, known in ((run.metrics["data"]["sha256"][:12], True), ("0123456789ab", False)):
        told = [f"{line},{sha256}" for line in lines[1:]]  # of another file of that name, too
        path.write_text("\n".join([f"{lines[0]},sha256", *told]))
        assert (stored_runs.read_patients(tmp_path, run, "test") is not None) == known
    path.write_text(listed.replace("_000.png", ".png", 1))  # one name is none of NIH's
    assert stored_runs.read_patients(tmp_path, run, "test") is None
    path.write_text(listed.replace(",1\n", ",0\n"))  # a list of other labels
    assert stored_runs.read_patients(tmp_path, run, "test") is None


def test_pairs_count_what_only_one_has_right(tmp_path):
    make_run(tmp_path, "a_small", skill=2)
    make_run(tmp_path, "b_small", skill=0.5, noise=1)
    one, other = stored_runs.read_runs(tmp_path)
    page = page_of(tmp_path)
    line = next(line for line in page.splitlines() if line.startswith("| 1 a |"))
    cells = [cell.strip() for cell in line.strip("| ").split("|")]
    only = (one.correct("test") & ~other.correct("test")).sum()
    assert cells[4] == str(only)
    gain = 100 * (one.metrics["test"]["accuracy"] - other.metrics["test"]["accuracy"])
    assert cells[2].startswith(f"{gain:+.1f} (")
    text = pairs.describe_pair(tmp_path, "a_small", "b_small")
    assert f"only the first right {only}," in text and "resample images" in text


def test_many_runs_are_compared_with_two_references(tmp_path):
    for number in range(7):
        make_run(tmp_path, f"net{number}_small", skill=number / 3, noise=number)
    make_run(tmp_path, "svm_small", yardstick=True, recipe={"name": "hog_rbf_svm"})
    page = page_of(tmp_path)
    assert "The 13 pairs" in page
    assert "Each run against net6, svm" in page


def make_run_of_classes(results_dir, name, classes, noise):
    """A run on a file whose labels were named with ``--classes``, in one order or the other."""
    metrics = make_run(results_dir, name, noise=noise, data={"classes": list(classes)})
    if classes == splits.CLASS_NAMES:
        return
    folder = results_dir / name
    for split in ("val", "test"):
        path = folder / f"{split}_probabilities.csv"
        with path.open(newline="") as file:
            rows = np.array(
                [[float(cell) for cell in row.values()] for row in csv.DictReader(file)]
            )
        index, labels = rows[:, :2].astype(int).T
        write_table(path, index, 1 - labels, 1 - rows[:, 2])
    metrics["threshold"] = 1 - metrics["threshold"]
    (folder / "metrics.json").write_text(json.dumps(metrics))


def test_runs_on_a_file_that_was_read_with_opposite_classes_never_share_a_table(tmp_path):
    for number, name in enumerate(("a_small", "b_small", "c_small", "d_small")):
        order = splits.CLASS_NAMES[:: 1 - 2 * (number % 2)]
        make_run_of_classes(tmp_path, name, order, number)
    page = page_of(tmp_path)
    for order in ("cardiomegaly, pneumothorax", "pneumothorax, cardiomegaly"):
        assert f"small.npz (SHA-256 ababab, {order})" in page
    for order in ("cardiomegaly_pneumothorax", "pneumothorax_cardiomegaly"):
        assert (tmp_path / f"comparison_small_ababab_{order}.png").exists()
    assert "small.npz (2)" in front_of(tmp_path)
    runs = {run.name: run for run in stored_runs.read_runs(tmp_path)}
    assert runs["a_small"].recipe_key == runs["c_small"].recipe_key != runs["b_small"].recipe_key


def cross_validated(results_dir, skills, report="old_small"):
    """Runs with out-of-fold predictions, of one recipe ``report``; AUCs of their folds by name."""
    index, labels, _ = split_images("train")
    split = splits.Split(np.empty((100, 0, 0), np.uint8), labels, index)
    folds = [rows for _, rows in fold_rows(split, 4)]
    aucs = {}
    for name, skill in skills.items():
        changes = {"yardstick": True} if name.startswith("svm") else {}
        recipe = "report" if name == report else "best"
        make_run(results_dir, name, recipe={"name": name}, recipe_name=recipe, **changes)
        logits = skill * (2 * labels - 1) + np.random.default_rng(0).normal(size=100)
        for number, rows in enumerate(folds):
            logits[rows] += 2 * number  # of another network, on a scale of its own
        probabilities = 1 / (1 + np.exp(-logits))
        rows = np.concatenate(folds)
        path = results_dir / name / "oof_probabilities.csv"
        write_table(path, index[rows], labels[rows], probabilities[rows])
        aucs[name] = [roc_auc(labels[rows], probabilities[rows]) for rows in folds]
        metrics = json.loads((results_dir / name / "metrics.json").read_text())
        metrics["oof"] = evaluate_probabilities(labels, probabilities, 0.5)
        metrics["cross_validation"] = {"fold_aucs": aucs[name]}
        (results_dir / name / "metrics.json").write_text(json.dumps(metrics))
    return aucs


def cross_validation_of(page):
    section = page.split("what is divided")[1].split("####")[0]
    lines = (line.strip("| ").split(" | ") for line in section.splitlines())
    return [line for line in lines if line[1:3] == ["train", "100"]]


def test_cross_validation_is_set_against_the_best_baseline_and_the_reports_recipe(tmp_path):
    aucs = cross_validated(tmp_path, {"net_small": 2, "old_small": 1, "svm_small": 0.2})
    page = page_of(tmp_path)
    assert "AUC minus that of svm" in page
    lines = cross_validation_of(page)
    (net, *_, over_svm, over_report), (old, *_, old_over_svm, old_over_itself), svm = lines
    assert [name.split()[1] for name in (net, old, svm[0])] == ["net", "old", "svm"]
    areas = [float(line[3].split()[0]) for line in lines]
    assert areas == pytest.approx([np.mean(of_run) for of_run in aucs.values()], abs=6e-4)
    pooled = json.loads((tmp_path / "net_small/metrics.json").read_text())["oof"]["auc"]
    assert pooled < areas[0] - 0.1  # the scales of the folds differ
    gain, low = (float(text) for text in re.match(r"(\S+) \((\S+) to", over_report).groups())
    assert gain == pytest.approx(areas[0] - areas[1], abs=2e-3) and 0 < low < gain
    assert float(over_svm.split()[0]) == pytest.approx(areas[0] - areas[2], abs=2e-3)
    assert float(old_over_svm.split()[0]) == pytest.approx(areas[1] - areas[2], abs=2e-3)
    assert old_over_itself == "-" and svm[4:] == ["-", "-"]


@pytest.mark.parametrize(
    "other",
    [
        {"model_arguments": {"arch": "resnet18"}},
        {"starting_weights": {"source": "imagenet"}},
    ],
)
def test_a_gain_over_the_reports_recipe_is_of_the_same_architecture_and_start(tmp_path, other):
    cross_validated(tmp_path, {"net_small": 2, "old_small": 1})
    path = tmp_path / "old_small/metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | other))
    assert all(len(line) == 4 for line in cross_validation_of(page_of(tmp_path)))
    path = tmp_path / "net_small/metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | other))
    net, _ = cross_validation_of(page_of(tmp_path))
    assert float(net[4].split()[0]) > 0


def test_cross_validation_shows_no_empty_column_and_no_interval_of_unknown_folds(tmp_path):
    aucs = cross_validated(tmp_path, {"net_small": 2, "svm_small": 0.2}, report="")
    assert "recipe report" not in page_of(tmp_path).split("what is divided")[1].split("\n")[0]
    assert all(len(line) == 5 for line in cross_validation_of(page_of(tmp_path)))
    path = tmp_path / "net_small" / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["cross_validation"]["fold_aucs"] = [0.5, 0.6, 0.7, 0.6]  # of other folds
    path.write_text(json.dumps(metrics))
    svm, net = sorted(cross_validation_of(page_of(tmp_path)), key=lambda line: "net" in line[0])
    assert net[3:] == ["0.600"] and svm[3].startswith(f"{np.mean(aucs['svm_small']):.3f} (")


def test_indonesian_page_has_its_own_file_and_decimal_comma(tmp_path):
    metrics = make_run(tmp_path, "one_small")
    make_run(tmp_path, "two_small", noise=1)
    page = page_of(tmp_path, "id")
    assert (tmp_path / "details.id.md").exists() and not (tmp_path / "details.md").exists()
    assert f"{100 * metrics['test']['accuracy']:.1f} %".replace(".", ",") in page
    assert "12.345" in page and page.startswith("# Semua percobaan")
    front = front_of(tmp_path, "id")
    assert front.startswith("# Hasil") and "![Angka tabel sebagai titik" in front
    assert f"{100 * metrics['test']['accuracy']:.1f} %".replace(".", ",") in front
    assert "[Bahasa Indonesia](README.id.md)" in front_of(tmp_path)
    assert "[Bahasa Indonesia](details.id.md)" in page_of(tmp_path)


def test_messages_have_the_same_values_in_every_language():
    for key, texts_of in MESSAGES.items():
        english, indonesian = (
            {field for _, field, _, _ in string.Formatter().parse(text) if field is not None}
            for text in texts_of
        )
        assert english == indonesian, key


@pytest.mark.parametrize("language", ["en", "id"])
def test_every_link_leads_to_a_file_and_pictures_are_small(tmp_path, language):
    make_run(tmp_path, "one_small")
    make_run(tmp_path, "two_small", noise=1)
    write_names(tmp_path)
    page = page_of(tmp_path, language) + front_of(tmp_path, language)
    links = [link for link in re.findall(r"\]\(([^)]+)\)", page) if not link.startswith("http")]
    assert "comparison_small.png" in links and "one_small/metrics.json" in links
    for link in links:
        assert (tmp_path / link).exists(), link
        if link.endswith(".png"):
            assert (tmp_path / link).stat().st_size < 300_000
            assert Image.open(tmp_path / link).format == "PNG"


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "metrics.json").write_text("{"),
        lambda folder: (folder / "metrics.json").write_text("[]"),
        lambda folder: (folder / "val_probabilities.csv").unlink(),
        lambda folder: (folder / "test_probabilities.csv").write_text("index,label,probability\n"),
        lambda folder: (folder / "test_probabilities.csv").write_text(
            re.sub(
                r"[\d.]+(e-\d+)?$",
                "0.5",
                (folder / "test_probabilities.csv").read_text(),
                flags=re.MULTILINE,
            )
        ),
    ],
    ids=["no json", "a list", "no table", "empty table", "other probabilities"],
)
def test_damaged_run_is_named_and_left_out(tmp_path, damage, capsys):
    make_run(tmp_path, "sound_small")
    make_run(tmp_path, "broken_small", noise=1)
    damage(tmp_path / "broken_small")
    assert [run.name for run in stored_runs.read_runs(tmp_path)] == ["sound_small"]
    assert "broken_small" in capsys.readouterr().err


def test_unfinished_run_is_not_reported(tmp_path):
    make_run(tmp_path, "a_small")
    make_run(tmp_path, "a_small.unfinished")
    assert [run.name for run in stored_runs.read_runs(tmp_path)] == ["a_small"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--lang", "fr"],
        ["pair", "a", "b"],
        ["mistakes", "--data", "no.npz", "--run", "a"],
        ["names", "--data", "no.npz"],
        ["--results-dir"],
        ["nonsense"],
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        visualize.main(arguments)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_flag_of_another_command_is_told_with_the_commands_that_take_it(capsys):
    for arguments, told in (
        (["--data", "x.npz"], "--data is no flag of readme, but of report, mistakes, names, augm"),
        (["pair", "a", "b", "--lang=id"], "--lang is no flag of pair, but of readme: python"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ):
        with pytest.raises(SystemExit) as ended:
            visualize.main(arguments)
        error = capsys.readouterr().err
        assert ended.value.code == 2 and error.count("\n") == 1 and told in error


def test_pair_refuses_what_cannot_be_compared(tmp_path):
    make_run(tmp_path, "a_small")
    make_run(tmp_path, "b_small", test=False)
    make_run(tmp_path, "c_other", data={"source": "other.npz", "sha256": "cd" * 32})
    for other, reason in (
        ("b_small", "not evaluated"),
        ("c_other", "different data"),
        ("d", "no finished run 'd'"),
    ):
        with pytest.raises(InputError, match=reason):
            pairs.describe_pair(tmp_path, "a_small", other)


def test_an_unknown_run_is_told_in_a_short_line_with_the_closest_name(tmp_path):
    names = [f"{net}chestnet_best_chestmnist_nih_subset_28" for net in ("efficient", "residual")]
    for number, name in enumerate([*names, *(f"other_run_{k}" for k in range(30))]):
        make_run(tmp_path, name, seed=number)
    runs = stored_runs.read_runs(tmp_path)
    for asked, close in (
        ("efficientchestnet_bst", f"did you mean '{names[0]}'?"),
        ("residual", f"did you mean '{names[1]}'?"),
        ("x" * 5000, "no finished run 'xxxxx"),
        ("", "no finished run ''"),
    ):
        with pytest.raises(InputError) as refused:
            stored_runs.find_run(runs, asked)
        message = f"error: {refused.value}"
        assert close in message and "python visualize.py" in message
        assert len(message) < 200 and len(message.splitlines()) == 1


def test_a_run_is_found_by_its_name_and_by_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "results", "z")
    make_run(tmp_path / "results" / "phantom", "z", data=PHANTOM)
    runs = stored_runs.read_runs(tmp_path / "results")
    for name in ("z", "results/z/", "./results/z", str(tmp_path / "results" / "z")):
        assert not stored_runs.find_run(runs, name).phantom
    assert stored_runs.find_run(runs, "phantom/z").phantom


@pytest.fixture(scope="module")
def trained(tmp_path_factory, phantom_npz):
    """A results folder with one small run on a phantom file."""
    folder = tmp_path_factory.mktemp("trained")
    ended = run_in_process(
        TINY, "--data", phantom_npz, "--epochs", 1, "--device", "cpu", "--name", "one", cwd=folder
    )
    assert ended.returncode == 0, ended.stderr
    return folder / "results"


def test_training_leaves_its_calibration_and_the_page_shows_it(trained):
    assert (trained / "one" / "calibration.png").exists()
    page = page_of(trained)
    assert "(one/calibration.png)" in page and "(one/training_curves.png)" in page
    assert page.index("**PHANTOM DATA, not ChestMNIST.**") < page.index("](one/)")


def test_mistakes_are_the_errors_farthest_from_the_threshold_first(trained, phantom_npz):
    data = sources.load(str(phantom_npz))
    (path,) = mistakes.write_mistakes(data, stored_runs.read_runs(trained))
    looks = read_looks(trained / "phantom" / "test_looks.csv")
    assert not (trained / "test_looks.csv").exists()
    assert [(look.run, look.kind) for look in looks] == [("one", "run"), ("one", "mistakes")]
    assert (path.parent / "mistakes.png").stat().st_size < 300_000
    text = path.read_text(encoding="utf-8")
    assert "Look at the test images only after the recipe is final." in text
    (run,) = stored_runs.read_runs(trained)
    for split in ("val", "test"):
        predictions, correct = run.predictions[split], run.correct(split)
        section = text.split(f"## {SPLIT_TITLES[split].capitalize()}")[1]
        assert section.startswith(f": {(~correct).sum()} of {len(correct)} wrong")
        errors, uncertain = re.findall(r"### [^\n]* threshold\n\n((?:\|[^\n]*\n?)+)", section)[:2]
        listed = [int(line.split("|")[1]) for line in errors.splitlines()[2:]]
        away = np.abs(predictions.probabilities - run.metrics["threshold"])
        wrong = np.flatnonzero(~correct)
        expected = wrong[np.argsort(-away[wrong], kind="stable")][: mistakes.LISTED]
        assert listed == predictions.index[expected].tolist()
        shown = [line.split("|")[4].split() for line in errors.splitlines()[2:]]
        for (probability, relation, threshold), row in zip(shown, expected, strict=True):
            assert float(probability) == pytest.approx(predictions.probabilities[row], abs=1e-3)
            assert (float(probability) >= float(threshold)) == (relation == "≥")
            assert (relation == "≥") == (predictions.labels[row] == 0)
        nearest = int(uncertain.splitlines()[2].split("|")[1])
        assert nearest == predictions.index[np.argmin(away)]
    assert "(one/mistakes.md)" in page_of(trained)


def test_mistakes_of_other_data_are_refused(trained, phantom_npz):
    other = dataclasses.replace(sources.load(str(phantom_npz)), sha256="0" * 64)
    with pytest.raises(InputError, match="'one' was not made from"):
        mistakes.write_mistakes(other, stored_runs.read_runs(trained))


def test_mistakes_take_the_images_of_each_run(trained, phantom_npz, tmp_path, monkeypatch, capsys):
    """From another folder, and beside a run whose images are not there."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    make_run(folder, "elsewhere", data={"source": "absent.npz"})
    (folder / "one" / "mistakes.md").unlink(missing_ok=True)
    models = str(trained.parent / "trained_models")
    where = ["--results-dir", str(folder), "--models-dir", models]
    visualize.main(["mistakes", *where])
    told = capsys.readouterr()
    assert told.out.splitlines() == [str(folder / "one" / "mistakes.md")]
    assert "'elsewhere' left out: it was trained on 'absent.npz'" in told.err
    assert told.err.count("\n") == 1 and "training on" not in told.err
    for wrong, reason in (("elsewhere", "which is not here"), ("on", "did you mean 'one'?")):
        with pytest.raises(SystemExit) as ended:
            visualize.main(["mistakes", "--run", wrong, *where])
        error = capsys.readouterr().err
        assert ended.value.code == 2 and reason in error and error.count("\n") == 1
    with pytest.raises(SystemExit):
        visualize.main(["names", *where])
    assert "file names" in capsys.readouterr().err


def test_a_file_with_one_label_per_image_is_read_with_the_classes_of_the_runs_on_it(tmp_path):
    labels = np.array([[0], [1], [1]], np.uint8)
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    images = {s: images + k for k, s in enumerate(splits.SPLITS)}
    arrays = {f"{s}_images": images[s] for s in images} | {f"{s}_labels": labels for s in images}
    np.savez(tmp_path / "own.npz", **arrays)
    options = SimpleNamespace(data=str(tmp_path / "own.npz"), root=None, source_size=None)
    told = {"source": "own.npz", "classes": list(splits.CLASS_NAMES)}
    runs = [SimpleNamespace(metrics={"data": data}) for data in (told, {"source": "official.npz"})]
    data = visualize._load(options, runs)
    assert data.classes == splits.CLASS_NAMES and data.train.labels.tolist() == [0, 1, 1]
    told["classes"].reverse()
    assert visualize._load(options, runs).train.labels.tolist() == [1, 0, 0]
    told["source"] = "renamed.npz"
    assert visualize._load(options, runs[:1]).train.labels.tolist() == [1, 0, 0]


def test_new_run_of_the_name_takes_the_mistakes_of_the_old_one_away(trained):
    from chestlab.files.run_files import RunFiles

    files = RunFiles(trained, trained, "one")
    assert {trained / "one" / name for name in ("mistakes.md", "mistakes.png")} <= set(files.paths)
    assert files.paths[-1] == files.metrics


def test_names_of_the_real_subset(real_npz, tmp_path):
    data = sources.load(str(real_npz))
    path = stored_runs.write_names(data, tmp_path)
    assert path.name == "chestmnist_nih_subset_28_names.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 605 and {row["sha256"] for row in rows} == {data.sha256[:12]}
    for split in splits.SPLITS:
        part = getattr(data, split)
        mine = [row for row in rows if row["split"] == split]
        assert [int(row["index"]) for row in mine] == part.index.tolist()
        assert [row["name"] for row in mine] == part.names.tolist()
        assert [int(row["label"]) for row in mine] == part.labels.tolist()
        assert [row["patient"] for row in mine] == [name[:8] for name in part.names.tolist()]


def test_source_without_names_is_refused(phantom_npz, tmp_path):
    with pytest.raises(InputError, match="holds no names"):
        stored_runs.write_names(sources.load(str(phantom_npz)), tmp_path / "new")
    assert not (tmp_path / "new").exists()
