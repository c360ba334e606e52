"""Which checkpoint a script takes, and where it finds the images of the training again."""

import json
import os
import shutil
from argparse import Namespace
from pathlib import Path

import pytest

from chestlab.data import sources
from chestlab.data.phantom import PHANTOM_MARK
from chestlab.files.checkpoint import load_checkpoint
from chestlab.files.errors import InputError
from chestlab.runs import finished_runs
from chestlab.runs.finished_runs import data_location, load_training_data, pick_checkpoint

TWO_CLASSES, FINDINGS = {"threshold": 0.5}, {"val": {"auc_per_finding": {}}}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make_run(name, time, metrics=TWO_CLASSES, endings=("_best",)):
    """Empty checkpoints of a run, and its results where ``metrics`` are given."""
    paths = [Path("trained_models", f"{name}{ending}.pth") for ending in endings]
    if metrics is not None:
        paths.append(Path("results", name, "metrics.json"))
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(metrics))
        os.utime(path, (time, time))


def picked(checkpoint=None):
    return pick_checkpoint(
        Namespace(
            checkpoint=checkpoint, models_dir=Path("trained_models"), results_dir=Path("results")
        )
    ).as_posix()


def refused(checkpoint=None):
    with pytest.raises(InputError) as error:
        picked(checkpoint)
    (line,) = str(error.value).splitlines()
    return line


def test_by_default_the_newest_finished_run_is_taken_and_told(capsys):
    make_run("old", 1000)
    make_run("new_best", 2000)  # as a run may be called
    make_run("unfinished", 3000, None)
    make_run("all_findings", 3000, FINDINGS)
    make_run("new_best.unfinished", 3000)
    make_run("folds/fold1", 3000)
    Path("results/damaged").mkdir()
    make_run("damaged", 3000, None)
    Path("results/damaged/metrics.json").write_text("{")
    assert picked() == "trained_models/new_best_best.pth"
    assert capsys.readouterr().out.count("\n") == 1
    make_run("phantom/newest", 2500)
    assert picked() == "trained_models/phantom/newest_best.pth"
    assert "trained_models" in capsys.readouterr().out


def test_members_are_taken_where_there_is_nothing_else_and_one_file_of_two_stages():
    make_run("folds/fold1", 1000)
    make_run("folds/fold2", 2000)
    assert picked() == "trained_models/folds/fold2_best.pth"
    make_run("stages", 500, endings=("_best", "_final", "_stage1", "_last"))
    assert picked() == "trained_models/stages_best.pth"
    make_run("copied", 3000, endings=("_final",))
    assert picked() == "trained_models/copied_final.pth"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("one", "one_best.pth"),
        ("one_best.pth", "one_best.pth"),
        ("trained_models/one_best.pth", "one_best.pth"),
        ("results/one/", "one_best.pth"),
        ("results/phantom/two", "phantom/two_best.pth"),
        ("two", "phantom/two_best.pth"),
        ("phantom/two", "phantom/two_best.pth"),
        ("folds/fold1", "folds/fold1_best.pth"),
        ("a.b", "a.b_best.pth"),
    ],
)
def test_a_checkpoint_is_named_by_its_file_its_run_or_the_folder_of_its_results(given, expected):
    for name in ("one", "phantom/two", "folds/fold1", "a.b"):
        make_run(name, 1000)
    assert picked(given) == f"trained_models/{expected}"


def test_what_is_not_there_is_told_with_what_is():
    for command in (None, "one", "x/one_best.pth", "x" * 5000, ".", "results"):
        assert "python train.py" in refused(command)
    make_run("unfinished", 9000, None)
    assert "trained_models" in refused() and "unfinished_best.pth" in refused()
    for number in range(7):
        make_run(f"run{number}", number)
    line = refused("trained_models/onne_best.pth")
    listed = [f"run{number}_best.pth" in line for number in range(7)]
    assert listed == [False] * 3 + [True] * 4 and line.endswith("and 3 more")
    assert len(refused("x" * 5000)) < 500
    make_run("folds/fold1", 1)
    for command in ("folds", "results/folds", "trained_models/folds"):
        line = refused(command)
        assert "averaged" in line and "fold1_best.pth" in line and "run6" not in line
    assert "no such file" in refused("trained_models") and "run6" in refused("trained_models")
    Path("other/models").mkdir(parents=True)
    Path("other/models/far_best.pth").touch()
    assert refused("other/models/fra_best.pth").endswith("there are other/models/far_best.pth")


