"""The two-class filter, its cache, and the sources that --data names."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

from chestlab.data import arrays as arrays_module
from chestlab.data import cache, splits
from chestlab.data.npz import filter_npz
from chestlab.data.phantom import OFFICIAL_COUNTS, PHANTOM_MARK, make_phantom
from chestlab.data.sources import load
from chestlab.data.splits import CLASS_NAMES, SPLITS, two_class_mask
from chestlab.files import atomic
from chestlab.files.errors import InputError

REAL_COUNTS = {"train": (149, 291), "val": (18, 40), "test": (40, 67)}


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch) -> Path:
    """A home of the test's own, so that no cache comes from, or stays in, the user's."""
    home = tmp_path / "home"
    home.mkdir()
    for variable in ("HOME", "USERPROFILE", "LOCALAPPDATA", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(home))
    return home


def random_labels(n: int, seed: int) -> np.ndarray:
    """(n, 14) flags: none, one or several, with the two classes often enough among them."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 14)) < 0.08).astype(np.uint8)
    single = rng.random(n) < 0.5
    labels[single] = np.eye(14, dtype=np.uint8)[rng.choice([1, 7, 1, 7, 0, 6, 13], single.sum())]
    return labels


def source_arrays(n: int = 60, side: int = 16, seed: int = 0, names: bool = True) -> dict:
    """Arrays in ChestMNIST's layout, every image different."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for number, split in enumerate(SPLITS):
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, side, side), np.uint8)
        arrays[f"{split}_labels"] = random_labels(n, 10 * seed + number)
        if names:
            patients = 1000 * number + np.arange(n) // 3
            names = [f"{patient:08d}_{k % 3:03d}.png" for k, patient in enumerate(patients)]
            arrays[f"{split}_names"] = np.array(names)
    return arrays


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "data" / "source.npz"
    path.parent.mkdir()
    np.savez(path, **source_arrays())
    return path


def naive(labels: np.ndarray) -> list[tuple[int, int]]:
    """(row, class) of every image to keep, spelled out."""
    kept = []
    for row, flags in enumerate(labels.tolist()):
        columns = [column for column, flag in enumerate(flags) if flag]
        if columns == [1]:
            kept.append((row, 0))
        if columns == [7]:
            kept.append((row, 1))
    return kept


def assert_same(one: splits.TwoClassData, other: splits.TwoClassData) -> None:
    assert (one.source, one.sha256, one.phantom) == (other.source, other.sha256, other.phantom)
    for name in SPLITS:
        for key in ("images", "labels", "index", "names"):
            a, b = (getattr(getattr(data, name), key) for data in (one, other))
            if a is None or b is None:
                assert a is b
            else:
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b)


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


# The filter.


@pytest.mark.parametrize("seed", range(5))
def test_the_mask_is_that_of_a_naive_loop(seed):
    labels = random_labels(2000, seed)
    rows = [row for row, _ in naive(labels)]
    assert 400 < len(rows) < 1200
    assert np.flatnonzero(two_class_mask(labels)).tolist() == rows


def test_every_single_and_double_label():
    for a in range(14):
        for b in range(14):
            labels = np.zeros((1, 14), np.uint8)
            labels[0, [a, b]] = 1
            assert two_class_mask(labels).tolist() == [a == b and a in (1, 7)]
    assert two_class_mask(np.zeros((1, 14), np.uint8)).tolist() == [False]
    assert two_class_mask(np.ones((1, 14), np.uint8)).tolist() == [False]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("block_bytes", [1, 1000, 8 << 20])
def test_the_filter_keeps_rows_labels_and_names_of_the_source(
    tmp_path, monkeypatch, save, block_bytes
):
    arrays = source_arrays(n=101)
    path = tmp_path / "source.npz"
    save(path, **arrays)
    monkeypatch.setattr(arrays_module, "BLOCK_BYTES", block_bytes)
    data = filter_npz(path)
    assert data.size == 16 and data.source == "source.npz" and not data.phantom
    assert data.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    for name in SPLITS:
        split = getattr(data, name)
        kept = naive(arrays[f"{name}_labels"])
        assert list(zip(split.index.tolist(), split.labels.tolist(), strict=True)) == kept
        assert len(split) == len(kept)
        np.testing.assert_array_equal(split.images, arrays[f"{name}_images"][split.index])
        np.testing.assert_array_equal(split.names, arrays[f"{name}_names"][split.index])
        assert split.patients.tolist() == [text[:8] for text in split.names.tolist()]
        counts = data.counts()[name]
        assert list(counts) == list(CLASS_NAMES)
        assert list(counts.values()) == [sum(c == k for _, c in kept) for k in (0, 1)]


def test_the_real_subset_has_the_counts_of_its_description(real_npz):
    data = load(str(real_npz))
    assert {k: tuple(v.values()) for k, v in data.counts().items()} == REAL_COUNTS
    assert data.size == 28 and not data.phantom
    with np.load(real_npz) as source:
        patients = {}
        for name in SPLITS:
            split = getattr(data, name)
            np.testing.assert_array_equal(split.images, source[f"{name}_images"][split.index])
            np.testing.assert_array_equal(split.names, source[f"{name}_names"][split.index])
            flags = source[f"{name}_labels"][split.index]
            assert (flags.sum(1) == 1).all()
            np.testing.assert_array_equal(flags[:, 7], split.labels)
            patients[name] = set(split.patients.tolist())
            assert all(len(patient) == 8 and patient.isdigit() for patient in patients[name])
    assert not patients["train"] & patients["val"]
    assert not (patients["train"] | patients["val"]) & patients["test"]


def test_a_source_without_names_has_no_patients(tmp_path):
    np.savez(tmp_path / "a.npz", **source_arrays(names=False))
    data = load(str(tmp_path / "a.npz"))
    assert data.train.names is None and data.train.patients is None
    assert_same(load(str(tmp_path / "a.npz")), data)


def test_tensors_are_what_training_wants(source):
    split = load(str(source)).train
    images, labels = split.to(torch.device("cpu"))
    assert images.dtype == torch.uint8 and images.shape == (len(split), 1, 16, 16)
    assert labels.dtype == torch.float32 and labels.tolist() == split.labels.tolist()
    images[0] = 7  # arrays over read-only memory make PyTorch warn, and crash on a write


def test_names_of_another_type_are_named(tmp_path):
    arrays = source_arrays()
    for key, array, words in (
        ("train_names", np.arange(60), r"wanted is text of at most 255 characters \(60,\)"),
        ("train_names", np.array(["x" * 256] * 60), "at most 255 characters"),
    ):
        np.savez(tmp_path / "a.npz", **{**arrays, key: array})
        with pytest.raises(InputError, match=f"{key}.*{words}"):
            filter_npz(tmp_path / "a.npz")


def test_an_array_that_is_there_twice_is_named(tmp_path, source):
    path = tmp_path / "twice.npz"
    path.write_bytes(Path(source).read_bytes())
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("train_labels.npy", archive.read("train_labels.npy"))
    with pytest.raises(InputError, match="'train_labels' 2 times; write it with each array once"):
        load(str(path))


def test_arrays_in_fortran_order_are_the_same_arrays(tmp_path, monkeypatch):
    """What a table from pandas becomes; one too large to be read at once is refused."""
    arrays = source_arrays()
    np.savez(tmp_path / "c.npz", **arrays)
    turned = {key: np.asfortranarray(value) for key, value in arrays.items()}
    np.savez(tmp_path / "f.npz", **turned)
    expected, found = (filter_npz(tmp_path / name) for name in ("c.npz", "f.npz"))
    for split in ("train", "val", "test"):
        for key in ("images", "labels", "index", "names"):
            values = [getattr(getattr(data, split), key) for data in (expected, found)]
            assert np.array_equal(*values), (split, key)
    monkeypatch.setattr(arrays_module, "LARGEST_FORTRAN", 100)
    with pytest.raises(InputError, match=r"train_images.*Fortran order and too large"):
        filter_npz(tmp_path / "f.npz")


MEASURE = """
import re, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from chestlab.data.npz import filter_npz

