"""Where a trained network looks: Grad-CAM for right and wrong predictions of each class.

    python explain.py --checkpoint trained_models/efficientchestnet_best.pth

draws `gradcam.png` into the run's results folder. Grad-CAM (Selvaraju et al.,
https://arxiv.org/abs/1610.02391) weights the channels of the last feature map by how much the
predicted class's logit depends on them. It is as coarse as that map, and it shows where the
evidence came from, not what it was. Needs Captum: pip install captum
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import datareader
import notebook_cell
from augment import to_input
from flags import pick_device
from inference import TrainedModel, load_model
from phantom import PHANTOM_MARK
from provenance import overlap
from storage import InputError, OneLineParser, check_writable

BATCH = 32  # gradients need more memory than predictions
FRAME = 1 / 8  # of each side: what lies outside is skin, air, shoulders and burnt-in letters
CORNER = 1 / 4  # of each side


def require_captum() -> None:
    """Raise `InputError`, saying how to install it, where Captum is not."""
    if importlib.util.find_spec("captum") is None:
        raise InputError("Grad-CAM needs Captum, which is not installed: pip install captum")


def last_feature_map(model: nn.Module, x: torch.Tensor) -> tuple[str, bool]:
    """Find the module whose output is the last feature map that still has a place for things.

    Works for any architecture: one forward pass, watching what every module returns.

    Args:
        model: in evaluation mode.
        x: (N, 1, S, S), an input of the network.

    Returns:
        Name of the last module that returned (N, C, H, W), or (N, H, W, C) as in a Swin
        transformer, with H and W above 1; and whether the channels come last.

    Raises:
        InputError: no module returns such a map.
    """
    found: list[tuple[str, torch.Size]] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.dim() == 4:
                found.append((name, output.shape))

        return hook

    with contextlib.ExitStack() as stack, torch.inference_mode():
        for name, module in model.named_modules():
            if name:
                handle = module.register_forward_hook(watch(name))
                stack.callback(handle.remove)
        model(x)
    for name, (_, a, b, c) in reversed(found):
        channels_last = a == b != c  # the input is square, and so are its feature maps
        height, width = (a, b) if channels_last else (b, c)
        if height > 1 and width > 1:
            return name, channels_last
    raise InputError("the network has no feature map larger than 1 x 1: Grad-CAM has no place")


@contextlib.contextmanager
def _tapped(model: nn.Module, name: str, channels_last: bool) -> Iterator[nn.Module]:
    """The module of that name, or, for as long as it is needed, a view of it with channels first.

    Captum takes the second dimension for the channels.
    """
    layer = model.get_submodule(name)
    if not channels_last:
        yield layer
        return
    from torchvision.ops import Permute

    parent, _, child = name.rpartition(".")
    owner, tap = model.get_submodule(parent), nn.Identity()
    tapped = nn.Sequential(layer, Permute([0, 3, 1, 2]), tap, Permute([0, 2, 3, 1]))
    setattr(owner, child, tapped)
    try:
        yield tap
    finally:
        setattr(owner, child, layer)


def grad_cam(trained: TrainedModel, images: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Grad-CAM for the predicted class of each image, with the run's test-time augmentation.

    Under ``flip`` it is the mean of the image's map and the mirrored image's, mirrored back.

    Args:
        trained: the network.
        images: (N, S, S) uint8 of the network's source size.
        predicted: (N,) class 0 or 1 that each map is to explain.

    Returns:
        (N, h, w) float32, at least 0, of the size of the feature map; all 0 where nothing speaks
        for the class. `enlarged` brings them to the images' size.

    Raises:
        InputError: Captum is not installed, or the network has no feature map.
    """
    require_captum()
    from captum.attr import LayerGradCam

    def evidence(x: torch.Tensor, sign: torch.Tensor) -> torch.Tensor:
        return trained.model(x) * sign  # the single logit speaks for class 1, its negative for 0

    signs = torch.as_tensor(np.where(predicted == 1, 1.0, -1.0), dtype=torch.float32)
    maps = []
    first = to_input(trained.tensor(images[:1]), trained.recipe)
    name, channels_last = last_feature_map(trained.model, first)
    with _tapped(trained.model, name, channels_last) as layer:
        method = LayerGradCam(evidence, layer)
        for start in range(0, len(images), BATCH):
            x = to_input(trained.tensor(images[start : start + BATCH]), trained.recipe)
            sign = signs[start : start + BATCH].to(trained.device)
            cam = method.attribute(x, additional_forward_args=sign)
            if trained.tta == "flip":
                mirrored = method.attribute(x.flip(-1), additional_forward_args=sign)
                cam = (cam + mirrored.flip(-1)) / 2
            maps.append(cam.detach().relu()[:, 0].float().cpu().numpy())
    return np.concatenate(maps)


