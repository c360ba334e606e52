"""The table of looks at test: no line is lost or torn, and none is written twice."""

import dataclasses
import errno
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from filelock import FileLock

from chestlab.data.splits import Split, TwoClassData
from chestlab.evaluation import looks
from chestlab.evaluation.looks import Look, evaluate_test, image_set, read_looks, record

LOOK = Look("one", "run", "TinyNet", "report, lr 0.1", "ab", "cd", "ef", "training 1")


def runs(path):
    return [look.run for look in read_looks(path)]


def data(names=None, size=28, sha256="ab", index=(3, 5)):
    split = Split(
        np.zeros((len(index), size, size), np.uint8),
        np.arange(len(index)) % 2,
        np.array(index),
        None if names is None else np.array(names),
    )
    return TwoClassData(split, split, split, "file.npz", sha256)


def test_a_look_is_written_before_anything_is_evaluated(tmp_path):
    path = tmp_path / looks.FILE_NAME
    assert evaluate_test(tmp_path, LOOK, lambda: runs(path)) == ["one"]
    (look,) = read_looks(path)
    assert dataclasses.replace(look, time="") == LOOK
    assert look.time.endswith("+00:00")

    def fail():
        raise AssertionError("evaluated without being counted")

    with pytest.raises(OSError):
        evaluate_test(path, LOOK, fail)  # no folder


def test_the_same_evaluation_counts_once_and_one_without_a_key_always(tmp_path):
    path = tmp_path / "looks.csv"
    changes = ({}, {}, {"evaluation": "training 2"}, {"kind": "average"}, {"run": "two"}, {})
    for change in changes:
        record(path, dataclasses.replace(LOOK, **change))
    assert len(runs(path)) == 4
    for _ in range(2):
        record(path, dataclasses.replace(LOOK, kind="baseline", evaluation=""))
    assert len(runs(path)) == 6


def test_lines_of_runs_that_end_at_once_are_all_kept(tmp_path):
    path = tmp_path / "looks.csv"
    names = [str(number) for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: record(path, dataclasses.replace(LOOK, run=name)), names))
    assert sorted(runs(path)) == sorted(names)
    assert path.read_text().count("time,run") == 1
    assert {p.name for p in tmp_path.iterdir()} == {"looks.csv", ".looks.lock"}


@pytest.mark.parametrize("error", [NotImplementedError(), OSError(errno.ENOSYS, "no locks")])
def test_folders_without_locks_have_a_table_too(error, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise error

    monkeypatch.setattr(FileLock, "acquire", refuse)
    record(tmp_path / "looks.csv", LOOK)
    assert runs(tmp_path / "looks.csv") == ["one"]


def test_a_lock_that_is_never_released_stops_with_the_files_name(tmp_path, monkeypatch):
    monkeypatch.setattr(looks, "LOCK_SECONDS", 0.05)
    with FileLock(tmp_path / ".looks.lock"), pytest.raises(OSError, match=r"\.looks\.lock"):
        record(tmp_path / "looks.csv", LOOK)


def test_a_failed_write_leaves_the_old_lines_and_what_a_killed_one_left_goes(tmp_path, monkeypatch):
    path = tmp_path / "looks.csv"
    record(path, LOOK)
    before = path.read_bytes()
    (tmp_path / ".looks.csv.killed.tmp").write_text("half")

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError):
            record(path, dataclasses.replace(LOOK, run="two"))
    assert path.read_bytes() == before
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_table_edited_by_hand_is_kept_and_read_as_far_as_it_can_be(tmp_path, capsys):
    path = tmp_path / "looks.csv"
    record(path, LOOK)
    edited = b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"half,a,line"
    path.write_bytes(edited)
    record(path, dataclasses.replace(LOOK, run='two, "quoted"'))
    assert path.read_bytes().startswith(edited)
    assert runs(path) == ["one", 'two, "quoted"']
    assert "1 damaged lines" in capsys.readouterr().err


def test_the_same_xrays_in_another_size_are_the_same_images():
    names = ["a/00000013_005.png", "00000014_000.png"]
    large = data([names[1], "00000013_005.png"], size=64, sha256="cd")
    assert image_set(data(names), data(names).test) == image_set(large, large.test)
    other = data([names[0], "00000015_000.png"])
    assert image_set(other, other.test) != image_set(large, large.test)
    nameless = data()
    assert image_set(nameless, nameless.test) == "ab"
    official = [data(index=range(0, 1364, 2), size=s, sha256=str(s)) for s in (28, 64)]
    assert len({image_set(each, each.test) for each in official}) == 1
