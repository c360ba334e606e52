"""A run is never lost: killed, interrupted, out of disk or memory, it goes on as if nothing had
happened, and a finished run stays whole until its successor is."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, run_script, without_times
from tiny_train import RECIPE, TinyNet, with_fault

from chestlab.data import sources
from chestlab.data.phantom import make_phantom
from chestlab.evaluation.looks import read_looks
from chestlab.files.atomic import TEMPORARY_SUFFIX
from chestlab.files.checkpoint import load_checkpoint, save_checkpoint
from chestlab.files.run_files import RunFiles
from chestlab.runs import checkpoints
from chestlab.runs import run as run_module
from chestlab.training.trainer import Trainer
from chestlab.training.trainer_state import HISTORY_COLUMNS
from model import EfficientChestNet
from train import REPORT

pytest_plugins = ["figures"]
posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")

EPOCHS, BATCHES = 4, 4  # of the runs here: 64 images in batches of 16, two of them to a step
FLAGS = ("--epochs", EPOCHS, "--accumulation", 2, "--device", "cpu", "--name", "one")
RESULTS = {
    "metrics.json",
    "history.csv",
    "val_probabilities.csv",
    "test_probabilities.csv",
    "training_curves.png",
    "val_predictions.png",
    "confusion_matrix.png",
    "roc_curve.png",
    "calibration.png",
    "README.md",
    "README.id.md",
    "report",
}
LOOKS = {"test_looks.csv", ".test_looks.lock"}  # the lock file stays here, too
MODELS = {"one_best.pth", "one_last.pth", "one.lock"}  # the lock file stays, unlocked

Ended = namedtuple("Ended", "status out err")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums over several threads may differ in their last bit from those over one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def every_epoch_is_written(monkeypatch):
    """In this process; `test_checkpoints` has those that wait, and so have killed processes."""
    monkeypatch.setattr(checkpoints, "BETWEEN", 0.0)


@pytest.fixture
def start(tmp_path, phantom_npz, capsys, monkeypatch):
    """Start a training script within this process: its exit status and what it printed."""
    monkeypatch.chdir(tmp_path)

    def start(*flags, build=TinyNet, data=phantom_npz):
        capsys.readouterr()
        status = 0
        try:
            arguments = map(str, ("--data", data, *FLAGS, *flags))
            run_module.run(build, {"report": RECIPE}, list(arguments))
        except SystemExit as end:
            status = end.code
        return Ended(status, *capsys.readouterr())

    return start


@pytest.fixture(scope="module")
def whole(tmp_path_factory, phantom_npz):
    """The folder of a run that nothing disturbed, and the seconds it took."""
    folder = tmp_path_factory.mktemp("whole")
    begin = time.monotonic()
    result = run_script(TINY, "--data", phantom_npz, *FLAGS, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder, time.monotonic() - begin


def send(signum):
    return lambda: signal.raise_signal(signum)


def contents(*folders):
    """Bytes and time of every file below the folders; older filelocks touch the lock's."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def history(folder, name="one"):
    """Lines of history.csv without its header; none where there is no such file."""
    path = folder / "results" / name / "history.csv"
    return path.read_text().splitlines()[1:] if path.exists() else []


def assert_same(left, right, where=""):
    """Nested values and tensors are equal to the last bit."""
    assert type(left) is type(right), where
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_same(left[key], right[key], f"{where} {key}")
    elif isinstance(left, list):
        assert len(left) == len(right), where
        for number, pair in enumerate(zip(left, right, strict=True)):
            assert_same(*pair, f"{where} {number}")
    else:
        assert left == right, where


def checkpoint(folder, kind, name="one"):
    state = without_times(load_checkpoint(folder / "trained_models" / f"{name}_{kind}.pth"))
    if "trainer" in state:
        state["trainer"]["history"] = state["trainer"]["history"][:, :-1]  # the last are seconds
    return state


def rows(folder, name="one"):
    """history.csv without seconds."""
    with (folder / "results" / name / "history.csv").open(newline="") as file:
        return without_times(list(csv.DictReader(file)))


def assert_same_run(folder, whole, pictures=True):
    """What a run left is what the other one left, to the last bit, times aside."""
    for kind in ("best", "last"):
        assert_same(checkpoint(folder, kind), checkpoint(whole, kind), kind)
    assert rows(folder) == rows(whole)
    ours, theirs = folder / "results" / "one", whole / "results" / "one"
    metrics = [
        without_times(json.loads((path / "metrics.json").read_text())) for path in (ours, theirs)
    ]
    assert metrics[0] == metrics[1]
    same = {name for name in RESULTS if name.endswith((".csv", ".png"))}  # pages tell times
    for name in same - {"history.csv"} | {"report/training_batch.png"}:
        if pictures or not name.endswith(".png"):
            assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name


def assert_contracts_files(folder, looks=1):
    """Nothing is missing and nothing is left over, and no evaluation of test is counted twice."""
    assert {path.name for path in (folder / "results").iterdir()} == {"one", "phantom"}
    assert {path.name for path in (folder / "results" / "phantom").iterdir()} == LOOKS
    assert len(read_looks(folder / "results" / "phantom" / "test_looks.csv")) == looks
    assert {path.name for path in (folder / "results" / "one").iterdir()} == RESULTS
    assert "environment.json" in {p.name for p in (folder / "results/one/report").iterdir()}
    assert {path.name for path in (folder / "trained_models").iterdir()} == MODELS


# Resuming, engine alone.


