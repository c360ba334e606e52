"""What differs on Windows and macOS, under the same conditions made here."""

from __future__ import annotations

import ast
import gc
import io
import json
import shutil
import ssl
import sys
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from chestlab.data.download import DownloadError, fetch
from chestlab.data.image_files import expanded
from chestlab.data.npz import filter_npz
from chestlab.files import atomic
from chestlab.files.atomic import atomic_write, check_writable
from chestlab.files.errors import InputError
from chestlab.files.progress import StopSignals
from chestlab.files.run_files import UNFINISHED
from chestlab.runs.naming import check_name, run_name
from chestlab.training import device
from chestlab.training.distributed import Processes
from chestlab.training.inference import predict
from chestlab.training.recipe import Recipe
from chestlab.training.trainer import Trainer

CPU, MPS = torch.device("cpu"), torch.device("mps")

POSIX_ALONE = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}


@pytest.fixture
def windows(monkeypatch):
    """Files are written with the rules of Windows, and nothing waits long."""
    monkeypatch.setattr(atomic, "WINDOWS", True)
    monkeypatch.setattr(atomic, "REPLACE_SECONDS", 0.2)


def refuse_replace(monkeypatch, times):
    """Let `Path.replace` fail as on Windows where a program has the file open; counts the tries."""
    tries, replace = [], Path.replace

    def refuse(self, target):
        tries.append(target)
        if len(tries) <= times:
            raise PermissionError(13, "Access is denied", str(self), None, str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    return tries


def test_a_file_that_a_virus_scanner_holds_for_a_moment_is_replaced(tmp_path, monkeypatch, windows):
    path = tmp_path / "history.csv"
    path.write_text("old", encoding="utf-8")
    tries = refuse_replace(monkeypatch, times=2)
    atomic_write(path, "new")
    assert len(tries) == 3 and path.read_text(encoding="utf-8") == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_stays_open_in_a_program_is_named_and_kept(tmp_path, monkeypatch, windows):
    path = tmp_path / "history.csv"
    path.write_text("old", encoding="utf-8")
    refuse_replace(monkeypatch, times=1000)
    with pytest.raises(PermissionError, match="another program has it open") as error:
        atomic_write(path, "new")
    assert error.value.filename == str(path)  # what the one line of the error names
    assert path.read_text(encoding="utf-8") == "old" and list(tmp_path.iterdir()) == [path]


def test_a_replacement_without_permission_fails_at_once_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "WINDOWS", False)
    tries = refuse_replace(monkeypatch, times=1000)
    with pytest.raises(PermissionError):
        atomic_write(tmp_path / "history.csv", "new")
    assert len(tries) == 1


def test_paths_that_are_too_long_for_windows_are_refused_before_the_run(
    tmp_path, monkeypatch, windows
):
    monkeypatch.setattr(atomic, "_long_paths", lambda: False)
    room = atomic.LONGEST_PATH - atomic.FILE_ROOM - len(str(tmp_path)) - 1
    check_writable(tmp_path / ("n" * room), "--results-dir")
    longer = tmp_path / ("n" * (room + 1))
    with pytest.raises(InputError, match=r"259 characters.* shorter --name"):
        check_writable(longer, "--results-dir")
    monkeypatch.setattr(atomic, "_long_paths", lambda: True)
    check_writable(longer, "--results-dir")
    assert not list(tmp_path.iterdir())


def open_files(path: Path) -> list[io.IOBase]:
    return [
        thing
        for thing in gc.get_objects()
        if type(thing) is io.FileIO and thing.name == str(path) and not thing.closed
    ]


def test_a_damaged_source_is_closed_even_while_its_error_is_kept(tmp_path, phantom_npz):
    """A notebook keeps the last error; Windows would not let the file be replaced."""
    path = tmp_path / "damaged.npz"
    with np.load(phantom_npz) as arrays:
        np.savez(path, **{**arrays, "train_labels": arrays["train_labels"] + 2})
    with pytest.raises(InputError, match="allowed are 0 and 1") as error:
        filter_npz(path)
    assert error.value.__context__ is not None and not open_files(path)
    with zipfile.ZipFile(path):  # the search finds what is open
        assert open_files(path)


