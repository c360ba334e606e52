"""Networks of timm, Wightman's PyTorch Image Models, under the names ``timm/NAME``.

https://github.com/huggingface/pytorch-image-models. The library is optional, and is imported where
one of its networks is asked for.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from torch import nn

from chestlab.files.errors import InputError

TIMM = "timm/"  # what the names of its networks begin with here


@dataclass(frozen=True)
class TimmBackbone:
    """A network of timm without classifier and for one grey channel, randomly initialised.

    Attributes:
        module: (N, 1, H, W) to features (N, F).
        features: F.
        head: how the names of its classifier's tensors begin in timm's own files.
        side: in pixels, of the only input that it takes; 0 where there are others.
        usual_side: of the images that its weights were trained on.
    """

    module: nn.Module
    features: int
    head: tuple[str, ...]
    side: int
    usual_side: int


def import_timm() -> Any:
    """The library.

    Raises:
        InputError: it is not installed.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise InputError(
            "networks called timm/NAME need timm, which is not installed: pip install timm"
        ) from None
    return timm


def timm_name(network: str) -> str:
    """The name in timm of the network ``timm/NAME``, where there is one, with or without a tag.

    Raises:
        InputError: there is none, or timm is not installed.
    """
    timm, name = import_timm(), network.removeprefix(TIMM)
    known, tagged = timm.list_models(), timm.list_models(pretrained=True)
    if name in known or name in tagged:
        return name
    plain = name.split(".")[0]
    same = [other for other in tagged if other.split(".")[0] == plain]  # the tag is wrong
    close = same[:5] or difflib.get_close_matches(name, known, 5)
    hint = f"close are {', '.join(TIMM + other for other in close)}" if close else ""
    raise InputError(
        f"timm has no network {name[:80]!r}: {hint or 'timm.list_models() lists its names'}"
    )


def timm_backbone(network: str) -> TimmBackbone:
    """Make the network ``timm/NAME`` for one channel, with timm's own random initialisation.

    Raises:
        InputError: there is none of that name, it cannot be made so, or timm is not installed.
    """
    name = timm_name(network)
    try:
        module = import_timm().create_model(name, in_chans=1, num_classes=0)
    except Exception as error:  # of more than a thousand constructors
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"'{network}' cannot be made for one channel and without classifier: {reason}"
        ) from None
    about = module.pretrained_cfg
    heads = about.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else heads
    usual_side = about["input_size"][-1]
    return TimmBackbone(
        module,
        getattr(module, "head_hidden_size", module.num_features),
        tuple(_head(head, module) for head in heads),
        usual_side if about.get("fixed_input_size") else 0,
        usual_side,
    )


def _head(classifier: str, backbone: nn.Module) -> str:
    """How the names of a head's tensors begin: the classifier's, and of what went with it.

    Args:
        classifier: name of the linear layer, such as ``head.fc.fc2``.
        backbone: the network without it, in which whole modules around it may be missing.
    """
    parts = classifier.split(".")
    starts = [".".join([*parts[:n], ""]) for n in range(1, len(parts) + 1)]
    names = backbone.state_dict()
    return next(start for start in starts if not any(name.startswith(start) for name in names))
