"""What a finished training leaves: figures, tables, pictures, and `metrics.json`."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from chestlab.data.phantom import PHANTOM_MARK
from chestlab.data.splits import SPLITS, Split
from chestlab.evaluation.alarms import alarms
from chestlab.evaluation.looks import Look, evaluate_test, image_set, looks_dir, run_label
from chestlab.evaluation.metrics import defined_auc, fit_temperature, sigmoid
from chestlab.evaluation.predictions import write_probabilities
from chestlab.evaluation.tasks import SPLIT_TITLES, print_scores, task_of
from chestlab.files.atomic import atomic_write
from chestlab.files.progress import duration
from chestlab.files.run_files import RunFiles, read_metrics
from chestlab.runs.checkpoints import Checkpoints
from chestlab.runs.estimated_statistics import both_statistics, lag_alarm
from chestlab.runs.experiment import Experiment
from chestlab.runs.report_files import draw_batch, is_member
from chestlab.training import costs
from chestlab.training.batch_norm import batch_norms
from chestlab.training.device import precision
from chestlab.training.inference import predict_twice
from chestlab.training.layers import on_device, parameter_count
from chestlab.training.network_names import network_name
from chestlab.training.recipe import in_words, recipe_hash
from chestlab.training.trainer import Trainer

Figures = Mapping[str, Mapping[str, Any]]  # by split


def write_results(experiment: Experiment, trainer: Trainer, checkpoints: Checkpoints) -> None:
    """Evaluate the chosen epoch and write every file of the run, `metrics.json` last.

    Args:
        experiment: what was trained.
        trainer: of the last stage, finished.
        checkpoints: get threshold and test-time augmentation.
    """
    start = time.perf_counter()
    trainer.release()
    splits = experiment.splits
    if experiment.options.no_test:
        del splits["test"]
    stages = _stage_results(experiment, trainer) if experiment.has_backbone else None
    trainer.model.load_state_dict(trainer.best_weights)
    single, logits = _predict(experiment, trainer, splits, experiment.recipe.tta)
    raw, scaling = logits, {}
    if experiment.recipe.temperature:
        temperature = fit_temperature(experiment.data.val.labels, logits["val"])
        scaling = {"temperature": temperature}
        logits = {name: values / temperature for name, values in logits.items()}
    probabilities = {name: sigmoid(values) for name, values in logits.items()}
    before = time.perf_counter()
    decision = experiment.task.decide(experiment.data.val.labels, probabilities["val"])
    choosing = time.perf_counter() - before
    intervals = experiment.task.decision_intervals(experiment.data.val, probabilities["val"])
    figures = {}
    for name, split in splits.items():
        evaluate = partial(experiment.task.evaluate, split, logits[name], **decision)
        if name != "test":
            figures[name] = evaluate()
        elif not experiment.options.test_for_average:
            look = _look(experiment, trainer)
            folder = looks_dir(experiment.looks_dir, experiment.data.phantom)
            figures[name] = evaluate_test(folder, look, evaluate)
    del splits["train"]
    for name, split in splits.items():
        path = experiment.files.folder / f"{name}_probabilities.csv"
        write_probabilities(path, split, probabilities[name])
    shown = {name: split for name, split in splits.items() if name in figures}
    draw_pictures(experiment, trainer, shown, probabilities, figures, decision)
    decision |= {"tta": experiment.recipe.tta, **scaling}
    checkpoints.save_weights(experiment.files.best, trainer, **decision)
    if stages is not None:
        checkpoints.save_weights(experiment.files.finished, trainer, **decision)
        stages["threshold"] = _stage_result(figures, choosing)
    seconds = sum(row["seconds"] for row in trainer.history) + time.perf_counter() - start
    metrics = _metrics(experiment, trainer, figures, decision | intervals, seconds, stages)
    metrics["warnings"] = _warnings(experiment, trainer, raw, probabilities, decision)
    if "threshold" in decision:
        metrics["statistics"] = both_statistics(experiment, trainer, single)
        metrics["warnings"] += lag_alarm(metrics["statistics"])
    atomic_write(experiment.files.metrics, json.dumps(metrics, indent=2) + "\n")


def _look(experiment: Experiment, trainer: Trainer) -> Look:
    """The line that counts this run's evaluation of test.

    The seconds of its epochs tell the training from every other one, and are the same after
    ``--resume``.
    """
    history = json.dumps([row["seconds"] for row in trainer.history])
    return Look(
        run=run_label(experiment.final.folder.relative_to(experiment.looks_dir)),
        kind="run",
        network=network_name(experiment.identity),
        recipe_name=in_words(experiment.options.recipe_name, _recipe_changes(experiment)).replace(
            "`", ""
        ),
        recipe=recipe_hash(experiment.identity["recipe"]),
        data=experiment.data.sha256,
        images=image_set(experiment.data, experiment.data.test),
        evaluation=hashlib.sha256(history.encode()).hexdigest()[:16],
    )


def _metrics(
    experiment: Experiment,
    trainer: Trainer,
    figures: Figures,
    decision: Mapping[str, Any],
    seconds: float,
    stages: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What `metrics.json` holds."""
    identity, recipe = experiment.identity, experiment.recipe
    of_network = ("model_arguments", "starting_weights")
    number = experiment.processes.size
    changes, measured = _recipe_changes(experiment), _costs(experiment, trainer)
    return {
        "name": experiment.name,
        "model": identity["model"],
        "parameters": parameter_count(trainer.model),
        "structure": identity["structure"],
        **{key: identity[key] for key in of_network if key in identity},
        "data": {**identity["data"], "phantom": experiment.data.phantom},
        "recipe": identity["recipe"],
        "recipe_name": experiment.options.recipe_name,
        "recipe_changes": changes,
        "recipe_published": {key: experiment.options.published[key] for key in changes},
        "seed": recipe.seed,
        "device": experiment.device.type,
        "amp": precision(trainer),
        "torch": torch.__version__,
        **({"processes": number} if number > 1 else {}),
        **({"cuda_graph": trainer.graph_record()} if experiment.device.type == "cuda" else {}),
        "training_images": len(experiment.train),
        "epochs_run": len(trainer.history),
        "best_epoch": trainer.best_epoch,
        **({"stage1_epochs_run": trainer.first_epoch} if stages is not None else {}),
        **decision,
        "bootstrap_unit": "image" if experiment.data.val.patients is None else "patient",
        "seconds": seconds,
        "images_per_second": trainer.images_per_epoch
        * len(trainer.history)
        / trainer.training_seconds,
        **{split: figures.get(split) for split in {**dict.fromkeys(SPLITS), **figures}},
        "architecture": measured.pop("blocks"),
        "costs": measured,
        **({"ladder": stages} if stages is not None else {}),
    }