def trainer(data, **changes):
    """With every kind of randomness, a short last batch and an accumulation that does not fit."""
    recipe = dataclasses.replace(
        RECIPE, epochs=6, batch_size=10, accumulation=2, translate=0.1, scale=0.1, **changes
    )
    return Trainer(TinyNet, recipe, data.train.to("cpu"), data.val.to("cpu"))


@pytest.mark.parametrize(
    "schedule",
    [
        {"schedule": "constant"},
        {"schedule": "onecycle"},
        {"schedule": "cosine"},
        {"schedule": "step", "step_size": 2},
        {"schedule": "plateau", "plateau_patience": 0, "gamma": 0.5},
    ],
    ids=lambda changes: changes["schedule"],
)
def test_a_trainer_stopped_in_any_epoch_and_resumed_ends_as_if_it_had_not_been(
    schedule, phantom_npz, tmp_path
):
    data = sources.load(str(phantom_npz))
    undisturbed = trainer(data, **schedule)
    while not undisturbed.finished:
        undisturbed.run_epoch()
    final = {**undisturbed.state_dict(), "best weights": undisturbed.best_weights}
    final = without_times(final)
    if schedule["schedule"] != "constant":
        assert len({row["lr"] for row in undisturbed.history}) > 1

    dice = random.Random(schedule["schedule"])
    for epochs in range(1, 6):
        stopped = trainer(data, **schedule)
        for _ in range(epochs):
            stopped.run_epoch()
        save_checkpoint(tmp_path / "last.pth", stopped.state_dict())
        save_checkpoint(tmp_path / "best.pth", stopped.best_weights)
        steps = iter(range(dice.randrange(stopped.steps_per_epoch)))
        stopped.on_step = lambda steps=steps: next(steps)
        with pytest.raises(StopIteration):  # in the next epoch, which is lost
            stopped.run_epoch()

        torch.manual_seed(dice.randrange(1000))
        resumed = trainer(data, **schedule)
        resumed.load_state_dict(
            load_checkpoint(tmp_path / "last.pth"), load_checkpoint(tmp_path / "best.pth")
        )
        while not resumed.finished:
            resumed.run_epoch()
        state = {**resumed.state_dict(), "best weights": resumed.best_weights}
        state = without_times(state)
        kept, ours, theirs = (x["history"] for x in (stopped.state_dict(), state, final))
        assert torch.equal(ours[:epochs], kept)  # its seconds, too: not computed again
        state["history"], final["history"] = ours[:, :-1], theirs[:, :-1]
        assert_same(state, final)
        final["history"] = theirs


# Killed at any instant.


class Life:
    """One process of the tiny script, from its start to its end or to SIGKILL."""

    def __init__(self, folder, data, *flags):
        self.folder = folder
        self.errors = folder / "stderr.txt"
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(TINY), "--data", str(data), *map(str, (*FLAGS, *flags))],
                cwd=folder,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    def killed(self, moment):
        """Kill it when ``moment(folder)`` holds; whether it was alive until then."""
        moment = moment(self.folder)
        while self.process.poll() is None:
            if moment():
                self.process.kill()
                return self.process.wait() == -signal.SIGKILL
        return False


def after(seconds):
    """The moment some time after the start."""

    def moment(folder):
        end = time.monotonic() + seconds

        def come():
            time.sleep(max(0, min(0.01, end - time.monotonic())))
            return time.monotonic() >= end

        return come

    return moment


def temporaries(folder):
    found = []
    for place in (folder / "trained_models", *(folder / "results").glob("*")):
        with contextlib.suppress(OSError):
            found += [e.path for e in os.scandir(place) if e.name.endswith(TEMPORARY_SUFFIX)]
    return found


def in_writing(nth):
    """The moment at which the nth temporary file since the start is there."""

    def moment(folder):
        seen = set(temporaries(folder))  # those of an earlier life
        want = len(seen) + nth

        def come():
            seen.update(temporaries(folder))
            return len(seen) >= want

        return come

    return moment


def written(name):
    """The moment at which an artefact is there, or is there anew."""

    def moment(folder):
        def stamps():
            found = [*folder.glob(f"results/*/{name}"), *folder.glob(f"trained_models/{name}")]
            with contextlib.suppress(OSError):
                return {(path, path.stat().st_ino) for path in found}
            return set()

        before = stamps()
        return lambda: bool(stamps() - before)

    return moment


def moments(dice, seconds):
    """Without end: two at a random time of a whole run, two in writing, one after an artefact."""
    artefacts = sorted(RESULTS | {"one_best.pth", "one_last.pth", "one.lock"})
    while True:
        yield "at a random time", after(dice.uniform(0, seconds))
        yield "while a file was written", in_writing(dice.randint(1, 8))
        yield "at a random time", after(dice.uniform(0, seconds))
        yield "after an artefact", written(dice.choice(artefacts))
        yield "while a file was written", in_writing(dice.randint(4, 20))


class Kept:
    """What earlier lives of a run have written, which no later one may compute again."""

    def __init__(self, name="one"):
        self.name, self.lines = name, []

    def check(self, folder):
        last, stored = folder / "trained_models" / f"{self.name}_last.pth", []
        if last.exists():
            stored = load_checkpoint(last)["trainer"]["history"].tolist()
        lines = [",".join(map(repr, [int(epoch), *rest])) for epoch, *rest in stored]
        assert lines[: len(self.lines)] == self.lines
        # the table follows the checkpoint, and may have to wait for a life that comes that far
        table = history(folder, self.name)
        assert table == lines[: len(table)]
        self.lines = lines


