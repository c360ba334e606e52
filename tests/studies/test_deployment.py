"""Networks outside of PyTorch: pruned, quantised, timed, and evaluated on the fresh folds."""

import csv
import json

import numpy as np
import pytest
import torch
from comparisons import TinyChest, tiny_networks  # noqa: F401 (a fixture)
from conftest import require_exporter
from sklearn.metrics import roc_auc_score

from chestlab.data.folds import FRESH_FOLDS_SEED
from chestlab.evaluation import out_of_fold
from chestlab.evaluation.looks import FILE_NAME, read_looks
from chestlab.evaluation.metrics import sigmoid
from chestlab.evaluation.out_of_fold import OutOfFold
from chestlab.training import onnx_model, pruning
from model import EfficientChestNet
from model_improved import ResidualChestNet
from studies import deployment, deployment_costs, deployment_networks, deployment_page
from studies.deployment_costs import Turns
from studies.deployment_networks import Deployed, DeployedFold
from studies.frozen_recipes import LOOK_KIND

FILES = ["first_fp32", "first_int8", "first_pruned50", "first_pruned50_int8"]

CHANGE = 0.3  # of a logit by 8-bit integers, in the files of these tests


@pytest.fixture
def settings(tiny_networks, tmp_path, monkeypatch):  # noqa: F811
    """Two tiny networks, one of them pruned, and short measurements."""
    pytest.importorskip("torch_pruning")
    pytest.importorskip("onnxruntime")
    require_exporter()
    monkeypatch.chdir(tmp_path)
    networks = (
        Deployed("first", "resnet34", "report", pruned=True),
        Deployed("second", "plain34", "report", {"normalize": "per-image"}),
    )
    monkeypatch.setattr(deployment, "DEPLOYED", networks)
    monkeypatch.setattr(deployment_networks, "SHARES", {"pruned50": 0.5})
    monkeypatch.setattr(pruning, "ROUND_TO", 4)  # these networks have 8 channels
    monkeypatch.setattr(out_of_fold, "BOOTSTRAP_RESAMPLES", 200)
    for name, value in {"ROUNDS": 2, "FEW_ROUNDS": 2, "TURN": 0, "PAUSE": 0, "ATTEMPTS": 1}.items():
        monkeypatch.setattr(deployment_costs, name, value)
    monkeypatch.setattr(deployment_costs, "LONGEST_WAIT", 0)
    monkeypatch.setattr(deployment_costs, "THREADS", (1,))
    monkeypatch.setattr(deployment_page, "THREADS", (1,))


@pytest.fixture
def files_in_pytorch(monkeypatch):
    """Files that PyTorch runs: exporting takes seconds each. int8 adds noise to the logits."""
    from onnx import helper

    made = []

    def file(self, trained, precision):
        graph = helper.make_graph([], "none", [], [])
        model = helper.make_model(graph)
        texts = {"number": str(len(made))}
        if precision == "int8":
            changes = {"minmax": 0.02, "entropy": 0.01}
            about = {"calibration": "entropy", "mean_change_on_training": changes}
            about |= {"largest_change_on_training": 0.04, "layers": 3, "in_float": ["stem"]}
            texts["int8"] = json.dumps(about)
        onnx_model.set_metadata(model, texts)
        made.append((trained, precision))
        return model

    def run_model(content, threads=None):
        import onnx

        [number] = (
            e.value for e in onnx.load_from_string(content).metadata_props if e.key == "number"
        )
        trained, precision = made[int(number)]
        noise = np.random.default_rng(1).normal(size=1000) * CHANGE * (precision == "int8")

        def run(pictures):
            p = trained.probabilities(pictures[:, 0])
            return [sigmoid(np.log(p / (1 - p)) + noise[: len(p)]).astype(np.float32)]

        return run

    monkeypatch.setattr(DeployedFold, "file", file)
    monkeypatch.setattr(onnx_model, "run_model", run_model)
    return made


@pytest.fixture
def no_picture(monkeypatch):
    monkeypatch.setattr(deployment_page, "_draw", lambda *arguments: None)


