"""--tensorboard writes what history.csv and the pictures hold, and says where its library is."""

import csv
import importlib.util
import io
import sys

import numpy as np
import pytest
from conftest import TINY, run_in_process
from PIL import Image

EPOCHS = 2


@pytest.fixture(scope="module")
def run(tmp_path_factory, phantom_npz):
    if importlib.util.find_spec("tensorboard") is None:
        pytest.skip("TensorBoard is not installed")
    folder = tmp_path_factory.mktemp("tensorboard")
    old = folder / "trained_models" / "tensorboard" / "one" / "events.out.tfevents.1"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"of an earlier run of the name")
    flags = ("--data", phantom_npz, "--device", "cpu", "--name", "one", "--tensorboard")
    ended = run_in_process(TINY, *flags, "--epochs", EPOCHS, cwd=folder)
    assert ended.returncode == 0, ended.stderr
    assert "tensorboard --logdir" in ended.stdout
    return folder


@pytest.fixture(scope="module")
def events(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (path,) = (run / "trained_models").rglob("events.out.tfevents.*")
    assert path.parent == run / "trained_models" / "tensorboard" / "one"
    return EventAccumulator(str(path.parent), {"images": 0, "scalars": 0}).Reload()


def test_scalars_are_those_of_the_history(run, events):
    with (run / "results" / "one" / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    measures = {"loss": ("train", "val"), "accuracy": ("train", "val"), "auc": ("val",)}
    columns = {f"{m}/{split}": f"{split}_{m}" for m, splits in measures.items() for split in splits}
    columns |= {"lr": "lr", "seconds": "seconds"}
    assert set(events.Tags()["scalars"]) == set(columns)
    for tag, column in columns.items():
        written = [(event.step, event.value) for event in events.Scalars(tag)]
        expected = [(int(row["epoch"]), float(row[column])) for row in rows]
        assert written == [(step, pytest.approx(value, rel=1e-6)) for step, value in expected]


def test_pictures_are_those_of_the_run(run, events):
    files = {path.stem: path for path in (run / "results" / "one").glob("*.png")}
    assert set(events.Tags()["images"]) == set(files) and "training_curves" in files
    for name, path in files.items():
        (event,) = events.Images(name)
        assert event.step == EPOCHS
        with Image.open(path) as stored, Image.open(io.BytesIO(event.encoded_image_string)) as log:
            assert np.array_equal(np.asarray(stored.convert("RGB")), np.asarray(log.convert("RGB")))


def test_without_the_library_one_line_says_how_to_get_it(script, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(SystemExit) as ended:
        script("train.py", "--tensorboard", "--data", "phantom")
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "pip install tensorboard" in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
