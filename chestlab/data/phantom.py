"""Procedural chest X-ray phantoms in ChestMNIST's file layout, for offline runs and tests.

    python -m chestlab.data.phantom phantom_28.npz

Each image is a frontal film summed from its parts as attenuation (soft tissue, lungs, ribs,
clavicles, spine, mediastinum, heart, diaphragm, vessels) and then exposed. Cardiomegaly is a
heart wider than half the thorax, pneumothorax a pleural line with air and no vessels outside it.

Difficulty of the task (28 px, default counts), test AUC: `train.py --data phantom --epochs 5`,
EfficientChestNet, 0.950 (val passes 0.90 after two epochs); logistic regression on standardised
pixels, C = 0.01 chosen on val, 0.778. The heart's width in pixels says little because size,
position, exposure and rotation vary as well.

Results on these files say something about the programs that produce them, nothing about patients.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from chestlab.files.atomic import atomic_write
from chestlab.files.errors import InputError, OneLineParser

PHANTOM_MARK = "PHANTOM DATA, not ChestMNIST"

CARDIOMEGALY = 1  # label columns in MedMNIST's order

PNEUMOTHORAX = 7

LABELS = 14

# Single-label images of (cardiomegaly, pneumothorax) in the official split of ChestMNIST.
OFFICIAL_COUNTS = {"train": (754, 1552), "val": (97, 208), "test": (243, 439)}

OPACITY_LABELS = (0, 2, 3, 4, 5, 6, 8)  # atelectasis to consolidation: drawn as a dense patch

LEAST = {"size": 16, "seed": 0, "train": 2, "val": 2, "test": 2}

LARGEST_SIZE = 1024  # px

LARGEST_FILE = 2**32  # bytes of pixels, so that a mistyped count cannot fill the memory

# Geometry is in half image widths from the image's centre: u to the image's right (the patient's
# left), v downwards. Chosen by eye against frontal films.
NORMAL = {  # mean, standard deviation; cut at 2.5 standard deviations
    "shift_u": (0.0, 0.13),
    "shift_v": (0.0, 0.13),
    "tilt": (0.0, 0.09),  # rad
    "turn": (0.0, 0.09),  # rotation about the long axis: one hemithorax looks wider, by this part
    "scale": (1.02, 0.12),
    "thorax": (0.70, 0.06),  # inner half width
    "apex": (-0.80, 0.04),
    "diaphragm": (0.33, 0.12),  # top of the right dome
    "dome_step": (0.05, 0.03),  # the right dome is the higher one
    "dome": (0.85, 0.20),  # curvature
    "heart_side": (0.30, 0.12),  # midline to heart centre over half the heart's width
    "heart_slant": (0.35, 0.12),
    "heart_height": (0.33, 0.035),
    "mediastinum": (0.125, 0.02),
    "knob": (0.085, 0.02),  # radius of the aortic knob
    "rib_pitch": (0.165, 0.012),
    "tissue": (1.0, 0.12),
    "air": (0.66, 0.08),  # part of the attenuation that aerated lung takes away
    "exposure": (0.95, 0.22),
    "gamma": (1.15, 0.2),
    "veil": (0.06, 0.04),  # scatter
}

UNIFORM = {  # low, high
    "shoulder": (0.95, 1.25),
    "flank": (0.12, 0.32),  # chest wall outside the thorax
    "rib": (0.04, 0.14),
    "vessel": (0.12, 0.34),
    "rib_phase": (0.0, 1.0),
    "vessel_phase": (0.0, 2 * np.pi),
    "clavicle": (0.05, 0.18),
    "clavicle_v": (-0.68, -0.52),
    "bubble": (-0.5, 0.5),  # gas in the stomach, where above 0
    "breast": (-0.15, 0.30),  # soft tissue over the lower zones, where above 0
    "falloff": (-0.15, 0.25),  # exposure gradient from top to bottom
    "marker": (0.0, 3.0),  # below 1 an L, below 2 an R, else none
    "marker_at": (0.0, 0.12),
    "patch_u": (0.30, 0.75),
    "patch_v": (-0.45, 0.25),
    "patch_size": (0.06, 0.30),
    "side": (-1.0, 1.0),  # of the pneumothorax and of the patch: above 0 the patient's left
    "gap_log": (np.log(0.06), np.log(0.65)),
    "gap_slope": (0.15, 0.9),  # how much of the gap is at the apex alone
    "grain": (1.0, 5.0),  # grey levels
}

GLYPHS = np.array(
    [
        [[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 1, 1]],  # L
        [[1, 1, 0], [1, 0, 1], [1, 1, 0], [1, 0, 1], [1, 0, 1]],  # R
    ],
    dtype=np.float32,
)


def sample_parameters(labels: np.ndarray, streams: list[np.random.Generator]) -> SimpleNamespace:
    """Draw anatomy, pose, exposure and finding of each image from its own random stream.

    The cardiothoracic ratio is above 0.5 with cardiomegaly (Danzer, Am J Med Sci 1919) and
    otherwise 0.36 to 0.54, so that the two overlap as they do in patients.

    Args:
        labels: (N, 14), 0 or 1.
        streams: N generators.

    Returns:
        One (N, 1, 1) float32 array per name in `NORMAL` and `UNIFORM`, and ``ratio`` (heart width
        over inner thorax width), ``gap`` (width of the pneumothorax over the half thorax, 0 for
        none) and ``patch`` (density of an opacity, 0 for none).
    """
    normal = np.stack([g.standard_normal(len(NORMAL) + 1) for g in streams]).clip(-2.5, 2.5)
    uniform = np.stack([g.random(len(UNIFORM)) for g in streams])
    p = {n: m + s * normal[:, i] for i, (n, (m, s)) in enumerate(NORMAL.items())}
    p |= {n: a + (b - a) * uniform[:, i] for i, (n, (a, b)) in enumerate(UNIFORM.items())}
    enlarged = np.maximum(0.565 + 0.04 * normal[:, -1], 0.505)
    p["ratio"] = np.where(labels[:, CARDIOMEGALY], enlarged, 0.45 + 0.036 * normal[:, -1])
    p["gap"] = np.where(labels[:, PNEUMOTHORAX], np.exp(p["gap_log"]), 0.0)
    p["patch"] = np.where(labels[:, OPACITY_LABELS].any(1), 0.35, 0.0)
    return SimpleNamespace(**{n: x.astype(np.float32)[:, None, None] for n, x in p.items()})


def _ramp(distance: np.ndarray, width: float) -> np.ndarray:
    """Soft-edged mask: 0 outside, 1 inside, over ``width`` around distance 0."""
    return np.clip(distance / width + 0.5, 0, 1)


def _blob(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Gaussian hill of height 1 around u = v = 0."""
    return np.exp(-(u * u + v * v))


