"""Run a training script with several seeds and tabulate what they reach on val and test.

    python -m studies.seeds train.py --name NAME --data FILE.npz

Every seed is a run of its own under `results/`, made with `--resume`, so that an interrupted table
continues where it stopped. Flags that are not listed here go to the script. Writes the table, the
figures and what every network has predicted to `results/studies/seeds_<name>/`. A seed's run is of
one network and of the two classes: averages and the 14 findings are refused.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chestlab.data import sources
from chestlab.evaluation.predictions import MEMBERS, read_members, write_members
from chestlab.files.atomic import atomic_write, make_folder
from chestlab.files.errors import InputError, OneLineParser, one_line_errors
from chestlab.files.progress import Interrupted, StopSignals
from chestlab.files.reading import read_json
from chestlab.files.run_files import STUDIES
from chestlab.reporting.lab_warnings import warning_in
from chestlab.reporting.page import Wording, render
from chestlab.reporting.stored_runs import StoredRun, read_two_class_run
from chestlab.runs.ensemble import SEEDS
from chestlab.runs.flags import add_data, add_folder
from chestlab.runs.naming import check_name
from networks import NETWORKS
from studies.redraw import add_redraw
from studies.study import TEMPLATES

ROOT = Path(__file__).resolve().parent.parent

OF_A_SEED = ("seed", "best_epoch", "epochs_run", "threshold", "seconds", "warnings")

FIGURES = (("val", "accuracy"), ("val", "auc"), ("test", "accuracy"), ("test", "auc"))


def main(argv: Sequence[str] | None = None) -> None:
    """Train the seeds that are not finished, then write the table."""
    parser = OneLineParser(
        prog="python -m studies.seeds", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("script", help="of this project, e.g. train.py")
    parser.add_argument(
        "--name", required=True, help="of the first run; <name>_seed<seed> of the others"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=SEEDS,
        metavar="N",
        help=f"two or more, all different (default: {' '.join(map(str, SEEDS))})",
    )
    add_data(parser)
    add_folder(parser, "--results-dir", "results")
    _refuse_other_runs(parser)
    add_redraw(parser, write_page, "the page")
    with one_line_errors(resume=""), StopSignals():
        run(*parser.parse_known_args(argv))


def _refuse_other_runs(parser: argparse.ArgumentParser) -> None:
    """Let the scripts' flags be refused that make runs of several networks, or of 14 findings."""

    def average(text: str) -> None:
        raise argparse.ArgumentTypeError("each seed trains one network: leave this flag out")

    def task(text: str) -> str:
        if text != "two-class":
            raise argparse.ArgumentTypeError(f"'{text}': the table is of --task two-class alone")
        return text

    for flag in ("--members", "--folds"):
        parser.add_argument(flag, type=average, help=argparse.SUPPRESS)
    parser.add_argument("--task", type=task, help=argparse.SUPPRESS)


def run(options: argparse.Namespace, flags: Sequence[str]) -> None:
    """Train and write; ``flags`` go to the script.

    Raises:
        InputError: the script, the name, the seeds or the data cannot be used, or a run has other
            data or another recipe than the first.
        SystemExit: a training has ended with another status than 0, which this one takes over.
    """
    _check_script(options.script)
    if len(options.seeds) < 2 or len(set(options.seeds)) < len(options.seeds):
        raise InputError("--seeds: two or more are compared, and none twice")
    check_name(options.name)
    flags = [*flags, *_data_flags(options)]
    results_dir = options.results_dir / ("phantom" if options.data == "phantom" else "")
    runs: list[StoredRun] = []
    for seed in options.seeds:
        name = options.name + (f"_seed{seed}" if seed != options.seeds[0] else "")
        command = [sys.executable, str(ROOT / options.script), *flags, "--resume"]
        command += ["--seed", str(seed), "--name", name]
        command += ["--results-dir", str(options.results_dir)]
        if status := status_of(command):
            raise SystemExit(status if status > 0 else 128 - status)  # as a shell tells a signal
        runs.append(_read_run(results_dir / name))
        if runs[-1].recipe_key != runs[0].recipe_key:
            raise InputError(
                f"'{runs[0].name}' and '{name}' differ in more than the seed: choose another --name"
            )
    folder = write(options.script, options.name, runs)
    print((folder / "README.md").read_text(encoding="utf-8"))


def _check_script(script: str) -> None:
    """Raise `InputError` unless it is a script here that trains one network."""
    networks: dict[str, set[str]] = {}
    for known in NETWORKS.values():
        networks.setdefault(f"{known.script}.py", set()).add(known.build.__name__)
    of_one = ", ".join(sorted(name for name, builds in networks.items() if len(builds) == 1))
    if not (ROOT / script).is_file():
        raise InputError(f"'{script}' is no script here; there are {of_one}")
    if len(builds := networks.get(Path(script).name, set())) > 1:
        raise InputError(
            f"'{script}' trains {' and '.join(sorted(builds))}, and the table is of one network; "
            f"there are {of_one}"
        )


def _data_flags(options: argparse.Namespace) -> list[str]:
    """The flags of `add_data` for the script; ``--data auto`` is decided once for all seeds."""
    if options.data == "auto":
        data = sources.load(options.data, options.root, options.source_size)
        options.data = "phantom" if data.phantom else "chestmnist"
    given = {"--data": options.data, "--root": options.root, "--source-size": options.source_size}
    return [word for flag, value in given.items() if value for word in (flag, str(value))]