@pytest.mark.parametrize("place", ["", "studies/"])
def test_published_results_without_weights_are_told_apart_from_a_name_that_is_nowhere(place):
    folder = Path("results", place, "published")
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(TWO_CLASSES))
    assert "its results are here, its weights, which no repository holds" in refused("published")
    assert "there is no such file and no such run" in refused("elsewhere")


def data_of(npz, location="", **where):
    about = {"source": f"{PHANTOM_MARK} ({npz.name})", "sha256": sources.load(str(npz)).sha256}
    return load_training_data({**about, **where.pop("about", {})}, location, **where)


def test_the_images_are_found_where_they_were_and_where_the_project_has_moved(
    phantom_npz, tmp_path, monkeypatch
):
    project = tmp_path / "project"
    (project / "data").mkdir(parents=True)
    near = project / "trained_models" / "phantom" / "one_best.pth"
    own = shutil.copy(phantom_npz, project / "data" / "small.npz")
    monkeypatch.chdir(project)
    location = data_location("data/small.npz", None)
    monkeypatch.chdir(tmp_path)
    assert data_of(phantom_npz, location).size == 28
    (tmp_path / "small.npz").write_bytes(b"of the same name")  # is passed over
    project.rename(tmp_path / "moved")
    moved = tmp_path / "moved" / near.relative_to(project)
    assert data_of(phantom_npz, location, near=moved).size == 28
    assert data_of(phantom_npz, near=tmp_path / "moved" / "data" / "a").size == 28  # no location
    (tmp_path / "moved" / "data" / "small.npz").unlink()
    (tmp_path / "small.npz").unlink()
    with pytest.raises(InputError, match="which is not here: --data names it") as error:
        data_of(phantom_npz, location, near=moved)
    assert str(own) in str(error.value)


def test_a_file_that_has_changed_is_refused(phantom_npz):
    location = data_location(str(phantom_npz), None)
    with pytest.raises(InputError, match="not the file it was trained on"):
        data_of(phantom_npz, location, about={"sha256": "f00"})


@pytest.mark.parametrize(
    ("source", "root", "asked"),
    [
        ("chestmnist (1).npz", None, ("{folder}/chestmnist (1).npz",)),
        (f"{PHANTOM_MARK} (small (2).npz)", None, ("{folder}/small (2).npz",)),
        (f"{PHANTOM_MARK} (28 px)", None, ("phantom", None, 28)),
        ("ChestMNIST 28 px", None, ("chestmnist", None, 28)),
        ("ChestMNIST 28 px", "own", ("chestmnist", "own", 28)),
        ("ChestMNIST 28 px", "gone", ("chestmnist", None, 28)),
    ],
)
def test_the_source_of_the_training_is_asked_for(source, root, asked, monkeypatch, tmp_path):
    """Phantoms never stand in for X-rays, and the official files are looked for in their folder."""
    calls = []

    def load(*arguments, classes=None):
        calls.append(tuple(str(a) if isinstance(a, Path) else a for a in arguments))
        return Namespace(size=28, sha256="f00", source=source)

    monkeypatch.setattr(sources, "load", load)
    for name in ("chestmnist (1).npz", "small (2).npz", "own/chestmnist.npz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    root = root and tmp_path / root
    file = asked[0].removeprefix("{folder}/")
    location = data_location(file if file.endswith(".npz") else "auto", root)
    load_training_data({"source": source, "sha256": "f00", "size": 28}, location)
    if root is not None and asked[1]:
        asked = asked[0], str(root), asked[2]
    assert calls == [(asked[0].format(folder=tmp_path), *asked[1:])]


def test_a_checkpoint_is_as_large_in_every_folder(monkeypatch, tmp_path):
    """`metrics.json` states its size, and repeats exactly."""
    deep = tmp_path / ("d" * 200)
    deep.mkdir()
    here = data_location("small.npz", Path("root"))
    monkeypatch.chdir(deep)
    assert len(data_location("small.npz", Path("root"))) == len(here)


def test_a_run_keeps_the_place_of_its_images(run_of_one_epoch):
    folder, data = run_of_one_epoch
    state = load_checkpoint(folder / "trained_models" / "one_best.pth", sealed=True)
    place = json.loads(state["data_location"])
    assert place["data"] == place["file"] and place["root"] is None
    assert Path(place["file"]).read_bytes() == data.read_bytes()  # of whichever process trained
    assert finished_runs.finished_checkpoints(folder / "trained_models", folder / "results") == [
        folder / "trained_models" / "one_best.pth"
    ]