def render(p: SimpleNamespace, size: int) -> np.ndarray:
    """Draw films from the parameters: (N, size, size) float32 grey levels before grain.

    Args:
        p: what `sample_parameters` returns, or changed copies of it.
        size: side of the images in px.
    """
    fine = 2 if size <= 128 else 1  # supersampling
    grid = (np.arange(size * fine, dtype=np.float32) + 0.5) * 2 / (size * fine) - 1
    x, y = grid[None, None, :], grid[None, :, None]
    cos, sin = np.cos(p.tilt) / p.scale, np.sin(p.tilt) / p.scale
    u = cos * (x - p.shift_u) + sin * (y - p.shift_v)
    v = cos * (y - p.shift_v) - sin * (x - p.shift_u)
    left = u > 0
    across = np.abs(u)
    # Turning the patient widens one hemithorax and narrows the other; the sum stays the same.
    s = across / (p.thorax * np.where(left, 1 + p.turn, 1 - p.turn))

    # rho is 1 on the inner chest wall and the dome of the pleura, 0 in the middle of the base.
    rise = np.clip((0.30 - v) / (0.30 - p.apex), 0, None)
    rho = np.sqrt(s * s + rise**2.2)
    dome = p.diaphragm + p.dome_step * _ramp(u, 0.4)
    dome = dome + p.dome * p.thorax * np.square((s - 0.5).clip(0))
    abdomen = _ramp(v - dome, 0.05)
    heart, middle = _heart(p, u, v)
    lung = _ramp(0.99 - rho, 0.08) * _ramp(dome - v, 0.03)
    lung *= (1 - middle) * (1 - heart)

    # Pneumothorax: outside the pleural line there is air alone; the lung inside loses some air.
    here = left == (p.side > 0)
    wall = 1 - p.gap * (1 - p.gap_slope * (1 - np.clip(rise, 0, 1)))
    inside = np.where(here & (p.gap > 0), _ramp(wall - rho, 0.03), 1)
    pleura = here * (p.gap > 0) * np.exp(-np.square((rho - wall) / 0.022))
    aerated = p.air * np.where(here, 1 - 0.35 * p.gap * inside, 1) + 0.13 * (1 - inside)

    body = _body(p, across, v)
    total = body * (1 - lung * aerated)
    total += body * np.maximum(np.maximum(0.65 * abdomen, 0.42 * heart), 0.28 * middle)
    total += 0.30 * body * _ramp(0.085 - across, 0.03) * (0.8 + 0.2 * np.cos(v * 42))  # spine
    total -= 0.25 * body * np.exp(-np.square(u / 0.045)) * _ramp(-0.22 - v, 0.1)  # trachea
    total -= 0.5 * body * p.bubble.clip(0) * _blob((u - 0.33) / 0.18, (v - dome - 0.12) / 0.10)
    total += body * _breasts(p, across, v)
    total += _ramp(1.06 - rho, 0.05) * (1 - 0.7 * abdomen) * p.rib * _ribs(p, s, v)
    total += p.clavicle * _clavicles(p, across, v) * (body > 0)
    total += lung * inside * _vessels(p, across, v, left) + 0.20 * lung * pleura
    patch = _blob((across - p.patch_u) / p.patch_size, (v - p.patch_v) / p.patch_size)
    total += p.patch * here * lung * patch

    tone = 1 - np.exp(-1.15 * p.exposure * (1 + p.falloff * y) * total.clip(0))
    grey = 255 * (p.veil + (0.95 - p.veil) * tone**p.gamma) + _marker(p, x, y)
    return grey.reshape(len(grey), size, fine, size, fine).mean((2, 4))


