"""`--resume --epochs MORE`: a finished run goes on as if it had been begun with more epochs."""

import json
from functools import partial

import pytest
import torch
from conftest import without_times
from small_runs import stop_at_epoch
from test_train import read_csv
from tiny_stages import RECIPE as STAGES
from tiny_stages import TinyStages
from tiny_train import RECIPE, TinyNet

from chestlab.files.checkpoint import load_checkpoint
from chestlab.runs import run as run_module

CONSTANT = ("--schedule", "constant")


@pytest.fixture
def start(tmp_path, phantom_npz, capsys, monkeypatch, no_pictures):
    """Start a training script within this process: its exit status and what it printed."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def start(*flags, stages=False):
        capsys.readouterr()
        status, common = 0, ("--data", phantom_npz, "--device", "cpu", "--accumulation", 2)
        argv = [str(flag) for flag in (*common, *flags)]
        try:
            if stages:
                run_module.run(TinyStages, {"report": STAGES}, argv, "http://127.0.0.1:9/x.pth")
            else:
                run_module.run(TinyNet, {"report": RECIPE}, argv)
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    yield start
    torch.set_num_threads(threads)


def contents(folder):
    """Bytes of the files of results and checkpoints, locks left out."""
    return {
        path: path.read_bytes()
        for place in ("results", "trained_models")
        for path in (folder / place).rglob("*")
        if path.is_file() and ".lock" not in path.name
    }


def assert_same_run(folder, one, other):
    """Figures, histories, predictions and checkpoints are the same, times and names aside."""
    results = folder / "results"
    metrics = []
    for name in (one, other):
        read = without_times(json.loads((results / name / "metrics.json").read_text()))
        del read["name"]
        metrics.append(read)
    assert metrics[0] == metrics[1]
    assert metrics[0]["recipe"]["epochs"] > 3
    for table in ("val_probabilities.csv", "test_probabilities.csv"):
        assert (results / one / table).read_bytes() == (results / other / table).read_bytes()
    rows = [without_times(read_csv(results / name / "history.csv")) for name in (one, other)]
    assert rows[0] == rows[1]
    for ending in ("best", "last", "stage1", "final"):
        paths = [folder / "trained_models" / f"{name}_{ending}.pth" for name in (one, other)]
        assert paths[0].exists() == paths[1].exists()
        if paths[0].exists():
            first, second = (without_times(load_checkpoint(path, sealed=True)) for path in paths)
            assert_equal(first, second)


def assert_equal(one, other):
    if isinstance(one, torch.Tensor):
        if one.shape[-1:] == (8,) and one.dtype == torch.float64:  # history, seconds last
            one, other = one[..., :-1], other[..., :-1]
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for first, second in zip(one, other, strict=True):
            assert_equal(first, second)
    else:
        assert one == other


@pytest.mark.parametrize(
    "flags",
    [
        (*CONSTANT, "--ema", 0.9, "--monitor", "val_auc"),
        (*CONSTANT, "--monitor", "last", "--batch-norm", "estimated"),
        ("--schedule", "plateau", "--plateau-patience", 0, "--monitor", "val_loss"),
        ("--schedule", "step", "--step-size", 2),
        ("--schedule", "restarts", "--restart-epochs", 2, "--warmup", 0),
        (*CONSTANT, "--patience", 1, "--lr", 1e-9),  # stops early, in the first run as in the long
    ],
    ids=["average", "last", "plateau", "step", "restarts", "early stop"],
)
def test_a_finished_run_goes_on_as_if_begun_with_more_epochs(start, tmp_path, flags):
    assert start(*flags, "--epochs", 3, "--name", "one")[0] == 0
    status, out, err = start(*flags, "--epochs", 6, "--name", "one", "--resume")
    assert status == 0, err
    assert "resuming 'one' after epoch " in out and ", now with 6 epochs" in out
    assert start(*flags, "--epochs", 6, "--name", "whole")[0] == 0
    assert_same_run(tmp_path, "one", "whole")
    status, out, _ = start(*flags, "--epochs", 6, "--name", "one", "--resume")
    assert status == 0 and "'one' is finished: nothing to do" in out


def test_a_run_in_two_stages_goes_on_in_its_second(start, tmp_path):
    flags = "--weights", "none", "--stage1-epochs", 2
    for name, epochs, resume in (("one", 3, ()), ("one", 5, ("--resume",)), ("whole", 5, ())):
        named = "--epochs", epochs, "--name", name
        status, _, err = start(*flags, *named, *resume, stages=True)
        assert status == 0, err
    assert_same_run(tmp_path, "one", "whole")


def test_a_first_stage_that_would_have_been_longer_is_told(start, tmp_path):
    flags = "--weights", "none", "--stage1-epochs", 3, "--name", "one"
    assert start(*flags, "--epochs", 2, stages=True)[0] == 0
    before = contents(tmp_path)
    status, _, err = start(*flags, "--epochs", 5, "--resume", stages=True)
    assert status == 2
    assert "with 5 epochs its first stage would have had 3 epochs instead of 2" in err
    assert contents(tmp_path) == before


def test_with_the_names_that_runs_get_the_shorter_one_stays(start, tmp_path):
    """Without --name the number of epochs is in the name."""
    assert start(*CONSTANT, "--epochs", 2)[0] == 0
    assert start(*CONSTANT, "--epochs", 3)[0] == 0
    (short,) = (path.name for path in (tmp_path / "results").glob("*epochs3*"))
    before = contents(tmp_path)
    status, out, err = start(*CONSTANT, "--epochs", 5, "--resume")
    assert status == 0, err
    assert f"resuming '{short}' after epoch 3, now with 5 epochs" in out
    after = contents(tmp_path)
    counted = "README.md", "README.id.md", "test_looks.csv"
    kept = [path for path in before if path.name not in counted]
    assert all(after[path] == before[path] for path in kept)
    assert start(*CONSTANT, "--epochs", 5, "--name", "whole")[0] == 0
    assert_same_run(tmp_path, short.replace("epochs3", "epochs5"), "whole")


@pytest.mark.parametrize(
    "flags",
    [
        ("--schedule", "cosine"),
        ("--schedule", "onecycle"),
        ("--schedule", "restarts", "--warmup", 0.2, "--restart-epochs", 2),
    ],
    ids=["cosine", "onecycle", "restarts with warm-up"],
)
def test_a_schedule_bound_to_the_length_is_told_with_the_ways_out(start, tmp_path, flags):
    assert start(*flags, "--epochs", 2, "--name", "one")[0] == 0
    before = contents(tmp_path)
    status, _, err = start(*flags, "--epochs", 4, "--name", "one", "--resume")
    assert status == 2 and err.count("\n") == 1
    assert f"its schedule '{flags[1]}' sets the learning rate by the number of epochs" in err
    assert "4 from the start instead of 2" in err
    best = "trained_models/one_best.pth"
    assert f"--name NEW --weights {best} trains anew from its weights, --overwrite" in err
    assert contents(tmp_path) == before
    more = "--epochs", 1, "--name", "new", "--weights", best
    status, out, err = start(*flags, *more)
    assert status == 0 and "weights 'one_best.pth'" in out, err


def test_a_schedule_bound_to_the_length_starts_anew_under_another_name(start):
    cosine = "--schedule", "cosine"
    assert start(*cosine, "--epochs", 2)[0] == 0
    status, out, _ = start(*cosine, "--epochs", 3, "--resume")
    assert status == 0 and "nothing to resume" in out


def test_fewer_epochs_and_other_changes_are_refused_as_before(start, tmp_path):
    flags = *CONSTANT, "--name", "one", "--resume"
    assert start(*flags, "--epochs", 3)[0] == 0
    before = contents(tmp_path)
    for changes, told in (
        (("--epochs", 2), "has recipe epochs 3, and this one has 2"),
        (("--epochs", 5, "--lr", 0.5), "and this one has 0.5"),
        (("--epochs", 5, "--seed", 1), "has recipe seed 42, and this one has 1"),
    ):
        status, _, err = start(*flags, *changes)
        assert status == 2 and told in err, err
        assert contents(tmp_path) == before


def test_an_unfinished_run_may_get_more_epochs_too(start, tmp_path, monkeypatch):
    flags = *CONSTANT, "--name", "one"
    with monkeypatch.context() as patch:
        stop_at_epoch(patch, 3)
        assert start(*flags, "--epochs", 4)[0] == 130
    status, out, err = start(*flags, "--epochs", 5, "--resume")
    assert status == 0, err
    assert "resuming 'one' after epoch 2, now with 5 epochs" in out
    assert start(*CONSTANT, "--epochs", 5, "--name", "whole")[0] == 0
    assert_same_run(tmp_path, "one", "whole")


def test_a_longer_run_cut_off_leaves_the_finished_one_and_goes_on(start, tmp_path, monkeypatch):
    flags = *CONSTANT, "--name", "one"
    assert start(*flags, "--epochs", 3)[0] == 0
    figures = (tmp_path / "results/one/metrics.json").read_bytes()
    with monkeypatch.context() as patch:
        stop_at_epoch(patch, 2)
        assert start(*flags, "--epochs", 6, "--resume")[0] == 130
    assert (tmp_path / "results/one/metrics.json").read_bytes() == figures
    status, out, err = start(*flags, "--epochs", 6, "--resume")
    assert status == 0, err
    assert "resuming 'one' after epoch 4" in out
    assert start(*CONSTANT, "--epochs", 6, "--name", "whole")[0] == 0
    assert_same_run(tmp_path, "one", "whole")


def test_a_damaged_or_missing_state_is_told(start, tmp_path):
    flags = *CONSTANT, "--name", "one"
    assert start(*flags, "--epochs", 2)[0] == 0
    last = tmp_path / "trained_models/one_last.pth"
    content = last.read_bytes()
    for damage in (partial(last.write_bytes, content[:-9]), last.unlink):
        damage()
        status, _, err = start(*flags, "--epochs", 4, "--resume")
        assert status == 2 and "one_last.pth" in err and "--overwrite starts anew" in err, err
        assert err.count("\n") == 1