def kill_and_resume(folder, data, kills, begin, check, moments, flags=()):
    """Runs one after another, each killed and resumed until it is done, ``kills`` in all.

    Args:
        begin: prepares the folder of a run.
        check: called with the folder and whether the run is done, after each kill and at the end.
    """
    counts = Counter()
    while counts["kills"] < kills:
        counts["runs"] += 1
        place = folder / str(counts["runs"])
        begin(place)
        anew = resume = ("--overwrite",) if flags else ()  # a finished run lies there
        while True:
            kind, moment = next(moments) if counts["kills"] < kills else (None, after(1e9))
            before = set(temporaries(place))
            life = Life(place, data, *flags, *resume)
            if life.killed(moment):
                counts["kills"] += 1
                counts[kind] += 1
                counts["with a temporary file left"] += bool(set(temporaries(place)) - before)
                check(place, False)
                resume = ("--resume",)
            elif life.process.returncode == 2 and resume == ("--resume",) and flags:
                resume = anew  # killed in its first epoch, so all that lies there is the old run
            else:
                assert life.process.returncode == 0, life.errors.read_text()
                break
        check(place, True)
    return counts


@posix
@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_a_run_killed_at_any_instant_and_resumed_ends_as_if_it_had_not_been(
    kills, phantom_npz, whole, tmp_path, record_figure
):
    kept = {}

    def check(folder, done):
        kept[folder].check(folder)
        if done:
            assert_contracts_files(folder)
            assert_same_run(folder, whole[0])

    def begin(folder):
        folder.mkdir()
        kept[folder] = Kept()

    counts = kill_and_resume(
        tmp_path, phantom_npz, kills, begin, check, moments(random.Random(kills), whole[1])
    )
    record_figure("Kills (SIGKILL) of a live run survived", counts["kills"])
    record_figure("Kills at a random time of its life", counts["at a random time"])
    record_figure("Kills that left a half-written file", counts["with a temporary file left"])


@pytest.fixture(scope="module")
def successor(tmp_path_factory, phantom_npz):
    """The folder of an undisturbed run with another learning rate."""
    folder = tmp_path_factory.mktemp("successor")
    flags = ("--data", phantom_npz, *FLAGS, "--lr", 0.02, "--results-dir", folder / "results")
    flags += ("--models-dir", folder / "trained_models")
    run_module.run(TinyNet, {"report": RECIPE}, list(map(str, flags)))
    return folder


@posix
@pytest.mark.slow
@pytest.mark.parametrize("kills", [15])
def test_a_finished_run_stays_whole_until_its_killed_and_resumed_successor_is_finished(
    kills, phantom_npz, whole, successor, tmp_path, record_figure
):
    old = {path.relative_to(whole[0]): old for path, old in contents(whole[0]).items()}
    del old[
        Path("results/phantom/test_looks.csv")
    ]  # where the new one's look is added before it is done
    assert_contracts_files(whole[0])
    kept = {}

    def begin(folder):
        shutil.copytree(whole[0], folder)
        kept[folder] = Kept("one.unfinished")

    def check(folder, done):
        if done:
            assert_contracts_files(folder, looks=2)
            assert_same_run(folder, successor)
        elif not (folder / "results" / "one.unfinished" / "metrics.json").exists() and (
            old[Path("results/one/metrics.json")]
            == contents(folder / "results" / "one")[folder / "results" / "one" / "metrics.json"]
        ):
            now = contents(folder)
            assert {path: now.get(folder / path) for path in old} == old
            kept[folder].check(folder)

    pace = moments(random.Random(kills), whole[1])
    counts = kill_and_resume(tmp_path, phantom_npz, kills, begin, check, pace, flags=("--lr", 0.02))
    record_figure("Kills (SIGKILL) of a run that replaces a finished one", counts["kills"])


@posix
@pytest.mark.parametrize(
    "stride", [pytest.param(193, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)]
)
def test_a_run_cut_off_before_any_step_it_takes_in_its_folders_ends_the_same(
    stride, phantom_npz, tmp_path, whole, successor, record_figure
):
    """Every opening, renaming, removing and making of a file or folder is one such step.

    The run replaces a finished one, whose place it takes in the last of its steps.
    """
    arguments = (stride, whole[0], "--data", phantom_npz, *FLAGS, "--lr", 0.02)
    result = run_script("tests/cut_off.py", *arguments, cwd=tmp_path, timeout=1200)
    assert result.returncode == 0, result.stderr
    cuts = int(result.stdout.split()[-1])
    assert cuts >= 60 // stride
    for cut in range(cuts):
        assert_contracts_files(tmp_path / str(cut), looks=2)
        assert_same_run(tmp_path / str(cut), successor)
    record_figure("Steps in the folders before which a run was cut off", cuts)


def test_a_replacement_cut_off_at_any_step_is_completed_by_the_next_start(tmp_path, monkeypatch):
    """Nothing of the old run stays, though the new one lacks a file, as under --no-test."""

    class Cut(BaseException):
        pass

    written = RESULTS - {"report"} | {"report/environment.json", "report/training_batch.png"}
    without = written - {"test_probabilities.csv"}

    def prepare(folder):
        old = RunFiles(folder / "results", folder / "models", "one")
        for files, names in ((old, written), (old.replacement, without)):
            (files.folder / "report").mkdir(parents=True)
            files.models_dir.mkdir(exist_ok=True)
            for path in (files.best, files.last, *(files.folder / name for name in names)):
                path.write_text(files.name)
        return old

    steps = 0

    def counted(function):
        def step(*arguments, **options):
            nonlocal steps
            steps -= 1
            if steps == 0:
                raise Cut
            return function(*arguments, **options)

        return step

    for name in ("replace", "rename", "unlink", "rmdir"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))
    cuts = 0
    while True:
        files = prepare(tmp_path / str(cuts))
        steps = cuts + 1
        try:
            files.replacement.replace(files)
            break
        except Cut:
            assert files.replacement.metrics.exists() or files.metrics.exists()
            if files.replacement.metrics.exists():
                files.replacement.replace(files)
        left = [path for path in files.folder.rglob("*") if path.is_file()]
        assert {path.relative_to(files.folder).as_posix() for path in left} == without
        for path in (files.best, files.last, *left):
            assert path.read_text() == files.replacement.name
        cuts += 1
    assert cuts > len(written)