def test_a_download_trusts_certificates_where_the_system_has_none(tmp_path, monkeypatch):
    """As with Python from python.org for macOS."""
    contexts = []

    def refuse(request, timeout, context):
        contexts.append(context)
        raise urllib.error.URLError("no host")

    nothing = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    monkeypatch.setattr(ssl, "create_default_context", lambda: nothing)
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(DownloadError):
        fetch("https://example.org/a.npz", tmp_path / "a.npz", "md5:00", attempts=1)
    assert len(contexts[0].get_ca_certs()) > 50
    assert contexts[0].verify_mode == ssl.CERT_REQUIRED and contexts[0].check_hostname


def module_level_imports(tree: ast.AST) -> set[str]:
    """Modules that are imported whenever the file is, without a ``try`` around it."""
    names: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Try):
            names |= module_level_imports(node)
    return names


def project_files() -> list[Path]:
    files = [*ROOT.glob("*.py")]
    for package in ("chestlab", "studies", "benchmarks"):
        files += (ROOT / package).rglob("*.py")
    assert len(files) > 80
    return files


def test_no_module_needs_what_windows_lacks():
    for path in project_files():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not module_level_imports(tree) & POSIX_ALONE, path


def text_files_without_encoding(tree: ast.AST) -> list[int]:
    """Lines that open a text file, or a process, in whatever encoding the system prefers."""
    lines = []
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        function, given = call.func, {keyword.arg for keyword in call.keywords}
        name = getattr(function, "attr", getattr(function, "id", ""))
        owner = getattr(getattr(function, "value", None), "id", "")
        words = [x.value for x in call.args if isinstance(x, ast.Constant)]
        text = name in ("read_text", "write_text") or (name == "run" and "text" in given)
        if name in ("open", "fdopen") and owner not in ("Image", "archive", "copy", "tarfile"):
            text = not any(isinstance(word, str) and "b" in word for word in words)
        if text and "encoding" not in given:
            lines.append(call.lineno)
    return lines


def test_text_is_read_and_written_in_utf_8_and_not_in_a_code_page():
    opened = ast.parse("path.open(); path.open('rb'); path.read_text(); open(p, encoding='utf-8')")
    assert len(text_files_without_encoding(opened)) == 2
    for path in project_files():
        assert not text_files_without_encoding(ast.parse(path.read_text(encoding="utf-8"))), path


def test_a_run_prints_a_name_that_the_code_page_lacks(
    tmp_path, phantom_npz, script, no_pictures, monkeypatch
):
    """cp1252 is Windows' in Western Europe, wherever the output is no console."""
    data = tmp_path / "röntgen ≥ 0,5.npz"
    shutil.copyfile(phantom_npz, data)
    output, errors = (io.TextIOWrapper(io.BytesIO(), encoding="cp1252") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(sys, "stderr", errors)
    script("tests/tiny_train.py", "--data", data, "--epochs", 1, "--device", "cpu")
    output.flush()
    assert r"röntgen \u2265 0,5" in output.buffer.getvalue().decode("cp1252")
    (metrics,) = (tmp_path / "results").glob("*/metrics.json")
    assert json.loads(metrics.read_text(encoding="utf-8"))["data"]["source"].endswith(
        f"({data.name})"
    )


class WithoutFloat64(TorchDispatchMode):
    """Takes every tensor for one on a GPU without float64, but those that ``.cpu()`` has copied.

    ``.to(device)`` takes these back.
    """

    def __init__(self, monkeypatch) -> None:
        super().__init__()
        self.on_host: dict[int, torch.Tensor] = {}  # held, so that no other gets the number
        to = torch.Tensor.to
        monkeypatch.setattr(torch.Tensor, "cpu", lambda x: self.keep(x.clone()))
        monkeypatch.setattr(
            torch.Tensor, "to", lambda x, *a, **k: self.move(to(x, *a, **k), *a, *k.values())
        )

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        self.on_host[id(tensor)] = tensor
        return tensor

    def move(self, tensor: torch.Tensor, *where: object) -> torch.Tensor:
        if id(tensor) in self.on_host and any(isinstance(x, torch.device) for x in where):
            assert tensor.dtype != torch.float64
            tensor = torch.from_numpy(tensor.detach().numpy().copy())
        return tensor

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        made = [x for x in tree_leaves(results) if isinstance(x, torch.Tensor)]
        if any(id(x) in self.on_host for x in given):
            for x in made:
                self.keep(x)
        elif given and any(x.dtype == torch.float64 for x in made):
            raise TypeError(f"{function} makes a float64 tensor on MPS")
        return results


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.layers(x)).squeeze(1)