def peak():
    if sys.platform == "linux":  # where ru_maxrss begins with what the parent process had
        return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

filter_npz(Path(sys.argv[2]))
before = peak()
data = filter_npz(Path(sys.argv[3]))
print(len(data.train), (peak() - before) // 2**20)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no resource module on Windows")
@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_a_source_much_larger_than_its_subset_takes_little_memory(tmp_path, source, compression):
    """600 MB of images of which 60 (3 MB) are kept: the peak rises by less than 60 MB."""
    n, side = 12_000, 224
    if shutil.disk_usage(tmp_path).free < 2 << 30:
        pytest.skip("less than 2 GB of disk are free")
    labels = np.zeros((n, 14), np.uint8)
    labels[::200, 7] = labels[::400, 1] = 1
    labels[::400, 7] = 0
    small = source_arrays(side=side)
    big = tmp_path / "big.npz"
    with zipfile.ZipFile(big, "w", compression, compresslevel=1) as archive:
        for key, array in {**small, "train_labels": labels}.items():
            if key != "train_images" and "names" not in key:
                with archive.open(f"{key}.npy", "w") as member:
                    np.lib.format.write_array(member, array)
        with archive.open("train_images.npy", "w", force_zip64=True) as member:
            header = {"descr": "|u1", "fortran_order": False, "shape": (n, side, side)}
            np.lib.format.write_array_header_1_0(member, header)
            for _ in range(n // 100):
                member.write(bytes(100 * side * side))
    command = [sys.executable, "-c", MEASURE, ROOT, source, big]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    big.unlink()
    kept, megabytes = map(int, done.stdout.split())
    assert kept == 60 and megabytes < 60


# The cache.


def test_the_second_start_reads_the_cache_alone(source, monkeypatch):
    first = load(str(source))
    assert files_below(source.parent) == [source, source.with_name("source.two-class.npz")]
    monkeypatch.setattr(cache, "filter_npz", None)
    second = load(str(source))
    assert_same(first, second)
    assert second.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()


def rewrite(source: Path, **changed: np.ndarray) -> None:
    with np.load(source) as arrays:
        np.savez(source, **{**arrays, **changed})


def test_a_source_of_the_same_size_and_time_with_other_content_is_noticed(source):
    before, status = load(str(source)), source.stat()
    rewrite(source, val_images=source_arrays(seed=1)["val_images"])
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert source.stat().st_size == status.st_size
    assert source.stat().st_mtime_ns == status.st_mtime_ns
    after = load(str(source))
    assert after.sha256 != before.sha256
    assert not np.array_equal(after.val.images, before.val.images)
    assert_same(load(str(source)), after)


def test_a_source_replaced_by_a_shorter_one_is_noticed(source):
    load(str(source))
    np.savez(source, **source_arrays(n=50))
    assert load(str(source)).train.index.max() < 50


def test_two_sources_of_one_name_keep_apart_in_the_users_cache(tmp_path, source, monkeypatch):
    no_cache_beside(monkeypatch, source.parent, tmp_path / "other")
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / source.name
    np.savez(other, **source_arrays(seed=1))
    first, second = load(str(source)), load(str(other))
    monkeypatch.setattr(cache, "filter_npz", None)
    assert_same(load(str(source)), first)
    assert_same(load(str(other)), second)


def object_arrays(path: Path) -> None:
    np.savez(path, about=np.array([{"identity": 1}], object))


def huge_claim(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive, archive.open("about.npy", "w") as member:
        header = {"descr": "<U9", "fortran_order": False, "shape": (2**40,)}
        np.lib.format.write_array_header_1_0(member, header)


def longer_labels(path: Path) -> None:
    with np.load(path) as arrays:
        labels = np.append(arrays["train_labels"], np.uint8(1))
        np.savez(path, **{**arrays, "train_labels": labels})


def missing_array(path: Path) -> None:
    with np.load(path) as arrays:
        kept = {key: array for key, array in arrays.items() if key != "test_index"}
    np.savez(path, **kept)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no zip at all" * 50),
        lambda path: path.write_bytes(path.read_bytes()[:-3000]),
        lambda path: path.write_bytes(path.read_bytes()[:3000]),
        flip_a_bit,
        object_arrays,
        huge_claim,
        longer_labels,
        missing_array,
    ],
    ids=lambda damage: getattr(damage, "__name__", None),
)
def test_a_damaged_cache_is_made_anew(source, damage, monkeypatch):
    good = load(str(source))
    cache_file = source.with_name("source.two-class.npz")
    damage(cache_file)
    assert_same(load(str(source)), good)
    monkeypatch.setattr(cache, "filter_npz", None)
    assert_same(load(str(source)), good)


def no_cache_beside(monkeypatch, *folders: Path) -> None:
    """Make writes into ``folders`` fail; taking permissions away does not stop root."""
    write = atomic.atomic_write

    def refuse(path, content):
        if path.parent in folders:
            raise PermissionError(13, "Permission denied", str(path))
        write(path, content)

    monkeypatch.setattr(cache, "atomic_write", refuse)


def test_beside_a_read_only_source_the_users_cache_is_used(source, user_cache, monkeypatch):
    no_cache_beside(monkeypatch, source.parent)
    first = load(str(source))
    assert files_below(source.parent) == [source]
    (cache_file,) = files_below(user_cache)
    assert cache_file.name.startswith("source.")
    monkeypatch.setattr(cache, "filter_npz", None)
    assert_same(load(str(source)), first)


def test_where_the_name_of_the_cache_is_taken_by_a_folder_the_users_cache_is_used(
    source, user_cache
):
    source.with_name("source.two-class.npz").mkdir()
    load(str(source))
    assert len(files_below(user_cache)) == 1


def an_npz_of_ones_own(path: Path) -> None:
    np.savez(path, mine=np.arange(5), about=np.array(['{"views": "frontal"}']))


@pytest.mark.parametrize(
    "write",
    [an_npz_of_ones_own, lambda path: path.write_bytes(b""), lambda path: path.write_text("mine")],
)
def test_a_file_of_the_users_that_has_the_name_of_the_cache_stays_as_it_is(
    source, user_cache, monkeypatch, write
):
    own = source.with_name("source.two-class.npz")
    write(own)
    before = own.read_bytes()
    first = load(str(source))
    assert own.read_bytes() == before and len(files_below(user_cache)) == 1
    monkeypatch.setattr(cache, "filter_npz", None)
    assert_same(load(str(source)), first)


def test_a_damaged_cache_in_the_users_folder_is_replaced(source, user_cache, monkeypatch):
    an_npz_of_ones_own(source.with_name("source.two-class.npz"))
    first = load(str(source))
    (cache_file,) = files_below(user_cache)
    cache_file.write_bytes(cache_file.read_bytes()[:3000])
    load(str(source))
    monkeypatch.setattr(cache, "filter_npz", None)
    assert_same(load(str(source)), first)


@pytest.mark.parametrize("obstacle", ["a file for a folder", "full disk", "no home"])
def test_failing_to_cache_is_no_error(source, tmp_path, monkeypatch, obstacle):
    good = filter_npz(source)
    if obstacle == "full disk":

        def full(path, content):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(cache, "atomic_write", full)
    else:
        no_cache_beside(monkeypatch, source.parent)
        (tmp_path / "file").write_text("")
        for variable in ("HOME", "LOCALAPPDATA", "XDG_CACHE_HOME"):
            monkeypatch.setenv(variable, str(tmp_path / "file" / "below"))
    if obstacle == "no home":

        def no_home():
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", no_home)
        for variable in ("LOCALAPPDATA", "XDG_CACHE_HOME"):
            monkeypatch.delenv(variable)
    before = files_below(tmp_path)
    for _ in range(2):
        assert_same(load(str(source)), good)
    assert files_below(tmp_path) == before


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere such a file cannot be made")
def test_a_name_that_is_not_utf8_can_be_printed(source, user_cache):
    odd = os.fsdecode(os.fsencode(source.parent) + b"/caf\xe9.npz")
    shutil.copyfile(source, odd)
    data = load(odd)
    assert data.source.encode() == b"caf?.npz"
    assert_same(load(odd), data)


def test_a_tilde_is_the_home_folder(source, user_cache):
    source.rename(user_cache / "source.npz")
    assert load("~/source.npz").source == "source.npz"


# The other sources.


def test_another_source_size_than_the_files_is_refused_and_not_cached(source):
    with pytest.raises(InputError, match=r"--source-size 64: 'source.npz' holds 16-px images"):
        load(str(source), source_size=64)
    assert files_below(source.parent) == [source]
    load(str(source))
    with pytest.raises(InputError, match="--source-size 28"):
        load(str(source), source_size=28)


def test_a_phantom_file_is_known_by_its_mark_also_from_the_cache(phantom_npz, tmp_path):
    path = tmp_path / "harmless.npz"
    shutil.copyfile(phantom_npz, path)
    for _ in range(2):
        data = load(str(path))
        assert data.phantom and data.source == f"{PHANTOM_MARK} (harmless.npz)"
    with np.load(phantom_npz) as arrays:
        np.savez(path, **{key: array for key, array in arrays.items() if key != "phantom"})
    data = load(str(path))
    assert not data.phantom and data.source == "harmless.npz"


@pytest.fixture
def small_phantom(monkeypatch):
    """What --data phantom makes, with fewer images."""
    counts = {"train": 30, "val": 8, "test": 8}
    monkeypatch.setattr("chestlab.data.sources.STAND_IN", counts)
    return functools.partial(make_phantom, **counts)


def test_the_phantom_of_a_size_is_marked_and_repeats(small_phantom):
    data = load("phantom", source_size=64)
    assert data.phantom and data.size == 64 and PHANTOM_MARK in data.source
    assert len(data.train) == 30 and len(data.sha256) == 64
    arrays = small_phantom(size=64)
    for name in SPLITS:
        split = getattr(data, name)
        kept = naive(arrays[f"{name}_labels"])
        assert list(zip(split.index.tolist(), split.labels.tolist(), strict=True)) == kept
        np.testing.assert_array_equal(split.images, arrays[f"{name}_images"][split.index])
    assert_same(load("phantom", source_size=64), data)
    assert load("phantom").size == 28


# The official file, from a server on this machine.


def official_arrays(side: int = 28, missing: int = 0) -> dict:
    rng = np.random.default_rng(0)
    arrays = {}
    for split, counts in OFFICIAL_COUNTS.items():
        classes = rng.permutation(np.repeat([1, 7, 3], [counts[0] - missing, counts[1], 50]))
        arrays[f"{split}_labels"] = np.eye(14, dtype=np.uint8)[classes]
        small = rng.integers(0, 256, (len(classes), 4, 4), np.uint8)
        arrays[f"{split}_images"] = small.repeat(side // 4, 1).repeat(side // 4, 2)
    return arrays


class QuietHandler(SimpleHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        super().do_GET()

    def log_message(self, *arguments):
        pass


class Official:
    """A host of 'official' files, medmnist's notes on which are made to fit."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        medmnist = pytest.importorskip("medmnist")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.delenv("CHESTMNIST_MIRROR", raising=False)
        self.folder, self.monkeypatch = folder, monkeypatch
        self.served = folder / "served"
        self.served.mkdir()
        self.root = folder / "root"
        self.info = dict(medmnist.INFO["chestmnist"])
        monkeypatch.setitem(medmnist.INFO, "chestmnist", self.info)
        handler = functools.partial(QuietHandler, directory=self.served)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.asked = []
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def put(self, name: str = "chestmnist.npz", side: int = 28, missing: int = 0) -> Path:
        np.savez(self.served / name, **official_arrays(side, missing))
        content = (self.served / name).read_bytes()
        suffix = name.removeprefix("chestmnist").removesuffix(".npz")
        self.info[f"url{suffix}"] = f"{self.address}/{name}"
        self.info[f"MD5{suffix}"] = hashlib.md5(content, usedforsecurity=False).hexdigest()
        return self.served / name

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def official(tmp_path, monkeypatch):
    host = Official(tmp_path, monkeypatch)
    yield host
    with contextlib.suppress(OSError):
        host.stop()


def test_the_official_file_is_fetched_checked_and_cached(official, monkeypatch):
    served = official.put()
    for choice in ("chestmnist", "auto"):
        data = load(choice, official.root)
        assert {k: tuple(v.values()) for k, v in data.counts().items()} == OFFICIAL_COUNTS
        assert data.source == "ChestMNIST 28 px" and not data.phantom
        assert data.sha256 == hashlib.sha256(served.read_bytes()).hexdigest()
    assert (official.root / "chestmnist.npz").read_bytes() == served.read_bytes()
    assert official.server.asked == ["/chestmnist.npz"]
    official.stop()
    monkeypatch.setattr(cache, "filter_npz", None)
    assert_same(load("chestmnist", official.root), data)


def test_another_size_has_its_own_address_checksum_and_file(official):
    official.put()
    official.put("chestmnist_64.npz", side=64)
    data = load("chestmnist", official.root, source_size=64)
    assert data.size == 64 and data.source == "ChestMNIST 64 px"
    assert official.server.asked == ["/chestmnist_64.npz"]
    assert (official.root / "chestmnist_64.npz").is_file()


def test_a_mirror_takes_the_place_of_the_address_but_not_of_the_checksum(official, monkeypatch):
    official.put()
    monkeypatch.setenv("CHESTMNIST_MIRROR", f"{official.address}/mirror/")
    (official.served / "mirror").mkdir()
    (official.served / "chestmnist.npz").rename(official.served / "mirror" / "chestmnist.npz")
    assert len(load("chestmnist", official.root).train) == sum(OFFICIAL_COUNTS["train"])
    assert official.server.asked == ["/mirror/chestmnist.npz"]
    (official.served / "mirror" / "chestmnist.npz").write_bytes(b"something else")
    with pytest.raises(InputError, match="md5"):
        load("chestmnist", official.folder / "elsewhere")


@pytest.mark.parametrize(("side", "missing"), [(28, 1), (64, 0)])
def test_a_file_of_other_counts_or_size_is_refused_and_not_cached(official, side, missing):
    """Even one whose checksum is that of medmnist's notes."""
    official.put(side=side, missing=missing)
    for _ in range(2):
        with pytest.raises(InputError, match=r"the official file has .*754, 1552.* of 28 px"):
            load("chestmnist", official.root)
    assert not list(official.root.glob("*two-class*"))


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b"", lambda b: b[:-9] + b"x" * 9])
def test_a_damaged_official_file_is_fetched_again(official, damage, monkeypatch):
    served = official.put().read_bytes()
    official.root.mkdir()
    (official.root / "chestmnist.npz").write_bytes(damage(served))
    data = load("chestmnist", official.root)
    assert (official.root / "chestmnist.npz").read_bytes() == served
    monkeypatch.setattr(cache, "filter_npz", None)  # the cache is that of the sound file
    assert_same(load("chestmnist", official.root), data)


def test_a_sound_file_on_disk_needs_no_network(official):
    official.root.mkdir()
    shutil.copyfile(official.put(), official.root / "chestmnist.npz")
    official.stop()
    assert len(load("auto", official.root).test) == sum(OFFICIAL_COUNTS["test"])


def test_a_cache_that_a_file_of_the_users_left_does_not_pass_for_the_official_one(official):
    """Only a checked file counts as official, whatever was cached under its name before."""
    official.put()
    official.root.mkdir()
    np.savez(official.root / "chestmnist.npz", **source_arrays(side=28))
    load(str(official.root / "chestmnist.npz"))
    data = load("chestmnist", official.root)
    assert len(data.train) == sum(OFFICIAL_COUNTS["train"])


@pytest.fixture
def no_network(official):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        official.info["url"] = f"http://127.0.0.1:{unused.getsockname()[1]}/chestmnist.npz"
    official.info["MD5"] = "0" * 32
    return official.root


def test_auto_without_a_network_says_loudly_that_it_takes_the_phantom(
    no_network, small_phantom, capsys
):
    data = load("auto", no_network)
    assert data.phantom and PHANTOM_MARK in data.source
    told = capsys.readouterr().err
    assert "WARNING: ChestMNIST cannot be had" in told and PHANTOM_MARK in told
    assert str(no_network / "chestmnist.npz") in told  # where the file can be put by hand


def test_chestmnist_without_a_network_never_takes_the_phantom(no_network, small_phantom):
    with pytest.raises(InputError, match=r"--data chestmnist: .*can be put by hand") as refusal:
        load("chestmnist", no_network)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("choice", ["auto", "chestmnist"])
def test_without_medmnist_the_way_out_is_named(
    tmp_path, small_phantom, monkeypatch, capsys, choice
):
    monkeypatch.setitem(sys.modules, "medmnist", None)
    if choice == "auto":
        assert load(choice, tmp_path).phantom
        assert "pip install medmnist" in capsys.readouterr().err
    else:
        with pytest.raises(InputError, match="pip install medmnist"):
            load(choice, tmp_path)


def test_a_root_that_cannot_be_made_is_named(tmp_path, official):
    official.put()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        load("chestmnist", tmp_path / "file" / "root")


def test_training_from_a_file_imports_neither_medmnist_nor_the_downloader(source):
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1]);"
        "from chestlab.data.sources import load; load(sys.argv[2]);"
        "print(json.dumps(sorted(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(ROOT), str(source)]
    modules = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert not {"medmnist", "pooch", "chestlab.data.download", "torch"} & set(modules)
