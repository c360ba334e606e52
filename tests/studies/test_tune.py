"""The search: nothing of test, one study for all who take part, goes on after a stop."""

import csv
import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise

import pytest
from comparisons import BASE, tiny_networks, trained  # noqa: F401 (fixtures)
from conftest import ROOT

from chestlab.evaluation.out_of_fold import OutOfFold
from chestlab.files.errors import TrainingError
from chestlab.files.progress import Interrupted
from chestlab.reporting import study_plots, style
from chestlab.runs import crossval, flags
from networks import NETWORKS, network
from studies import study, tune
from studies.switches import SWITCHES

optuna = pytest.importorskip("optuna")
SHORT = ["--net", "resnet34", "--folds", "3", "--device", "cpu", "--name", "s"]
SWITCH = ["--switch", "flip", "rotate", "per-image"]
pytestmark = pytest.mark.usefixtures("tiny_networks")


@pytest.fixture
def command(phantom_npz, tmp_path, monkeypatch):
    """Run the command in a folder of its own; where its results are."""
    monkeypatch.chdir(tmp_path)

    def run(trials, *more):
        given = [*SHORT, *SWITCH, "--data", str(phantom_npz), "--trials", str(trials), *more]
        tune.main(given)
        return tmp_path / "results" / "studies" / "s"

    return run