@pytest.mark.parametrize("policy", ["none", "randaugment", "autoaugment"])
def test_training_and_prediction_need_no_float64_on_the_device(monkeypatch, policy):
    """MPS raises a TypeError where one is made."""
    recipe = Recipe(
        name="r",
        batch_size=4,
        image_size=16,
        schedule="cosine",
        ema=0.9,
        clip=1.0,
        loss="focal",
        pos_weight=2.0,
        sampler="balanced",
        normalize="per-image",
        flip=0.5,
        vertical_flip=0.5,
        rotate=10,
        translate=0.1,
        jitter=0.1,
        erase=0.5,
        mixup=0.2,
        cutmix=0.5,
        policy=policy,
        tta="warps",
        tta_warps=2,
        amp="off",
    )
    images = torch.randint(0, 256, (8, 1, 28, 28), dtype=torch.uint8)
    labels = (torch.arange(8) % 2).float()
    trainer = Trainer(Network, recipe, (images, labels), (images, labels))
    with WithoutFloat64(monkeypatch) as gpu:
        trainer.run_epoch()
        logits = predict(trainer.model, images, recipe, tta="warps")
        with pytest.raises(TypeError, match="float64"):
            images.double()
    assert any(x.dtype == torch.float64 for x in gpu.on_host.values())
    assert logits.dtype == np.float64 and np.isfinite(logits).all()


def test_a_training_step_takes_smaller_batches_where_mps_has_no_memory(monkeypatch):
    gradients = Trainer._gradients

    def hungry(self, rows):
        if self.micro_batch > 2:
            raise RuntimeError("MPS backend out of memory (MPS allocated: 5.50 GB).")
        return gradients(self, rows)

    monkeypatch.setattr(Trainer, "_gradients", hungry)
    images, labels = torch.zeros(8, 1, 28, 28, dtype=torch.uint8), (torch.arange(8) % 2).float()
    recipe = Recipe(name="r", batch_size=4, amp="off")
    trainer = Trainer(Network, recipe, (images, labels), (images, labels))
    trainer.run_epoch()
    assert trainer.micro_batch == 2


def test_nothing_but_the_device_chooses_the_layout():
    for path in (ROOT / "chestlab").rglob("*.py"):
        if path.name not in ("device.py", "distributed.py"):  # the latter asks which it is
            assert "torch.channels_last" not in path.read_text(encoding="utf-8"), path


def test_mps_gets_the_layout_that_its_batch_norm_can_train_in():
    assert device.memory_format(MPS) == torch.contiguous_format
    assert device.memory_format(CPU) == torch.channels_last


def test_a_processor_without_onednn_trains_in_float32(monkeypatch):
    """As PyTorch for Apple silicon, which lacks even the question."""

    class Nothing:
        """No operator at all."""

    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops, "mkldnn", Nothing())
    assert device.resolve_amp(Recipe(name="r", cpu_bf16=True), CPU) is None


def test_mixed_precision_that_mps_lacks_is_refused(monkeypatch):
    recent, has_kernel = True, True
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *version: recent)
    kernel = "_dispatch_has_kernel_for_dispatch_key"
    monkeypatch.setattr(torch._C, kernel, lambda name, key: has_kernel)
    for amp in ("auto", "off", "bf16", "fp16"):
        device.check_precision(Recipe(name="r", amp=amp), MPS)
    assert device.resolve_amp(Recipe(name="r"), MPS) is None
    recent = has_kernel = False
    device.check_precision(Recipe(name="r"), MPS)
    for amp in ("bf16", "fp16"):
        with pytest.raises(InputError, match=f"--amp {amp}: .* allowed here are auto"):
            device.check_precision(Recipe(name="r", amp=amp), MPS)


