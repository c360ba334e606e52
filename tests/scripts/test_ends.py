"""How the scripts end that train nothing: in one line, whatever stops them."""

import signal
from functools import partial

import pytest
import torch
from conftest import status_of

import explain
import export
import predict
import visualize
from chestlab.data import sources
from chestlab.files.errors import TrainingError


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory.\n"),
            1,
            "stopped: out of memory: try --device",
        ),
        (
            TrainingError("out of memory with one image"),
            1,
            "stopped: out of memory with one image\n",
        ),
        (
            OSError(28, "No space left on device", "x.png"),
            1,
            "stopped: No space left on device ('x",
        ),
        (None, 128 + signal.SIGINT, "interrupted: the same command starts again\n"),
    ],
    ids=["memory", "one image", "disk", "Ctrl-C"],
)
def test_whatever_stops_a_script_is_told_in_one_line(
    error, status, message, script, monkeypatch, capsys
):
    def fail(*arguments, **options):
        if error is None:
            signal.raise_signal(signal.SIGINT)
        raise error

    calls = {
        partial(explain.main, []): (explain, "explain"),
        partial(export.main, []): (export, "export"),
        partial(predict.main, ["x.png"]): (predict, "predict_files"),
        partial(visualize.main, ["pair", "a", "b"]): (visualize, "_pair"),
        partial(script, "datareader.py"): (sources, "load"),
    }
    for call, (module, work) in calls.items():
        monkeypatch.setattr(module, work, fail)
        capsys.readouterr()
        assert status_of(call) == status
        told = capsys.readouterr().err
        assert told.startswith(message) and told.count("\n") == 1
