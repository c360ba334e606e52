"""Wrong input: one line on stderr that says what is allowed, exit status 2, nothing written."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, rest_slow, run_script
from tiny_train import RECIPE, TinyNet

from chestlab.data.sources import load
from chestlab.data.splits import SPLITS
from chestlab.files.atomic import check_writable
from chestlab.files.errors import InputError
from chestlab.runs.flags import parse
from chestlab.runs.naming import run_name
from chestlab.runs.run import run
from train import BEST

CONTRACT_FLAGS = {  # and the default that --help of train.py must show, as text
    "--recipe": "best",
    "--data": "auto",
    "--classes": None,
    "--root": "~/.medmnist",
    "--source-size": "28",
    "--image-size": "0",
    "--epochs": str(BEST.epochs),
    "--batch-size": "32",
    "--lr": str(BEST.lr),
    "--weight-decay": str(BEST.weight_decay),
    "--patience": "15",
    "--seed": "42",
    "--device": "auto",
    "--amp": "auto",
    "--results-dir": "results",
    "--models-dir": "trained_models",
    "--name": "made of recipe, file, size and changed values",
    "--resume": None,
    "--overwrite": None,
    "--no-test": None,
}


def good_arrays() -> dict[str, np.ndarray]:
    """Six images per split, three of each class."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split in SPLITS:
        arrays[f"{split}_images"] = rng.integers(0, 256, (6, 28, 28), np.uint8)
        arrays[f"{split}_labels"] = np.eye(14, dtype=np.uint8)[[1, 7, 1, 7, 1, 7]]
    return arrays


def one_class(arrays: dict, split: str, column: int) -> np.ndarray:
    return np.eye(14, dtype=np.uint8)[[column] * 6]


def changed(**changes: Callable[[dict], np.ndarray | None]) -> Callable[[Path], None]:
    """A maker of a file whose arrays are good but for ``changes``; None leaves an array out."""

    def make(path: Path) -> None:
        arrays = good_arrays()
        for key, change in changes.items():
            arrays[key] = change(arrays)
        np.savez(path, **{key: array for key, array in arrays.items() if array is not None})

    return make


def truncated(path: Path) -> None:
    np.savez_compressed(path, **good_arrays())
    path.write_bytes(path.read_bytes()[:2000])


def single_npy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros((6, 28, 28), np.uint8))


NAMES = {f"{split}_names": lambda a: np.array(["1.png"] * 6) for split in SPLITS}

