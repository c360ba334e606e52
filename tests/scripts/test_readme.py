"""READMEs and docs: every command runs, and every file and flag that they name exists."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from conftest import (
    REAL_DATA,
    ROOT,
    copy_of_made_once,
    execute,
    require_exporter,
    run_in_process,
    run_script,
)
from PIL import Image

from chestlab.data.download import DownloadError
from chestlab.data.phantom import make_phantom
from chestlab.files.run_files import ARTEFACTS

READMES = "README.md", "README.id.md"
ARCHITECTURE = "docs/architecture.md"
PAGES = (*READMES, *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
NAME = "efficientchestnet"  # of the run whose checkpoint the pages speak of
PRETRAINED = "pretrained_efficientchestnet_findings"
SHORT = ["--data", "{phantom}", "--epochs", "1", "--device", "cpu"]
NAMED = [*SHORT, "--name", NAME]
FAMILY = [*SHORT, "--width", "8", "--image-size", "32"]
BACKBONE = [*SHORT, "--weights", "none", "--image-size", "32"]
STUDY = [*SHORT, "--folds", "2", "--repeats", "1"]
FROZEN = ["--data", "{phantom}", "--device", "cpu", "--folds", "2", "--repeats", "1"]
APPENDED = {  # by the beginning of a command, the longest counts
    "python train.py": NAMED,
    "python train.py --help": [],
    "python train.py --data": SHORT,
    "python train.py --data FILE.npz": [*SHORT, "--name", "file"],
    "python train.py --epochs 30": SHORT,
    "python train.py --source-size 64": [*SHORT, "--data", "{phantom64}", "--name", "larger"],
    "python train.py --find-lr": [*SHORT, "--batch-size", "4", "--name", "rates"],
    "python train.py --weights": [*SHORT, "--name", "started"],
    "python train.py --mixup": SHORT,
    "python train_fast.py": SHORT,
    "python train_improved.py": SHORT,
    "python train_mobilenet.py": BACKBONE,
    "python train_densenet.py": BACKBONE,
    "python train_minimal.py": ["{phantom}", "1"],
    "python resnet_": FAMILY,
    "python datareader.py": ["--data", "{phantom}"],
    "python visualize.py": [],
    "python visualize.py mistakes": ["--run", NAME],
    "python visualize.py names": [],
    "python visualize.py augmentation": ["--data", "{phantom}"],
    "python explain.py": [],
    "python predict.py": [],
    "python export.py": [],
    "python -m studies.baselines": ["--data", "{phantom}"],
    "python -m studies.ablation": [*STUDY, "--switch", "flip"],
    "python -m studies.learning_curve": [*SHORT, "--repeats", "1", "--image-size", "16"],
    "python -m studies.tune": [*STUDY, "--trials", "1", "--switch", "flip"],
    "python -m studies.compare_family": [*FAMILY, "--networks", "plain34", "resnet34"],
    "python -m studies.nih_subset": [],
    "python -m studies.blend": ["--data", "{real}"],
    "python -m studies.fresh_folds": [*FROZEN, "--only", "efficientchestnet"],
    "python -m studies.imagenet": [*FROZEN, "--only", "random_25"],
    "python -m studies.findings_first": [*FROZEN, "--only", "efficientchestnet_findings_short"],
    "python -m studies.time_to_accuracy": [*FROZEN, "--only", "efficientchestnet_size_20"],
    "python -m studies.distill": [*FROZEN, "--only", "efficientchestnet"],
    "python -m studies.other_images": [*FROZEN, "--only", "efficientchestnet"],
    "python -m studies.soups": [*FROZEN, "--only", "seed_42"],
    "python -m studies.deployment": [*FROZEN, "--only", "efficientchestnet", "--costs"],
    "python -m studies.shifts": [*FROZEN, "--only", "efficientchestnet"],
    "python -m studies.robustness": [*FROZEN, "--only", "efficientchestnet"],
    "python -m studies.mistakes": ["--data", "{real}"],
    "python -m studies.seeds": SHORT,
    "python -m studies.strides": ["--epochs", "1", "--folds", "2", "--seeds", "1"],
    "python -m studies.pretrain": [*SHORT, "--name", PRETRAINED],
    "python -m studies.pretrain --net timm": [*BACKBONE, "--name", "chests"],
    "python -m studies.mirrored": STUDY,
    "torchrun --nproc-per-node 2 train.py": [*SHORT, "--name", "shared"],
    "torchrun --nproc-per-node 2 -m studies.pretrain": [*SHORT, "--name", "shared_start"],
    "%run train.py": [*SHORT, "--name", "cell"],
}
SUBSET = "chestmnist_nih_subset_28"
FOLDS = [f"{net}_{SUBSET}_folds5_trainval" for net in ("efficientchestnet", "residualchestnet")]
PLACEHOLDERS = {
    "--pretrained FILE": ["--pretrained", "{without}"],
    "FILE.npz": ["{names}"],
    "IMAGE_OR_FOLDER": ["images"],
    "--redraw FOLDER": ["--redraw", f"results/studies/ablation_efficientchestnet_{SUBSET}"],
    "studies.blend RUN RUN": ["studies.blend", *FOLDS],
    "RUN RUN": [f"efficientchestnet_{SUBSET}", f"residualchestnet_{SUBSET}"],
}
ELSEWHERE = ("pip install", "python -m pytest")  # installation, and what runs this very file
AS_LONG = "--epochs 30", "--data FILE.npz", "train_mobilenet.py"  # as they stand, many epochs
SLOW = (
    *(
        "--demo",
        "--source-size",
        "--members",
        "--folds",
        "torchrun",
        "studies.seeds",
        "studies.strides",
    ),
    *(
        "studies.fresh_folds",
        "studies.imagenet",
        "studies.findings_first",
        "studies.time_to_accuracy",
        "studies.distill",
        "studies.other_images",
        "studies.soups",
        "studies.deployment",
        "studies.mistakes",
        "studies.shifts",
        "studies.robustness",
        "studies.compare_family",
        "studies.ablation",
        "studies.learning_curve",
        "studies.tune",
    ),
    *("--find-lr", "--precision", "--lang"),
)
LANGUAGES = {"sh", "python", "mermaid", "js", "csharp", "bash"}  # bash: for SLURM, not run here
OF_TORCHRUN = {"--nproc-per-node", "--nnodes", "--node-rank", "--master-addr", "--master-port"}
OF_SLURM = {f"--{name}" for name in ("array", "nodes", "requeue", "cpus-per-task")}
OF_SLURM |= {"--ntasks-per-node", "--gpus-per-node"}
BY_THE_READER = {"train_mine.py", "studies/mirrored.py", "studies.mirrored"}
DIVIDING = ["split"], ["pack"]  # what `datareader.py` does, with flags of its own
ADDED_FLAGS = {"--noise"}  # by the reader of the page on the architecture


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    """Fenced blocks of a language; every block has one, and none is set by indentation."""
    text = text_of(page)
    fenced = re.findall(r"^```(.*)\n((?:.*\n)*?)```$", text, flags=re.MULTILINE)
    assert {kind for kind, _ in fenced} <= LANGUAGES
    outside = re.sub(r"^```.*\n((?:.*\n)*?)```$", "", text, flags=re.MULTILINE)
    assert not re.search(r"\n\n(    |\t)", outside)
    return [block for kind, block in fenced if kind == language]


def block_commands(page: str) -> list[str]:
    """Every line of the shell blocks, without its comment."""
    lines = "".join(blocks(page, "sh")).splitlines()
    return [re.sub(r"\s+#.*", "", line) for line in lines]


def commands(page: str) -> list[str]:
    """Every command in a block, and those within a sentence."""
    prose = re.findall(r"`((?:python |pip |%run |torchrun )[^`]*)`", text_of(page))
    return block_commands(page) + [" ".join(command.split()) for command in prose]


def ours(page: str) -> list[str]:
    """The commands that run something of this project, tests aside."""
    return [command for command in commands(page) if not command.startswith(ELSEWHERE)]


ALL = list(dict.fromkeys(command for page in PAGES for command in ours(page)))
RUN = [command for command in ALL if not any(name in command for name in BY_THE_READER)]
RUN = [command for command in RUN if not any(flag in command for flag in ADDED_FLAGS)]
RUN.remove("python -m studies.NAME")
# These pages' blocks are run as they stand, the others' commands and the long ones shortened.
IN_ORDER = "README.md", "docs/training.md", "docs/own_images.md", "docs/troubleshooting.md"
NOT_IN_ORDER = (*ELSEWHERE, "python train_minimal.py")  # without a network it has no images
AS_THEY_STAND = list(
    dict.fromkeys(
        command
        for page in IN_ORDER
        for command in block_commands(page)
        if command.startswith("python ")
        and "studies." not in command
        and not command.startswith(NOT_IN_ORDER)
        and (page in READMES or not any(word in command for word in SLOW))
    )
)
SHORTENED = [
    command
    for command in RUN
    if command not in AS_THEY_STAND or any(word in command for word in AS_LONG)
]


def parsed(command: str) -> tuple[str, list[str]]:
    """A command's file of this project, and its words after that."""
    words = shlex.split(command)
    start = 3 if words[0] == "torchrun" else 1
    if words[start] == "-m":
        return words[start + 1].replace(".", "/") + ".py", words[start + 2 :]
    return words[start], words[start + 1 :]