# Ctrl-C and SIGTERM.


def assert_interrupted(ended, status, epochs):
    assert ended.status == status
    assert len(ended.err.splitlines()) == 1
    expected = f"after epoch {epochs}: the same command with --resume goes on"
    assert (expected if epochs else "in the first epoch: the same command starts") in ended.err


@posix
@pytest.mark.parametrize(
    ("signum", "status", "batch"),
    [
        (signal.SIGINT, 130, 1),
        (signal.SIGTERM, 143, 2),
        (signal.SIGINT, 130, BATCHES + 3),
        (signal.SIGTERM, 143, 3 * BATCHES),
        (signal.SIGINT, 130, 4 * BATCHES),
    ],
)
def test_a_signal_stops_at_the_next_step_and_keeps_the_last_completed_epoch(
    signum, status, batch, start, tmp_path, whole, no_pictures
):
    build = with_fault(send(signum), at=batch)
    ended = start(build=build)
    epochs = (batch - 1) // BATCHES
    assert_interrupted(ended, status, epochs)
    assert build.batches - batch < 2
    assert len(history(tmp_path)) == epochs
    curves = tmp_path / "results" / "one" / "training_curves.png"
    assert curves.exists() == (epochs > 0)

    kept = history(tmp_path)
    resumed = start("--resume")
    assert resumed.status == 0, resumed.err
    assert history(tmp_path)[:epochs] == kept
    assert_same_run(tmp_path, whole[0], pictures=False)


@posix
@pytest.mark.parametrize("epoch", [1, EPOCHS])
def test_a_signal_while_a_checkpoint_is_written_is_obeyed_after_it(
    epoch, start, tmp_path, whole, monkeypatch, no_pictures
):
    """In the last epoch, too, where no batch follows."""

    def save(path, state):
        if path.name == "one_last.pth" and len(state["trainer"]["history"]) == epoch:
            signal.raise_signal(signal.SIGINT)
        save_checkpoint(path, state)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_checkpoint", save)
        assert_interrupted(start(), 130, epoch)
    assert len(history(tmp_path)) == epoch
    assert start("--resume").status == 0
    assert_same_run(tmp_path, whole[0], pictures=False)


@posix
@pytest.mark.parametrize(
    "place",
    [
        "torch.load",
        pytest.param("chestlab.reporting.evaluation_plots.draw_roc_curve", marks=pytest.mark.slow),
        pytest.param("chestlab.data.sources.load", marks=pytest.mark.slow),
    ],
)
def test_a_signal_outside_training_is_obeyed_at_once(place, start, tmp_path, whole, monkeypatch):
    """Also where a library, or our own reader of damaged files, catches every exception."""
    start(build=with_fault(send(signal.SIGINT), at=BATCHES + 1))
    reached = []

    def interrupted(*arguments, **options):
        reached.append(place)
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("the signal was not obeyed")

    with monkeypatch.context() as patch:
        patch.setattr(place, interrupted)
        ended = start("--resume")
    assert reached
    assert ended.status == 143
    assert len(ended.err.splitlines()) == 1
    assert "--resume" in ended.err
    assert start("--resume").status == 0
    assert_same_run(tmp_path, whole[0])
    assert_contracts_files(tmp_path)


@posix
def test_a_second_signal_does_not_wait_for_the_batch_and_loses_nothing(
    start, tmp_path, whole, no_pictures
):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second signal was not obeyed at once")

    assert_interrupted(start(build=with_fault(twice, at=BATCHES + 1)), 130, 1)
    assert start("--resume").status == 0
    assert_same_run(tmp_path, whole[0], pictures=False)


def popen(script, *arguments, cwd):
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@posix
def test_train_py_stopped_by_ctrl_c_and_resumed_ends_as_if_it_had_not_been(phantom_npz, tmp_path):
    flags = ("--data", phantom_npz, "--epochs", 2, "--batch-size", 8, "--name", "one")
    flags += ("--device", "cpu", "--flip", 0.5, "--rotate", 10, "--accumulation", 2)
    flags += ("--recipe", "report")
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    disturbed.mkdir()
    folders = ("--results-dir", undisturbed / "results")
    folders += ("--models-dir", undisturbed / "trained_models")
    run_module.run(EfficientChestNet, {"report": REPORT}, list(map(str, (*flags, *folders))))

    process = popen("train.py", *flags, cwd=disturbed)
    assert any(line.startswith("epoch 1/2") for line in process.stdout)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert_interrupted(Ended(process.returncode, "", errors), 130, 1)
    kept = history(disturbed)
    result = run_script("train.py", *flags, "--resume", cwd=disturbed)
    assert result.returncode == 0, result.stderr
    assert "after epoch 1" in result.stdout
    assert len(kept) == 1 and history(disturbed)[:1] == kept
    assert_same_run(disturbed, undisturbed)
    assert_contracts_files(disturbed)


