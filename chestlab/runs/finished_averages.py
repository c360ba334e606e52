"""Finished averages for what is done with trained networks: an ensemble, or a blend of ensembles.

An average has no checkpoint of its own: its `metrics.json` names the members, whose checkpoints lie
in the folder of its name.
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from chestlab.files.errors import InputError
from chestlab.files.run_files import STUDIES, read_metrics, results_dir_of
from chestlab.runs.finished_runs import pick_checkpoint
from chestlab.training.averages import Trained, TrainedAverage, networks_of
from chestlab.training.inference import NetworkClass, load_model


def load_trained(
    options: argparse.Namespace, network_class: NetworkClass
) -> tuple[Trained, list[Path]]:
    """The network or average that the flags of `add_checkpoint_flags` name, on the CPU.

    Returns:
        It, and the checkpoints that it was loaded from.

    Raises:
        InputError: there is no such run, a run of a blend or a checkpoint is missing or cannot be
            used, or the members were trained on different data.
    """
    checkpoints: list[Path] = []
    results = None if options.checkpoint is None else _average_named(options)
    if results is None:
        checkpoints.append(pick_checkpoint(options))
        return load_model(checkpoints[0], network_class), checkpoints

    def network(path: Path) -> Trained:
        checkpoints.append(path)
        return load_model(path, network_class)

    def average(results: Path) -> TrainedAverage:
        metrics = read_metrics(results / "metrics.json")
        if "blend" in metrics:
            members = [average(_run_of(results, name)) for name in metrics["blend"]]
        else:
            apart = results.relative_to(options.results_dir)
            paths = _checkpoints(options.models_dir / apart, metrics)
            members = [network(path) for path in paths]
        of_logits = metrics.get("averaged") == "logits"
        return TrainedAverage(results.name, members, float(metrics["threshold"]), of_logits)

    trained = average(results)
    if len({(member.sha256, member.size) for member in networks_of(trained)}) > 1:
        raise InputError(f"'{trained.name}' averages networks that were trained on different data")
    print(f"checkpoints: {len(checkpoints)} of '{trained.name}', whose predictions are averaged")
    return trained, checkpoints


def _average_named(options: argparse.Namespace) -> Path | None:
    """Results of the average that ``--checkpoint`` names, by its name or one of its folders."""
    name = Path(options.checkpoint)
    with contextlib.suppress(ValueError, OSError):
        if name.is_dir():
            given = name.resolve()
            for root in (options.results_dir.resolve(), options.models_dir.resolve()):
                if given.is_relative_to(root):
                    name = given.relative_to(root)
    with contextlib.suppress(OSError):  # a name that is too long
        for place in ("", STUDIES, "phantom", f"phantom/{STUDIES}"):
            path = options.results_dir / place / name / "metrics.json"
            if path.is_file():
                metrics = read_metrics(path)
                if "members" in metrics and "threshold" in metrics:
                    return path.parent
    return None


def _run_of(blend: Path, name: str) -> Path:
    """Results of a run that a blend averages: beside the studies, or one of them, as the blend is.

    Raises:
        InputError: it is in neither place.
    """
    results_dir = results_dir_of(blend)
    for path in (results_dir / name, results_dir / STUDIES / name):
        if (path / "metrics.json").is_file():
            return path
    raise InputError(f"'{blend.name}' averages the run '{name}', which is not in '{results_dir}'")


def _checkpoints(folder: Path, metrics: dict) -> list[Path]:
    """The checkpoints of an ensemble's members, which lie in ``folder``."""
    paths = []
    for member in metrics["members"]:
        both = [folder / f"{member['name']}{ending}.pth" for ending in ("_best", "_final")]
        path = next((path for path in both if path.is_file()), None)
        if path is None:
            raise InputError(
                f"'{folder.name}' is an average of {len(metrics['members'])} networks, and the "
                f"checkpoint of one is missing: '{both[0]}'"
            )
        paths.append(path)
    return paths
