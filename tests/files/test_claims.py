"""Claims: one process at a time, a dead one's are taken over by one, other machines wait for it."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ROOT

from chestlab.files import claims
from chestlab.files.claims import claim, turn

HOLD = """
import sys, time
from pathlib import Path
from chestlab.files.claims import claim
with claim(Path(sys.argv[1])) as holder:
    print(f"<{holder}>", flush=True)
    time.sleep(60)
"""

TURNS = """
import sys
from pathlib import Path
from chestlab.files import claims
claims.PAUSE_SECONDS = 0.01
for _ in range(60):
    with claims.turn(Path(sys.argv[1])):
        Path(sys.argv[2]).touch(exist_ok=False)
        Path(sys.argv[2]).unlink()
"""

POSIX = pytest.mark.skipif(os.name == "nt", reason="SIGKILL")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "work.claim"


@pytest.fixture
def other_process(path):
    """A process that holds the claim."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "<>\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture
def elsewhere(monkeypatch):
    """This process is on another machine than the one that holds the claim."""
    monkeypatch.setattr(claims, "_machine", lambda: "another")


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait()


def holder_of(path):
    """Who else has the claim; empty where it can be had."""
    with claim(path) as holder:
        return holder


def make_silent(path, seconds):
    """Let a claim have been renewed so many seconds ago."""
    then = time.time() - seconds
    os.utime(f"{path}0", (then, then))


def test_a_claim_is_held_by_one_and_leaves_nothing(path):
    for _ in range(2):
        with claim(path) as holder:
            assert holder == ""
            with claim(path) as other:
                assert other.startswith(f"process {os.getpid()} on ")
            assert holder_of(path) == other
        assert not list(path.parent.iterdir())
        assert holder_of(path) == ""


def test_an_error_in_the_work_gives_the_claim_back(path):
    with pytest.raises(ValueError), claim(path):
        raise ValueError
    assert not list(path.parent.iterdir())


@POSIX
def test_what_a_dead_process_held_is_free_at_once_on_its_machine(path, other_process):
    with claim(path) as holder:
        assert holder.startswith(f"process {other_process.pid} on ")
    kill(other_process)
    assert holder_of(path) == ""
    with claim(path) as holder:
        assert holder == ""
        with claim(path) as other:
            assert other.startswith(f"process {os.getpid()} on ")
    assert not list(path.parent.iterdir())


@POSIX
@pytest.mark.usefixtures("elsewhere")
def test_on_another_machine_it_is_free_when_it_has_been_silent_for_long(path, other_process):
    kill(other_process)
    make_silent(path, claims.SILENT_SECONDS - 30)
    with claim(path) as holder:
        assert holder.startswith(f"process {other_process.pid} on ")
    make_silent(path, claims.SILENT_SECONDS + 30)
    with claim(path) as holder:
        assert holder == ""
    assert not list(path.parent.iterdir())


def test_a_live_claim_is_renewed(path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.01)
    with claim(path):
        make_silent(path, 10 * claims.SILENT_SECONDS)
        give_up = time.monotonic() + 30
        while time.time() - path.with_name("work.claim0").stat().st_mtime > 60:
            assert time.monotonic() < give_up
            time.sleep(0.01)


def test_a_claim_without_a_name_counts_until_it_has_been_silent(path):
    """Its process has died, or is about to write its name."""
    path.with_name("work.claim0").touch()
    assert holder_of(path) == "process ? on some machine"
    make_silent(path, claims.SILENT_SECONDS + 30)
    assert holder_of(path) == ""


@POSIX
def test_of_many_that_take_over_one_succeeds(path, other_process):
    kill(other_process)
    start, end, holders = threading.Barrier(8), threading.Barrier(8), []

    def take_over():
        start.wait()
        with claim(path) as holder:
            holders.append(holder)
            end.wait()

    threads = [threading.Thread(target=take_over) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(holders) == 8 and holders.count("") == 1


@POSIX
def test_a_slow_process_does_not_take_over_what_was_taken_over_and_given_back(
    path, other_process, monkeypatch
):
    """Between its look at the dead claim and its own, others finish and begin anew."""
    kill(other_process)
    look, new, inside = claims._holder, claim(path), []

    def slow(of):
        holder = look(of)
        if not inside:
            inside.append(1)
            with claim(path):
                pass
            assert new.__enter__() == ""
        return holder

    monkeypatch.setattr(claims, "_holder", slow)
    with claim(path) as holder:
        assert holder.startswith(f"process {os.getpid()} on ")
    assert [file.name for file in path.parent.iterdir()] == ["work.claim0"]
    new.__exit__(None, None, None)


@POSIX
def test_where_both_slept_with_their_machine_nobody_is_taken_for_dead(path, other_process):
    make_silent(path, 10 * claims.SILENT_SECONDS)
    assert holder_of(path).startswith(f"process {other_process.pid} on ")


def test_a_process_taken_for_dead_leaves_its_successors_claim(path, monkeypatch):
    with claim(path):
        make_silent(path, claims.SILENT_SECONDS + 30)
        monkeypatch.setattr(claims, "_machine", lambda: "another")
        successor = claim(path)
        assert successor.__enter__() == ""
    assert holder_of(path).startswith(f"process {os.getpid()} on ")
    successor.__exit__(None, None, None)
    assert not list(path.parent.iterdir())


def test_turns_do_not_overlap(path, monkeypatch):
    """Also while a claim is given back; a few in a hundred would, were its file only removed."""
    monkeypatch.setattr(claims, "PAUSE_SECONDS", 0.01)
    inside, most = [], []

    def work(_):
        for _ in range(40):
            with turn(path):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.0005)
                inside.pop()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert most == [1] * 160


@POSIX
def test_turns_of_processes_do_not_overlap_where_one_was_killed_in_its_turn(path, other_process):
    command = [sys.executable, "-c", TURNS, str(path), str(path.with_name("inside"))]
    processes = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    kill(other_process)
    assert [process.wait(60) for process in processes] == [0, 0]
