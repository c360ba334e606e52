"""The Colab notebook from top to bottom, and the scripts inside a cell."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
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
FIRST_IMPORT = "from __future__ import annotations\n"
OTHER_NAMES = "Image = Markdown = display = re = shutil = None\n"  # a script's, for those of cells


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


def test_the_notebook_is_stored_without_outputs_and_names_its_repository_once():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert code[0].source.startswith("REPOSITORY = ")
    assert sum(cell.source.count("https://") for cell in notebook.cells) == 1


def test_the_notebook_trains_looks_compares_and_packs_twice_on_colab(kernel_home, phantom_npz):
    """All cells, and all of them again in the same kernel for a second run beside the first.

    Scripts leave names in the kernel that run them; none may stand in the way of a later cell.
    """
    repository = copy_project(kernel_home / "elsewhere" / "chest")
    for script in ("explain.py", "visualize.py"):
        text = (repository / script).read_text()
        assert FIRST_IMPORT in text
        (repository / script).write_text(text.replace(FIRST_IMPORT, FIRST_IMPORT + OTHER_NAMES))
    git(repository, "init", "-q")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "all")
    colab = kernel_home / "packages" / "google" / "colab"
    colab.mkdir(parents=True)
    (colab / "__init__.py").write_text("")
    (colab / "drive.py").write_text(
        "from pathlib import Path\n"
        "def mount(place): Path(place, 'MyDrive').mkdir(parents=True, exist_ok=True)\n"
    )
    (colab / "files.py").write_text("def download(path): print('downloaded', path)\n")
    parameters = {
        "REPOSITORY": str(repository),
        "DATA": str(phantom_npz),
        "EPOCHS": 1,
        "DRIVE": str(kernel_home / "drive"),
    }
    notebook = with_parameters(FLAGS="--device cpu --name mine", **parameters)
    again = with_parameters(FLAGS="--device cpu --name second --seed 7", **parameters)
    stubs = f"import sys\nsys.path.insert(0, {str(colab.parents[1])!r})\nimport google.colab"
    notebook.cells = [new_code_cell(stubs), *notebook.cells, *again.cells]
    cells = execute(notebook, kernel_home)

    assert not [printed(cell) + error for cell in cells for error in errors(cell)]
    of_one_pass = (len(cells) - 1) // 2
    output = kernel_home / "drive" / "MyDrive" / "chestmnist"
    archive = output / "results.zip"
    for name, last in (("mine", of_one_pass + 1), ("second", len(cells))):
        mount, train, look, compare, pack = cells[last - 5 : last]
        assert printed(mount).strip() == str(output / "results")
        metrics = json.loads((output / "results" / name / "metrics.json").read_text())
        assert metrics["epochs_run"] == 1
        assert (output / "trained_models" / f"{name}_last.pth").is_file()
        drawn = len(list((output / "results" / name).glob("*.png")))
        assert pictures(train) == drawn - 1  # all but Grad-CAM's
        assert pictures(look) == 1
        assert name in tables(compare)
        assert f"downloaded {archive}" in printed(pack)
        assert f"results/{name}/metrics.json" in zipfile.ZipFile(archive).namelist()
    assert "mine" in tables(compare)
    assert pictures(compare) >= 1  # with several runs: how they compare


def test_the_notebook_stays_in_a_checkout_and_asks_for_an_address_outside(kernel_home):
    checkout = copy_project(kernel_home / "checkout")
    notebook = with_parameters()
    first = next(i for i, cell in enumerate(notebook.cells) if '"clone"' in cell.source)
    del notebook.cells[first + 1 :]
    notebook.cells.append(new_code_cell("os.chdir('..')\nprint(Path.cwd())"))
    notebook.cells.append(new_code_cell(notebook.cells[first].source))
    *_, inside, moved, outside = execute(notebook, checkout, allow_errors=True)
    assert printed(inside).strip() == str(checkout)
    assert printed(moved).strip() == str(kernel_home)
    assert "write the repository's address into REPOSITORY" in errors(outside)[0]


@pytest.fixture(scope="module")
def cells_with_scripts(tmp_path_factory, phantom_npz) -> tuple[Path, dict]:
    """A checkout and what cells that run scripts in it have put out, from one kernel."""
    folder = copy_project(tmp_path_factory.mktemp("cells") / "checkout")
    text = (ROOT / "train.py").read_text().replace("epochs=40", "epochs=2")
    flags = f"--data {phantom_npz} --device cpu"
    sources = {
        "run": f"%run train.py --epochs 2 --name ran {flags}",
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
    results = folder / "results" / {"run": "ran", "pasted": "phantom/efficientchestnet_best"}[how]
    metrics = json.loads((results / "metrics.json").read_text())
    assert metrics["epochs_run"] == 2
    assert not errors(cells[how])
    assert pictures(cells[how]) == len(list(results.glob("*.png"))) >= 4
    lines = [o.data["text/plain"] for o in cells[how].outputs if o.output_type == "display_data"]
    progress = [line for line in lines if line.startswith("epoch")]
    assert len(progress) == 1
    assert re.match(r"epoch 2/2 .* val accuracy [\d.]+%", progress[0])
    assert "\r" not in printed(cells[how]) + progress[0]
    assert printed(cells[how]).count("\n") < 12


def test_a_finished_run_shows_its_pictures_again(cells_with_scripts):
    _, cells = cells_with_scripts
    assert "nothing to do" in printed(cells["twice"])
    assert pictures(cells["twice"]) == pictures(cells["run"])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("wrong", r"error: .*--lr.*'fast' is not a number above 0 up to 10.*"),
        ("missing", r"stopped: see above"),
        ("interrupted", r"interrupted after epoch \d+: the same command with --resume goes on"),
        ("pasted wrongly", r"error: --image-size: allowed are 0 and 16 to 1024 pixels.*"),
    ],
)
def test_a_cell_ends_with_one_line_instead_of_a_traceback(cells_with_scripts, how, message):
    _, cells = cells_with_scripts
    (error,) = errors(cells[how])
    assert re.fullmatch(message, error)


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