@functools.cache
def help_of(script: str, *words: str) -> str:
    """All flags of a script, or of what it does under further words."""
    pages = ""
    for flag in ("--help", "--help-all"):
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            status = execute(ROOT / script, [*words, flag])
        assert status == 0, f"{script} {flag}: exit status {status}"
        pages += shown.getvalue()
        if "--help-all" not in pages:
            break
    return pages


def flags_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))


def with_names(phantom: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A phantom's arrays, with file names as NIH's."""
    arrays = dict(phantom)
    for number, split in enumerate(("train", "val", "test")):
        n = len(arrays[f"{split}_images"])
        arrays[f"{split}_names"] = np.array([f"{1000 * number + i:08}_000.png" for i in range(n)])
    return arrays


@pytest.fixture(scope="module")
def project(tmp_path_factory, phantom_npz) -> tuple[Path, dict[str, str]]:
    """A copy of the project, with a finished run and a pretrained network, and the phantoms."""

    def make(folder: Path) -> None:
        _make_project(folder, phantom_npz)

    folder = copy_of_made_once(tmp_path_factory, "project", make)
    larger = str(folder / "larger.npz")
    values = {"phantom": str(phantom_npz), "phantom64": larger, "names": "names.npz"}
    real = Path(os.environ.get(REAL_DATA) or "nowhere") / f"{SUBSET}.npz"
    if real.is_file():
        values["real"] = str(shutil.copyfile(real, folder / real.name))
    return folder, values


def _make_project(folder: Path, phantom_npz: Path) -> None:
    for path in ROOT.glob("*.py"):
        shutil.copyfile(path, folder / path.name)
    without_caches = shutil.ignore_patterns("__pycache__")
    for name in ("benchmarks", "chestlab", "results", "studies"):
        shutil.copytree(ROOT / name, folder / name, ignore=without_caches)
    (folder / "images").mkdir()
    arrays = with_names(np.load(phantom_npz))
    Image.fromarray(arrays["test_images"][0]).save(folder / "images" / "xray.png")
    np.savez(folder / "names.npz", **arrays)
    larger = make_phantom(size=64, train=48, val=16, test=16, seed=3)
    np.savez(folder / "larger.npz", **larger)
    flags = "--data", phantom_npz, "--epochs", 1, "--device", "cpu"
    for script, name in (("train.py", NAME), ("-m studies.pretrain", PRETRAINED)):
        result = run_in_process(script, *flags, "--name", name, cwd=folder)
        assert result.returncode == 0, result.stderr


def run(command: str, project: tuple[Path, dict[str, str]], monkeypatch) -> int:
    """Run a command of a page, shortened; its exit status."""
    folder, values = project
    known = [beginning for beginning in APPENDED if command.startswith(beginning)]
    assert known, f"no way to run this is known here: {command}"
    appended = APPENDED[max(known, key=len)]
    for placeholder, words in PLACEHOLDERS.items():
        command = command.replace(placeholder, " ".join(words))
    script, flags = parsed(command)
    if script == "export.py":
        require_exporter()
    flags += appended
    if "{real}" in flags and "real" not in values:
        pytest.skip(f"real X-rays are needed: set {REAL_DATA} to their folder")
    monkeypatch.chdir(folder)
    if "{without}" in flags:  # a network that knows no image of the two classes
        values = {**values, "without": "trained_models/without_final.pth"}
        excluding = ["--exclude-fold", "all", "--name", "without", *SHORT]
        start = [word.format(**values) for word in excluding]
        assert execute(folder / "studies" / "pretrain.py", start) == 0
    flags = [word.format(**values) for word in flags]
    if not command.startswith("torchrun"):
        return execute(folder / script, flags)
    launch = [sys.executable, "-m", "torch.distributed.run", *shlex.split(command)[1:3]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    return subprocess.run([*launch, script, *flags], env=environment, timeout=600).returncode


@pytest.fixture
def fresh_copy(tmp_path, phantom_npz, monkeypatch) -> Path:
    """The current folder: a fresh copy of the project, with the files that readers have.

    There is no network, and the phantoms that stand in are few, with one epoch of each recipe.
    """
    names = "chestlab", "results", "studies"
    for name in names:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.glob("*.py"):
        shutil.copyfile(path, tmp_path / path.name)
    few = {"train": 24, "val": 12, "test": 12}
    arrays = with_names(make_phantom(size=16, seed=3, **few))
    np.savez(tmp_path / "FILE.npz", **arrays)
    undivided = {name: array for name, array in arrays.items() if not name.startswith("val_")}
    np.savez(tmp_path / "UNDIVIDED.npz", **undivided)
    table = ["path,label"]
    (tmp_path / "FOLDER").mkdir()
    for number, image in enumerate(make_phantom(size=32, seed=4, **few)["train_images"]):
        Image.fromarray(image).save(tmp_path / "FOLDER" / f"{number}.png")
        table.append(f"{number}.png,{('Cardiomegaly', 'Pneumothorax')[number % 2]}")
    (tmp_path / "TABLE.csv").write_text("\n".join(table))
    (tmp_path / "IMAGE_OR_FOLDER").mkdir()
    xray = Image.fromarray(np.load(phantom_npz)["test_images"][0])
    xray.save(tmp_path / "IMAGE_OR_FOLDER" / "xray.png")

    def unreachable(url, *arguments, **options):
        raise DownloadError(f"download of {url} failed")

    monkeypatch.setattr("chestlab.data.download.fetch", unreachable)
    monkeypatch.setattr("chestlab.data.sources.STAND_IN", few)
    monkeypatch.setattr("chestlab.runs.phantom_runs.PIXELS", 0)
    monkeypatch.setattr("chestlab.runs.phantom_runs.LEAST_EPOCHS", 1)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("which", ["short", pytest.param("all", marks=pytest.mark.slow)])
def test_the_commands_run_in_order_as_they_stand(which, fresh_copy, capsys):
    results = fresh_copy / "results"
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    first = block_commands("README.md")
    slow = (*SLOW, *AS_LONG)
    short = [one for one in AS_THEY_STAND if one in first and not any(word in one for word in slow)]
    for command in short if which == "short" else AS_THEY_STAND:
        script, flags = parsed(command.replace("RUN RUN", " ".join(PLACEHOLDERS["RUN RUN"])))
        status = execute(fresh_copy / script, flags)
        assert status == 0, (command, capsys.readouterr().err)
    shown = capsys.readouterr()
    assert shown.out.count("results/phantom/") > 3  # no network, and every script ran
    assert "goal reached" not in shown.out + shown.err
    made = {path.name for path in (results / "phantom").iterdir()}
    assert {"efficientchestnet", "efficientchestnet_epochs2"} <= made
    if which == "all":
        assert "mine" in made
        assert any(name.startswith("mobilenetv3") for name in made)  # without ImageNet's weights
    for path, content in before.items():  # a try leaves what is there; visualize.py draws anew
        if path.parent != results:
            assert path.read_bytes() == content, path


@pytest.mark.parametrize("command", [c for c in SHORTENED if not any(word in c for word in SLOW)])
def test_the_command_runs(command, project, monkeypatch, capsys, no_pictures):
    status = run(command, project, monkeypatch)
    assert status == 0, capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in SHORTENED if any(word in c for word in SLOW)])
def test_the_long_command_runs(command, project, monkeypatch, capsys):
    status = run(command, project, monkeypatch)
    assert status == 0, capsys.readouterr().err


def test_a_command_that_is_not_known_here_fails(project, monkeypatch):
    with pytest.raises(AssertionError, match="no way to run this"):
        run("python unheard_of.py", project, monkeypatch)


@pytest.mark.parametrize("command", RUN)
def test_the_command_names_a_file_and_flags_that_exist(command):
    """Also of the long commands, in a second."""
    script, words = parsed(command)
    assert (ROOT / script).is_file()
    flags = flags_in(" ".join(words))
    under = words[:1] if script == "datareader.py" and words[:1] in DIVIDING else []
    assert not flags or not flags - flags_in(help_of(script, *under))


def test_every_flag_within_a_sentence_exists():
    scripts = [path.name for path in ROOT.glob("*.py") if "__main__" in path.read_text()]
    scripts.remove("train_minimal.py")  # has none
    scripts += [f"studies/{path.name}" for path in studies()]
    known = OF_TORCHRUN | OF_SLURM | ADDED_FLAGS
    for words in DIVIDING:
        known |= flags_in(help_of("datareader.py", *words))
    for script in scripts:
        known |= flags_in(help_of(script))
    assert {page: unknown for page in PAGES if (unknown := flags_in(text_of(page)) - known)} == {}


def test_both_readmes_list_the_same_commands_and_code():
    english, indonesian = READMES
    assert block_commands(english) == block_commands(indonesian)
    assert blocks(english, "python") == blocks(indonesian, "python")
    assert len(ALL) > 40


@pytest.mark.parametrize("readme", READMES)
def test_a_readme_is_short_and_names_every_page(readme):
    assert len(text_of(readme).splitlines()) < 200
    assert {page for page in PAGES if page.startswith("docs/")} <= set(links(readme))


def test_every_training_script_is_in_the_table_and_has_a_command():
    scripts = {path.name for pattern in ("train*.py", "resnet_*.py") for path in ROOT.glob(pattern)}
    for readme in READMES:
        rows = set(re.findall(r"^\| \d \| `([\w.]+)` \|", text_of(readme), flags=re.MULTILINE))
        assert scripts - {"train_minimal.py"} == rows
        assert rows <= {parsed(command)[0] for command in ours(readme)}


def studies() -> list[Path]:
    """The modules of studies that are run."""
    return [path for path in (ROOT / "studies").glob("*.py") if "__main__" in path.read_text()]


def test_every_study_has_a_row_and_a_command():
    names = {path.stem for path in studies()}
    rows = set(re.findall(r"^\| `(\w+)` \|", text_of("docs/studies.md"), flags=re.MULTILINE))
    assert names == rows
    assert {f"studies/{name}.py" for name in names} <= {
        parsed(command)[0] for command in block_commands("docs/studies.md")
    }


def links(page: str) -> list[str]:
    """Files of this project that a page links to or shows."""
    return [link for link in re.findall(r"\]\(([^)]+)\)", text_of(page)) if "://" not in link]


@pytest.mark.parametrize("page", PAGES)
def test_every_file_named_exists(page):
    text = text_of(page)
    files = {link.partition("#")[0] for link in links(page)}
    missing = {file for file in files if not (ROOT / page).parent.joinpath(file).exists()}
    named = re.findall(r"`([\w./*-]+\.(?:py|ipynb|txt))`", text)
    named += [word for c in commands(page) for word in c.split() if word.endswith(".txt")]
    known = {path.name for path in (ROOT / "chestlab").rglob("*.py")}
    missing |= {name for name in named if not list(ROOT.glob(name)) and name not in known}
    assert missing <= BY_THE_READER
    artefacts = re.findall(r"`(\w+\.(?:csv|png|json))`", text)
    assert set(artefacts) <= set(ARTEFACTS)


def test_the_page_on_the_architecture_names_code_where_it_is():
    """In it, `name` in `file` and `name` (`file`) stand for what the file defines."""
    named = re.findall(
        r"((?:`[\w.]+`(?:, | and )?)+) (?:in |\()`([\w/]+\.py)`", text_of(ARCHITECTURE)
    )
    paths = {path.name: path for path in (ROOT / "chestlab").rglob("*.py")}
    assert len(named) >= 15
    for names, file in named:
        path = ROOT / file if "/" in file else paths[file]
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"[\w.]+(?=`)", names):
            last = name.split(".")[-1]
            assert re.search(rf"\b(def|class) {last}\b|^ *{last}\b[^\n]* = ", text, re.MULTILINE), (
                f"{name} is not in {file}"
            )


def test_the_readmes_name_what_a_run_writes():
    for page, fewest in ((READMES[0], 4), (READMES[1], 4), ("docs/results.md", 8)):
        assert len(set(re.findall(r"`(\w+\.(?:csv|png|json))`", text_of(page)))) >= fewest, page


def test_the_loaders_that_a_reader_takes_give_batches(phantom_npz):
    (block,) = blocks(READMES[0], "python")
    shortened = block.replace("batch_size=32", f"batch_size=32, data={str(phantom_npz)!r}")
    assert shortened != block
    names: dict = {}
    exec(shortened, names)
    assert tuple(names["images"].shape) == (32, 1, 28, 28)
    assert set(names["labels"].tolist()) == {0.0, 1.0}


@pytest.fixture(scope="module")
def extended(project) -> tuple[Path, str]:
    """The copy, with what `docs/architecture.md` adds, and the phantom."""
    folder, values = project
    copy = folder / "extended"
    names = "chestlab", "studies"
    for name in names:
        shutil.copytree(folder / name, copy / name)
    for path in folder.glob("*.py"):
        shutil.copyfile(path, copy / path.name)
    network, line, field, use, draw, call, study = blocks(ARCHITECTURE, "python")
    (copy / "train_mine.py").write_text(network)
    (copy / "studies" / "mirrored.py").write_text(study)
    edits = {
        "networks.py": [
            ("import train_improved\n", "import train_improved\nimport train_mine\n"),
            ("NETWORKS = {\n", "NETWORKS = {\n" + line),
        ],
        "chestlab/training/recipe.py": [("    drop_path: float", f"{field}    drop_path: float")],
        "chestlab/training/augment.py": [
            ("    return x\n\n\ndef draw_warps", f"{use}    return x\n\n\ndef draw_warps")
        ],
        "chestlab/reporting/evaluation_plots.py": [
            ("\n\n\ndef draw_roc_curve", f"\n\n\n{draw}\n\ndef draw_roc_curve")
        ],
        "chestlab/files/run_files.py": [
            ('"roc_curve.png",', '"roc_curve.png", "probabilities.png",')
        ],
    }
    for name, replacements in edits.items():
        text = (copy / name).read_text(encoding="utf-8")
        for old, new in replacements:
            assert text.count(old) == 1, (name, old)
            text = text.replace(old, new)
        (copy / name).write_text(text, encoding="utf-8")
    figures = copy / "chestlab" / "reporting" / "run_figures.py"
    figures.write_text(figures.read_text(encoding="utf-8") + call, encoding="utf-8")
    return copy, values["phantom"]


def test_the_network_flag_and_picture_that_a_reader_adds_work(extended):
    folder, phantom = extended
    path = {"PYTHONPATH": str(folder)}
    short = "--data", phantom, "--epochs", 1, "--device", "cpu"
    flags = *short, "--name", "mynet", "--noise", 0.05
    result = run_script(folder / "train_mine.py", *flags, cwd=folder, **path)
    assert result.returncode == 0, result.stderr
    explained = "--checkpoint", "trained_models/mynet_best.pth"
    result = run_script(folder / "explain.py", *explained, cwd=folder, **path)
    assert result.returncode == 0, result.stderr
    results = folder / "results" / "mynet"
    assert '"noise": 0.05' in (results / "metrics.json").read_text()
    assert {file.name for file in results.iterdir()} >= {"gradcam.png", "probabilities.png"}


@pytest.mark.slow
def test_the_study_that_a_reader_adds_writes_its_page(extended):
    folder, phantom = extended
    flags = "--data", phantom, "--epochs", 1, "--folds", 2, "--repeats", 1
    module = "-m studies.mirrored"
    result = run_script(module, *flags, "--name", "page", cwd=folder, PYTHONPATH=str(folder))
    assert result.returncode == 0, result.stderr
    assert "AUC gained" in (folder / "results" / "studies" / "page" / "README.md").read_text()
