"""The baselines a network must beat: majority class, logistic regression, HOG with an SVM.

    python -m studies.baselines --data FILE.npz

Every baseline follows the protocol of the networks and leaves the same files, in a folder of its
own under `results/studies/`: fitted on the training images, its one hyperparameter chosen there by
cross-validation grouped by patient, its threshold on the validation images, test evaluated once.
Each is also cross-validated over train and val, in the folds that `--folds 5 --folds-over
train+val` gives a network, with the hyperparameter chosen anew within each and the threshold 0.5.

``--probe`` measures other ones in their place: logistic regression and an SVM on the features of
a pretrained network that is not trained, by default EfficientNet-Lite0 with ImageNet weights
(`studies.probes`).

    python -m studies.baselines --data FILE.npz --probe

Probabilities: logistic regression has its own; an SVM's decision values become probabilities by
Platt's sigmoid, fitted on decision values that were cross-validated on the training images.
HOG: Dalal and Triggs, CVPR 2005, 9 orientations, 7 x 7 cells, blocks of 2 x 2 cells.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from chestlab.data import phantom, sources
from chestlab.data.folds import make_folds
from chestlab.data.splits import SPLITS, Split, TwoClassData
from chestlab.evaluation.baselines import (
    BASELINES,
    FOLDS,
    Baseline,
    cross_validate,
    fit,
    inner_folds,
    predict,
)
from chestlab.evaluation.looks import Look, evaluate_test, image_set, looks_dir
from chestlab.evaluation.metrics import choose_threshold, evaluate_probabilities
from chestlab.evaluation.predictions import write_probabilities
from chestlab.evaluation.tasks import SPLIT_TITLES
from chestlab.files.atomic import atomic_write, check_writable, make_folder
from chestlab.files.errors import InputError, OneLineParser, one_line_errors
from chestlab.files.progress import StopSignals
from chestlab.files.run_files import STUDIES, RunFiles, results_dir_of
from chestlab.runs.flags import add_data, add_folder, add_hyperparameter
from chestlab.runs.naming import check_name, output_folders, run_name
from chestlab.training.costs import BATCHES, milliseconds_per_image
from chestlab.training.recipe import Recipe, recipe_hash
from chestlab.training.weights import read_pretrained
from networks import NAMES, network
from studies.probes import INPUT, LITE, OF_INPUT, Probe, probes
from studies.study import refuse_classes

OOF_THRESHOLD = 0.5  # of all folds: one chosen on these images would flatter their accuracy


def _stored_numbers(classifier: Any) -> int:
    """Numbers a fitted classifier keeps to predict with."""
    if hasattr(classifier, "calibrated_classifiers_"):
        return 2 + _stored_numbers(classifier.calibrated_classifiers_[0].estimator)
    last = classifier[-1] if hasattr(classifier, "steps") else classifier
    if hasattr(last, "class_prior_"):
        return 1
    if getattr(last, "kernel", "linear") == "linear":
        return last.coef_.size + 1
    return last.support_vectors_.size + last.dual_coef_.size + 1


def measure(
    baseline: Baseline, data: TwoClassData, name: str, folder: Path, with_test: bool
) -> dict[str, Any]:
    """Fit a baseline, write the run's files into ``folder`` and return its metrics.

    Args:
        baseline: what to fit.
        data: to fit it on.
        name: of the run.
        folder: of the results, which exists.
        with_test: evaluate the test images, too.
    """
    start = time.perf_counter()
    splits = {part: getattr(data, part) for part in SPLITS}
    if not with_test:
        del splits["test"]
    classifier, strength = fit(baseline, baseline.features(data.train.images), data.train)
    probabilities = {
        part: predict(baseline, classifier, split.images) for part, split in splits.items()
    }
    threshold = choose_threshold(data.val.labels, probabilities["val"])
    figures = {}
    for part, split in splits.items():
        known = split.labels, probabilities[part], threshold, split.patients
        evaluate = partial(evaluate_probabilities, *known)
        if part == "test":
            table = looks_dir(results_dir_of(folder), data.phantom)
            figures[part] = evaluate_test(table, _look(baseline, data, name), evaluate)
        else:
            figures[part] = evaluate()
    seconds = time.perf_counter() - start

    del splits["train"]
    if any(np.ptp(values) for values in probabilities.values()):  # a constant has no curve
        title = f"{name} · {baseline.model}"
        _draw(title, data, folder, threshold, splits, probabilities, figures)
    splits["oof"], probabilities["oof"], validated = cross_validate(baseline, data)
    figures["oof"] = evaluate_probabilities(
        splits["oof"].labels,
        probabilities["oof"],
        OOF_THRESHOLD,
        splits["oof"].patients,
    )
    for part, split in splits.items():
        write_probabilities(folder / f"{part}_probabilities.csv", split, probabilities[part])
    return {
        "name": name,
        **_about(baseline, classifier, data),
        "chosen_strength": strength,
        "threshold": threshold,
        "oof_threshold": OOF_THRESHOLD,
        "seconds": seconds,
        "cross_validation": validated,
        "warnings": list(data.warnings),
        **{split: figures.get(split) for split in (*SPLITS, "oof")},
        "costs": {
            "input_size": data.size,
            **{f"inference_batch{n}": _inference(baseline, classifier, data, n) for n in BATCHES},
        },
    }


def _look(baseline: Baseline, data: TwoClassData, name: str) -> Look:
    """The line that counts the evaluation on test."""
    return Look(
        run=name,
        kind="baseline",
        network=baseline.model,
        recipe_name="",
        recipe=recipe_hash(_recipe(baseline)),
        data=data.sha256,
        images=image_set(data, data.test),
    )


def _recipe(baseline: Baseline) -> dict[str, Any]:
    about = baseline.about if isinstance(baseline, Probe) else {}
    return {"name": baseline.key, "grid": list(baseline.grid), **about}


def _draw(
    title: str,
    data: TwoClassData,
    folder: Path,
    threshold: float,
    splits: Mapping[str, Split],
    probabilities: Mapping[str, np.ndarray],
    figures: Mapping[str, Mapping[str, Any]],
) -> None:
    from chestlab.reporting import evaluation_plots

    n = ", ".join(f"{part} n = {len(split)}" for part, split in splits.items())
    evaluation_plots.draw_evaluation(
        folder,
        {
            SPLIT_TITLES[part]: (split.labels, probabilities[part], figures[part])
            for part, split in splits.items()
        },
        title=f"{title}\n{data.source} · {n}",
        threshold=threshold,
    )


def _about(baseline: Baseline, classifier: Any, data: TwoClassData) -> dict[str, Any]:
    """What `metrics.json` says of the classifier and its data."""
    import sklearn

    return {
        "model": baseline.model,
        "yardstick": True,  # as stored runs name it
        "parameters": _stored_numbers(classifier)
        + (baseline.network_parameters if isinstance(baseline, Probe) else 0),
        "data": {
            "source": data.source,
            "size": data.size,
            "sha256": data.sha256,
            "counts": data.counts(),
            "phantom": data.phantom,
        },
        "recipe": _recipe(baseline),
        "device": "cpu",
        "scikit_learn": sklearn.__version__,
        "tta": "none",
        "bootstrap_unit": "image" if data.val.patients is None else "patient",
    }


def _inference(baseline: Baseline, classifier: Any, data: TwoClassData, n: int) -> dict[str, float]:
    """Milliseconds per image, from uint8 image to probability, with quartiles."""
    images = data.val.images[np.arange(n) % len(data.val)]
    return milliseconds_per_image(lambda: predict(baseline, classifier, images), n)


def run(options: argparse.Namespace) -> None:
    """Measure every baseline, or the probes that are asked for, printing a line for each.

    Raises:
        InputError: the data or a folder cannot be used; nothing has been written.
    """
    check_writable(options.results_dir, "--results-dir")
    data = sources.load(options.data, options.root, options.source_size)
    for fold in (data, *make_folds(data, FOLDS, "train+val")):
        inner_folds(fold.train)  # raises for too few images before anything is written
    wanted = _probes(options, data.size) if options.probe else BASELINES
    results_dir, models_dir = output_folders(options, data)
    prefix = f"{options.name}_" if options.name else ""
    for baseline in wanted:
        name = baseline.key if prefix else run_name(baseline.key, options.data, data.size)
        check_name(prefix + name)
        files = RunFiles(results_dir / STUDIES, models_dir, prefix + name)
        check_writable(files.folder, "--results-dir")
        new = files.replacement  # takes the old one's place when it is complete
        new.remove_temporaries()
        new.clear()
        make_folder(new.folder)
        metrics = measure(baseline, data, files.name, new.folder, not options.no_test)
        atomic_write(new.metrics, json.dumps(metrics, indent=2) + "\n")
        new.replace(files)
        print(_line(metrics), flush=True)
    if data.phantom:
        print(phantom.PHANTOM_MARK)


def _probes(options: argparse.Namespace, size: int) -> list[Probe]:
    """The probes that the flags ask for, on images of ``size`` pixels."""
    given = {name: getattr(options, name) for name in OF_INPUT}
    recipe = dataclasses.replace(INPUT, **{k: v for k, v in given.items() if v is not None})
    known = network(options.probe)
    start = read_pretrained(options.weights or "imagenet", known.imagenet_url)
    return probes(options.probe, known, start, recipe, size)


def _line(metrics: Mapping[str, Any]) -> str:
    parts = [
        f"{part} accuracy {metrics[part]['accuracy']:.1%}, AUC {_auc(metrics[part]['auc'])}"
        for part in ("val", "test")
        if metrics[part] is not None
    ]
    validated = metrics["cross_validation"]
    return (
        f"{metrics['name']}: {'; '.join(parts)}; cross-validated AUC {_auc(validated['auc'])} "
        f"(sd {_auc(validated['auc_sd'])} over {FOLDS} folds of {metrics['bootstrap_unit']}s)"
    )


def _auc(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _add_probe(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("probe", "Classifiers on the features of a network.")
    group.add_argument(
        "--probe",
        nargs="?",
        const=LITE,
        choices=NAMES,
        metavar="NETWORK",
        help=f"measure these in place of the other baselines, with a network of experiment 3 or 4 "
        f"or timm/NAME (without a name: {LITE})",
    )
    group.add_argument(
        "--weights",
        metavar="{imagenet,none,FILE}",
        help="what the network has (default: imagenet)",
    )
    fields = {field.name: field for field in dataclasses.fields(Recipe)}
    for name in OF_INPUT:
        add_hyperparameter(group, name, fields[name], getattr(INPUT, name))


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; status 2 and one line on stderr for wrong input."""
    parser = OneLineParser(
        prog="python -m studies.baselines",
        description=__doc__.splitlines()[0],
        allow_abbrev=False,
    )
    add_data(parser)
    refuse_classes(parser)
    parser.add_argument("--no-test", action="store_true", help="leave the test images alone")
    add_folder(parser, "--results-dir", "results")
    parser.add_argument("--name", help="prefix of the runs' names (default: made of the data's)")
    _add_probe(parser)
    with one_line_errors(resume=None), StopSignals():
        options = parser.parse_args(argv)
        options.models_dir = Path("trained_models")
        if options.name is not None:
            check_name(options.name)
        of_probe = ("weights", *OF_INPUT)
        given = [name for name in of_probe if getattr(options, name) is not None]
        if given and not options.probe:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise InputError(f"{flags}: for --probe alone, which measures a network's features")
        run(options)


if __name__ == "__main__":
    main()
