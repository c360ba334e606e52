"""Files made to hurt: payloads, huge claims and random damage in data and in checkpoints.

Whatever is in a file, the outcome is what the sound file gives, or one line and exit status 2.
What could take the tests down with it (memory, a hang, a crash of the interpreter) runs in a
process of its own, which is this file as a script: see `main`.
"""

from __future__ import annotations

import contextlib
import copy
import faulthandler
import io
import json
import os
import pickle
import random
import re
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, TINY, run_script
from damaged_files import (
    BYTE_MUTATIONS,
    Payload,
    flip_bits,
    random_block,
    remove_block,
    repeat_block,
    truncate,
    zero_block,
)

from chestlab.data import splits
from chestlab.data.sources import load
from chestlab.data.splits import SPLITS
from chestlab.files.checkpoint import load_checkpoint, save_checkpoint
from chestlab.files.errors import InputError

pytest_plugins = ["figures"]

HANG_SECONDS = 10
MORE_MEGABYTES = 200
NAME = "tiny_data"  # of the runs here, which read data.npz


def source_arrays() -> dict[str, np.ndarray]:
    """Arrays in ChestMNIST's layout; no two of them have the same shape."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n, first in zip(SPLITS, (60, 28, 30), (0, 100, 200), strict=True):
        columns = rng.permutation(np.arange(n) % 3)
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, 28, 28), np.uint8) // 32 * 32
        arrays[f"{split}_labels"] = np.eye(14, dtype=np.uint8)[[[1, 7, 4][c] for c in columns]]
        names = [f"{first + k:08d}_{k % 3:03d}.png" for k in range(n)]
        arrays[f"{split}_names"] = np.array(names)
    return arrays


def one_line(error: BaseException) -> None:
    text = str(error)
    assert text and text.isprintable() and len(text) < 800, text


# Mutations.


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(contents: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip with right checksums, whatever its members hold."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def swap_members(contents: dict[str, bytes], rng: random.Random) -> None:
    one, other = rng.sample(sorted(contents), 2)
    contents[one], contents[other] = contents[other], contents[one]


def drop_member(contents: dict[str, bytes], rng: random.Random) -> None:
    # A file without names, or without its mark, is a good file, but another one.
    del contents[rng.choice(sorted(name for name in contents if "names" not in name))]


def wrong_header(contents: dict[str, bytes], rng: random.Random) -> None:
    name = rng.choice(sorted(contents))
    array = np.lib.format.read_array(io.BytesIO(contents[name]))
    shape = rng.choice(
        [
            (*array.shape, 1),
            array.shape[::-1],
            (array.shape[0] * 2, *array.shape[1:]),
            (array.shape[0] - 1, *array.shape[1:]),
            (2**40, *array.shape[1:]),
            (2**62, 2**62, 4),
            (-1, *array.shape[1:]),
            (),
            (0,),
            array.shape,
        ]
    )
    if shape == array.shape:
        descr = rng.choice(["|i1", "<f8", "|O", "<U1000000", "|S9", "<M8[s]", "V3", "<u2"])
    else:
        descr = array.dtype.str
    header = {"descr": descr, "fortran_order": rng.random() < 0.1, "shape": shape}
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, header)
    contents[name] = buffer.getvalue() + array.tobytes()


def broken_header(contents: dict[str, bytes], rng: random.Random) -> None:
    """Bytes of the npy header: its magic, version, length and text."""
    name = rng.choice(sorted(contents))
    content = bytearray(contents[name])
    before = bytes(content)
    while bytes(content) == before or content[10:60] != before[10:60]:
        content = bytearray(before)
        content[rng.randrange(10)] = rng.randrange(256)
    contents[name] = bytes(content)


def nested_header(contents: dict[str, bytes], rng: random.Random) -> None:
    """Text that a careless parser would follow down until its stack ends."""
    name = rng.choice(sorted(contents))
    text = rng.choice([b"(", b"-", b"[", b"{1:", b"~"]) * rng.choice([200, 9000, 60_000])
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", min(len(text), 65535)) + text
    contents[name] = content + contents[name][128:]


NPZ_MUTATIONS = (swap_members, drop_member, wrong_header, broken_header, nested_header)


def damaged_pickle(contents: dict[str, bytes], rng: random.Random) -> None:
    name = next(name for name in contents if name.endswith("data.pkl"))
    content = bytearray(contents[name])
    mutate = rng.choice([flip_bits, zero_block, random_block, remove_block, repeat_block, truncate])
    mutate(content, rng)
    contents[name] = bytes(content)


CHECKPOINT_MUTATIONS = (swap_members, damaged_pickle, damaged_pickle)


def mutants(good: bytes, kind: str, seed: int) -> Iterator[tuple[str, bytes, bool]]:
    """Name and bytes of one mutant after another, and whether its checksums are right."""
    rng = random.Random(seed)
    on_members = CHECKPOINT_MUTATIONS if kind == "checkpoint" else NPZ_MUTATIONS
    if kind == "cache":
        on_members = ()
    while True:
        mutate = rng.choice(BYTE_MUTATIONS + on_members)
        if mutate in BYTE_MUTATIONS:
            data = bytearray(good)
            mutate(data, rng)
            yield mutate.__name__, bytes(data), False
        else:
            contents = members(good)
            mutate(contents, rng)
            compression = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
            if kind == "checkpoint":
                compression = zipfile.ZIP_STORED
            yield mutate.__name__, zipped(contents, compression), True


# What runs in a process of its own.


def peak_megabytes() -> float:
    """The most memory this process has held so far; 0 where the system does not tell.

    Linux begins ``ru_maxrss`` with what the parent process had, so its own account is taken.
    """
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 2**10
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def same(one: Any, other: Any) -> bool:
    """Whether two results hold equal values throughout."""
    if isinstance(one, splits.TwoClassData):
        return (one.phantom, one.counts()) == (other.phantom, other.counts()) and all(
            same(vars(getattr(one, split)), vars(getattr(other, split))) for split in SPLITS
        )
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if hasattr(one, "untyped_storage"):
        return one.dtype == other.dtype and one.equal(other)
    return one == other


def fuzz(kind: str, good: Path, count: int) -> dict[str, Any]:
    """Read ``count`` mutants of a file; raises at the first that ends in any other way than well.

    Returns:
        How many were read as the good one, how many refused, and megabytes above the good one's.
    """
    folder = good.parent / f"mutants-{kind}"
    folder.mkdir()
    path = folder / f"mutant{good.suffix}"
    source = path

    def read(path: Path) -> Any:
        return load_checkpoint(path) if kind == "checkpoint" else load(str(source))

    shutil.copyfile(good, path)
    expected = read(path)
    if kind == "cache":  # of data that stay sound
        path = source.with_name("mutant.two-class.npz")
        good = Path(shutil.copyfile(path, folder / "good-cache"))
        read(path)
    outcomes = {"same": 0, "refused": 0, "other": 0}
    before = peak_megabytes()
    for number, (name, data, sound) in zip(
        range(count), mutants(good.read_bytes(), kind, seed=len(kind)), strict=False
    ):
        path.write_bytes(data)
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        start = time.monotonic()
        try:
            result = read(path)
            if same(result, expected):
                outcomes["same"] += 1
            else:  # right checksums over other content: a sound file, but another one
                assert kind == "checkpoint" and sound, "damage was not noticed"
                outcomes["other"] += 1
        except InputError as error:
            one_line(error)
            assert kind != "cache", "a damaged cache is made anew, without a word"
            outcomes["refused"] += 1
        except BaseException as error:
            raise AssertionError(f"mutant {number} of {kind}, {name}: {error!r}") from error
        faulthandler.cancel_dump_traceback_later()
        assert time.monotonic() - start < HANG_SECONDS, f"mutant {number} of {kind}, {name}"
    return {**outcomes, "megabytes": peak_megabytes() - before}


def read_all(folder: Path) -> dict[str, Any]:
    """Read every file of a folder, none of which is sound: their messages, and megabytes."""
    load(str(folder / "good" / "data.npz"))
    messages, megabytes = {}, {}
    for path in sorted(folder.glob("*.npz")):
        before = peak_megabytes()
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        try:
            load(str(path))
            messages[path.stem] = "it was read"
        except InputError as error:
            one_line(error)
            messages[path.stem] = str(error)
        faulthandler.cancel_dump_traceback_later()
        megabytes[path.stem] = peak_megabytes() - before
    return {"messages": messages, "megabytes": megabytes}


def parts(state: Any, place: tuple = ()) -> Iterator[tuple]:
    """The place of every dict, list and leaf within a nested state."""
    yield place
    if isinstance(state, (dict, list)):
        for key in state if isinstance(state, dict) else range(len(state)):
            yield from parts(state[key], (*place, key))


def structures(state: dict) -> Iterator[tuple[str, dict, bool]]:
    """States that differ in one place: a name, the state, whether nothing can be made of it."""
    import torch

    others = {
        "None": None,
        "text": "x",
        "minus": -1,
        "zero": 0,
        "big": 10**30,
        "nan": float("nan"),
        "list": [],
        "dict": {},
        "vector": torch.zeros(3),
        "nested": [[[[{"a": [()]}]]]],
    }
    for place in parts(state):
        old = state
        for key in place:
            old = old[key]
        values = dict(others)
        if isinstance(old, torch.Tensor):
            values |= {
                "half": old.reshape(-1)[: old.numel() // 2].clone(),
                "longer": torch.cat([old.reshape(-1)] * 2),
                "float64": old.double() if old.dtype != torch.float64 else old.float(),
                "complex": old.to(torch.complex64),
                "huge": torch.zeros(1).expand(2**40, 8),
                "meta": old.to("meta"),
            }
        else:
            values["missing"] = ...
        for name, value in values.items():
            changed = copy.deepcopy(state)
            inner = changed
            for key in place[:-1]:
                inner = inner[key]
            if value is ...:
                if not place:
                    continue
                del inner[place[-1]]
            elif place:
                inner[place[-1]] = value
            else:
                changed = value
            hopeless = isinstance(old, (dict, torch.Tensor)) and name not in ("missing", "dict")
            hopeless = hopeless and "param_groups" not in place and place[-1:] != ("scaler",)
            yield f"{'/'.join(map(str, place))}: {name}", changed, hopeless


def resume_all(folder: Path, which: str, count: int) -> list[str]:
    """Resume from checkpoints with one thing changed; what went wrong with which of them.

    Args:
        folder: with an unfinished run.
        which: ``last`` or ``best``.
        count: how many to try; all are more than a thousand.
    """
    import torch
    from tiny_train import RECIPE, TinyNet

    from chestlab.runs import results
    from chestlab.runs import run as run_module

    results.draw_pictures = run_module.draw_curves = lambda *arguments: None
    torch.set_num_threads(1)
    os.chdir(folder)
    kept = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    path = Path("trained_models") / f"{NAME}_{which}.pth"
    all_of_them = list(structures(torch.load(path, weights_only=True)))
    bad = []
    for name, state, hopeless in random.Random(0).sample(all_of_them, min(count, len(all_of_them))):
        shutil.rmtree(Path("results"))
        for file, content in kept.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        torch.save(state, path)
        print(name, file=sys.stderr, flush=True)  # the last line says where a crash was
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        err = io.StringIO()
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
                run_module.run(TinyNet, {"report": RECIPE}, ["--data", "data.npz", "--resume"])
            status = 0
        except SystemExit as end:
            status = end.code
        except BaseException as error:
            bad.append(f"{name}: {error!r:.200}")
            continue
        finally:
            faulthandler.cancel_dump_traceback_later()
        if status not in ((2,) if hopeless else (0, 1, 2)):
            bad.append(f"{name}: exit status {status}")
        if status and not re.fullmatch(r"(error|stopped): .{5,600}\n", err.getvalue()):
            bad.append(f"{name}: {err.getvalue()!r:.200}")
    return bad


def main() -> None:
    task, *arguments = sys.argv[1:]
    if task == "fuzz":
        result = fuzz(arguments[0], Path(arguments[1]), int(arguments[2]))
    elif task == "read":
        result = read_all(Path(arguments[0]))
    else:
        result = resume_all(Path(arguments[0]), arguments[1], int(arguments[2]))
    print(json.dumps(result))


def apart(*arguments: object, cwd: Path, timeout: float) -> Any:
    """The result of `main` in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, *map(str, arguments)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
            "OMP_NUM_THREADS": "1",
            "XDG_CACHE_HOME": str(cwd),
        },
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-3000:])
    return json.loads(done.stdout)