# What makes the file, and what the message must say.
BAD_FILES_AS_COMMAND = {
    "missing": (lambda path: None, "there is no such file"),
    "empty": (lambda path: path.write_bytes(b""), "not a sound npz"),
    "truncated": (truncated, "not a sound npz"),
    "other arrays": (
        lambda path: np.savez(path, x=np.zeros(3), y=np.ones(3)),
        "there is no array 'train_images'",
    ),
    "centred images": (
        changed(val_images=lambda a: a["val_images"] / np.float32(127.5) - 1),
        r"val_images is float32 \(6, 28, 28\) and holds -\S+ in image 0; allowed are values in "
        r"0..1 or in 0..255; a line of numpy that mends it if -1 is black and 1 white: np.savez\(",
    ),
    "colour images": (
        changed(train_images=lambda a: a["train_images"][..., None] // np.array([1, 2, 1], "u1")),
        r"train_images is uint8 \(6, 28, 28, 3\) and holds the colour \d+ \d+ \d+ in image 0",
    ),
    "13 labels": (
        changed(val_labels=lambda a: a["val_labels"][:, :13]),
        r"val_labels is uint8 \(6, 13\); wanted is 0 and 1 in \(N, 14\), a column per finding; "
        r"a line of numpy .* if the last, from hernia on, are those that lack: np.savez",
    ),
    "label 2": (
        changed(train_labels=lambda a: a["train_labels"] * 2),
        r"train_labels is uint8 \(6, 14\) and holds 2 in row 0, column 1 \(cardiomegaly\); "
        "allowed are 0 and 1; a line of numpy that mends it .* np.savez",
    ),
    "no val split": (
        changed(val_images=lambda a: None, val_labels=lambda a: None),
        "there is no val split: 'python datareader.py split .*bad.npz --val 0.15' makes one",
    ),
    "no cardiomegaly": (
        changed(train_labels=lambda a: one_class(a, "train", 7)),
        "the train split has no image labelled cardiomegaly alone",
    ),
    "no pneumothorax": (
        changed(val_labels=lambda a: one_class(a, "val", 1)),
        "the val split has no image labelled pneumothorax alone",
    ),
    "neither class": (
        changed(test_labels=lambda a: one_class(a, "test", 3)),
        "the test split has no image labelled cardiomegaly alone",
    ),
}
BAD_FILES = {
    "folder": (Path.mkdir, "there is no such file"),
    "npy": (single_npy, "not a sound npz"),
    "text": (lambda path: path.write_text("epoch,loss\n1,0.5\n" * 99), "not a sound npz"),
    "no test labels": (changed(test_labels=lambda a: None), "there is no array 'test_labels'"),
    "oblong images": (
        changed(train_images=lambda a: a["train_images"][:, 4:]),
        r"train_images is uint8 \(6, 24, 28\); wanted is uint8 \(6, S, S\)",
    ),
    "more labels": (
        changed(test_labels=lambda a: a["test_labels"].repeat(2, 0)),
        r"test_images is uint8 \(6, 28, 28\); wanted is uint8 \(12, S, S\)",
    ),
    "two sizes": (
        changed(val_images=lambda a: a["val_images"][:, :20, :20]),
        "the splits differ in image size: .*28.*20.*28",
    ),
    "a pixel": (
        changed(train_images=lambda a: np.zeros((6, 1, 1), np.uint8)),
        "train_images is 1 px wide; allowed are 16 to 1024",
    ),
    "no images": (
        changed(
            train_images=lambda a: a["train_images"][:0],
            train_labels=lambda a: a["train_labels"][:0],
        ),
        "there is no train split to train on",
    ),
    "no train split": (
        changed(train_images=lambda a: None, train_labels=lambda a: None),
        "there is no train split to train on; the file holds 'val_images', ",
    ),
    "empty val, no test": (
        changed(
            val_images=lambda a: a["val_images"][:0],
            val_labels=lambda a: a["val_labels"][:0],
            test_images=lambda a: None,
            test_labels=lambda a: None,
        ),
        "no test split and the val split is empty: '.* split .*bad.npz --val 0.15 --test 0.15'",
    ),
    "flat labels": (
        changed(test_labels=lambda a: a["test_labels"][:, 7]),
        r"test_labels is uint8 \(6,\), one label per image: --classes cardiomegaly,pneumothorax "
        "reads it where 0 is cardiomegaly, and --classes pneumothorax,cardiomegaly where it is ",
    ),
    "a label": (changed(test_labels=lambda a: np.uint8(1)), r"test_labels is uint8 \(\)"),
    "an image": (changed(val_images=lambda a: np.uint8(1)), r"val_images is uint8 \(\)"),
    "signed labels": (
        changed(test_labels=lambda a: -a["test_labels"].astype(np.int8)),
        r"test_labels is int8 \(6, 14\) and holds -1 in row 0, column 1 \(cardiomegaly\); allowed",
    ),
    "numbers for names": (
        changed(**{**NAMES, "train_names": lambda a: np.arange(6)}),
        r"train_names is int64 \(6,\); wanted is text",
    ),
    "bytes for names": (
        changed(**{**NAMES, "val_names": lambda a: np.array([b"1.png"] * 6)}),
        "wanted is text",
    ),
    "five names": (
        changed(**{**NAMES, "val_names": lambda a: np.array(["1.png"] * 5)}),
        r"characters \(6,\)",
    ),
    "names of two splits": (
        changed(**{**NAMES, "val_names": lambda a: None}),
        "of names there are only those of train, test",
    ),
    "not an npz": (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(500)), "not a sound npz"),
}

