"""Both READMEs: the same commands, each of which runs, and names of files that exist."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REAL_DATA, ROOT, run_script
from PIL import Image

from chestlab.data.phantom import make_phantom
from chestlab.files.run_files import ARTEFACTS

READMES = "README.md", "README.id.md"
NAME = "efficientchestnet"  # of the checkpoint that the READMEs speak of
PRETRAINED = "pretrained_efficientchestnet_findings"
COMMITTED = [f"{name}_chestmnist_nih_subset_28" for name in (NAME, "residualchestnet")]
SHORT = ["--data", "{phantom}", "--epochs", "1", "--device", "cpu"]
FAMILY = [*SHORT, "--width", "4", "--image-size", "32"]
BACKBONE = [*SHORT, "--weights", "none", "--image-size", "32"]
APPENDED = {  # by the beginning of a command, the longest counts
    "python train.py": [*SHORT, "--name", NAME],
    "python train.py --help": [],
    "python train.py --data FILE.npz": [*SHORT, "--name", "file"],
    "python train.py --epochs 30": SHORT,
    "python train.py --source-size 64": [*SHORT, "--data", "{phantom64}", "--name", "larger"],
    "python train.py --find-lr": [*SHORT, "--batch-size", "4", "--name", "rates"],
    "python train.py --weights": [*SHORT, "--name", "started"],
    "python pretrain.py": [*SHORT, "--name", PRETRAINED],
    "python train_improved.py": SHORT,
    "python train_mobilenet.py": BACKBONE,
    "python train_densenet.py": BACKBONE,
    "python resnet_": FAMILY,
    "python compare_family.py": [*FAMILY, "--networks", "plain34", "resnet34"],
    "python blend.py": ["--data", "{real}"],
    "python visualize.py": [],
    "python visualize.py mistakes": ["--data", "{phantom}", "--run", NAME],
    "python visualize.py augmentation": ["--data", "{phantom}"],
    "python baselines.py": ["--data", "{phantom}"],
    "python ablation.py": [*SHORT, "--folds", "2", "--repeats", "1", "--switch", "flip"],
    "python learning_curve.py": [*SHORT, "--repeats", "1", "--image-size", "16"],
    "python tune.py": [*SHORT, "--folds", "2", "--trials", "1", "--switch", "flip"],
    "python benchmarks/seeds.py": SHORT,
    "python explain.py": ["--data", "{phantom}"],
    "python predict.py": [],
    "%run train.py": [*SHORT, "--name", "cell"],
}
FOLDS = [name.replace("_chest", "_best_chest") + "_folds5_trainval" for name in COMMITTED]
PLACEHOLDERS = {
    "FILE.npz": ["{phantom}"],
    "IMAGE_OR_FOLDER": ["images"],
    "blend.py RUN RUN": ["blend.py", *FOLDS],
    "RUN RUN": COMMITTED,
}
ELSEWHERE = ("pip install", "python -m pytest")  # installation, and what runs this very file
SLOW = (
    *("--source-size", "--members", "--folds", "benchmarks/seeds.py", "compare_family.py"),
    *("ablation.py", "learning_curve.py", "tune.py"),
)


def blocks(readme: str, language: str) -> list[str]:
    """Fenced blocks of a language; every block has one, and none is set by indentation."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    found = re.findall(r"^```(.*)\n((?:.*\n)*?)```$", text, flags=re.MULTILINE)
    assert {kind for kind, _ in found} == {"sh", "python"}
    outside = re.sub(r"^```.*\n((?:.*\n)*?)```$", "", text, flags=re.MULTILINE)
    assert not re.search(r"^(    |\t)", outside, flags=re.MULTILINE)
    return [block for kind, block in found if kind == language]


def commands(readme: str) -> list[str]:
    """Every command in a block, without its comment, and those within a sentence."""
    lines = "".join(blocks(readme, "sh")).splitlines()
    found = [re.sub(r"\s+#.*", "", line) for line in lines]
    text = (ROOT / readme).read_text(encoding="utf-8")
    return found + re.findall(r"`((?:python |pip |%run )[^`]*)`", text)


RUN = [command for command in commands(READMES[0]) if not command.startswith(ELSEWHERE)]