def enlarged(maps: np.ndarray, side: int) -> np.ndarray:
    """Maps (N, h, w) to (N, side, side), bilinearly."""
    return F.interpolate(torch.from_numpy(maps)[:, None], (side, side), mode="bilinear")[
        :, 0
    ].numpy()


def regions(side: int) -> dict[str, np.ndarray]:
    """Masks (side, side) of 0..1 over what is no heart and no lung: the frame and the corners.

    A pixel that a border crosses counts by the share of it that lies inside.
    """
    edges = np.arange(side + 1) / side

    def outer(width: float) -> np.ndarray:
        inside = np.clip(np.minimum(edges[1:], 1 - width) - np.maximum(edges[:-1], width), 0, None)
        return 1 - inside * side

    frame, corner = outer(FRAME), outer(CORNER)
    return {
        "frame": 1 - np.outer(1 - frame, 1 - frame),
        "corners": np.outer(corner, corner),
    }


def region_shares(maps: np.ndarray) -> dict[str, tuple[np.ndarray, float]]:
    """What share of each map's sum lies in each of the `regions`, and of a flat map's.

    Args:
        maps: (N, S, S), at least 0; those that are 0 throughout are left out.

    Returns:
        Region's name to shares (M,) in 0..1 and the share of its area.
    """
    total = maps.sum((1, 2), dtype=np.float64)
    sound = maps[total > 0]
    return {
        name: ((sound * mask).sum((1, 2)) / total[total > 0], float(mask.mean()))
        for name, mask in regions(maps.shape[-1]).items()
    }


def describe_shares(maps: np.ndarray) -> list[str]:
    """Lines that say how much of the maps lies at the border, beside what a flat map would have."""
    empty = int((maps.sum((1, 2)) == 0).sum())
    meaning = {
        "frame": f"the frame, an outer 1/{1 / FRAME:.0f} of each side",
        "corners": f"the four corners, 1/{1 / CORNER:.0f} of the sides each",
    }
    lines = []
    for name, (shares, flat) in region_shares(maps).items():
        if not len(shares):
            continue
        low, median, high = np.percentile(100 * shares, [25, 50, 75])
        lines.append(
            f"Of the Grad-CAM of {len(shares)} images, {median:.0f} % lies in {meaning[name]} "
            f"(median; middle half of the images {low:.0f} to {high:.0f} %); "
            f"a flat map would have {100 * flat:.0f} % there."
        )
    if empty:
        lines.append(
            f"For {empty} of {len(maps)} images nothing in the map speaks for the predicted class."
        )
    return lines


def load_data(
    trained: TrainedModel, data: str | None, root: Path | None
) -> datareader.TwoClassData:
    """The data that the checkpoint was trained on, or those that ``--data`` names.

    Raises:
        InputError: they are not to be found, not the same, or of another size.
    """
    known = data is None
    if known:
        data = "phantom" if trained.phantom else "chestmnist"
        if ".npz" in trained.source:
            data = trained.source.removeprefix(f"{PHANTOM_MARK} (")
            data = data.removesuffix(")") if trained.phantom else data
            if not Path(data).is_file():
                raise InputError(f"it was trained on '{data}', which is not here: --data names it")
    found = datareader.load(data, root, None if data.endswith(".npz") else trained.size)
    if found.size != trained.size:
        raise InputError(
            f"--data: '{found.source}' has {found.size}-px images, and the network was trained "
            f"on {trained.size} px"
        )
    if known and found.sha256 != trained.sha256:
        raise InputError(
            f"'{found.source}' is not the file it was trained on, though of the same name: "
            "--data takes it all the same"
        )
    return found


