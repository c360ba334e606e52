"""The Colab notebook from top to bottom, and the scripts inside a cell."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

NOTEBOOK = ROOT / "chestmnist_colab.ipynb"
STOP = """
import _thread, threading, time
from pathlib import Path

def stop():
    while not Path("trained_models/stopped_last.pth").exists():
        time.sleep(0.01)
    _thread.interrupt_main()

threading.Thread(target=stop, daemon=True).start()
"""
FEWER_IMAGES = """
from chestlab.data import sources
load = sources.load
sources.load = lambda data, *others: load({phantom!r} if data == "auto" else data, *others)
"""
OWN_NAMES = """
import ast

def names_after(script):
    \"\"\"What is left of a caller's own values in all names that a script has, too.\"\"\"
    tree = ast.parse(open(script, encoding="utf-8").read())
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {alias.asname or alias.name for node in ast.walk(tree)
              if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names}
    names |= {node.name for node in ast.walk(tree)
              if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    notebook = globals()
    names = {name for name in names if name not in notebook and name.isidentifier()}
    notebook.update(dict.fromkeys(names, "mine"))
    get_ipython().run_line_magic("run", f"{script} --no-such-flag")
    replaced = [name for name in names if notebook[name] != "mine"]
    for name in names:
        del notebook[name]
    return f"{script} replaces {replaced} of {len(names)}"

known = set(globals())
print(*[names_after(script) for script in SCRIPTS], sep="\\n")
print("left behind:", {name for name in set(globals()) - known if name[0] != "_"} - {"known"})
"""
SCRIPTS = sorted(
    path.name for path in ROOT.glob("*.py") if "__main__" in path.read_text(encoding="utf-8")
)
PICTURES_OF_A_RUN = 5  # training_curves, val_predictions, confusion_matrix, roc_curve, calibration


@pytest.fixture
def kernel_home(tmp_path, monkeypatch) -> Path:
    """A folder for what a kernel keeps, with one thread and no package index for it."""
    for name in ("HOME", "USERPROFILE", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (tmp_path / "home").mkdir()
    return tmp_path


def copy_project(folder: Path) -> Path:
    """A checkout of what the scripts and the notebook need."""
    (folder / "tests").mkdir(parents=True)
    packages = [path for name in ("chestlab", "studies") for path in (ROOT / name).rglob("*")]
    files = [path for path in packages if path.is_file() and path.suffix != ".pyc"]
    files += [*ROOT.glob("*.py"), ROOT / "requirements.txt", ROOT / "tests" / "tiny_train.py"]
    for path in files:
        copy = folder / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return folder


def git(folder: Path, *arguments: str) -> None:
    identity = "-c", "user.name=test", "-c", "user.email=test@example.org"
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def execute(notebook: nbformat.NotebookNode, folder: Path, allow_errors: bool = False) -> list:
    """Run a notebook in ``folder``; its code cells."""
    client = NotebookClient(
        notebook,
        timeout=300,
        startup_timeout=300,
        kernel_name="python3",
        allow_errors=allow_errors,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures(cell) -> int:
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def printed(cell) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def errors(cell) -> list[str]:
    found = [output for output in cell.outputs if output.output_type == "error"]
    return ["\n".join(output.traceback) for output in found]


def with_parameters(**values: object) -> nbformat.NotebookNode:
    """The notebook, with a cell that sets other parameters behind that of its own."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    tags = [cell.metadata.get("tags", []) for cell in notebook.cells]
    text = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    notebook.cells.insert(tags.index(["parameters"]) + 1, new_code_cell(text))
    return notebook


def tables(cell) -> str:
    """The Markdown that a cell shows."""
    return "".join(o.data.get("text/markdown", "") for o in cell.outputs if "data" in o)


def source_of(title: str) -> str:
    """The code of the cell with a title, without the scripts that it runs."""
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    (source,) = (cell.source for cell in cells if cell.source.startswith(f"# @title {title}\n"))
    return re.sub(r"(?m)^%run", "# %run", source)


def test_the_notebook_is_stored_without_outputs_and_every_setting_is_a_field():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert "parameters" in code[0].metadata.tags
    settings = [line for line in code[0].source.splitlines() if line and line[0] != "#"]
    assert settings[0].startswith("PROJECT = ")
    assert all(re.fullmatch(r"[A-Z]+ = .+  # @param [\[{].*[\]}]", line) for line in settings)
    (address,) = (line for line in settings if "https://" in line)  # once, to be replaced
    assert "OWNER/REPOSITORY" in address


class Colab:
    """A stand-in for `google.colab`: what is uploaded, where the Drive is, what was asked for."""

    FILES = """
from pathlib import Path
def upload():
    return {path.name: path.read_bytes() for path in Path(UPLOADS).glob("*")}
def download(path):
    print("downloaded", path)
"""
    DRIVE = """
from pathlib import Path
def mount(place):
    Path(place, "MyDrive").mkdir(parents=True)
"""

    def __init__(self, folder: Path) -> None:
        self.home, self.uploads = folder / "content", folder / "uploads"
        self.drive = folder / "drive" / "MyDrive"
        self.package = folder / "packages"
        colab = self.package / "google" / "colab"
        for path in (self.home, self.uploads, colab):
            path.mkdir(parents=True)
        (colab / "__init__.py").write_text("")
        (colab / "drive.py").write_text(self.DRIVE)
        (colab / "files.py").write_text(f"UPLOADS = {str(self.uploads)!r}\n{self.FILES}")

    def upload(self, name: str, content: bytes) -> None:
        """Choose a file in the browser."""
        (self.uploads / name).write_bytes(content)

    def settings(self, project: str = "upload", **others: str) -> dict[str, object]:
        return {"PROJECT": project, "DRIVE": str(self.drive.parent), **others}


@pytest.fixture
def colab(tmp_path, monkeypatch) -> Colab:
    """Colab in this process, in an empty folder."""
    stand_in = Colab(tmp_path)
    monkeypatch.syspath_prepend(stand_in.package)
    for name in ("google", "google.colab", "google.colab.files", "google.colab.drive"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.import_module("google.colab")
    monkeypatch.chdir(stand_in.home)
    return stand_in


def small_project(folder: Path) -> Path:
    """What a project is recognised by."""
    (folder / "chestlab").mkdir(parents=True)
    (folder / "chestlab" / "__init__.py").write_text("")
    (folder / "train.py").write_text("# a project\n")
    return folder


def zipped(folder: Path, top: str, separator: str = "/") -> bytes:
    """A zip of a folder's files, each below ``top``."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = top + path.relative_to(folder).as_posix()
            member = zipfile.ZipInfo("unset")
            member.filename = member.orig_filename = name.replace("/", separator)
            archive.writestr(member, path.read_bytes())
    return content.getvalue()


def get_project(settings: dict[str, object]) -> dict[str, object]:
    """Run the cell that gets the project; the notebook's names after it."""
    names = dict(settings)
    exec(source_of("Get the project and your Drive"), names)
    return names


def what_stops(call) -> str:
    """The one line that a cell ends with."""
    with pytest.raises(Exception) as error:
        call()
    (line,) = error.value._render_traceback_()
    assert "\n" not in line
    return line


def test_a_repository_is_cloned_once(colab, tmp_path, capfd):
    source = small_project(tmp_path / "source")
    git(source, "init", "-q")
    git(source, "add", ".")
    git(source, "commit", "-q", "-m", "all")
    git(tmp_path, "clone", "-q", "--bare", "source", "chest.git")
    for _ in range(2):
        names = get_project(colab.settings(f"  {tmp_path / 'chest.git'} "))
        assert Path.cwd() == names["project"] == colab.home / f"{tmp_path.name}-chest"
        assert (names["project"] / "train.py").is_file()
        assert names["RESULTS"] == colab.drive / "chestmnist" / "results"
        os.chdir(colab.home)
    line = what_stops(lambda: get_project(colab.settings(str(tmp_path / "other.git"))))
    assert "cannot be cloned" in line and "write upload into PROJECT" in line
    assert len(list(colab.home.iterdir())) == 1
    git(source, "rm", "-q", "train.py")
    git(source, "commit", "-q", "-m", "another project")
    line = what_stops(lambda: get_project(colab.settings((source / ".git").as_uri())))
    assert "there is no train.py beside a folder chestlab" in line


@pytest.mark.parametrize(
    "address",
    [
        "https://github.com/me/chest",
        "https://github.com/me/chest.git",
        "github.com/me/chest/tree/main/docs",
        "https://www.github.com/me/chest?tab=readme-ov-file#start",
        "https://github.com/me/chest/",
    ],
)
def test_an_address_is_taken_as_the_browser_shows_it(colab, monkeypatch, address):
    def clone(command, **others):
        *_, asked, folder = command
        assert asked.removesuffix(".git") == "https://github.com/me/chest"
        small_project(Path(folder))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", clone)
    assert get_project(colab.settings(address))["project"] == colab.home / "me-chest"


@pytest.mark.parametrize(
    ("top", "separator"),
    [("chest-main/", "/"), ("", "/"), ("my project/chest/", "/"), ("chest\\", "\\")],
    ids=["as GitHub", "no top folder", "two folders", "by old Windows programs"],
)
@pytest.mark.parametrize("project", ["upload", "", "https://github.com/OWNER/REPOSITORY"])
def test_a_zip_of_the_project_is_uploaded_once(colab, tmp_path, capsys, project, top, separator):
    colab.upload("any (1).zip", zipped(small_project(tmp_path / "mine"), top, separator))
    names = get_project(colab.settings(project))
    assert (names["project"] / "chestlab" / "__init__.py").is_file()
    assert Path.cwd() == names["project"]
    assert "Choose a zip of the project" in capsys.readouterr().out
    os.chdir(colab.home)
    assert get_project(colab.settings(project))["project"] == names["project"]
    assert "Choose" not in capsys.readouterr().out


def test_a_wrong_upload_is_told_in_one_line_and_can_be_repeated(colab, tmp_path):
    assert "nothing was chosen" in what_stops(lambda: get_project(colab.settings()))
    colab.upload("notes.txt", b"no zip")
    assert "'notes.txt' cannot be unpacked" in what_stops(lambda: get_project(colab.settings()))
    (colab.uploads / "notes.txt").unlink()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("")
    colab.upload("photos.zip", zipped(tmp_path / "photos", ""))
    assert "there is no train.py" in what_stops(lambda: get_project(colab.settings()))
    colab.upload("photos.zip", zipped(small_project(tmp_path / "mine"), "mine/"))
    assert (get_project(colab.settings())["project"] / "train.py").is_file()


def test_a_folder_or_a_zip_in_the_drive_is_used(colab, tmp_path):
    mine = small_project(colab.drive / "My courses" / "chest")
    (colab.drive / "chest.zip").write_bytes(zipped(mine, "chest-main/"))
    for project in ("My courses/chest", "MyDrive/My courses/chest", str(mine), "My courses"):
        assert get_project(colab.settings(project))["project"] == mine
        os.chdir(colab.home)
    assert get_project(colab.settings("chest.zip"))["project"].is_relative_to(colab.home)
    os.chdir(colab.home)
    line = what_stops(lambda: get_project(colab.settings("My courses/chset")))
    assert "there is no 'My courses/chset'" in line and "My courses" in line.split(";")[-1]


def test_a_drive_that_is_not_allowed_is_told_in_one_line(colab, monkeypatch):
    drive = importlib.import_module("google.colab.drive")

    def refuse(place):
        raise ValueError("mount failed")

    monkeypatch.setattr(drive, "mount", refuse)
    assert "cannot be mounted (mount failed)" in what_stops(lambda: get_project(colab.settings()))
    colab.upload("chest.zip", zipped(small_project(colab.home.parent / "mine"), ""))
    names = get_project({"PROJECT": "upload", "DRIVE": ""})
    assert names["RESULTS"] == names["project"] / "results"


def test_elsewhere_the_files_around_it_are_used_or_a_line_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(small_project(tmp_path / "checkout"))
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    settings = {"PROJECT": "https://github.com/OWNER/REPOSITORY", "DRIVE": "/content/drive"}
    names = get_project(settings)
    assert names["project"] == tmp_path / "checkout"
    assert names["RESULTS"] == tmp_path / "checkout" / "results"
    monkeypatch.chdir(tmp_path)
    assert "name the path of a zip of the project" in what_stops(lambda: get_project(settings))


def test_images_of_ones_own_come_from_a_path_the_drive_or_an_upload(colab, phantom_npz, capsys):
    small_project(colab.drive / "chest")
    names = get_project(colab.settings("chest"))
    (colab.drive / "my data").mkdir()
    shutil.copyfile(phantom_npz, colab.drive / "my data" / "x.npz")
    cell = source_of("The images")
    for data in ("my data/x.npz", "MyDrive/my data/x.npz", str(phantom_npz)):
        exec(cell, names | {"DATA": data})
    names["DATA"] = "nowhere.npz"
    assert "DATA: there is no 'nowhere.npz'" in what_stops(lambda: exec(cell, names))
    names["DATA"] = "upload"
    colab.upload("wrong.npz", b"no npz")
    assert "is not a sound npz file" in what_stops(lambda: exec(cell, names))
    (colab.uploads / "wrong.npz").unlink()
    colab.upload("small.npz", phantom_npz.read_bytes())
    for asked in ("Choose an .npz file", ""):
        capsys.readouterr()
        exec(cell, names)
        assert names["IMAGES"] == colab.drive / "chestmnist" / "data" / "small.npz"
        assert capsys.readouterr().out.startswith(asked) or not asked
    assert "Choose" not in capsys.readouterr().out


@pytest.mark.parametrize("passes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_notebook_runs_over_a_folder_of_many_runs(kernel_home, phantom_npz, passes):
    """All cells, and all of them again in the same kernel for a second run beside the first."""
    colab = Colab(kernel_home)
    colab.upload("chest.zip", zipped(copy_project(kernel_home / "elsewhere"), "chest-main/"))
    output = colab.drive / "chestmnist"
    earlier = sorted(path.parent for path in (ROOT / "results").glob("**/*_28/metrics.json"))[:4]
    for path in earlier:
        shutil.copytree(path, output / "results" / path.name)
    shutil.copyfile(phantom_npz, colab.drive / "own images.npz")
    settings = colab.settings(DATA="own images.npz")
    notebook = with_parameters(FLAGS="--device cpu --name mine", EPOCHS=1, **settings)
    again = with_parameters(FLAGS="--device cpu --seed 7", EPOCHS=2, **settings)
    stubs = f"import sys\nsys.path.insert(0, {str(colab.package)!r})\nimport google.colab"
    later = again.cells if passes == 2 else []
    notebook.cells = [new_code_cell(stubs), *notebook.cells, *later]
    cells = execute(notebook, colab.home)

    assert len(earlier) > 3
    assert not [printed(cell) + error for cell in cells for error in errors(cell)]
    of_one_pass = (len(cells) - 1) // passes
    runs = [("mine", of_one_pass + 1)]
    for path in (output / "results").glob("efficientchestnet_own*"):
        runs.append((path.name, len(cells)))
    assert len(runs) == passes
    for name, last in runs:
        get, _, images, train, look, compare, pack = cells[last - 7 : last]
        assert f"results: {output / 'results'}" in printed(get)
        assert "PHANTOM DATA" in printed(images) and pictures(images) == 1
        metrics = json.loads((output / "results" / name / "metrics.json").read_text())
        assert metrics["epochs_run"] == (1 if name == "mine" else 2)
        assert (output / "trained_models" / f"{name}_last.pth").is_file()
        assert pictures(train) == PICTURES_OF_A_RUN
        assert pictures(look) == 1 and name in printed(look)
        assert name in tables(compare)
        assert all(f"({path.name}/)" in tables(compare) for path in earlier)
        several = 1 if name == "mine" else 2  # files with several runs: a picture compares them
        assert pictures(compare) == 2 + several  # and one of X-rays, one of phantoms
        assert f"downloaded {output / 'results.zip'}" in printed(pack)
        assert f"results/{name}/metrics.json" in zipfile.ZipFile(output / "results.zip").namelist()
    assert "mine" in tables(compare)


@pytest.fixture(scope="module")
def cells_with_scripts(tmp_path_factory, phantom_npz) -> tuple[Path, dict]:
    """A checkout and what cells that run scripts in it have put out, from one kernel."""
    folder = copy_project(tmp_path_factory.mktemp("cells") / "checkout")
    text = (ROOT / "train.py").read_text().replace("epochs=40", "epochs=2")
    flags = f"--data {phantom_npz} --device cpu"
    sources = {
        "run": f"run = Recipe = 'mine'\n%run train.py --epochs 2 --name ran {flags}",
        "names of a notebook": "print(run, Recipe, 'BEST' in globals())\ndel run, Recipe",
        "own names": f"SCRIPTS = {SCRIPTS}\n{OWN_NAMES}",
        "twice": f"%run train.py --epochs 2 --name ran --resume {flags}",
        "wrong": "%run train.py --lr fast",
        "missing": "%run predict.py . --checkpoint nowhere.pth",
        "interrupted": f"{STOP}\n%run tests/tiny_train.py --epochs 9999 --name stopped {flags}",
        "fewer": FEWER_IMAGES.format(phantom=str(phantom_npz)),
        "pasted": text,
        "pasted wrongly": text.replace("epochs=2", "image_size=3"),
        "argv": "import sys\nprint(sys.argv)",
    }
    assert len(set(sources.values())) == len(sources)  # each replacement found its place
    notebook = new_notebook(cells=[new_code_cell(source) for source in sources.values()])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("IPYTHONDIR", str(folder.parent / "ipython"))
        cells = execute(notebook, folder, allow_errors=True)
    return folder, dict(zip(sources, cells, strict=True))


@pytest.mark.parametrize("how", ["run", "pasted"])
def test_a_cell_trains_and_shows_one_line_and_the_pictures(cells_with_scripts, how):
    folder, cells = cells_with_scripts
    results = folder / "results" / {"run": "ran", "pasted": "phantom/efficientchestnet"}[how]
    metrics = json.loads((results / "metrics.json").read_text())
    assert metrics["epochs_run"] == 2
    assert not errors(cells[how])
    assert pictures(cells[how]) == len(list(results.glob("*.png"))) >= 4
    lines = [o.data["text/plain"] for o in cells[how].outputs if o.output_type == "display_data"]
    progress = [line for line in lines if line.startswith("epoch")]
    assert len(progress) == 1
    assert re.match(r"epoch 2/2 .* val accuracy [\d.]+%", progress[0])
    assert "\r" not in printed(cells[how]) + progress[0]
    assert printed(cells[how]).count("\n") < 16


def test_a_finished_run_shows_its_pictures_again(cells_with_scripts):
    _, cells = cells_with_scripts
    assert "nothing to do" in printed(cells["twice"])
    assert pictures(cells["twice"]) == pictures(cells["run"])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("wrong", r"error: .*--lr.*'fast' is not a number above 0 up to 10.*"),
        ("missing", r"error: .*nowhere\.pth.*"),
        ("interrupted", r"interrupted after epoch \d+: the same command with --resume goes on"),
        ("pasted wrongly", r"error: --image-size: allowed are 0 and 16 to 1024 pixels.*"),
    ],
)
def test_a_cell_ends_with_one_line_instead_of_a_traceback(cells_with_scripts, how, message):
    _, cells = cells_with_scripts
    (error,) = errors(cells[how])
    assert re.fullmatch(message, error)


def test_a_script_leaves_the_names_of_a_notebook_alone(cells_with_scripts):
    _, cells = cells_with_scripts
    assert printed(cells["names of a notebook"]).strip() == "mine mine False"
    lines = [line for line in printed(cells["own names"]).splitlines() if " replaces " in line]
    assert [line.split()[0] for line in lines] == SCRIPTS
    for line in lines:
        assert re.fullmatch(r"\S+ replaces \[\] of [1-9]\d*", line)
    assert "left behind: set()" in printed(cells["own names"])


def test_a_stopped_cell_leaves_a_run_to_go_on_with(cells_with_scripts):
    folder, _ = cells_with_scripts
    assert (folder / "trained_models" / "stopped_last.pth").is_file()
    assert not (folder / "results" / "stopped" / "metrics.json").exists()


def test_the_kernels_own_arguments_were_there_to_be_ignored(cells_with_scripts):
    _, cells = cells_with_scripts
    assert re.search(r"kernel.*\.json", printed(cells["argv"]))


def test_every_script_leaves_the_command_line_to_one_place():
    """`train_minimal.py` imports nothing from here, so it alone may read its own."""
    code = [
        *ROOT.glob("*.py"),
        *(ROOT / "chestlab").rglob("*.py"),
        *(ROOT / "studies").glob("*.py"),
    ]
    reading = {path.name for path in code if "sys.argv" in path.read_text(encoding="utf-8")}
    assert reading - {"train_minimal.py"} == {"notebook.py"}
