"""The page of a step on a CPU: its arithmetic, and that a change that is timed is a change."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from benchmarks import cpu_step
from benchmarks.cpu_step import COLUMNS, Step, changed_line, kind, shares


@pytest.fixture(scope="module")
def step():
    return Step("efficientchestnet")


@pytest.mark.parametrize(
    ("operation", "shapes", "column"),
    [
        (
            "aten::mkldnn_convolution",
            [[8, 16, 9, 9], [16, 1, 3, 3], [16]],
            "depthwise convolutions",
        ),
        ("aten::mkldnn_convolution", [[8, 1, 9, 9], [1, 1, 3, 3], []], "other convolutions"),
        (
            "aten::convolution_backward",
            [[8, 16, 9, 9], [8, 16, 9, 9], [16, 1, 3, 3]],
            "depthwise convolutions",
        ),
        (
            "aten::convolution_backward",
            [[8, 16, 9, 9], [8, 4, 9, 9], [16, 4, 1, 1]],
            "other convolutions",
        ),
        ("aten::native_batch_norm_backward", [], "batch norm"),
        ("aten::hardswish_backward", [], "activations"),
        ("aten::_fused_adamw_", [], "optimiser"),
        ("aten::add_", [], "the rest"),
    ],
)
def test_an_operation_belongs_to_a_column(operation, shapes, column):
    assert kind(operation, shapes) == column


def test_shares_are_percent_of_all_time():
    operations = [
        SimpleNamespace(key="aten::gelu", input_shapes=[], self_cpu_time_total=30),
        SimpleNamespace(key="aten::gelu_backward", input_shapes=[], self_cpu_time_total=30),
        SimpleNamespace(key="aten::mul", input_shapes=[], self_cpu_time_total=140),
    ]
    found = shares(operations)
    assert tuple(found) == COLUMNS
    assert (found["activations"], found["the rest"]) == (30, 70)


def test_a_change_pays_off_after_its_first_use_is_saved():
    found = {"without": [300.0, 200.0, 400.0], "with": [200.0, 200.0, 200.0]}
    line = ["x", "300", "200", "1.50", "1.00 to 2.00"]
    assert changed_line("x", found, 12.04, "steps") == [*line, "12.0", "121 steps"]
    assert changed_line("x", found) == [*line, "-", "-"]
    slower = {"without": [100.0], "with": [200.0]}
    assert changed_line("x", slower, 5, "steps")[-1] == "never"


def test_batch_norms_are_folded_and_the_logits_stay(step):
    model = step.trainer.model.eval()
    folded = cpu_step.fuse(model)
    norms = [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) < len([m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)])
    torch.testing.assert_close(
        step.evaluation(folded)(), step.evaluation(model)(), rtol=1e-3, atol=1e-3
    )
    model.train()


def test_one_thread_is_timed_beside_all_and_all_are_left(step, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    used = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    [line] = cpu_step.try_threads(step, 1)
    assert used == [1, 2]
    assert line[0] == "a step: 2 threads in place of 1"


def test_the_profile_has_every_column_and_the_step_trains(step):
    before = next(iter(step.trainer.model.parameters())).clone()
    numbers = [int(cell) for cell in step.profile(1)]
    assert len(numbers) == len(COLUMNS)
    assert sum(numbers) == pytest.approx(100, abs=len(COLUMNS) / 2)
    assert min(numbers[0], numbers[1], numbers[2], numbers[3]) > 0
    assert not torch.equal(before, next(iter(step.trainer.model.parameters())))


def test_the_page_has_a_line_for_every_network_and_change():
    page = (cpu_step.HERE / "CPU_STEP.md").read_text(encoding="utf-8")
    assert all(page.count(f"| `{name}` |") >= 2 for name in cpu_step.EXPERIMENTS)
    assert all(page.count(f"| `{name}` |") == 6 for name in cpu_step.CHANGED)
