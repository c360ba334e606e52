"""The table of times beside another program: its arithmetic, and the program itself."""

from __future__ import annotations

import pytest

from benchmarks import busy
from benchmarks.busy import Row, cells


def test_an_epochs_first_and_later_seconds_and_their_ratios():
    found = {
        "alone": [[4.0, 2.0, 1.0, 3.0], [6.0, 2.0, 2.0, 2.0]],
        "beside": [[10.0, 5.0, 5.0, 5.0], [20.0, 3.0, 3.0, 3.0]],
    }
    assert cells("x", found) == [
        ["x, first", "5.00", "15.00", "3.00"],
        ["x, later", "2.00", "4.00", "2.00"],
    ]


def test_a_whole_command_has_one_line():
    found = {"alone": [[2.0]], "beside": [[3.0]]}
    assert cells("x", found) == [["x", "2.00", "3.00", "1.50"]]


def test_the_other_program_runs_in_its_context_alone(monkeypatch):
    started = []
    start = busy.subprocess.Popen
    monkeypatch.setattr(
        busy.subprocess, "Popen", lambda *words: started.append(start(*words)) or started[-1]
    )
    with busy.other_program(False):
        assert not started
    with pytest.raises(KeyError), busy.other_program(True):
        assert [process.poll() for process in started] == [None] * busy.BUSY_THREADS
        raise KeyError
    assert all(process.poll() is not None for process in started)


def test_a_command_that_fails_is_told(tmp_path):
    with pytest.raises(busy.InputError, match=r"(?s)--epochs 0 .* failed: .*epochs"):
        busy.run(Row("x", ("train.py", "--epochs", "0"), 32), tmp_path, "alone")


def test_the_page_has_a_line_for_every_row():
    page = (busy.HERE / "BUSY.md").read_text(encoding="utf-8")
    lines = sum(2 if row.epochs else 1 for row in busy.ROWS.values())
    assert page.count("\n| ") == 1 + lines  # and the head
    assert all(f"| {row.title}" in page for row in busy.ROWS.values())