# Two at once.


@posix
def test_a_second_process_with_the_same_name_is_told_until_the_first_is_dead(
    phantom_npz, whole, start, tmp_path
):
    process = popen(TINY, "--data", phantom_npz, *FLAGS, cwd=tmp_path)
    try:
        assert any(line.startswith("epoch 1/") for line in process.stdout)
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        before = contents(tmp_path)
        for flags in ((), ("--resume",), ("--overwrite",)):
            ended = start(*flags)
            assert ended.status == 2
            assert len(ended.err.splitlines()) == 1
            assert "'one' is in progress" in ended.err
        assert contents(tmp_path) == before
    finally:
        process.kill()
        process.communicate()
    ended = start("--resume")
    assert ended.status == 0, ended.err
    assert_same_run(tmp_path, whole[0])


# Starting again.


@pytest.fixture
def unfinished(start, tmp_path):
    """A run that was interrupted in its third epoch."""
    start(build=with_fault(send(signal.SIGINT), at=2 * BATCHES + 1))
    assert len(history(tmp_path)) == 2


@posix
def test_over_an_unfinished_run_a_plain_start_is_refused_and_changes_nothing(
    unfinished, start, tmp_path
):
    before = contents(tmp_path)
    ended = start()
    assert ended.status == 2
    assert len(ended.err.splitlines()) == 1
    assert "--resume" in ended.err and "--overwrite" in ended.err
    assert contents(tmp_path) == before


@posix
def test_overwrite_starts_an_unfinished_run_anew(
    unfinished, start, tmp_path, successor, no_pictures
):
    ended = start("--overwrite", "--lr", 0.02)
    assert ended.status == 0, ended.err
    assert_same_run(tmp_path, successor, pictures=False)


def network_and_data(difference, folder, phantom):
    """What makes the network, and the data, of a run that differs as the message will say."""
    build, data = TinyNet, phantom
    if difference.startswith("model"):

        class Other(TinyNet):
            pass

        build = Other
    if difference.startswith("data"):
        data = folder / "elsewhere" / phantom.name
        data.parent.mkdir()
        counts = {"train": 64, "val": 26 if "val" in difference else 24, "test": 24}
        np.savez(data, **make_phantom(size=28, seed=4, **counts))
    if difference == "other layers":  # an edit in the network's file

        def build():
            network = TinyNet()
            network.layers[7].p = 0.3
            return network

    return build, data


@posix
@pytest.mark.parametrize(
    ("difference", "flags"),
    [
        ("recipe lr 0.01", ("--lr", 0.02)),
        ("recipe seed 42", ("--seed", 43)),
        ("model 'TinyNet'", ()),
        ("data counts val", ()),
        ("data sha256", ()),
        ("other layers", ()),
    ],
)
@pytest.mark.parametrize("done", [False, True], ids=["unfinished", "finished"])
def test_resume_refuses_another_recipe_model_or_data_and_names_the_difference(
    difference, flags, done, start, tmp_path, whole, phantom_npz
):
    if done:
        shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    else:
        start(build=with_fault(send(signal.SIGINT), at=BATCHES + 1))
    build, data = network_and_data(difference, tmp_path, phantom_npz)
    folders = tmp_path / "results", tmp_path / "trained_models"
    before = contents(*folders)
    ended = start("--resume", *flags, build=build, data=data)
    assert ended.status == 2
    assert len(ended.err.splitlines()) == 1
    assert difference in ended.err
    assert contents(*folders) == before


@pytest.mark.parametrize(
    ("difference", "flags"),
    [
        ("recipe lr 0.01", ("--lr", 0.02)),
        ("recipe seed 42", ("--seed", 43)),
        ("model 'TinyNet'", ()),
        ("data sha256", ()),
        ("other layers", ()),
        ("test figures", ("--no-test",)),
    ],
)
def test_a_finished_run_of_something_else_is_not_replaced_unless_asked_for(
    difference, flags, start, tmp_path, whole, phantom_npz, monkeypatch
):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    build, data = network_and_data(difference, tmp_path, phantom_npz)
    folders = tmp_path / "results", tmp_path / "trained_models"
    before = contents(*folders)
    ended = start(*flags, build=build, data=data)
    assert ended.status == 2
    assert len(ended.err.splitlines()) == 1
    assert difference in ended.err
    assert "--name NEW" in ended.err and "--overwrite" in ended.err
    assert contents(*folders) == before


def test_no_hint_leads_from_a_run_beside_an_unfinished_one_to_the_loss_of_either(
    start, tmp_path, whole
):
    """A finished run, another recipe's attempt interrupted beside it, and then a third recipe."""
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    interrupted = with_fault(send(signal.SIGINT), at=BATCHES + 1)
    assert start("--lr", 0.02, "--overwrite", build=interrupted).status == 130
    folders = tmp_path / "results", tmp_path / "trained_models"
    before = contents(*folders)
    same = start("--lr", 0.02)
    assert same.status == 2 and "--resume goes on" in same.err
    third = start("--lr", 0.03)
    assert third.status == 2 and "--name NEW keeps both" in third.err
    assert "the unfinished run beside it" in third.err and "--resume goes on" not in third.err
    resumed = start("--lr", 0.03, "--resume")
    assert resumed.status == 2 and "--name NEW keeps both" in resumed.err
    assert contents(*folders) == before


def test_resume_with_nothing_to_resume_says_so_and_starts(start, tmp_path, whole, no_pictures):
    ended = start("--resume")
    assert ended.status == 0, ended.err
    assert "nothing to resume" in ended.out
    assert_same_run(tmp_path, whole[0], pictures=False)