@pytest.fixture(scope="module")
def project(tmp_path_factory, phantom_npz) -> tuple[Path, dict[str, str]]:
    """A copy of the project, with a finished run and a pre-trained network, and the phantoms."""
    folder = tmp_path_factory.mktemp("project")
    for path in ROOT.glob("*.py"):
        shutil.copyfile(path, folder / path.name)
    for name in ("benchmarks", "results"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "images").mkdir()
    xray = np.load(phantom_npz)["test_images"][0]
    Image.fromarray(xray).save(folder / "images" / "xray.png")
    larger = folder / "larger.npz"
    np.savez(larger, **make_phantom(size=64, train=48, val=16, test=16, seed=3))
    flags = "--data", phantom_npz, "--epochs", 1, "--device", "cpu"
    for script, name in (("train.py", NAME), ("pretrain.py", PRETRAINED)):
        result = run_script(folder / script, *flags, "--name", name, cwd=folder)
        assert result.returncode == 0, result.stderr
    values = {"phantom": str(phantom_npz), "phantom64": str(larger)}
    real = Path(os.environ.get(REAL_DATA) or "nowhere") / "chestmnist_nih_subset_28.npz"
    if real.is_file():
        values["real"] = str(shutil.copyfile(real, folder / real.name))
    return folder, values


def run(command: str, project: tuple[Path, dict[str, str]], monkeypatch) -> int:
    """Run a command's script in this process, which has imported everything; its exit status."""
    folder, values = project
    known = [beginning for beginning in APPENDED if command.startswith(beginning)]
    assert known, f"no way to run this is known here: {command}"
    for placeholder, words in PLACEHOLDERS.items():
        command = command.replace(placeholder, shlex.join(words))
    _, script, *flags = shlex.split(command)
    flags += APPENDED[max(known, key=len)]
    if "{real}" in flags and "real" not in values:
        pytest.skip(f"real X-rays are needed: set {REAL_DATA} to their folder")
    flags = [word.format(**values) for word in flags]
    if not (ROOT / script).exists():
        pytest.skip(f"there is no {script}")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [script, *flags])
    try:
        runpy.run_path(str(folder / script), run_name="__main__")
    except SystemExit as end:
        return end.code or 0
    return 0


@pytest.mark.parametrize("command", [c for c in RUN if not any(word in c for word in SLOW)])
def test_the_command_runs(command, project, monkeypatch, capsys):
    status = run(command, project, monkeypatch)
    assert status == 0, capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in RUN if any(word in c for word in SLOW)])
def test_the_long_command_runs(command, project, monkeypatch, capsys):
    status = run(command, project, monkeypatch)
    assert status == 0, capsys.readouterr().err


def test_a_command_that_is_not_known_here_fails(project, monkeypatch):
    with pytest.raises(AssertionError, match="no way to run this"):
        run("python unheard_of.py", project, monkeypatch)


def test_both_list_the_same_commands_and_code():
    english, indonesian = READMES
    assert commands(english) == commands(indonesian)
    assert blocks(english, "python") == blocks(indonesian, "python")
    assert len(RUN) == len(set(RUN)) > 20


def test_every_training_script_is_in_the_table_and_has_a_command():
    scripts = {path.name for pattern in ("train*.py", "resnet_*.py") for path in ROOT.glob(pattern)}
    for readme in READMES:
        text = (ROOT / readme).read_text(encoding="utf-8")
        rows = set(re.findall(r"^\| \d \| `([\w.]+)` \|", text, flags=re.MULTILINE))
        assert scripts <= rows
        assert rows <= {command.split()[1] for command in commands(readme)}


@pytest.mark.parametrize("readme", READMES)
def test_every_file_named_exists(readme):
    text = (ROOT / readme).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    named = re.findall(r"`([\w./*-]+\.(?:py|ipynb|txt|md))`", text)
    named += [word for c in commands(readme) for word in c.split() if word.endswith(".txt")]
    assert len(links) >= 5
    assert len(named) >= 30
    written = {"train_mine.py"}  # by the reader
    missing = [name for name in [*links, *named] if not list(ROOT.glob(name))]
    assert set(missing) <= written
    left = re.findall(r"`(\w+\.(?:csv|png|json))`", text)
    assert set(left) <= set(ARTEFACTS)
    assert len(left) >= 8


def test_the_network_that_a_reader_adds_trains(project, monkeypatch):
    folder, values = project
    (block,) = blocks(READMES[0], "python")
    script = folder / "train_mine.py"
    script.write_text(block)
    short = [word.format(**values) for word in SHORT]
    result = run_script(script, *short, "--name", "mynet", cwd=folder)
    assert result.returncode == 0, result.stderr
    explained = ["--checkpoint", "trained_models/mynet_best.pth", "--data", values["phantom"]]
    result = run_script(folder / "explain.py", *explained, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (folder / "results" / "mynet").iterdir()} >= {
        "metrics.json",
        "gradcam.png",
    }