def results_file(trained: TrainedModel, checkpoint: Path, results_dir: Path) -> Path:
    """Where the run of a checkpoint keeps its pictures.

    Raises:
        InputError: there is no such folder.
    """
    above = checkpoint.resolve().parent.parts[-2:]  # a phantom's, an ensemble's, or both
    for number in range(len(above), -1, -1):
        apart = above[len(above) - number :]
        folder = results_dir.joinpath(*apart, trained.name)
        if folder.is_dir() and ("phantom" in apart or "phantom" not in above):
            return folder / "gradcam.png"
    raise InputError(
        f"there is no folder of '{trained.name}' in '{results_dir}': --out names another place"
    )


def trained_on(trained: TrainedModel, data: datareader.TwoClassData, split: str) -> int:
    """How many images of a split the network was trained on, as far as its checkpoint tells."""
    record = trained.seen.get("trained")
    images: datareader.Split = getattr(data, split)
    if record is None or record["phantom"] != data.phantom:
        return 0
    named = record["names"] is not None and images.names is not None
    if not named and data.sha256 != trained.sha256:  # row numbers of another file tell nothing
        return 0
    return overlap(record, split, images, by_patient=False)


def explain(options: argparse.Namespace) -> None:
    """Draw the picture that the command line asks for, and print what it measures.

    Raises:
        InputError: checkpoint, data, folder or Captum is missing or not fitting; nothing is drawn.
    """
    require_captum()
    trained = load_model(options.checkpoint, pick_device(options.device))
    out = options.out or results_file(trained, options.checkpoint, options.results_dir)
    check_writable(out.parent, "--out")
    data = load_data(trained, options.data, options.root)
    split: datareader.Split = getattr(data, options.split)
    probabilities = trained.probabilities(split.images)
    predicted = (probabilities >= trained.threshold).astype(int)
    coarse = grad_cam(trained, split.images, predicted)
    maps = enlarged(coarse, trained.size)

    import visualize

    lines = [f"The map has {coarse.shape[1]} x {coarse.shape[2]} fields; it is drawn smoothed."]
    lines += describe_shares(maps)
    title = f"Grad-CAM of {trained.name} · {trained.architecture}\n"
    title += f"{data.source} · {options.split} n = {len(split)}, threshold {trained.threshold:.2f}"
    if data.sha256 != trained.sha256:
        title += f"\nnot the data it was trained on ({trained.source})"
    if count := trained_on(trained, data, options.split):
        title += f"\nthe network was trained on {count} of these images"
    if trained.note:
        title += f"\n{trained.note}"
    out.parent.mkdir(parents=True, exist_ok=True)
    visualize.draw_gradcam(
        split.images,
        maps,
        split.labels,
        probabilities,
        split.index,
        out,
        threshold=trained.threshold,
        title=title,
        notes=[*lines, "" if data.phantom else datareader.NIH_CREDIT],
        seed=options.seed,
    )
    print("\n".join([*lines, str(out)]))
    notebook_cell.show([out])


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0 done, 2 and one line on stderr for wrong input."""
    parser = OneLineParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, metavar="FILE.pth", help="of a finished run")
    add("--data", metavar="{chestmnist,phantom,FILE.npz}", help="(default: what it was trained on)")
    add("--root", type=Path, metavar="DIR", help="of the official files (default: ~/.medmnist)")
    add("--split", choices=("val", "test"), default="val", help="(default: val)")
    add("--seed", type=int, default=0, help="of the choice of images shown (default: 0)")
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="(default: auto)")
    results = Path("results")
    add("--results-dir", type=Path, default=results, metavar="DIR", help="(default: results)")
    add("--out", type=Path, metavar="FILE.png", help="(default: gradcam.png of the run's results)")
    try:
        explain(parser.parse_args(argv))
    except (InputError, OSError) as error:
        print(" ".join(f"error: {error}".splitlines()), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    notebook_cell.leave(main())