def test_resume_of_a_finished_run_says_so_and_touches_nothing(start, tmp_path, whole):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    before = contents(tmp_path)
    ended = start("--resume")
    assert ended.status == 0, ended.err
    assert "is finished" in ended.out
    assert contents(tmp_path) == before


def test_a_run_from_before_the_image_size_was_stored_is_known_as_the_same(start, tmp_path, whole):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    path = tmp_path / "results" / "one" / "metrics.json"
    metrics = json.loads(path.read_text())
    del metrics["data"]["size"]
    path.write_text(json.dumps(metrics))
    ended = start("--resume")
    assert ended.status == 0, ended.err
    assert "is finished" in ended.out


def test_a_new_run_takes_the_old_ones_grad_cam_away(start, tmp_path, whole, no_pictures):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    picture = tmp_path / "results" / "one" / "gradcam.png"
    picture.write_bytes(b"of the old weights")
    assert start("--lr", 0.02, "--overwrite").status == 0
    assert not picture.exists()


def test_a_plain_start_over_a_finished_run_replaces_it_when_it_is_finished_itself(
    start, tmp_path, whole, successor
):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    before = contents(tmp_path / "results" / "one", tmp_path / "trained_models")
    seen = []

    def look():
        now = contents(tmp_path / "results", tmp_path / "trained_models")
        seen.append({path: now.get(path) for path in before} == before)

    ended = start("--lr", 0.02, "--overwrite", build=with_fault(look, at=EPOCHS * BATCHES))
    assert ended.status == 0, ended.err
    assert seen == [True]
    assert_same_run(tmp_path, successor)
    assert_contracts_files(tmp_path, looks=2)


def test_a_run_without_test_that_replaces_one_with_it_leaves_none_of_its_test_figures(
    start, tmp_path, whole, no_pictures
):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    ended = start("--no-test")
    assert ended.status == 2 and "--overwrite replaces it" in ended.err
    ended = start("--no-test", "--overwrite")
    assert ended.status == 0, ended.err
    metrics = json.loads((tmp_path / "results" / "one" / "metrics.json").read_text())
    assert metrics["test"] is None
    assert not (tmp_path / "results" / "one" / "test_probabilities.csv").exists()


def test_a_finished_run_without_test_is_resumed_for_the_test_images_alone(
    start, tmp_path, whole, monkeypatch
):
    assert start("--no-test").status == 0
    models = tmp_path / "trained_models"
    weights = [checkpoint(tmp_path, kind) for kind in ("best", "last")]
    kept = history(tmp_path)
    before = contents(models)
    assert "nothing to do" in start("--resume", "--no-test").out
    assert contents(models) == before

    monkeypatch.setattr(Trainer, "run_epoch", lambda trainer: pytest.fail("it was trained again"))
    ended = start("--resume")
    assert ended.status == 0, ended.err
    assert history(tmp_path) == kept
    assert_same([checkpoint(tmp_path, kind) for kind in ("best", "last")], weights)
    assert_same_run(tmp_path, whole[0])
    assert_contracts_files(tmp_path)


def test_a_finished_run_stays_finished_where_its_test_images_are_cut_off(
    start, tmp_path, no_pictures, monkeypatch
):
    """The last epoch is the chosen one, whose weights an unfinished run would write anew."""
    flags = "--monitor", "last", "--epochs", 1, "--schedule", "constant"
    assert start("--no-test", *flags).status == 0
    before = contents(tmp_path / "trained_models")
    monkeypatch.setattr(run_module, "write_results", lambda *arguments: send(signal.SIGINT)())
    assert start("--resume", *flags).status == 130
    assert contents(tmp_path / "trained_models") == before


def test_a_folder_of_the_users_under_the_runs_name_keeps_the_users_files(
    start, tmp_path, no_pictures
):
    """As with --results-dir . --name notes."""
    notes = tmp_path / "results" / "one" / "notes" / "important.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("years of work")
    for flags in ((), ("--lr", 0.02, "--overwrite"), ("--resume", "--lr", 0.02)):
        assert start(*flags).status == 0
        assert notes.read_text() == "years of work"


# The disk.