def status_of(command: Sequence[str]) -> int:
    """Run a command to its end, also after a signal, so that it keeps what it has done.

    Returns:
        Its exit status, below 0 where a signal has ended it.

    Raises:
        Interrupted: a signal has come, and the command has ended well all the same.
    """
    interruption = None
    process = subprocess.Popen(command)
    while True:
        try:
            status = process.wait()
            break
        except Interrupted as caught:
            interruption = caught
            if caught.signum != signal.SIGINT:  # a terminal sends Ctrl-C to both
                process.send_signal(caught.signum)
    if interruption is not None and status == 0:
        raise interruption
    return status


def _read_run(folder: Path) -> StoredRun:
    """The finished run of a folder."""
    run = read_two_class_run(folder / "metrics.json")
    assert run is not None  # `_refuse_other_runs`
    return run


def write(script: str, name: str, runs: Sequence[StoredRun]) -> Path:
    """Write the study's folder beside the runs and return it.

    Args:
        script: file name of the script that made the runs.
        name: of the first run.
        runs: that differ in their seed, at least two.
    """
    first = runs[0].metrics
    folder = runs[0].folder.parent / STUDIES / f"seeds_{name}"
    make_folder(folder)
    write_members(
        folder / MEMBERS,
        [
            (split, runs[0].predictions[split], _probabilities(runs, split))
            for split in runs[0].predictions
        ],
    )
    shared = ("model", "model_arguments", "recipe_name", "recipe_changes", "data", "device", "amp")
    about = {
        "script": script,
        **{key: first[key] for key in (*shared, "torch") if key in first},
        "runs": [{key: run.metrics.get(key) for key in OF_A_SEED} for run in runs],
    }
    about["recipe_changes"] = {
        k: v for k, v in (first.get("recipe_changes") or {}).items() if k != "seed"
    }
    for of_seed, run in zip(about["runs"], runs, strict=True):
        for split in ("val", "test"):
            figures = run.metrics[split] or {}
            of_seed[split] = {measure: figures.get(measure) for measure in ("accuracy", "auc")}
    atomic_write(folder / "seeds.json", json.dumps(about, indent=2) + "\n")
    write_page(folder)
    return folder


def _probabilities(runs: Sequence[StoredRun], split: str) -> dict[str, np.ndarray]:
    return {f"seed{run.metrics['seed']}": run.predictions[split].probabilities for run in runs}


def write_page(folder: Path) -> None:
    """Write the page in both languages from ``seeds.json`` and the members' predictions.

    Raises:
        InputError: one of these is missing or damaged.
    """
    from chestlab.reporting.overview import PAGES

    about = read_json(folder / "seeds.json")
    try:
        predicted = read_members(folder / MEMBERS)[3]
    except (OSError, ValueError, KeyError, IndexError):
        raise InputError(f"'{folder / MEMBERS}' is missing or damaged") from None
    pages = {page: _page(Wording(language), about, predicted) for language, page in PAGES.items()}
    for page, text in pages.items():
        atomic_write(folder / page, text)


def _page(wording: Wording, about: Mapping[str, Any], predicted: Collection[str]) -> str:
    """The table of runs of one script that differ in their seed.

    Args:
        wording: language of the page.
        about: ``seeds.json``; two runs or more.
        predicted: names of the seeds whose predictions are stored.
    """
    runs = about["runs"]
    figures = np.array([[run[split][figure] for split, figure in FIGURES] for run in runs], float)
    rows = [
        [
            str(run["seed"]),
            *(_number(wording, value) for value in values),
            wording.say("epoch_of", epoch=run["best_epoch"], epochs=run["epochs_run"]),
            wording.number(run["threshold"], ".2f"),
            wording.number(run["seconds"], ".0f"),
        ]
        for run, values in zip(runs, figures, strict=True)
    ]
    for label, values in (("mean", figures.mean(0)), ("sd", figures.std(0, ddof=1))):
        numbers = (_number(wording, value) for value in values)
        rows.append([f"**{wording.say(label)}**", *numbers, "", "", ""])
    stored = [run["seed"] for run in runs if f"seed{run['seed']}" in predicted]
    kept = ", ".join(wording.say("seed", seed=seed) for seed in stored)
    return render(
        f"seeds.{wording.language}.md.j2",
        TEMPLATES,
        about=about,
        images={split: sum(of.values()) for split, of in about["data"]["counts"].items()},
        runs=len(runs),
        rows=rows,
        accuracy=_spread(wording, figures[:, FIGURES.index(("test", "accuracy"))]),
        auc=_spread(wording, figures[:, FIGURES.index(("test", "auc"))]),
        kept="" if len(stored) == len(runs) else kept,
        members=MEMBERS,
        warnings=[
            (run["seed"], warning_in(wording.language, text))
            for run in runs
            for text in run.get("warnings") or ()
        ],
    )


def _spread(wording: Wording, values: np.ndarray) -> dict[str, str]:
    """Mean, standard deviation and ends of a figure over the seeds."""
    spread = {"mean": values.mean(), "sd": values.std(ddof=1)}
    spread |= {"lowest": values.min(), "highest": values.max()}
    return {name: _number(wording, value) for name, value in spread.items()}


def _number(wording: Wording, value: float) -> str:
    """A figure; that of outputs that differ by less than float noise is NaN here."""
    return wording.say("undefined") if np.isnan(value) else wording.number(value)


if __name__ == "__main__":
    main()