BAD_FLAGS_AS_COMMAND = {
    "unknown": (["--epoch-count", "3"], "no flag --epoch-count: did you mean --epochs?"),
    "abbreviated": (["--epo", "3"], "no flag --epo: did you mean --epochs?"),
    "choice": (["--monitor", "loss"], "'loss' is not val_accuracy or val_auc or val_loss"),
    "nan": (["--lr", "nan"], "'nan' is not a number above 0 up to 10"),
    "negative": (["--weight-decay=-1e-4"], "'-1e-4' is not a number from 0 up to 10"),
    "no epochs": (["--epochs", "0"], "'0' is not an integer from 1 up to 100000"),
    "name": (["--name", "a/b"], "--name 'a/b': allowed are up to 150 letters, digits"),
    "results": (["--results-dir", "good.npz/x"], "'.*good.npz' is not a folder"),
    "both": (["--resume", "--overwrite"], "--resume and --overwrite exclude each other"),
    "fp16": (["--device", "cpu", "--amp", "fp16"], "allowed there are auto, off and bf16"),
}
BAD_FLAGS = {
    "batch of one": (["--batch-size", "1"], "'1' is not an integer from 2 up to"),
    "models": (["--models-dir", "good.npz/a/b"], "'.*good.npz' is not a folder"),
    "source size": (["--source-size", "64"], "'good.npz' holds 28-px images"),
    **{
        f"lr {value}": ([f"--lr={value}"], "is not a number above 0 up to 10")
        for value in ("0", "-0.0", "-1", "inf", "-inf", "11", "fast", "", "1e-3,", "0x1")
    },
    **{
        f"{flag} {value}": ([f"--{flag}={value}"], f"argument --{flag}: '{value}' is not an? ")
        for flag, value in (
            ("epochs", "-1"),
            ("epochs", "2.5"),
            ("epochs", "nan"),
            ("epochs", "1" + "0" * 400),
            ("epochs", "9" * 5000),
            ("weight-decay", "inf"),
            ("beta1", "1"),
            ("warmup", "1"),
            ("div-factor", "0.5"),
            ("gamma", "0"),
            ("clip", "nan"),
            ("label-smoothing", "1"),
            ("patience", "0"),
            ("image-size", "4096"),
            ("std", "0"),
            ("flip", "1.5"),
            ("seed", "-1"),
            ("seed", str(2**31)),
        )
    },
    **{
        f"name {name}": (["--name", name], "allowed are up to 150 letters")
        for name in ("", ".", "..", "a b", "a\\b", "../x", "C:", "é", "x" * 151)
    },
    "name phantom": (["--name", "Phantom"], "--name 'Phantom'"),
    "name unfinished": (["--name", "a.unfinished"], "'.unfinished' is taken"),
    "recipe": (["--recipe", "mine"], "invalid choice: 'mine' .*report"),
    "schedule": (
        ["--schedule", "linear"],
        "constant or onecycle or cosine or restarts or step or plateau",
    ),
    "amp": (["--amp", "fp8"], "'fp8' is not auto or off or bf16 or fp16"),
    "no value": (["--epochs"], "argument --epochs: expected one argument"),
    "stray word": (["now"], "unrecognized arguments: now"),
    "small images": (["--image-size", "8"], "allowed are 0 and 16 to 1024"),
    "odd source": (["--source-size", "32"], "28, 64, 128, 224"),
    "data word": (["--data", "mnist"], "allowed are auto, chestmnist, phantom or a file"),
    "no data": (["--data", ""], "allowed are auto, chestmnist, phantom or a file"),
    "long file name": (["--data", "x" * 5000 + ".npz"], "there is no such file"),
    "strange home": (["--data", "~nobody-of-that-name/x.npz"], "there is no such file"),
    "results in a strange home": (["--results-dir", "~nobody-of-that-name"], "no such home"),
    "long results": (["--results-dir", "x" * 5000], "--results-dir"),
    "classes": (["--classes", "mass,nodule"], "--classes: 'mass,nodule': allowed are cardiomegaly"),
    "classes of no file": (
        ["--data", "phantom", "--classes", "cardiomegaly,pneumothorax"],
        "--classes is for --data FILE.npz; 'phantom' has 14 label columns",
    ),
    "tpu": (["--device", "tpu"], "auto.*cpu.*cuda.*mps"),
}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with a good file in it, which is also the home."""
    np.savez(tmp_path / "good.npz", **good_arrays())
    for variable in ("HOME", "USERPROFILE", "LOCALAPPDATA", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tree(folder: Path) -> list[tuple]:
    """Every path below ``folder`` with its size and time."""
    return sorted(
        (str(path), path.is_dir(), path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
    )


def assert_refused(status: int, out: str, err: str, message: str) -> None:
    assert status == 2, (status, out, err)
    assert out == ""
    assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1
    assert "Traceback" not in err
    assert re.search(message, err), err


def refused_as_a_command(folder: Path, arguments: list, message: str) -> None:
    before = tree(folder)
    done = run_script(TINY, *arguments, cwd=folder)
    assert_refused(done.returncode, done.stdout, done.stderr, message)
    assert tree(folder) == before


def refused_in_process(folder: Path, capsys, arguments: list, message: str) -> None:
    before = tree(folder)
    with pytest.raises(SystemExit) as end:
        run(TinyNet, {"report": RECIPE}, [str(argument) for argument in arguments])
    assert_refused(end.value.code, *capsys.readouterr(), message)
    assert tree(folder) == before


def test_the_good_file_is_good(folder):
    """What the tables call bad is bad on its own account."""
    data = load("good.npz")
    assert [len(getattr(data, split)) for split in SPLITS] == [6, 6, 6]
    assert parse({"report": RECIPE}, ["--data", "good.npz"]).recipe == RECIPE


@pytest.mark.parametrize("case", rest_slow(BAD_FILES_AS_COMMAND, "truncated"))
def test_a_bad_file_as_a_command(folder, case):
    make, message = BAD_FILES_AS_COMMAND[case]
    make(folder / "bad.npz")
    refused_as_a_command(folder, ["--data", "bad.npz"], message)


@pytest.mark.parametrize("case", [*BAD_FILES, *BAD_FILES_AS_COMMAND])
def test_a_bad_file(folder, capsys, case):
    make, message = (BAD_FILES | BAD_FILES_AS_COMMAND)[case]
    make(folder / "bad.npz")
    refused_in_process(folder, capsys, ["--data", "bad.npz"], message)


@pytest.mark.parametrize("case", rest_slow(BAD_FLAGS_AS_COMMAND, "abbreviated"))
def test_a_bad_flag_as_a_command(folder, case):
    arguments, message = BAD_FLAGS_AS_COMMAND[case]
    refused_as_a_command(folder, ["--data", "good.npz", *arguments], message)


@pytest.mark.parametrize("case", [*BAD_FLAGS, *BAD_FLAGS_AS_COMMAND])
def test_a_bad_flag(folder, capsys, case):
    arguments, message = (BAD_FLAGS | BAD_FLAGS_AS_COMMAND)[case]
    refused_in_process(folder, capsys, ["--data", "good.npz", *arguments], message)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("column", "lacking"), [(1, "pneumothorax"), (7, "cardiomegaly")])
def test_every_split_needs_both_classes(folder, split, column, lacking):
    make = changed(**{f"{split}_labels": lambda a: one_class(a, split, column)})
    make(folder / "bad.npz")
    with pytest.raises(InputError, match=f"the {split} split has no image labelled {lacking}"):
        load("bad.npz")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(folder):
    message = "--device cuda: PyTorch finds none here; allowed are auto, .*cpu"
    refused_as_a_command(folder, ["--data", "good.npz", "--device", "cuda"], message)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is an MPS device")
def test_another_device_that_is_not_there(folder, capsys):
    refused_in_process(folder, capsys, ["--device", "mps"], "allowed are auto, .*cpu")


def test_the_network_of_experiment_1_refuses_alike(folder):
    before = tree(folder)
    done = run_script("train.py", "--data", "missing.npz", cwd=folder)
    assert_refused(done.returncode, done.stdout, done.stderr, "there is no such file")
    assert tree(folder) == before


@pytest.mark.skipif(sys.platform == "win32", reason="the name is not allowed there")
def test_a_refusal_stays_one_line_whatever_the_name(folder, capsys):
    refused_in_process(folder, capsys, ["--data", "two\nlines.npz"], "there is no such file")


def test_help_all_lists_every_flag_with_its_default(tmp_path):
    done = run_script("train.py", "--help-all", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    paragraphs = re.split(r"\n  (?=-)", done.stdout)
    about = {text.split()[0]: " ".join(text.split("\n\n")[0].split()) for text in paragraphs}
    for flag, default in CONTRACT_FLAGS.items():
        assert flag in about, flag
        shown = about[flag].endswith((f"(default: {default})", f"({default})"))
        assert default is None or shown, about[flag]
    assert not list(tmp_path.iterdir())


def test_all_good_values_pass():
    """The bounds themselves are allowed."""
    flags = (
        "--data a.npz --root r --source-size 224 --image-size 16 --epochs 1 --batch-size 2 "
        "--lr 10 --weight-decay 0 --patience 1 --seed 0 --device cpu --amp bf16 --no-test "
        "--results-dir r --models-dir m --name A.b_c-9 --overwrite"
    )
    options = parse({"report": RECIPE}, flags.split())
    assert (options.recipe.lr, options.recipe.weight_decay, options.recipe.seed) == (10, 0, 0)
    assert options.root == options.results_dir == Path("r")
    assert parse({"report": RECIPE}, []).recipe == RECIPE


def test_a_folder_below_the_home_is_found(folder):
    options = parse({"report": RECIPE}, ["--results-dir", "~/r", "--root", "~"])
    assert options.results_dir == folder / "r" and options.root == folder


@pytest.mark.parametrize("flag", ["--results-dir", "--models-dir"])
def test_folders_that_could_be_made_are_not_made_by_looking(folder, flag):
    check_writable(folder / "new" / "newer", flag)
    check_writable(Path("relative"), flag)
    assert not (folder / "new").exists() and not Path("relative").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="symlinks need a privilege there")
def test_a_dangling_link_is_no_folder(folder):
    (folder / "link").symlink_to(folder / "nowhere")
    with pytest.raises(InputError, match="is not a folder"):
        check_writable(folder / "link" / "x", "--results-dir")


def test_results_of_different_files_never_share_a_name():
    stems = ("nih", "my images", "my-images", "画像", "データ", "x" * 300, "x" * 299)
    names = [run_name("tiny", f"{stem}.npz", 28) for stem in stems]
    names += [run_name("tiny", "phantom", 28), run_name("tiny", "nih.npz", 64)]
    assert len(set(names)) == len(names)
    assert names[0] == "tiny_nih" and names[2] == "tiny_my-images" and names[-1] == "tiny_nih_64"
    for name in names:
        parse({"report": RECIPE}, ["--name", name])


def test_a_good_file_beside_a_bad_flag_is_untouched(folder):
    """The flags are looked at before the data: not even a cache is made."""
    with pytest.raises(SystemExit):
        run(TinyNet, {"report": RECIPE}, ["--data", "good.npz", "--results-dir", "good.npz"])
    assert [path.name for path in folder.iterdir()] == ["good.npz"]


@pytest.mark.parametrize("flags", [[], ["--overwrite"], ["--resume"]])
def test_a_folder_that_is_no_run_of_ours_is_not_emptied(folder, monkeypatch, flags):
    """``--results-dir . --name Documents`` must not cost anyone their documents."""
    monkeypatch.setattr("chestlab.runs.results.draw_pictures", lambda *arguments: None)
    (folder / "Documents").mkdir()
    (folder / "Documents" / "thesis.txt").write_text("years of work")
    with contextlib.suppress(SystemExit):
        arguments = ["--data", "good.npz", "--results-dir", ".", "--name", "Documents"]
        run(TinyNet, {"report": RECIPE}, [*arguments, "--epochs", "1", *flags])
    assert (folder / "Documents" / "thesis.txt").read_text() == "years of work"