LIMITED = """\
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.argv = sys.argv[2:]
sys.path.insert(0, {root!r})
from chestlab.runs import checkpoints
checkpoints.BETWEEN = 0.0
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def assert_stopped(status, err, *words):
    assert status == 1
    assert len(err.splitlines()) == 1, err
    for word in ("--resume", *words):
        assert word in err


@posix
@pytest.mark.parametrize(
    ("script", "epochs"),
    [
        pytest.param(TINY, 2, id="by a few bytes"),
        pytest.param(
            ROOT / "train.py", 0, id="in the middle of the weights", marks=pytest.mark.slow
        ),
    ],
)
def test_a_full_disk_stops_with_one_line_and_the_last_good_checkpoint(
    script, epochs, start, tmp_path, whole, phantom_npz
):
    """No file may grow beyond a limit, which stands for a disk that is full."""
    size = (whole[0] / "trained_models" / "one_last.pth").stat().st_size
    limit = size - 64 * (EPOCHS - epochs) + 32 if epochs else 1_000_000
    limited = LIMITED.format(root=str(ROOT))
    arguments = (limit, script, "--data", phantom_npz, *FLAGS)
    process = subprocess.run(
        [sys.executable, "-c", limited, *map(str, arguments)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert_stopped(process.returncode, process.stderr, "one_last.pth")
    assert not temporaries(tmp_path)
    assert len(history(tmp_path)) == epochs
    if epochs:
        kept = history(tmp_path)
        assert len(load_checkpoint(tmp_path / "trained_models" / "one_last.pth")) > 0
        ended = start("--resume")
        assert ended.status == 0, ended.err
        assert history(tmp_path)[:epochs] == kept
        assert_same_run(tmp_path, whole[0])
        assert_contracts_files(tmp_path)


@pytest.mark.parametrize(
    "folder",
    ["results/one", pytest.param("results", marks=pytest.mark.slow), "trained_models"],
)
def test_a_folder_deleted_in_mid_run_stops_with_one_line_and_can_be_resumed(
    folder, start, tmp_path, whole
):
    def delete():
        shutil.rmtree(tmp_path / folder)

    ended = start(build=with_fault(delete, at=BATCHES + 1))
    assert_stopped(ended.status, ended.err, Path(folder).name)
    ended = start("--resume")
    assert ended.status == 0, ended.err
    assert ("after epoch 2" in ended.out) == (folder != "trained_models")
    assert_same_run(tmp_path, whole[0])
    assert_contracts_files(tmp_path)


@pytest.mark.parametrize("flag", ["--results-dir", "--models-dir"])
@pytest.mark.parametrize("below", ["", "deep/er"])
def test_a_folder_below_a_file_is_refused_before_anything_is_written(flag, below, start, tmp_path):
    file = tmp_path / "file"
    file.write_text("text")
    ended = start(flag, file / below)
    assert ended.status == 2
    assert len(ended.err.splitlines()) == 1
    assert flag in ended.err and "not a folder" in ended.err
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("pictures", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_disk_that_is_full_at_any_write_stops_with_one_line_and_loses_no_epoch(
    pictures, start, tmp_path, whole, monkeypatch, request, record_figure
):
    if not pictures:
        request.getfixturevalue("no_pictures")
    fsync, writes = os.fsync, 0

    def failing(handle):
        nonlocal writes
        writes -= 1
        if writes == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", failing)
    faults = 0
    while True:
        folder = tmp_path / str(faults)
        folder.mkdir()
        monkeypatch.chdir(folder)
        writes = faults + 1
        ended = start()
        if ended.status == 0:
            break
        assert_stopped(ended.status, ended.err, os.strerror(errno.ENOSPC))
        assert any(name in ended.err for name in ("one", "test_looks.csv"))
        assert not temporaries(folder)
        kept = Kept()
        kept.check(folder)
        ended = start("--resume")
        assert ended.status == 0, ended.err
        kept.check(folder)
        assert_same_run(folder, whole[0], pictures)
        faults += 1
    assert faults >= 2 * EPOCHS + len(RESULTS) / 2
    record_figure("Full disks met, one for every write of a run", faults)


# A long run.

MEASURED = """\
import json, os, sys
sys.path[:0] = [{root!r}, {tests!r}]
from chestlab.runs import checkpoints
from chestlab.runs.checkpoints import Checkpoints
from chestlab.runs.run import run
from tiny_train import RECIPE, TinyNet

samples = []
save = Checkpoints.save

def measured(self, trainer, stage):
    save(self, trainer, stage)
    pages = int(open("/proc/self/statm").read().split()[1])
    samples.append({{
        "memory": pages * os.sysconf("SC_PAGE_SIZE"),
        "files": len(os.listdir("/proc/self/fd")),
        "checkpoint": self.experiment.files.last.stat().st_size,
    }})

