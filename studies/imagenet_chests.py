"""Weights for `studies.imagenet` that learned the 14 findings of chests first, see `pretrain`."""

from __future__ import annotations

from chestlab.data.folds import CrossValidationSplits
from chestlab.data.provenance import check_unseen
from chestlab.files.errors import InputError
from chestlab.reporting.stored_runs import start_source
from chestlab.training.weights import PretrainedWeights, read_pretrained
from studies.probes import LITE

CHESTS = {  # what a row starts from, by what the network learned the findings from
    "imagenet": "imagenet + findings",
    "none": "findings",
}


def read_chests(file: str, splits: CrossValidationSplits) -> tuple[str, PretrainedWeights]:
    """Read a checkpoint of `pretrain`.

    Args:
        file: its path.
        splits: the images that networks which start from it are evaluated on.

    Returns:
        Which of `CHESTS` it is, and the weights.

    Raises:
        InputError: it is of another network, objective or start, or knows patients of the folds.
    """
    start = read_pretrained(file, None)
    state = start.state or {}
    arch = (state.get("model_arguments") or {}).get("arch")
    objective = (state.get("objective") or {}).get("name")
    if arch != LITE or objective != "findings" or "trained" not in start.seen:
        raise InputError(
            f"--chests '{file}': wanted is NAME_final.pth of python -m studies.pretrain "
            f"--net {LITE} --exclude-fold all"
        )
    before = start_source(state)
    if before not in CHESTS:
        raise InputError(
            f"--chests '{file}' itself started from '{before}': allowed are {' and '.join(CHESTS)}"
        )
    refuse_known(file, start, splits)
    return CHESTS[before], start


def refuse_known(file: str, start: PretrainedWeights, splits: CrossValidationSplits) -> None:
    """Raise `InputError` where weights know a patient of the folds; ``file`` is their path."""
    check_unseen(
        start.seen.values(),
        "held-out",
        splits.pool,
        phantom=splits.data.phantom,
        by_patient=True,
        source=file,
    )