# The tests.


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory) -> Path:
    """A folder with data.npz and a run that stopped after two of four epochs."""
    from tiny_train import RECIPE, TinyNet

    from chestlab.files.errors import TrainingError
    from chestlab.runs.run import run
    from chestlab.training.trainer import Trainer

    folder = tmp_path_factory.mktemp("unfinished")
    np.savez(folder / "data.npz", **source_arrays())
    run_epoch = Trainer.run_epoch

    def two_epochs(trainer):
        if len(trainer.history) == 2:
            raise TrainingError("enough")
        return run_epoch(trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "run_epoch", two_epochs)
        patch.chdir(folder)
        with pytest.raises(SystemExit):
            run(TinyNet, {"report": RECIPE}, ["--data", "data.npz"])
    import torch

    state = torch.load(folder / "trained_models" / f"{NAME}_last.pth", weights_only=True)
    assert len(state["trainer"]["history"]) == 2
    if state["trainer"]["best_epoch"] == 2:  # so that the best weights come from their own file
        pytest.fail("the second epoch is the best: choose other data")
    return folder


@pytest.fixture
def run_here(unfinished, tmp_path, monkeypatch, capsys):
    """A copy of the unfinished run, and a function that resumes it within this process."""
    from tiny_train import RECIPE, TinyNet

    from chestlab.runs import results
    from chestlab.runs import run as run_module

    shutil.copytree(unfinished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(results, "draw_pictures", lambda *arguments: None)

    def resume() -> tuple[int, str, str]:
        capsys.readouterr()
        status = 0
        try:
            run_module.run(TinyNet, {"report": RECIPE}, ["--data", "data.npz", "--resume"])
        except SystemExit as end:
            status = end.code
        return (status, *capsys.readouterr())

    return resume


def assert_told(status: int, err: str) -> None:
    assert status == 2, (status, err)
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n"), err
    assert "Traceback" not in err and "weights_only" not in err


# Payloads.


def zip_with_payload(path: Path, payload: Payload) -> None:
    import torch

    torch.save({"trainer": payload, "weights": payload}, path)


def legacy_with_payload(path: Path, payload: Payload) -> None:
    import torch

    torch.save({"trainer": payload}, path, _use_new_zipfile_serialization=False)


def bare_pickle(path: Path, payload: Payload) -> None:
    path.write_bytes(pickle.dumps(payload))


def second_payload_behind_sound_weights(path: Path, payload: Payload) -> None:
    import torch

    state = torch.load(path, weights_only=True)
    torch.save({**state, "note": [payload]}, path)


def numpy_payload(path: Path, payload: Payload) -> None:
    import torch

    state = torch.load(path, weights_only=True)
    torch.save({**state, "note": np.array([payload], object)}, path)


PAYLOADS = (
    zip_with_payload,
    legacy_with_payload,
    bare_pickle,
    second_payload_behind_sound_weights,
    numpy_payload,
)


def test_the_payload_would_run(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("which", ["last", "best"])
@pytest.mark.parametrize("write", PAYLOADS)
def test_a_payload_in_a_checkpoint_is_refused_and_does_not_run(run_here, tmp_path, which, write):
    write(tmp_path / "trained_models" / f"{NAME}_{which}.pth", Payload(tmp_path / "ran"))
    status, _, err = run_here()
    assert_told(status, err)
    assert f"{NAME}_{which}.pth" in err
    assert not (tmp_path / "ran").exists()


def test_a_payload_in_a_checkpoint_as_a_command(unfinished, tmp_path):
    shutil.copytree(unfinished, tmp_path, dirs_exist_ok=True)
    zip_with_payload(tmp_path / "trained_models" / f"{NAME}_last.pth", Payload(tmp_path / "ran"))
    done = run_script(TINY, "--data", "data.npz", "--resume", cwd=tmp_path)
    assert_told(done.returncode, done.stderr)
    assert "holds more than tensors and plain values" in done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("key", ["train_labels", "val_images", "test_names"])
def test_a_payload_in_an_npz_is_refused_and_does_not_run(tmp_path, key):
    payload = np.array([Payload(tmp_path / "ran")] * 28, object)
    np.savez(tmp_path / "data.npz", **{**source_arrays(), key: payload})
    with pytest.raises(InputError, match=f"'{key}' holds Python objects; they are not read"):
        load(str(tmp_path / "data.npz"))
    assert not (tmp_path / "ran").exists()


def test_a_payload_in_a_cache_does_not_run_and_a_cache_is_made_anew(tmp_path, monkeypatch):
    for variable in ("HOME", "USERPROFILE", "LOCALAPPDATA", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    np.savez(tmp_path / "data.npz", **source_arrays())
    good = load(str(tmp_path / "data.npz"))
    cache = tmp_path / "data.two-class.npz"
    with np.load(cache) as file:
        arrays = dict(file)
    for key in ("train_images", "train_names", "about"):
        payload = np.array([Payload(tmp_path / "ran")], object)
        np.savez(cache, **{**arrays, key: payload})
        assert same(load(str(tmp_path / "data.npz")), good)
        assert not (tmp_path / "ran").exists()
        assert (tmp_path / "home").exists() == (key == "about")  # that it is a cache is told there


# Claims.


def npy(shape: tuple, descr: str = "|u1", version: bytes = b"\x01\x00") -> bytes:
    """The beginning of an npy file: what it claims to hold."""
    buffer = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue().replace(b"\x01\x00", version, 1)


def write_zip(path: Path, names: bool = True, **changed: tuple[int, list]) -> None:
    """A source of which some members are replaced by (compression, chunks of bytes)."""
    with zipfile.ZipFile(path, "w") as archive:
        for key, array in source_arrays().items():
            if key not in changed and (names or not key.endswith("names")):
                with archive.open(f"{key}.npy", "w") as member:
                    np.lib.format.write_array(member, array)
        for key, (compression, chunks) in changed.items():
            info = zipfile.ZipInfo(f"{key}.npy")
            info.compress_type = compression
            with archive.open(info, "w", force_zip64=True) as member:
                for chunk in chunks:
                    member.write(chunk)


def lie(path: Path, member: str, file_size: int, compress_size: int) -> None:
    """Put other sizes into the zip's directory."""
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\x01\x02")
    while data[start + 46 : start + 46 + len(member)] != member.encode():
        start = data.index(b"PK\x01\x02", start + 4)
    data[start + 20 : start + 28] = struct.pack("<II", compress_size, file_size)
    path.write_bytes(data)


def make_claims(folder: Path) -> None:
    stored, deflated = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
    for name, shape in {
        "2**40 rows": (2**40, 14),
        "a product that wraps around": (2**62, 2**62, 16),
        "another": (2**32, 2**32, 14),
        "negative": (-1, 14),
        "both negative": (-2, -7),
    }.items():
        write_zip(folder / f"{name}.npz", train_labels=(stored, [npy(shape), bytes(999)]))
        write_zip(folder / f"{name} of images.npz", val_images=(deflated, [npy(shape)]))

    # Two million images, 1.5 GB, that are there in the sizes of the directory alone.
    n = 2_000_000
    flags = np.eye(14, dtype=np.uint8)[[1, 7] * 50_000].tobytes()
    path = folder / "a directory that lies.npz"
    labels = (deflated, [npy((n, 14)), *[flags] * (n // 100_000)])
    images = (stored, [npy((n, 28, 28)), bytes(9999)])
    write_zip(path, names=False, train_labels=labels, train_images=images)
    claimed = len(npy((n, 28, 28))) + n * 784
    lie(path, "train_images.npy", claimed, claimed)

    path = folder / "more than deflate can.npz"
    write_zip(path, names=False, train_labels=labels, train_images=images)
    lie(path, "train_images.npy", claimed, claimed // 2000)

    # Labels that are really there, 200 MB of zeros in 200 kB, for images that are not.
    n = 15_000_000
    path = folder / "a bomb of labels.npz"
    labels = (deflated, [npy((n, 14)), *[bytes(14 * 100_000)] * (n // 100_000)])
    images = (deflated, [npy((n, 16, 16)), bytes(9999)])
    write_zip(path, names=False, train_labels=labels, train_images=images)
    lie(path, "train_images.npy", len(npy((n, 16, 16))) + n * 256, 4_000_000)

    # What has no limit of a thousand to one, as deflate has: 256 MB in a few hundred bytes.
    path = folder / "bzip2.npz"
    labels = (zipfile.ZIP_BZIP2, [npy((2**28 // 14, 14)), *[bytes(2**24)] * 16])
    write_zip(path, train_labels=labels)

    # A header of 300 MB; only version 2 of the format can claim one.
    header = b"\x93NUMPY\x02\x00" + struct.pack("<I", 300 << 20)
    write_zip(folder / "header.npz", train_labels=(deflated, [header, *[b" " * 2**20] * 300]))

    # Sixty names of a million letters each.
    names = [npy((60,), f"<U{2**20}"), *[bytes(2**22)] * 60]
    write_zip(folder / "names.npz", train_names=(deflated, names))


def test_what_a_file_claims_to_hold_is_not_allocated(tmp_path):
    (tmp_path / "good").mkdir()
    np.savez(tmp_path / "good" / "data.npz", **source_arrays())
    make_claims(tmp_path)
    result = apart("read", tmp_path, cwd=tmp_path, timeout=120)
    assert len(result["messages"]) == 16
    assert "it was read" not in result["messages"].values()
    assert max(result["megabytes"].values()) < 100, result["megabytes"]
    claim = result["messages"]["more than deflate can"]
    assert claim.endswith("'train_images' claims more data than the file can hold")


def test_a_compressed_checkpoint_is_refused(tmp_path):
    """PyTorch writes none, and a kilobyte of it could be a megabyte in memory."""
    import torch

    torch.save({"a": torch.zeros(1000)}, tmp_path / "good.pth")
    contents = members((tmp_path / "good.pth").read_bytes())
    (tmp_path / "bad.pth").write_bytes(zipped(contents, zipfile.ZIP_DEFLATED))
    with pytest.raises(InputError, match="is compressed"):
        load_checkpoint(tmp_path / "bad.pth")


def test_a_checkpoint_whose_tensors_are_larger_than_its_file_is_refused(tmp_path):
    import torch

    torch.save({"a": torch.zeros(1000)}, tmp_path / "a.pth")
    contents = members((tmp_path / "a.pth").read_bytes())
    name = next(name for name in contents if name.endswith("data.pkl"))
    count = pickle.BININT2 + struct.pack("<H", 1000)
    assert contents[name].count(count) == 2  # the storage's and the tensor's
    claim = pickle.LONG1 + b"\x08" + struct.pack("<Q", 2**33)
    contents[name] = contents[name].replace(count, claim)
    (tmp_path / "a.pth").write_bytes(zipped(contents))
    with contextlib.suppress(Exception):
        torch.load(tmp_path / "a.pth", weights_only=True)
        pytest.skip(f"PyTorch {torch.__version__} believes the claim")
    with pytest.raises(InputError, match="cannot be read") as refusal:
        load_checkpoint(tmp_path / "a.pth")
    one_line(refusal.value)


# Damage.


def test_a_flipped_bit_in_a_weight_is_noticed(tmp_path):
    """PyTorch itself takes it for another number."""
    import torch

    torch.save({"a": torch.arange(1000.0)}, tmp_path / "a.pth")
    data = bytearray((tmp_path / "a.pth").read_bytes())
    data[data.index(np.float32(500).tobytes())] ^= 1
    (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        load_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("key", ["phantom", "train_names"])
def test_damage_to_the_directory_does_not_hide_an_optional_array(tmp_path, key):
    """Without its mark a phantom would pass for X-rays, without names a patient for several."""
    path = tmp_path / "data.npz"
    np.savez(path, phantom=np.array("PHANTOM DATA, not ChestMNIST"), **source_arrays())
    data = bytearray(path.read_bytes())
    data[data.rindex(f"{key}.npy".encode())] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="not a sound npz file"):
        load(str(path))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("weights"),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(zipped({"archive/data.pkl": b"\x80\x02}q\x00."})),
        lambda path: path.write_bytes(zipped({"a.npy": b"an array"})),
    ],
    ids=["missing", "empty", "text", "a byte short", "no tensors", "an npz"],
)
def test_a_checkpoint_that_is_none_is_told(tmp_path, write):
    import torch

    path = tmp_path / "a.pth"
    torch.save({"a": torch.zeros(3)}, path)
    write(path)
    with pytest.raises(InputError, match=r"checkpoint '.*a.pth'") as refusal:
        load_checkpoint(path)
    one_line(refusal.value)


@pytest.mark.parametrize("value", [[1, 2], "text", 3, None])
def test_a_checkpoint_of_something_else_is_told(tmp_path, value):
    import torch

    torch.save(value, tmp_path / "a.pth")
    with pytest.raises(InputError, match=f"holds a {type(value).__name__}, not a dict"):
        load_checkpoint(tmp_path / "a.pth")


FUZZ_SIZES = [pytest.param(60, id="fast"), pytest.param(1000, id="all", marks=pytest.mark.slow)]


@pytest.mark.parametrize("kind", ["npz", "compressed npz", "cache", "checkpoint"])
@pytest.mark.parametrize("count", FUZZ_SIZES)
def test_mutants_are_read_rightly_or_refused(unfinished, tmp_path, kind, count, record_figure):
    good = tmp_path / "good.npz"
    np.savez_compressed(good, **source_arrays())
    if kind == "checkpoint":
        good = tmp_path / "good.pth"
        shutil.copyfile(unfinished / "trained_models" / f"{NAME}_last.pth", good)
    elif kind == "npz":
        np.savez(good, **source_arrays())
    result = apart("fuzz", kind, good, count, cwd=tmp_path, timeout=60 + count)
    assert sum(result[outcome] for outcome in ("same", "refused", "other")) == count
    assert result["megabytes"] < MORE_MEGABYTES
    if kind == "cache":
        assert result["same"] == count
    else:  # the mutations are neither all harmless nor all of one kind
        assert result["refused"] > count / 2
    record_figure(f"mutants of a file read in process: {kind}", count)


COMMANDS = [pytest.param(3, id="fast"), pytest.param(30, id="all", marks=pytest.mark.slow)]


@pytest.mark.parametrize("count", COMMANDS)
def test_whole_commands_on_mutants(unfinished, tmp_path, count, record_figure):
    """Every third mutates the data, the last and the best checkpoint of an unfinished run."""
    resume = (TINY, "--data", "data.npz", "--resume")
    shutil.copytree(unfinished, tmp_path / "good")
    done = run_script(*resume, cwd=tmp_path / "good", XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    tables = ("val_probabilities.csv", "test_probabilities.csv")
    expected = [(tmp_path / "good" / "results" / NAME / table).read_text() for table in tables]

    places = ("data.npz", f"trained_models/{NAME}_last.pth", f"trained_models/{NAME}_best.pth")
    sources = [
        mutants((unfinished / place).read_bytes(), "npz" if k == 0 else "checkpoint", seed=k)
        for k, place in enumerate(places)
    ]
    refused = 0
    for number in range(count):
        folder = tmp_path / str(number)
        shutil.copytree(unfinished, folder)
        name, data, sound = next(sources[number % 3])
        while sound and number % 3:  # another content with right checksums is no damage
            name, data, sound = next(sources[number % 3])
        (folder / places[number % 3]).write_bytes(data)
        start = time.monotonic()
        done = run_script(*resume, cwd=folder, XDG_CACHE_HOME=str(tmp_path))
        where = f"mutant {number}, {name}: {done.stderr}"
        if done.returncode == 0:
            results = [(folder / "results" / NAME / table).read_text() for table in tables]
            assert results == expected, where
        else:
            assert time.monotonic() - start < 60, where
            assert_told(done.returncode, done.stderr)
            refused += 1
        shutil.rmtree(folder)
    assert refused > count / 2
    record_figure("mutants of a file given to a whole command", count)


# Sound files of another content.


@pytest.mark.parametrize("which", ["last", "best"])
@pytest.mark.parametrize(
    "count",
    [pytest.param(20, id="fast"), pytest.param(9999, id="all", marks=pytest.mark.slow)],
)
def test_checkpoints_of_another_structure_are_told(unfinished, tmp_path, which, count):
    shutil.copytree(unfinished, tmp_path, dirs_exist_ok=True)
    bad = apart("resume", tmp_path, which, count, cwd=tmp_path, timeout=120 + count)
    assert not bad, "\n".join(bad)


def change(path: Path, edit: Callable[[dict], Any]) -> None:
    """A sound checkpoint, seal and all, but of another run."""
    state = load_checkpoint(path, sealed=True)
    edit(state)
    save_checkpoint(path, state)


def test_the_best_weights_of_another_epoch_are_refused(run_here, tmp_path):
    """A copied or restored file would otherwise be reported as the best epoch's."""
    path = tmp_path / "trained_models" / f"{NAME}_best.pth"
    change(path, lambda state: state.update(epoch=2))
    status, _, err = run_here()
    assert_told(status, err)


def test_the_best_weights_of_another_recipe_are_refused(run_here, tmp_path):
    path = tmp_path / "trained_models" / f"{NAME}_best.pth"
    change(path, lambda state: state["recipe"].update(lr=0.5))
    status, _, err = run_here()
    assert_told(status, err)
    assert "recipe lr" in err


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"model": 1}', "\x00" * 50, "[" * 99_999],
    ids=["empty", "cut off", "list", "null", "other keys", "zeros", "nested"],
)
def test_a_damaged_metrics_file_is_told(run_here, tmp_path, text):
    """``--resume`` reads it to see whether the run is finished."""
    for checkpoint in (tmp_path / "trained_models").glob("*.pth"):
        checkpoint.unlink()
    (tmp_path / "results" / NAME / "metrics.json").write_text(text)
    status, _, err = run_here()
    assert_told(status, err)
    assert "metrics.json" in err


if __name__ == "__main__":
    main()