@pytest.mark.parametrize(
    "message",
    [
        "MPS backend out of memory (MPS allocated: 5.50 GB, max allowed: 6.80 GB).",
        "[enforce fail at alloc_cpu.cpp:114] data. DefaultCPUAllocator: not enough memory: you "
        "tried to allocate 154140672 bytes.",
    ],
)
def test_a_device_that_reports_a_lack_of_memory_in_its_own_way_gets_smaller_batches(message):
    sizes = []

    class Hungry(nn.Module):
        def forward(self, x):
            sizes.append(len(x))
            if len(x) > 40:
                raise RuntimeError(message)
            return x.mean((1, 2, 3))

    images = torch.zeros(80, 1, 8, 8, dtype=torch.uint8)
    assert predict(Hungry(), images, Recipe(name="r")).shape == (80,)
    assert sizes == [80, 64, 32, 32, 16]


def test_other_errors_of_a_device_are_left_as_they_are():
    with pytest.raises(RuntimeError, match="shapes") as error, device.memory_errors():
        raise RuntimeError("shapes cannot be multiplied")
    assert type(error.value) is RuntimeError


def test_a_card_that_the_installed_pytorch_cannot_use_is_pointed_out(monkeypatch, capsys):
    """As after ``pip install torch`` on Windows."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    for program, wanted in (("nvidia-smi", True), (None, False)):
        monkeypatch.setattr(device.shutil, "which", lambda name, program=program: program)
        assert device.pick_device("auto") == CPU
        error = capsys.readouterr().err
        assert (error.startswith("NOTE: ") and device.GET_STARTED in error) == wanted
        assert len(error.splitlines()) == wanted


@pytest.mark.parametrize(("nccl", "backend"), [(True, "cpu:gloo,cuda:nccl"), (False, "gloo")])
def test_processes_talk_through_gloo_where_there_is_no_nccl(monkeypatch, nccl, backend):
    """As on Windows, where PyTorch has CUDA without it."""
    backends = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: nccl)
    monkeypatch.setattr(torch.distributed, "init_process_group", backends.append)
    for name in ("barrier", "destroy_process_group"):
        monkeypatch.setattr(torch.distributed, name, lambda: None)
    with StopSignals() as signals, Processes(size=2).together(signals):
        pass
    assert backends == [backend]


@pytest.mark.parametrize("name", ["nul", "CON", "aux.1", "com7", "lpt1.best", "run."])
def test_names_that_windows_has_no_folder_for_are_refused_everywhere(name):
    """So that results can be looked at on any system."""
    with pytest.raises(InputError, match="on Windows"):
        check_name(name)


@pytest.mark.parametrize("name", ["console", "com10", "run.1", "nul-1"])
def test_names_that_only_begin_like_a_device_are_taken(name):
    check_name(name)


def test_names_that_differ_in_capitals_alone_share_no_special_folder():
    for name in ("Phantom", f"a{UNFINISHED.upper()}"):
        with pytest.raises(InputError, match="--name"):
            check_name(name)


def test_a_run_whose_name_differs_in_capitals_replaces_none_where_the_disk_sees_one_name(
    tmp_path, phantom_npz, script, no_pictures, capsys
):
    """Renaming the files makes what Windows and macOS find under the second name."""
    flags = "--data", phantom_npz, "--epochs", 1, "--device", "cpu", "--name"
    script("tests/tiny_train.py", *flags, "first")
    (tmp_path / "results/first").rename(tmp_path / "results/FIRST")
    for path in (tmp_path / "trained_models").iterdir():
        path.rename(path.with_name(path.name.replace("first", "FIRST")))
    with pytest.raises(SystemExit) as end:
        script("tests/tiny_train.py", *flags, "FIRST")
    assert end.value.code == 2
    assert "is called 'first', which is the same name on this disk" in capsys.readouterr().err


def test_the_name_of_a_file_with_dots_and_a_long_name_makes_a_name():
    for stem in ("data..", "nul", "n" * 150):
        name = run_name("densenet121_report", f"{stem}.npz", 224)
        check_name(name)
        assert len(name) < 100


def test_patterns_and_home_are_expanded_where_the_shell_has_not(tmp_path, monkeypatch):
    """As in cmd and PowerShell."""
    for name in ("b.png", "a.png", "c.jpg", "d[1].png"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert expanded("[ab].png") == [Path("a.png"), Path("b.png")]
    assert expanded(str(tmp_path / "*.jpg")) == [tmp_path / "c.jpg"]
    assert expanded("d[1].png") == [Path("d[1].png")]  # the file of this very name
    assert expanded("missing*.png") == [Path("missing*.png")]  # reported by whoever reads it
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert expanded("~/c.jpg") == [tmp_path / "c.jpg"]


# Graphics cards that the installed PyTorch has no kernels for, or no fast number format.

CURRENT = ["sm_75", "sm_80", "sm_86", "sm_90a", "sm_120", "compute_120"]


@pytest.fixture
def card(monkeypatch):
    """A card of a compute capability and a name, and a build of PyTorch with some kernels."""

    def install(capability, kernels=CURRENT, name="NVIDIA GeForce"):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: name)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: kernels)

    return install


@pytest.mark.parametrize(
    ("capability", "kernels", "usable"),
    [
        ((6, 1), CURRENT, False),  # GTX 1080
        ((7, 0), CURRENT, False),  # V100
        ((7, 5), CURRENT, True),  # T4, GTX 1650
        ((8, 9), CURRENT, True),  # RTX 4060: kernels for 8.6
        ((9, 0), CURRENT, True),
        ((13, 0), CURRENT, True),  # from intermediate code
        ((13, 0), CURRENT[:-1], False),
        ((9, 0), ["gfx90a"], True),
    ],
)
def test_a_card_without_kernels_is_told_and_not_chosen(card, capsys, capability, kernels, usable):
    card(capability, kernels)
    assert device.pick_device("auto").type == ("cuda" if usable else "cpu")
    told = capsys.readouterr().err
    if usable:
        assert told == "" and device.pick_device("cuda").type == "cuda"
        return
    assert (
        f"compute capability {capability[0]}.{capability[1]}" in told and len(told.split("\n")) == 2
    )
    with pytest.raises(InputError, match="--device cuda: this build of PyTorch has no kernels"):
        device.pick_device("cuda")
    assert device.pick_device("cpu") == CPU


@pytest.mark.parametrize(("system", "share"), [("win32", 0.95 * 3 / 4), ("linux", None)])
def test_on_windows_no_more_memory_is_taken_than_the_card_has(card, monkeypatch, system, share):
    card((8, 6))
    shares = []
    monkeypatch.setattr(device.sys, "platform", system)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**31, 2**32))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2**30)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, device: shares.append(share)
    )
    device.pick_device("cuda")
    assert shares == ([] if share is None else [pytest.approx(share)])


@pytest.mark.parametrize(
    ("capability", "name", "wanted"),
    [
        ((8, 6), "NVIDIA GeForce RTX 3050 Laptop GPU", torch.bfloat16),
        ((7, 5), "Tesla T4", torch.float16),
        ((7, 5), "NVIDIA GeForce GTX 1650", None),  # its convolutions in fp16 can give NaN
    ],
)
def test_a_card_gets_the_precision_that_it_has(card, capsys, capability, name, wanted):
    card(capability, name=name)
    assert device.resolve_amp(Recipe(name="r"), torch.device("cuda")) == wanted
    device.check_precision(Recipe(name="r", amp="bf16"), torch.device("cuda"))
    assert ("bf16 in software" in capsys.readouterr().err) == (capability < (8, 0))


@pytest.mark.parametrize(
    "words",
    [
        "CUDA out of memory. Tried to allocate 20.00 MiB",
        "GET was unable to find an engine to execute this computation",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    ],
)
def test_a_lack_of_memory_is_known_by_its_words(words):
    with pytest.raises(torch.OutOfMemoryError), device.memory_errors():
        raise RuntimeError(words)