def _body(p: SimpleNamespace, across: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Attenuation of the soft tissue of shoulders and trunk."""
    shoulder = np.sqrt(1 - np.square(1 - np.clip((v + 1.0) / 0.45, 0, 1)))
    taper = np.clip((v + 0.35) / 0.6, 0, 1)
    trunk = p.shoulder + (p.thorax + p.flank - p.shoulder) * taper * taper * (3 - 2 * taper)
    edge = 0.24 + (trunk - 0.24) * shoulder
    depth = np.sqrt(np.clip(1 - (across / edge) ** 2, 0, 1))
    return _ramp(edge - across, 0.03) * (0.45 + 0.55 * depth) * p.tissue


def _heart(p: SimpleNamespace, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the heart, and of the mediastinum with the aortic knob."""
    # A slanted ellipse whose horizontal extent is exactly the wanted heart width.
    reach = p.ratio * p.thorax
    tall = p.heart_height + 0.35 * (reach - 0.33)
    level = p.diaphragm - 0.55 * tall + 0.04
    low = v - level
    slant = np.minimum(p.heart_slant, 0.8 * reach / tall)
    wide = np.sqrt(reach**2 - (slant * tall) ** 2)
    heart = np.hypot((u - p.heart_side * reach - slant * low) / wide, low / tall)
    # The great vessels above it widen from the mediastinum towards the heart's borders.
    down = np.clip((v + 0.36) / (level + 0.36), 0, 1) ** 1.6
    central = p.mediastinum + 0.72 * (reach - p.mediastinum) * down
    central += 0.10 * np.exp(-(v - p.apex) / 0.12).clip(0, 2)
    middle = _ramp(central - np.abs(u - (p.heart_side - 0.1) * reach * down), 0.06)
    knob = _ramp(p.knob - np.hypot(u - 0.85 * p.mediastinum, v + 0.34), 0.05)
    return _ramp(1 - heart, 0.12), np.maximum(middle, knob)


def _breasts(p: SimpleNamespace, across: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Attenuation of soft tissue over the lower zones, as a part of the body's."""
    breast = _ramp(1 - np.hypot((across - 0.42) / 0.33, (v - 0.20) / 0.36), 0.1)
    return p.breast.clip(0) * breast * np.clip((v + 0.15) / 0.5, 0, 1)


def _ribs(p: SimpleNamespace, s: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Relative attenuation of the ribs of the back, and of those of the front, which rise."""
    back = np.cos(2 * np.pi * ((v - 0.08 * s - 0.22 * s**3) / p.rib_pitch + p.rib_phase))
    front = np.cos(2 * np.pi * ((v + 0.42 * s) / p.rib_pitch - p.rib_phase))
    return back.clip(-0.3) + 0.5 * front.clip(0) * (s > 0.4)


def _clavicles(p: SimpleNamespace, across: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Mask of both clavicles."""
    height = v - p.clavicle_v + 0.20 * (across - 0.15)
    return _ramp(0.03 - np.abs(height), 0.02) * _ramp(across - 0.1, 0.05)


def _vessels(p: SimpleNamespace, across: np.ndarray, v: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Attenuation of the vessels of both lungs: trees that leave the hilum and fork three times."""
    over, down = across - 0.17, v + 0.10
    r = np.hypot(over, down) + 1e-3
    phase = p.vessel_phase * np.where(left, 1, 1.7)
    angle = np.arctan2(down, over) + phase + 0.22 * np.sin(9 * r + 3 * phase)
    sector = 2 * np.pi / 7
    angle = np.abs(angle - sector * np.rint(angle / sector))
    for fork, spread in ((0.10, 0.50), (0.22, 0.25), (0.36, 0.12)):
        # Folding the angle about the parting branches makes two of each.
        angle = np.abs(angle - 0.5 * sector * spread * np.clip(2 * (1 - fork / r), 0, 1))
    thick = 0.012 + 0.03 * np.exp(-r / 0.2)
    tree = np.clip(1.3 - r * angle / thick, 0, 1) * np.exp(-r / 0.45)
    return p.vessel * (tree + 0.7 * _blob(over / 0.09, down / 0.13))


def _marker(p: SimpleNamespace, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Grey levels of the lead letter: L at the patient's left, R at the right, or none."""
    letter = np.minimum(p.marker.astype(int), 2)
    cell = 0.035
    start = np.where(letter == 0, 0.74, -0.92) + p.marker_at
    column = np.floor((x - start) / cell).astype(int)
    row = np.floor((y + 0.92 - p.marker_at) / cell).astype(int)
    lit = (column >= 0) & (column < 3) & (row >= 0) & (row < 5) & (letter < 2)
    return 110 * lit * GLYPHS[np.minimum(letter, 1), row.clip(0, 4), column.clip(0, 2)]


def _sample_labels(kind: str, index: int, rng: np.random.Generator) -> np.ndarray:
    """(14,) labels of one image; the other findings are in turn one, several and none."""
    labels = np.zeros(LABELS, np.uint8)
    both = [CARDIOMEGALY, PNEUMOTHORAX]
    if kind != "other":
        labels[CARDIOMEGALY if kind == "cardiomegaly" else PNEUMOTHORAX] = 1
    elif index % 3 < 2:
        labels[rng.choice(np.delete(np.arange(LABELS), both))] = 1
        if index % 3 == 1:
            labels[([CARDIOMEGALY], [PNEUMOTHORAX], both)[index // 3 % 3]] = 1
    return labels


def _make_split(
    size: int, count: int, official: tuple[int, int], seed: int, split: int
) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, size, size) and labels (N, 14) of one split in shuffled order."""
    first = min(max(round(count * official[0] / sum(official)), 1), count - 1)
    kinds = {
        "cardiomegaly": first,
        "pneumothorax": count - first,
        "other": max(round(count / 10), 3),  # at least one, several and none
    }
    # Image i of a kind has its own stream, so it does not depend on the counts.
    streams = [
        (kind, i, np.random.default_rng([seed, split, k, i]))
        for k, (kind, n) in enumerate(kinds.items())
        for i in range(n)
    ]
    np.random.default_rng([seed, split, len(kinds)]).shuffle(streams)
    labels = np.stack([_sample_labels(*stream) for stream in streams])
    images = np.empty((len(streams), size, size), np.uint8)
    step = max(2**17 // size**2, 1)  # images at a time: some 30 float32 fields fit in the cache
    for i in range(0, len(streams), step):
        generators = [rng for _, _, rng in streams[i : i + step]]
        p = sample_parameters(labels[i : i + step], generators)
        noise = np.stack([g.standard_normal((size, size), np.float32) for g in generators])
        images[i : i + step] = np.rint(render(p, size) + p.grain * noise).clip(0, 255)
    return images, labels


def make_phantom(
    size: int = 28, train: int = 2306, val: int = 305, test: int = 682, seed: int = 0
) -> dict[str, np.ndarray]:
    """Make a phantom data set in ChestMNIST's layout.

    Args:
        size: side of the images in px, 16 to 1024.
        train, val, test: images with cardiomegaly alone or pneumothorax alone, at least 2; divided
            in the official ratio of that split. About a tenth as many images with other findings,
            several findings or none come on top.
        seed: 0 or more; the same seed gives the same arrays, and image i of a class does not
            depend on the counts.

    Returns:
        ``{split}_images`` (N, size, size) uint8, ``{split}_labels`` (N, 14) uint8, and
        ``phantom``, a 0-d string array holding `PHANTOM_MARK`.

    Raises:
        InputError: a value is out of range, or the images would take more than 4 GiB.
    """
    counts = {"train": train, "val": val, "test": test}
    for name, value in {"size": size, **counts, "seed": seed}.items():
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
            raise InputError(f"{name} is {value!r} but must be a whole number")
        if value < LEAST[name]:
            raise InputError(f"{name} is {value} but must be at least {LEAST[name]}")
    if size > LARGEST_SIZE:
        raise InputError(f"size is {size} but must be at most {LARGEST_SIZE}")
    if 1.1 * sum(counts.values()) * size**2 > LARGEST_FILE:
        raise InputError(f"{sum(counts.values())} images of {size} px take more than 4 GiB")
    data = {"phantom": np.array(PHANTOM_MARK)}
    for number, (split, count) in enumerate(counts.items()):
        images, labels = _make_split(size, count, OFFICIAL_COUNTS[split], seed, number)
        data |= {f"{split}_images": images, f"{split}_labels": labels}
    return data


def check_destination(path: Path) -> None:
    """Refuse a path that cannot be written or that holds anything but an earlier phantom.

    Raises:
        InputError: the folder is missing, or a file is there that is no phantom: a phantom must
            never replace real data.
    """
    if not path.parent.is_dir():
        raise InputError(f"'{path.parent}' is not a folder")
    if not path.exists():
        return
    try:
        with np.load(path) as data:
            phantom = str(data["phantom"]) == PHANTOM_MARK
    except Exception:  # a foreign or damaged file can raise nearly any type
        phantom = False
    if not phantom:
        raise InputError(f"'{path}' exists and is not a phantom file: choose another name")


def main(arguments: list[str] | None = None) -> int:
    """Write a phantom file; 0, or 2 after one line on stderr about what was wrong."""
    parser = OneLineParser(description="Write chest X-ray phantoms in ChestMNIST's layout.")
    parser.add_argument("out", type=Path, metavar="OUT.npz")
    parser.add_argument("--size", type=int, default=28, help="px, 16 to 1024 (default 28)")
    for split, counts in OFFICIAL_COUNTS.items():
        text = f"two-class images in {split} (default {sum(counts)}, as in ChestMNIST)"
        parser.add_argument(f"--{split}", type=int, default=sum(counts), metavar="N", help=text)
    parser.add_argument("--seed", type=int, default=0, help="0 or more (default 0)")
    try:
        args = parser.parse_args(arguments)
        check_destination(args.out)
        data: dict[str, Any] = make_phantom(args.size, args.train, args.val, args.test, args.seed)
        atomic_write(args.out, lambda file: np.savez_compressed(file, **data))
    except (InputError, OSError, MemoryError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    images = ", ".join(f"{len(data[f'{split}_labels'])} {split}" for split in OFFICIAL_COUNTS)
    print(f"{args.out}: {images} images of {args.size} px, seed {args.seed}. {PHANTOM_MARK}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
