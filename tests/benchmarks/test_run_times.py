"""The table of how long each script takes: its arithmetic, and that it is the same everywhere."""

from __future__ import annotations

import json
import math
import re
import time

import pytest
import torch
from conftest import ROOT
from torch import nn

from benchmarks import run_times
from benchmarks.roofline import ATTAINED, LAUNCH, Card, Operations, training_step
from benchmarks.run_times import NETWORKS, SCRIPTS, hours, page, stages_of, step_ms, total
from chestlab.files.progress import ESTIMATE_AFTER, WARM_UP_STEPS, Progress
from networks import network

PAGE = ROOT / "benchmarks" / "RUN_TIMES.md"


def test_the_page_is_that_of_todays_recipes_and_of_what_was_measured():
    state = json.loads((PAGE.with_suffix(".json")).read_text(encoding="utf-8"))
    assert PAGE.read_text(encoding="utf-8") == page(state)


def test_every_script_that_trains_a_network_has_a_row():
    others = "train_minimal.py", "train_fast.py"  # of experiment 1, which has a row
    scripts = {path.name for path in ROOT.glob("*.py") if path.name not in others}
    trained = {name for name in scripts if re.match("train|resnet_", name)}
    assert trained == set(SCRIPTS)
    for name, script in NETWORKS.items():
        assert network(name, "cpu").script + ".py" == script


def test_the_line_that_a_run_prints_is_understood(monkeypatch, capsys):
    clock = iter([0.0, *(0.5 * k for k in range(100))])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    progress = Progress(epochs=40, steps=73, done=0)
    for _ in range(WARM_UP_STEPS + math.ceil(ESTIMATE_AFTER / 0.5)):
        progress.step()
    assert step_ms(capsys.readouterr().out, 73) == 500
    progress.end_of_epoch({"train_loss": 0.5}, best_epoch=1)
    assert step_ms(capsys.readouterr().out, 73) == pytest.approx(1000 * 4 / 73)


@pytest.mark.parametrize(
    ("line", "ms"),
    [
        ("about 2 min (at most 40 epochs of 73 steps, 43.1 ms each)", 43.1),
        ("about 1 h 2 min (120 epochs of 73 steps, 1070 ms each)", 1070),
        ("epoch 1/40  loss 0.5  val loss 0.4  best epoch 1  at most 1:02:00 left", 1306.6),
        ("epoch 1/1  loss 0.5  0:00 left", None),
        ("data: phantom.npz (train 2306, val 305, test 682 images)", None),
    ],
)
def test_milliseconds_of_a_step(line, ms):
    assert step_ms(line, 73) == (None if ms is None else pytest.approx(ms, abs=0.1))


def test_another_number_of_steps_is_an_error():
    with pytest.raises(ValueError, match="74 steps per epoch instead of 73"):
        step_ms("about 2 min (40 epochs of 74 steps, 43.1 ms each)", 73)


def test_totals():
    assert total(stages_of("efficientchestnet"), [50]) == pytest.approx(40 * 73 * 0.05)
    frozen, all_layers = stages_of("mobilenetv3")  # 96 images a step
    seconds = frozen.epochs * 25 * 0.1 + all_layers.epochs * 25 * 0.2
    assert total((frozen, all_layers), [100, 200]) == pytest.approx(seconds)


def test_hours_are_rounded_up():
    assert [hours(1), hours(60), hours(61), hours(3600, at_most=True)] == [
        *("0:01", "0:01", "0:02", "≤ 1:00")
    ]


def test_operations_of_a_linear_layer():
    layer, x = nn.Linear(3, 5, bias=False), torch.ones(7, 3)
    with Operations() as operations, torch.no_grad():
        layer(x.view(7, 3))  # a view and a transposition move no bytes
    assert operations.costs == [(4 * (7 * 3 + 3 * 5 + 7 * 5), 2 * 7 * 3 * 5)]
    with Operations() as operations:
        layer(x).sum().backward()
    assert sum(flops for _, flops in operations.costs) == 2 * (2 * 7 * 3 * 5)  # x needs no gradient


def test_an_operation_takes_the_longest_of_launch_transport_and_arithmetic():
    card = Card(bandwidth=1e9, peak=1e12, about="")
    operations = [(1, 1), (10**9, 1), (1, 10**12)]
    assert card.seconds(operations) == pytest.approx(LAUNCH + (1 + 1) / ATTAINED)


def test_a_step_has_three_times_the_arithmetic_of_the_forward_pass_and_a_frozen_one_less():
    known = network("mobilenetv3", "cuda")
    stage = known.recipe.stages[1]
    few = {"batch_size": 4, "accumulation": 1, "image_size": 32}
    stage = type(stage)(**{**stage.__dict__, **few})
    of_all, of_classifier = (training_step(known, stage, frozen) for frozen in (False, True))
    forward = Operations()
    with forward, torch.no_grad():
        known.build()(torch.zeros(4, 1, 32, 32))
    arithmetic = [sum(flops for _, flops in costs) for costs in (of_all, forward.costs)]
    assert 2.7 < arithmetic[0] / arithmetic[1] <= 3
    assert sum(flops for _, flops in of_classifier) < 0.6 * arithmetic[0]
    assert len(of_classifier) < 0.6 * len(of_all)


def test_a_script_is_stopped_when_it_has_said_how_long_it_takes(monkeypatch, tmp_path):
    script = tmp_path / "train.py"
    script.write_text("import time\nprint('about 60 s (4 epochs of 73 steps, 7 ms each)')\n")
    monkeypatch.setattr(run_times, "PROJECT", tmp_path)
    assert run_times.run_until_estimate("efficientchestnet", tmp_path / "x.npz", 1) == [7]
    script.write_text("print('something else')\n")
    with pytest.raises(SystemExit, match="no estimate from"):
        run_times.run_until_estimate("efficientchestnet", tmp_path / "x.npz", 1)


HEADINGS = {"README.md": "## How long it takes", "README.id.md": "## Berapa lama"}


def rows(text: str) -> list[str]:
    """The first table below a text's beginning, without its two lines of heading."""
    return re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)[0].splitlines()[2:]


@pytest.mark.parametrize("readme", HEADINGS)
def test_the_readmes_show_the_rows_of_the_page(readme):
    _, _, section = (ROOT / readme).read_text(encoding="utf-8").partition(f"\n{HEADINGS[readme]}\n")
    assert rows(section.partition("\n## ")[0]) == rows(PAGE.read_text(encoding="utf-8"))