checkpoints.BETWEEN, Checkpoints.save = 0.0, measured
run(TinyNet, {{"report": RECIPE}}, sys.argv[1:])
print(json.dumps(samples))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_2000_epochs_keep_memory_file_handles_and_checkpoints_as_they_are(
    tmp_path, phantom_npz, record_figure
):
    epochs = 2000
    script = MEASURED.format(root=str(ROOT), tests=str(ROOT / "tests"))
    flags = ("--data", phantom_npz, *FLAGS, "--epochs", epochs, "--patience", epochs)
    process = subprocess.run(
        [sys.executable, "-c", script, *map(str, flags)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert process.returncode == 0, process.stderr
    samples = json.loads(process.stdout.splitlines()[-1])
    assert len(samples) == epochs

    def column(name, first, last):
        return sorted(sample[name] for sample in samples[first:last])

    growth = max(column("memory", 10, epochs)) - samples[9]["memory"]
    assert growth < 20e6
    assert max(column("files", 10, epochs)) <= samples[9]["files"]
    row_bytes = 8 * len(HISTORY_COLUMNS)
    sizes = [s["checkpoint"] - row_bytes * n for n, s in enumerate(samples, start=1)]
    assert max(sizes[10:]) - min(sizes[10:]) < 2048  # a counter's digits, and alignment
    record_figure("Longest run, epochs", epochs)
    record_figure("Longest run, memory gained after epoch 10 in kB", round(growth / 1000))


# Too little memory.


class PixelNet(torch.nn.Module):
    """Without batch norm and dropout, so that the size of a batch changes nothing."""

    limit = 10**9

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(28 * 28, 1)

    def forward(self, x):
        if self.training and len(x) > self.limit:
            raise torch.OutOfMemoryError("out of memory: tried to allocate 3.00 GiB")
        return self.linear(x.flatten(1)).squeeze(1)


def hungry(limit):
    return type("PixelNet", (PixelNet,), {"limit": limit})


MEMORY_FLAGS = ("--flip", 0, "--rotate", 0)


@pytest.mark.parametrize("limit", [8, 5, 2])
def test_a_batch_that_does_not_fit_is_halved_and_the_effective_batch_stays(
    limit, start, tmp_path, no_pictures
):
    micro = max(size for size in (8, 4, 2) if size <= limit)
    ended = start(*MEMORY_FLAGS, build=hungry(limit))
    assert ended.status == 0, ended.err
    lines = [line for line in ended.out.splitlines() if "out of memory" in line]
    assert f"batches of {micro} " in lines[-1]
    assert "unchanged 32 images per step" in lines[-1]
    assert "batch norm" in lines[-1]
    assert len(lines) == {8: 1, 4: 2, 2: 3}[micro]
    small = checkpoint(tmp_path, "last")["trainer"]

    flags = (*MEMORY_FLAGS, "--batch-size", micro, "--accumulation", 32 // micro)
    ended = start(*flags, "--name", "two", build=PixelNet)
    assert ended.status == 0, ended.err
    assert "out of memory" not in ended.out
    explicit = checkpoint(tmp_path, "last", name="two")["trainer"]
    assert small["micro_batch"] == explicit["micro_batch"] == micro
    assert torch.allclose(small["history"], explicit["history"], rtol=1e-4, atol=1e-6)
    for key, tensor in small["model"].items():
        assert torch.allclose(tensor, explicit["model"][key], rtol=1e-4, atol=1e-6)


def test_memory_that_runs_out_in_the_middle_of_a_step_leaves_nothing_of_it_in_the_gradient(
    start, tmp_path, no_pictures
):
    def refuse():
        raise torch.OutOfMemoryError("out of memory: tried to allocate 3.00 GiB")

    states = []
    for build in (PixelNet, with_fault(refuse, at=BATCHES + 2, base=PixelNet)):
        ended = start(*MEMORY_FLAGS, "--overwrite", build=build)
        assert ended.status == 0, ended.err
        states.append(checkpoint(tmp_path, "last")["trainer"])
    assert [state["micro_batch"] for state in states] == [16, 8]
    for key, tensor in states[0]["model"].items():
        assert torch.allclose(tensor, states[1]["model"][key], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("place", ["Trainer._update", "Trainer.__init__", "Experiment.tensors"])
@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\n3.00 GiB"), MemoryError()],
    ids=["card", "host"],
)
def test_memory_that_runs_out_where_smaller_batches_do_not_help_is_told_in_one_line(
    place, error, start, tmp_path, monkeypatch
):
    def refuse(*arguments, **options):
        raise error

    monkeypatch.setattr(f"chestlab.runs.run.{place}", refuse)
    ended = start()
    assert ended.status == 1
    assert ended.err.startswith("stopped: out of memory: try a smaller --batch-size")
    assert ended.err.count("\n") == 1
    assert not (tmp_path / "results/one/metrics.json").exists()


@pytest.mark.parametrize("batch", [13, 14, 15, 26])
def test_halving_an_odd_batch_leaves_no_image_alone_in_a_batch_and_changes_no_step(
    batch, phantom_npz
):
    """An image on its own has no batch statistics, and a schedule counts its steps beforehand."""
    data = sources.load(str(phantom_npz))
    seen = []

    class Net(PixelNet):
        def forward(self, x):
            if self.training and len(x) > 7:
                raise torch.OutOfMemoryError("out of memory")
            if self.training:
                seen.append(len(x))
            return super().forward(x)

    for n in (64, 61, 57, 53):
        recipe = dataclasses.replace(RECIPE, batch_size=batch, epochs=2)
        images, labels = data.train.to("cpu")
        run = Trainer(Net, recipe, (images[:n], labels[:n]), data.val.to("cpu"))
        steps = run.steps_per_epoch
        while not run.finished:
            run.run_epoch()
        assert run.steps_per_epoch == steps
        assert min(seen) > 1


def test_a_resumed_run_keeps_the_batch_that_fits(start, tmp_path, no_pictures):
    batches = []

    class Net(hungry(8)):
        def forward(self, x):
            if self.training:
                batches.append(len(x))
                if len(batches) == 30:  # in the third epoch
                    signal.raise_signal(signal.SIGINT)
            return super().forward(x)

    Net.__name__ = "PixelNet"
    assert start(*MEMORY_FLAGS, build=Net).status == 130
    batches[:] = [0] * 100
    ended = start(*MEMORY_FLAGS, "--resume", build=Net)
    assert ended.status == 0, ended.err
    assert "out of memory" not in ended.out
    assert max(batches) == 8


def test_a_device_too_small_for_any_batch_is_told_in_one_line(start):
    ended = start(*MEMORY_FLAGS, build=hungry(1))
    assert ended.status == 1
    assert len(ended.err.splitlines()) == 1
    assert "out of memory" in ended.err and "--image-size" in ended.err


def test_memory_that_does_not_suffice_for_validation_halves_its_batches_too(
    start, tmp_path, no_pictures
):
    class Net(PixelNet):
        def forward(self, x):
            if not self.training and len(x) > 10:
                raise torch.OutOfMemoryError("out of memory: tried to allocate 3.00 GiB")
            return super().forward(x)

    Net.__name__ = "PixelNet"
    ended = start(*MEMORY_FLAGS, build=Net)
    assert ended.status == 0, ended.err
    ended = start(*MEMORY_FLAGS, "--name", "two", build=PixelNet)
    metrics = [
        json.loads((tmp_path / "results" / name / "metrics.json").read_text())
        for name in ("one", "two")
    ]
    assert metrics[0]["test"] == metrics[1]["test"]