def trials_of(folder):
    with (folder / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("trained")
def test_the_base_is_tried_first_and_the_best_found_is_better(command):
    folder = command(12)
    rows = trials_of(folder)
    assert [int(row["trial"]) for row in rows] == list(range(12))
    assert float(rows[0]["lr"]) == BASE.lr and int(rows[0]["batch_size"]) == BASE.batch_size
    assert {rows[0][key] for key in ("flip", "rotate", "normalize")} == {"base"}
    done = [row for row in rows if row["state"] == "complete"]
    best = max(done, key=lambda row: float(row["auc"]))
    assert best["normalize"] == "+ per-image"
    assert float(best["auc"]) > float(rows[0]["auc"])
    stored = OutOfFold.read(folder / "oof.csv")
    assert set(stored.logits) == {f"trial {row['trial']}" for row in done}
    name = f"trial {best['trial']}"
    assert stored.estimate(name, "auc").value == pytest.approx(float(best["auc"]))
    written = ("README.md", "README.id.md", "trials.csv")
    before = [(folder / name).read_bytes() for name in written]
    assert f"Trial {best['trial']} has the highest mean AUC" in before[0].decode()
    with pytest.raises(SystemExit) as end:
        tune.main(["--redraw", str(folder)])
    assert end.value.code == 0
    assert [(folder / name).read_bytes() for name in written] == before


@pytest.mark.usefixtures("trained")
def test_the_printed_flags_reproduce_the_best_recipe(command, request, capsys):
    folder = command(8)
    printed = capsys.readouterr().out
    (line,) = re.findall(r"^python train_tiny\.py .*$", printed, flags=re.MULTILINE)
    _, _, *words = shlex.split(line)
    found = request.getfixturevalue("tiny_networks")
    options = flags.parse(found.recipes, words, model_options=found.model_options)
    number = int(re.search(r"best: trial (\d+)", printed)[1])
    row = trials_of(folder)[number]
    assert options.recipe.lr == float(row["lr"])
    assert options.recipe.weight_decay == float(row["weight_decay"])
    assert options.model_arguments == {"dropout": float(row["dropout"])}
    assert options.recipe.flip == (BASE.flip if row["flip"] == "base" else 0)
    page = (folder / "README.md").read_text()
    assert "train_tiny.py" in page and "--data small.npz" in page and "optimistic" in page


def test_trials_that_fall_behind_are_given_up_between_folds(command, request, monkeypatch):
    networks_trained = request.getfixturevalue("trained")
    whole = crossval.train_fold

    def wrong_from_the_sixth_on(configuration, splits, fold, *arguments):
        found = whole(configuration, splits, fold, *arguments)
        if int(configuration.name.split()[1]) > 5:  # whatever was drawn, an AUC of 0
            wrong = (1.0 - 2 * fold.held_out.labels).tolist()
            found["logits"] = dict.fromkeys(found["logits"], wrong)
        return found

    monkeypatch.setattr(crossval, "train_fold", wrong_from_the_sixth_on)
    rows = trials_of(command(9, "--repeats", "2"))
    late = [row for row in rows if int(row["trial"]) > 5]
    assert {row["state"] for row in late} == {"pruned"}
    assert all(int(row["folds"]) < 6 for row in late)
    assert len(networks_trained) == sum(int(row["folds"]) for row in rows)


@pytest.mark.usefixtures("trained")
def test_a_second_start_goes_on_with_the_same_study(command):
    first = trials_of(command(3))
    rows = trials_of(command(2))
    assert len(rows) == 5
    assert rows[:3] == first


def test_an_interrupted_trial_is_the_next_ones_beginning(
    command, request, monkeypatch, capsys, tmp_path
):
    done = request.getfixturevalue("trained")
    whole, stopped = crossval.train_fold, []

    def stopping(*arguments):
        if len(done) == 4 and not stopped:  # in the second trial
            stopped.append(1)
            raise Interrupted(15)
        return whole(*arguments)

    monkeypatch.setattr(crossval, "train_fold", stopping)
    with pytest.raises(SystemExit) as end:
        command(3)
    assert end.value.code == 143
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line == "interrupted in trial 1, repeat 1 of 1, fold 2 of 3: the same command goes on"
    rows = trials_of(command(1))
    assert [row["state"] for row in rows] == ["complete", "fail", "complete"]
    chosen = [key for key in rows[0] if key not in ("trial", "state", "auc", "folds", "seconds")]
    assert [rows[2][key] for key in chosen] == [rows[1][key] for key in chosen]
    assert len(done) == 6  # the stopped trial's first fold was not trained again


def test_a_trial_that_diverges_fails_and_the_search_goes_on(command, request, monkeypatch):
    done = request.getfixturevalue("trained")
    whole = crossval.train_fold

    def diverging(*arguments):
        if len(done) == 3:
            done.append(None)
            raise TrainingError("not finite")
        return whole(*arguments)

    monkeypatch.setattr(crossval, "train_fold", diverging)
    assert [row["state"] for row in trials_of(command(3))] == ["complete", "fail", "complete"]


@pytest.mark.usefixtures("trained")
def test_a_study_of_something_else_is_not_gone_on_with(command, capsys, tmp_path):
    command(1)
    with pytest.raises(SystemExit) as end:
        command(1, "--epochs", "9")
    assert end.value.code == 2
    assert "is a search with another base" in capsys.readouterr().err
    (tmp_path / "trained_models" / "s.journal").write_bytes(b"no search\n" * 1000)
    with pytest.raises(SystemExit) as end:
        command(1)
    assert end.value.code == 2
    assert "cannot be read: it is damaged" in capsys.readouterr().err.strip().splitlines()[-1]


def test_the_search_holds_no_test_image(command, request, monkeypatch):
    request.getfixturevalue("trained")
    held, whole = [], tune.Search.run

    def looking(search):
        held.append(search.data)
        whole(search)

    monkeypatch.setattr(tune.Search, "run", looking)
    command(1)
    (data,) = held
    assert len(data.test) == 0 and len(data.train) == 64 and len(data.val) == 24


OTHER = """
import sys, time
sys.path.insert(0, sys.argv[1])
import comparisons, networks
from chestlab.runs import crossval
from studies import study, tune

dropout = comparisons.hyperparameter(0.2, '', low=0, high=0.9)
found = networks.Network(
    'train_tiny', comparisons.TinyChest, {'report': comparisons.BASE}, {'dropout': dropout}
)
study.network = lambda name, device='auto': found
whole, begun = crossval.train_fold, []

def stuck_in_the_fifth(*arguments):
    begun.append(1)
    if len(begun) == 5:
        print('stuck', flush=True)
        time.sleep(600)
    return whole(*arguments)

crossval.train_fold = stuck_in_the_fifth
tune.main(sys.argv[2:])
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_two_processes_share_one_search_and_a_killed_ones_trial_is_done_by_the_other(
    command, request, phantom_npz, tmp_path
):
    """The other process finishes a trial, and is killed in the second fold of its next one."""
    done = request.getfixturevalue("trained")
    command(2)
    script = tmp_path / "other.py"
    script.write_text(OTHER)
    given = [*SHORT, *SWITCH, "--data", str(phantom_npz), "--trials", "9"]
    other = subprocess.Popen(
        [sys.executable, str(script), str(ROOT / "tests"), *given],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None and "stuck\n" in iter(other.stdout.readline, "")
    rows = trials_of(command(1))  # a living process's trial is left to it
    assert [row["state"] for row in rows] == ["complete"] * 3 + ["running", "complete"]
    other.kill()
    other.communicate()
    assert len(done) == 9
    rows = trials_of(command(1))
    assert [row["state"] for row in rows] == ["complete"] * 3 + ["fail"] + ["complete"] * 2
    chosen = [key for key in rows[0] if key not in ("trial", "state", "auc", "folds", "seconds")]
    assert [rows[5][key] for key in chosen] == [rows[3][key] for key in chosen]
    assert len(done) == 9 + 2  # of the killed trial's folds the first was stored
    assert not list((tmp_path / "trained_models").rglob("*.claim*"))


@pytest.mark.usefixtures("trained")
def test_a_search_proposes_the_same_again_also_in_two_pieces(command, tmp_path):
    whole = trials_of(command(4))
    shutil.rmtree(tmp_path / "trained_models")
    command(2)
    pieces = trials_of(command(2))
    for name in set(whole[0]) - {"seconds"}:
        assert [row[name] for row in pieces] == [row[name] for row in whole], name
    assert len({row["lr"] for row in whole}) == 4


def test_switches_that_share_a_hyperparameter_exclude_each_other():
    groups = tune.alternatives(SWITCHES)
    assert {one.name for one in groups["schedule"]} == {"onecycle", "cosine", "restarts"}
    assert {one.name for one in groups["image_size"]} == {"size-64", "size-128"}
    assert sorted(one.name for group in groups.values() for one in group) == sorted(
        one.name for one in SWITCHES
    )


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_network_has_a_script_that_knows_the_flags(name):
    found = network(name, "cpu")
    recipe = next(iter(found.recipes.values()))
    changed = dataclasses.replace(recipe, lr=1.5e-3, ema=0.99, related=True, policy="randaugment")
    configuration = crossval.Configuration(name, found.build, changed)
    named = next(iter(found.recipes))
    options = study.comparison_parser("tune", "").parse_args([])
    options.base = named
    line = tune.reproduce(found, configuration, options, "phantom")
    _, script, *words = shlex.split(line)
    assert script == f"{found.script}.py"
    parsed = flags.parse(found.recipes, words, found.imagenet_url is not None, found.model_options)
    assert dataclasses.replace(parsed.recipe, name="") == dataclasses.replace(changed, name="")


def test_without_optuna_one_line_says_how_to_get_it(command, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SystemExit) as end:
        command(1)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line == "error: Optuna is not installed: pip install -r requirements-tune.txt"
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("more", [["--trials", "0"], ["--switch", "x"], ["--base", "x"]])
def test_wrong_input_is_refused(command, more, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        command(1, *more)
    assert end.value.code == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "trained_models").exists()


def test_a_network_is_trained_on_phantoms(command):
    (row, _) = trials_of(command(2))
    assert row["state"] == "complete" and 0 <= float(row["auc"]) <= 1


@pytest.mark.parametrize("rates", [(2.2e-4, 7e-3), (3e-4, 5e-4), (1e-6, 0.3)])
def test_labels_below_the_picture_of_a_search_do_not_overlap(rates, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(style, "save_figure", lambda figure, *_: figures.append(figure))
    rows = [
        {"trial": number, "state": "complete", "auc": 0.8, "lr": rate, "weight_decay": rate}
        for number, rate in enumerate(rates)
    ]
    study_plots.draw_trials(rows, tmp_path / "trials.png", title="Search")
    (figure,) = figures
    figure.canvas.draw()
    for axes in figure.axes:
        low, high = axes.get_xlim()
        shown = [tick for tick in axes.get_xticklabels(which="both") if tick.get_text()]
        boxes = [
            tick.get_window_extent() for tick in shown if low <= tick.get_position()[0] <= high
        ]
        boxes.sort(key=lambda box: box.x0)
        assert len(boxes) >= 2
        assert all(one.x1 < other.x0 for one, other in pairwise(boxes))
