"""Where a trained network looks: Grad-CAM for right and wrong predictions of each class.

    python explain.py                     # the newest finished run
    python explain.py --checkpoint RUN    # another one: its name, or a file FILE.pth

Writes `gradcam.png` into the run's results folder. The images are the validation images of the
run, which are found by its checkpoint. Grad-CAM (Selvaraju et al.,
https://arxiv.org/abs/1610.02391) weights the channels of the last feature map by how much the
predicted class's logit depends on them. It is as coarse as that map, and it shows where the
evidence came from, not what it was. With `--split test` a line of `test_looks.csv` counts it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from chestlab.data import sources
from chestlab.data.provenance import of_kind, overlap
from chestlab.data.splits import Split, TwoClassData
from chestlab.evaluation.looks import (
    FILE_NAME,
    Look,
    image_set,
    looks_dir,
    predictions_key,
    record,
)
from chestlab.files import notebook
from chestlab.files.atomic import check_picture
from chestlab.files.errors import InputError, OneLineParser, one_line_errors
from chestlab.files.progress import StopSignals
from chestlab.files.run_files import STUDIES
from chestlab.runs.finished_runs import (
    add_checkpoint_flags,
    load_training_data,
    pick_checkpoint,
    stored_classes,
)
from chestlab.runs.flags import seed
from chestlab.training.averages import Trained
from chestlab.training.device import pick_device
from chestlab.training.gradcam import (
    describe_shares,
    enlarged,
    grad_cam,
    require_captum,
    views_line,
)
from chestlab.training.inference import TrainedModel, load_model
from chestlab.training.recipe import as_dict, recipe_hash
from networks import network_class

RESULTS = Path("results")


def load_data(
    trained: Trained, data: str | None, root: Path | None, checkpoint: Path
) -> TwoClassData:
    """The data that the checkpoint was trained on, or those that ``--data`` names.

    Raises:
        InputError: they are not to be found, not the same, or of another size.
    """
    if data is None:
        about = {"source": trained.source, "sha256": trained.sha256, "size": trained.size}
        return load_training_data(about, trained.data_location, root, checkpoint)
    if sources.is_file_name(data):
        loaded = sources.load(data, root, classes=stored_classes(trained.data_location))
    else:
        loaded = sources.load(data, root, trained.size)
    if loaded.size != trained.size:
        raise InputError(
            f"--data: '{loaded.source}' has {loaded.size}-px images, and the network was trained "
            f"on {trained.size} px"
        )
    return loaded


def results_file(trained: TrainedModel, checkpoint: Path, results_dir: Path) -> Path:
    """Where the run of a checkpoint keeps its pictures.

    Where ``results_dir`` is the default, the ``results`` beside the folder of the checkpoints come
    first: the project may be another folder than the one that the script was called from.

    Raises:
        InputError: there is no such folder.
    """
    checkpoint = checkpoint.resolve()
    parts = checkpoint.parent.parts
    above = parts[-2:]  # a phantom's, an ensemble's, or both
    if STUDIES in parts[-3:]:  # of one of these, and perhaps a phantom's
        first = len(parts) - 1 - parts[::-1].index(STUDIES)
        above = parts[first - (parts[first - 1] == "phantom") :]
    places = [results_dir]
    if results_dir == RESULTS and results_dir.resolve().parent not in checkpoint.parents:
        places = [*(folder / RESULTS for folder in checkpoint.parents[1:4]), results_dir]
    for place in places:
        for number in range(len(above), -1, -1):
            apart = above[len(above) - number :]
            folder = place.joinpath(*apart, trained.name)
            if folder.is_dir() and ("phantom" in apart or "phantom" not in above):
                return folder / "gradcam.png"
    raise InputError(
        f"there is no folder of '{trained.name}' in '{results_dir}': --out names another place"
    )


def trained_on(trained: TrainedModel, data: TwoClassData, split: str) -> int:
    """How many images of a split the network was trained on, as far as its checkpoint tells."""
    seen = trained.seen.get("trained")
    images: Split = getattr(data, split)
    record = None if seen is None else of_kind(seen, data.phantom)
    if record is None:
        return 0
    named = record["names"] is not None and images.names is not None
    if not named and data.sha256 != trained.sha256:  # row numbers of another file tell nothing
        return 0
    return overlap(record, split, images, by_patient=False)


def _count_look(
    trained: TrainedModel,
    data: TwoClassData,
    probabilities: np.ndarray,
    out: Path,
    results_dir: Path,
) -> None:
    """Count that right and wrong predictions of test images were shown; see `looks`.

    The table is that of the results in which the picture lies, else of ``results_dir``.
    """
    look = Look(
        run=trained.name,
        kind="explain",
        network=trained.architecture,
        recipe_name=trained.recipe.name,
        recipe=recipe_hash(as_dict(trained.recipe)),
        data=data.sha256,
        images=image_set(data, data.test),
        evaluation=predictions_key(probabilities),
    )
    for place in out.resolve().parents[1:6]:
        if (place / FILE_NAME).exists() or (looks_dir(place, data.phantom) / FILE_NAME).exists():
            results_dir = place
            break
    folder = looks_dir(results_dir, data.phantom)
    folder.mkdir(parents=True, exist_ok=True)
    record(folder / FILE_NAME, look)


def explain(options: argparse.Namespace) -> None:
    """Draw the picture that the command line asks for, and print what it measures.

    Raises:
        InputError: checkpoint, data, folder or Captum is missing or not fitting; nothing is drawn.
    """
    require_captum()
    checkpoint = pick_checkpoint(options)
    trained = load_model(checkpoint, network_class, pick_device(options.device))
    out = options.out or results_file(trained, checkpoint, options.results_dir)
    check_picture(out, "--out")
    data = load_data(trained, options.data, options.root, checkpoint)
    split: Split = getattr(data, options.split)
    probabilities = trained.probabilities(split.images)
    if options.split == "test":
        _count_look(trained, data, probabilities, out, options.results_dir)
    predicted = (probabilities >= trained.threshold).astype(int)
    coarse = grad_cam(trained, split.images, predicted)
    maps = enlarged(coarse, trained.size)

    from chestlab.reporting import gradcam_plots

    lines = [f"The map has {coarse.shape[1]} x {coarse.shape[2]} fields; it is drawn smoothed."]
    lines += [line for line in (views_line(trained), *describe_shares(maps)) if line]
    title = f"Grad-CAM of {trained.name} · {trained.architecture}\n"
    title += f"{data.source} · {options.split} n = {len(split)}, threshold {trained.threshold:.2f}"
    if data.sha256 != trained.sha256:
        title += f"\nnot the data it was trained on ({trained.source})"
    if count := trained_on(trained, data, options.split):
        title += f"\nthe network was trained on {count} of these images"
    if trained.note:
        title += f"\n{trained.note}"
    out.parent.mkdir(parents=True, exist_ok=True)
    gradcam_plots.draw_gradcam(
        split.images,
        maps,
        split.labels,
        probabilities,
        split.index,
        out,
        threshold=trained.threshold,
        title=title,
        notes=[*lines, data.credit],
        seed=options.seed,
    )
    print("\n".join([*lines, str(out)]))
    notebook.show([out])


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; exit statuses of `errors.one_line_errors`."""
    parser = OneLineParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add_checkpoint_flags(parser)
    add("--data", metavar="{chestmnist,phantom,FILE.npz}", help="(default: the run's)")
    add(
        "--root",
        type=Path,
        metavar="DIR",
        help="of the official files (default: the run's)",
    )
    add("--split", choices=("val", "test"), default="val", help="images of (default: val)")
    add("--seed", type=seed, default=0, metavar="N", help="chooses the images shown (default: 0)")
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="(default: auto)")
    add("--out", type=Path, metavar="FILE.png", help="(default: gradcam.png of the run's results)")
    with one_line_errors(resume=None), StopSignals():
        explain(parser.parse_args(argv))


if __name__ == "__main__":
    main()