def _warnings(
    experiment: Experiment,
    trainer: Trainer,
    logits: Mapping[str, np.ndarray],
    probabilities: Mapping[str, np.ndarray],
    decision: Mapping[str, Any],
) -> list[str]:
    """What is wrong with the data, then what is suspect about the run; see `alarms`.

    Args:
        experiment, trainer: of the run.
        logits: by split, train among them, before the temperature.
        probabilities: by split.
        decision: has the threshold where there is one.
    """
    labels = experiment.splits["train"].labels
    evaluated = [name for name in logits if name != "train"]
    return [
        *experiment.data.warnings,
        *alarms(
            {name: logits[name] for name in evaluated},
            {name: probabilities[name] >= decision["threshold"] for name in evaluated}
            if "threshold" in decision
            else None,
            trainer.history,
            trainer.best_epoch,
            float(np.mean((logits["train"] >= 0) == (labels == 1))),
            labels.size,
            experiment.recipe.batch_norm != "estimated"
            and bool(batch_norms(trainer.model, trainer.frozen_modules)),
        ),
    ]


def _recipe_changes(experiment: Experiment) -> dict[str, Any]:
    """What differs from the published recipe: by flag, by edit, and where phantoms stand in."""
    short, asked = experiment.recipe, experiment.options.recipe
    epochs = {name: getattr(short, name) for name in ("epochs", "stage1_epochs")}
    changed = {name: value for name, value in epochs.items() if value != getattr(asked, name)}
    return experiment.options.recipe_changes | changed


def _costs(experiment: Experiment, trainer: Trainer) -> dict[str, Any]:
    trained = [row["seconds"] for row in trainer.history]
    first = trainer.first_epoch  # of the second stage, or 0
    images = experiment.data.val.to(experiment.device)[0]
    model = trainer.model
    if experiment.processes.size > 1:  # a training step of that model would wait for the others
        model = on_device(experiment.build(), experiment.device)
        model.load_state_dict(trainer.best_weights)
    return {
        **costs.measure(model, images, experiment.recipe, trainer.amp),
        "checkpoint_bytes": experiment.files.best.stat().st_size,
        "stage1_seconds": sum(trained[:first]),
        "stage2_seconds": sum(trained[first:]),
    }


