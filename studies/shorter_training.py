"""Ways to shorten a training that no flag has, tried by `time_to_accuracy`: functions that change a
trainer before it trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F

from chestlab.files.errors import InputError
from chestlab.training.augment import to_input
from chestlab.training.averaging import WeightAverage
from chestlab.training.layers import layers_with_weights
from chestlab.training.optimizer import make_scheduler
from chestlab.training.trainer import Trainer

# Share of an image's side, until this share of the steps. Stored folds do not know these numbers:
# who changes them removes the store, as after a change of a network.
SIDES = {0.5: 0.5, 0.75: 0.7, 1.0: 1.0}


def progressive(trainer: Trainer) -> None:
    """Let a network see small images first, and large ones last: `SIDES`.

    (As in EfficientNetV2, Tan and Le, https://arxiv.org/abs/2104.00298.)
    """
    check, recipe = trainer.on_step, trainer.recipe
    total, steps = recipe.epochs * trainer.steps_per_epoch, 0
    full = recipe.image_size or trainer.train_images.shape[-1]

    def resize() -> None:
        share = next(share for until, share in SIDES.items() if steps < until * total or until == 1)
        trainer.recipe = dataclasses.replace(recipe, image_size=round(share * full))

    def on_step() -> None:
        nonlocal steps
        steps += 1
        resize()
        check()

    trainer.graph = None  # it is of one size
    trainer.on_step = on_step
    resize()


def growing_sides(full: int) -> dict[int, float]:
    """The sides of what `progressive` shows of images with side ``full``, with their shares."""
    starts = [0.0, *SIDES][:-1]
    shares = [until - start for start, until in zip(starts, SIDES, strict=True)]
    return {round(size * full): share for size, share in zip(SIDES.values(), shares, strict=True)}


def whitened(trainer: Trainer) -> None:
    """Let the first convolution start with filters that whiten patches of the training images.

    Its first kernels are the patches' principal components, each divided by its standard deviation,
    then the negatives of these, as in airbench (Jordan, https://arxiv.org/abs/2404.00498), which
    does not train them; here they are where training starts. The other kernels stay random.
    """
    first = next(m for m in layers_with_weights(trainer.model) if isinstance(m, nn.Conv2d))
    kernels = whitening_kernels(to_input(trainer.train_images, trainer.recipe), first.kernel_size)
    both = torch.cat([kernels, -kernels])[: len(first.weight)]
    with torch.no_grad():
        first.weight[: len(both)] = both.to(first.weight)
    if trainer.average is not None:
        trainer.average = WeightAverage(trainer.model, trainer.recipe.ema)


def whitening_kernels(x: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Kernels whose outputs are uncorrelated over images, with variance 1, the largest part first.

    Args:
        x: (N, 1, H, W).
        size: (h, w) of the kernels.

    Returns:
        (h w, 1, h, w) float32.
    """
    patches = F.unfold(x, size).double()  # (N, h w, positions)
    patches = patches.transpose(1, 2).flatten(0, 1)
    variances, components = torch.linalg.eigh(patches.T.cov())
    scaled = components / variances.clamp(min=1e-8).sqrt()
    return scaled.flip(1).T.reshape(-1, 1, *size).float()


def muon(trainer: Trainer) -> None:
    """Train matrices with Muon, the rest with AdamW as before.

    A convolution that takes all channels is a matrix of its output channels; one that takes each
    alone, and the output, are not.

    (Jordan et al., https://kellerjordan.github.io/posts/muon/, as timm has it, with the rates of
    AdamW and updates as large as its own.)

    Raises:
        InputError: as of `muon_of_timm`.
    """
    make, recipe = muon_of_timm(), trainer.recipe
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim > 1 and min(p.shape[:2]) > 1]
    taken = {id(p) for p in matrices}
    rest = [p for p in trained if id(p) not in taken]
    of_rest = {"params": rest, "use_fallback": True, "nesterov": False, "eps": 1e-8}
    trainer.optimizer = make(
        [{"params": matrices}, of_rest],
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        betas=(recipe.beta1, recipe.beta2),
        nesterov=True,
        adjust_lr_fn="match_rms_adamw",
    )
    trainer.scheduler = make_scheduler(trainer.optimizer, recipe, trainer.steps_per_epoch)
    trainer.graph = None  # it is of the other optimizer


def muon_of_timm() -> Callable[..., torch.optim.Optimizer]:
    """The class `timm.optim.Muon`.

    Raises:
        InputError: there is no timm, or it has no Muon.
    """
    try:
        from timm.optim import Muon
    except ImportError:
        raise InputError("Muon is in newer versions of timm: pip install -U timm") from None
    return Muon


@dataclass(frozen=True)
class Way:
    """What a row does beside hyperparameters, by default nothing.

    Attributes:
        prepare: as that of `crossval.Configuration`.
        told: in the table, beside the hyperparameters.
        sides: of the images that the network sees, with their shares, by the side of the recipe's.
        check: raises `InputError` where it cannot be tried.
    """

    prepare: Callable[[Trainer], None] | None = None
    told: Mapping[str, str] = field(default_factory=dict)
    sides: Callable[[int], Mapping[int, float]] = lambda side: {side: 1.0}
    check: Callable[[], object] = lambda: None


WAYS = {  # by the end of a row's name
    "progressive": Way(
        progressive,
        {"image_size": ", ".join(f"x {share:g}" for share in SIDES.values())},
        sides=growing_sides,
    ),
    "whitened": Way(whitened, {"first kernels": "whitening"}),
    "muon": Way(muon, {"optimizer": "Muon"}, check=muon_of_timm),
}