@pytest.fixture
def command(settings, phantom_npz, tmp_path):
    def run(*flags):
        flags = ["--folds", "2", "--device", "cpu", "--name", "a", *flags]
        deployment.main(["--data", str(phantom_npz), *flags])
        return tmp_path / "results" / "studies" / "a"

    return run


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_figures_recompute_from_the_logits_and_are_those_of_the_fresh_folds(
    command, files_in_pytorch, trainings, no_picture
):
    folder = command("--only", "first")
    summary = json.loads((folder / "deployment.json").read_text())
    assert summary["first_seed"] == FRESH_FOLDS_SEED and summary["repeats"] == 1
    assert list(summary["configurations"]) == FILES
    oof = OutOfFold.read(folder / "oof.csv")
    aucs = {}
    for row in rows_of(folder / "table.csv"):
        logits, folds = oof.logits[row["configuration"]][0], oof.folds[0]
        areas = [roc_auc_score(oof.labels[folds == k], logits[folds == k]) for k in (0, 1)]
        aucs[row["configuration"]] = np.mean(areas)
        assert float(row["auc"]) == pytest.approx(aucs[row["configuration"]])
        assert float(row["accuracy"]) == pytest.approx(((logits >= 0) == oof.labels).mean())
        if row["variant"] != "fp32":
            gain = aucs[row["configuration"]] - aucs["first_fp32"]
            assert float(row["auc_gain"]) == pytest.approx(gain)
    change = oof.logits["first_int8"] - oof.logits["first_fp32"]
    assert np.std(change) == pytest.approx(CHANGE, rel=0.3)
    whole, tuned = trainings[0], trainings[-1]
    assert (whole.epochs, tuned.epochs) == (2, 1) and tuned.lr == whole.lr / 2


def test_nothing_is_trained_twice_and_each_file_is_one_look(
    command, files_in_pytorch, trainings, no_picture
):
    folder = command("--only", "first")
    assert len(trainings) == 4  # of two folds, whole and pruned
    made = len(files_in_pytorch)
    for path in folder.iterdir():
        path.unlink()
    command("--only", "first")
    assert len(trainings) == 4 and len(files_in_pytorch) == made
    looks = read_looks(folder.parent.parent / "phantom" / FILE_NAME)
    assert [look.run for look in looks] == [f"a/{name}" for name in FILES]
    assert {look.kind for look in looks} == {LOOK_KIND}
    assert all(look.images.startswith("train+val ") for look in looks)


def test_a_part_that_is_made_in_another_way_is_made_again(
    command, files_in_pytorch, trainings, no_picture, tmp_path, monkeypatch
):
    command("--only", "first")
    assert len(trainings) == 4  # of two folds, whole and pruned
    for name, value in (("FINE_TUNING_RATE", 0.25), ("SHARES", {"pruned50": 0.25})):
        monkeypatch.setattr(deployment_networks, name, value)
        command("--only", "first")
    assert len(trainings) == 8 and trainings[-1].lr == trainings[0].lr / 4
    command("--costs")
    files = [path.name for path in (tmp_path / "trained_models").rglob("*.onnx")]
    of_parts = [name for name in files if name.startswith("pruned50")]
    assert len(set(of_parts)) == 4  # in two precisions, as made first and last


def test_processes_with_different_networks_add_to_the_same_results(
    command, files_in_pytorch, no_picture, monkeypatch
):
    evaluate, others = DeployedFold.evaluate, [("--only", "second")]

    def another_process_first(self, part, precision):
        if others:
            command(*others.pop())
        return evaluate(self, part, precision)

    monkeypatch.setattr(DeployedFold, "evaluate", another_process_first)
    folder = command("--only", "first")
    summary = json.loads((folder / "deployment.json").read_text())
    assert list(summary["configurations"]) == [*FILES, "second_fp32", "second_int8"]
    of_second = [row for row in summary["costs"]["rows"] if row["network"] == "second"]
    assert all(row["trained"] for row in of_second)  # as the other process measured them