def _predict(
    experiment: Experiment, trainer: Trainer, splits: Mapping[str, Split], tta: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Logits by split of a single pass and with ``tta``, in float32: bf16's have many ties."""
    both = {}
    for name, split in splits.items():
        if name == "train" and not experiment.recipe.smote:  # the first of those trained on
            images = trainer.train_images[: len(split)]
        else:
            images = split.to(experiment.device)[0]
        both[name] = predict_twice(trainer.model, images, experiment.recipe, tta=tta)
    single, averaged = ({name: pair[i] for name, pair in both.items()} for i in (0, 1))
    return single, averaged


def _stage_results(experiment: Experiment, trainer: Trainer) -> dict[str, Any]:
    """Val after each step of a two-stage run, at 0.5, with the step's own seconds.

    Test is evaluated at the end alone.
    """
    splits = {"val": experiment.data.val}
    seconds = [row["seconds"] for row in trainer.history]
    first, second = sum(seconds[: trainer.first_epoch]), sum(seconds[trainer.first_epoch :])
    steps = [
        ("stage2", trainer.best_weights, "none", second),
        ("tta", trainer.best_weights, experiment.recipe.tta, None),
    ]
    if trainer.first_epoch:
        stage1 = experiment.load(experiment.files.stage1)
        steps.insert(0, ("stage1", stage1["weights"], "none", first))
    results = {}
    for name, weights, tta, taken in steps:
        start = time.perf_counter()
        trainer.model.load_state_dict(weights)
        logits = _predict(experiment, trainer, splits, tta)[1]
        figures = {
            split: {
                "accuracy": float(np.mean((logits[split] >= 0) == (images.labels == 1))),
                "auc": defined_auc(images.labels, logits[split]),
            }
            for split, images in splits.items()
        }
        results[name] = _stage_result(figures, taken or time.perf_counter() - start)
    return results


def _stage_result(figures: Figures, seconds: float) -> dict[str, Any]:
    return {"val": {key: figures["val"][key] for key in ("accuracy", "auc")}, "seconds": seconds}


def draw_curves(experiment: Experiment, trainer: Trainer) -> None:
    """Draw ``training_curves.png`` of the epochs so far; of several processes only the first."""
    from chestlab.reporting import curves

    if not experiment.processes.first:
        return
    curves.draw_training_curves(
        trainer.history,
        experiment.files.folder / "training_curves.png",
        title=experiment.title("train", "val"),
        best_epoch=trainer.best_epoch,
        kept="last" if experiment.recipe.monitor == "last" else "best",
        stage_changes=[trainer.first_epoch + 1] if trainer.first_epoch else (),
        measure=experiment.task.measure,
    )


def draw_pictures(
    experiment: Experiment,
    trainer: Trainer,
    splits: Mapping[str, Split],
    probabilities: Mapping[str, np.ndarray],
    figures: Figures,
    decision: Mapping[str, float],
) -> None:
    """Draw the curves of the training and what the network predicts."""
    from chestlab.reporting import run_figures

    splits = {name: split for name, split in splits.items() if name != "held_out"}
    titles = {name: SPLIT_TITLES[name] for name in splits}
    if experiment.val_is_fold:
        titles["val"] = SPLIT_TITLES["fold"]
    draw_curves(experiment, trainer)
    if not is_member(experiment):
        title = experiment.title("train")
        draw_batch(experiment.files.folder, experiment.data, experiment.recipe, title)
    run_figures.draw_results(
        experiment.files.folder,
        splits,
        probabilities,
        figures,
        titles,
        experiment.title,
        credit=experiment.data.credit,
        **decision,
    )


def print_summary(files: RunFiles) -> None:
    """Print a finished run's epoch, threshold, figures and folders."""
    metrics = read_metrics(files.metrics)
    monitor = metrics["recipe"]["monitor"]
    why = "the last one" if monitor == "last" else f"chosen by {monitor}"
    way = task_of("two-class" if "threshold" in metrics else "findings").way(metrics)
    print(
        f"kept epoch {metrics['best_epoch']} of {metrics['epochs_run']}, {why}; "
        f"{duration(metrics['seconds'])} (minutes:seconds)\n"
        f"figures below: {way}; the epochs above: single pass at 0.5"
    )
    print_scores(metrics)
    report = " (lab report: README.md)" if (files.folder / "README.md").exists() else ""
    print(f"results: {files.folder}{report}   checkpoint: {files.best}", flush=True)
    if metrics["data"]["phantom"]:
        print(PHANTOM_MARK, flush=True)