def test_a_network_that_is_deployed_no_more_stays_in_the_results(
    command, files_in_pytorch, no_picture, monkeypatch
):
    folder = command("--only", "first", "second")
    monkeypatch.setattr(deployment, "DEPLOYED", deployment.DEPLOYED[:1])
    for _ in range(2):
        command("--only", "first")
    names = [row["configuration"] for row in rows_of(folder / "table.csv")]
    assert names == [*FILES, "second_fp32", "second_int8"]
    command("--costs")
    assert "| `second` | `int8` |" in (folder / "README.md").read_text()


def test_a_network_that_was_not_trained_has_costs_alone(
    command, files_in_pytorch, trainings, no_picture
):
    folder = command("--costs")
    assert not trainings and rows_of(folder / "table.csv") == []
    text = (folder / "README.md").read_text()
    assert "Not trained for this study: `first`, `second`" in text
    folder = command("--only", "second")
    assert len(trainings) == 2
    assert "Not trained for this study: `first`" in (folder / "README.md").read_text()
    costs = rows_of(folder / "costs.csv")
    assert {row["trained"] for row in costs} == {"False"}  # measured before: still those
    command("--costs")
    costs = {(row["network"], row["variant"]): row for row in rows_of(folder / "costs.csv")}
    assert costs["second", "int8"]["trained"] == "True"
    assert (
        costs["second", "int8"]["in_float"] == "1 / 3" and not costs["second", "fp32"]["in_float"]
    )
    assert len(trainings) == 2
    macs = [int(costs["first", v]["multiply_accumulates"]) for v in ("torch", "int8", "pruned50")]
    assert macs[0] == macs[1] > macs[2] > 0


def test_pages_of_both_languages_have_every_row_and_redrawing_changes_nothing(
    command, files_in_pytorch
):
    folder = command("--only", "first")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in ("README.md", "README.id.md"):
        text = before[name].decode()
        for variant in ("torch", "fp32", "int8", "pruned50", "pruned50_int8", "zeros_2_4"):
            assert f"| `first` | `{variant}` |" in text
    assert (
        "| `first` | `int8` | 0.0200 | 0.0100 | 0 : 2 | 0.040 | 1 / 3, 1 / 3 |"
        in before["README.md"].decode()
    )
    with pytest.raises(SystemExit):
        deployment.main(["--redraw", str(folder)])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_results_of_other_folds_are_not_mixed_in(command, files_in_pytorch, no_picture, capsys):
    command("--costs")
    with pytest.raises(SystemExit) as stop:
        command("--repeats", "2")
    assert stop.value.code == 2 and "move it away" in capsys.readouterr().err


def test_missing_libraries_are_named_and_nothing_is_written(
    command, phantom_npz, tmp_path, monkeypatch, capsys
):
    require_exporter()
    find = pruning.importlib.util.find_spec
    monkeypatch.setattr(
        pruning.importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "torch_pruning" else find(name, *rest),
    )
    with pytest.raises(SystemExit) as stop:
        command()
    assert stop.value.code == 2
    line = "error: torch-pruning is not installed: pip install -r requirements-deployment.txt\n"
    assert capsys.readouterr().err.endswith(line)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("network", [EfficientChestNet, ResidualChestNet])
def test_pruning_leaves_half_of_the_channels_and_the_network_as_it_was(network):
    pytest.importorskip("torch_pruning")
    torch.manual_seed(0)
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pruned = pruning.without_channels(model, torch.zeros(1, 1, 28, 28), 0.5)
    for (name, value), whole in zip(pruned.named_parameters(), model.parameters(), strict=True):
        if value.dim() == 4 and "attention" not in name and whole.shape[0] > 32:
            assert value.shape[0] == whole.shape[0] // 2, name
    assert pruned(torch.zeros(3, 1, 28, 28)).shape == (3,)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_pruning_removes_the_channels_with_the_smallest_weights():
    pytest.importorskip("torch_pruning")
    model = TinyChest()
    large = [0, 2, 3, 7]
    with torch.no_grad():
        for index in (0, 3):
            model.layers[index].weight.fill_(0.01)
            model.layers[index].weight[large] = 1.0 + torch.rand(
                4, *model.layers[index].weight.shape[1:]
            )
    kept = model.layers[0].weight[large].detach().clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pruning, "ROUND_TO", 4)
        pruned = pruning.without_channels(model, torch.zeros(1, 1, 28, 28), 0.5)
    assert torch.equal(pruned.layers[0].weight, kept)
    assert pruned.layers[8].weight.shape == (1, 4)


def test_zeros_are_the_smallest_weights():
    model = torch.nn.Sequential(torch.nn.Conv2d(8, 3, 3), torch.nn.Linear(6, 2))
    conv = model[0].weight.detach().clone()
    half = pruning.with_zeros(model, "magnitude")
    assert (half[0].weight == 0).sum() == conv.numel() // 2
    assert conv[half[0].weight == 0].abs().max() < half[0].weight[half[0].weight != 0].abs().min()
    four = pruning.with_zeros(model, "2:4")[0].weight.detach()
    for place in range(9):
        row = four[1, :, place // 3, place % 3].reshape(2, 4)
        of_all = conv[1, :, place // 3, place % 3].reshape(2, 4)
        for values, before in zip(row, of_all, strict=True):
            order = before.abs().argsort()
            assert values[order[:2]].tolist() == [0, 0]
            assert torch.equal(values[order[2:]], before[order[2:]])
    assert (pruning.with_zeros(model, "2:4")[1].weight != 0).all()  # 6 inputs are no fours
    assert torch.equal(model[0].weight, conv)


def test_the_quietest_attempt_is_kept_and_a_quiet_one_ends_the_attempts(monkeypatch):
    def attempts(*by_others):
        left = list(by_others)
        monkeypatch.setattr(deployment_costs, "in_turns", lambda *_: Turns({}, left.pop(0), None))
        return deployment_costs.least_disturbed({}, 1).by_others, len(left)

    assert attempts(0.5, 0.2, 0.3) == (0.2, 1)
    assert attempts(0.5, 0.05, 0.3) == (0.05, 1)
    assert attempts(None, 0.2) == (None, 1)
    assert [deployment_costs.busy(value) for value in (None, 0.05, 0.2)] == [None, False, True]


def test_a_busy_machine_is_measured_once_with_one_thread(monkeypatch):
    asked = []
    monkeypatch.setattr(
        deployment_costs,
        "least_disturbed",
        lambda asks, pictures, most: asked.append((pictures, most)) or Turns({}, 0.0, None),
    )
    for idle, expected in ((True, [(1, 2), (64, 2)] * 2), (False, [(1, 1), (64, 1)])):
        monkeypatch.setattr(deployment_costs, "wait_until_idle", lambda idle=idle: idle)
        asked.clear()
        deployment_costs.times({}, {}, np.zeros((64, 8, 8), np.uint8))
        assert asked == expected


def test_cores_of_others_are_what_all_used_less_ones_own(monkeypatch):
    use = deployment_costs.OthersUse()
    use.start = (10.0, 100.0, 5.0)  # seconds of the clock, of all processes, of this one
    monkeypatch.setattr(use, "_now", lambda: (12.0, 104.0, 6.0))
    assert use.cores() == pytest.approx(1.5)
    monkeypatch.setattr(use, "_now", lambda: None)
    assert use.cores() is None


def with_quartiles(name, median):
    ends = {"low": median - 0.2, "median": median, "high": median + 0.2}
    return {f"{name}_{end}_ms": ms for end, ms in ends.items()}


def test_ratios_say_what_is_faster_smaller_and_lost():
    def cost(variant, size, one, many):
        times = [with_quartiles(f"batch{n}_threads1_cpu", ms) for n, ms in ((1, one), (64, many))]
        return {"network": "n", "variant": variant, "bytes": size, **times[0], **times[1]}

    costs = [cost("torch", 90, 6.0, 2.0), cost("fp32", 100, 4.0, 1.0), cost("int8", 40, 5.0, 0.5)]
    gain = {"auc_gain": -0.001, "auc_gain_low": -0.004, "auc_gain_high": 0.002}
    predictions = [{"network": "n", "variant": "int8", **gain}]
    [row] = deployment_page.ratios(costs, predictions)
    assert row["onnx_faster_batch1"] == 1.5 and row["onnx_faster_batch64"] == 2.0
    assert row["int8_smaller"] == 2.5 and row["int8_faster_batch1"] == 0.8
    assert row["int8_faster_batch64"] == 2.0 and row["auc_loss"] == 0.001
    cells = deployment_page._expected_cells(deployment_page.Wording("en"), row)
    assert cells[1:] == [
        "1.50 yes",
        "2.00",
        "2.50 yes",
        "0.80 **no**",
        "2.00 yes",
        "-",
        "-",
        "+0.0010 (-0.0020 to +0.0040) yes",
    ]
    costs[2] = cost("int8", 40, 3.7, 0.5)  # its quartiles reach to 3.9, those of fp32 to 3.8
    cells = deployment_page._expected_cells(
        deployment_page.Wording("en"), *deployment_page.ratios(costs, predictions)
    )
    assert cells[4:6] == ["1.08 open", "2.00 yes"]


def test_two_threads_and_an_interval_around_0_are_said():
    def cost(variant, one, two):
        row = {"network": "n", "variant": variant, "bytes": 100, "zipped": 90, "trained": True}
        row |= {"input_size": 28, "multiply_accumulates": 1000}
        for batch in (1, 64):
            row |= with_quartiles(f"batch{batch}_threads1_cpu", one)
            row |= with_quartiles(f"batch{batch}_threads2", two)
        return row

    costs = [cost("torch", 8.0, 5.0), cost("fp32", 4.0, 2.0)]
    costs += [cost("int8", 2.0, 4.0), cost("zeros_2_4", 4.0, 6.0)]
    gain = {"auc_gain": -0.001, "auc_gain_low": -0.004, "auc_gain_high": 0.002}
    expected = deployment_page.ratios(costs, [{"network": "n", "variant": "int8", **gain}])
    assert expected[0]["int8_faster_batch64_threads2"] == 0.5
    assert deployment_page._slower(expected) == {batch: {"of": 1, "slower": 1} for batch in (1, 64)}
    [zeros] = deployment_page.zeros_table(costs)
    assert (zeros["time_batch1"], zeros["time_batch1_threads2"]) == (1.0, 3.0)
    [loss] = deployment_page._losses(deployment_page.Wording("en"), expected)
    assert loss == {"network": "n", "change": "-0.0010 (-0.0040 to +0.0020)"} | {
        "lost": False,
        "excluded": True,
    }


def test_every_network_has_its_recipe():
    from networks import network

    for deployed in deployment_networks.DEPLOYED:
        if not deployed.network.startswith("timm/"):
            recipe = network(deployed.network, "cpu").recipes[deployed.recipe]
            assert all(getattr(recipe, k) != v for k, v in deployed.changes.items())


@pytest.mark.slow
def test_real_files_predict_what_the_networks_do(command, phantom_npz, tmp_path):
    folder = command("--only", "first")
    oof = OutOfFold.read(folder / "oof.csv")
    for name in ("first", "first_pruned50"):
        base = name if name != "first" else "first_fp32"
        change = oof.logits[f"{name}_int8"] - oof.logits[base]
        assert (
            0 < np.abs(sigmoid(oof.logits[base]) - sigmoid(change + oof.logits[base])).max() < 0.1
        )
    costs = rows_of(folder / "costs.csv")
    assert all(float(row["batch64_threads1_cpu_median_ms"]) > 0 for row in costs)
    sizes = {(row["network"], row["variant"]): int(row["bytes"]) for row in costs}
    assert sizes["first", "pruned50"] <= sizes["first", "fp32"]
