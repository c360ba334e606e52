"""Tensors that others have saved, under the names and in the number types of a network here.

One rule finds them: nested dicts become dotted names, parts that only wrap a module fall away, and
then one prefix is looked for without which every tensor of the network is there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from chestlab.files.errors import InputError
from chestlab.files.foreign_checkpoint import Unread

# Parts of names that DataParallel, torch.compile, FSDP and checkpointing of activations put in.
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}

# What a training script calls its only network; where several fit, such a name is preferred.
ORDINARY = {"weights", "state_dict", "model_state_dict", "model", "net", "network"}

# torchvision's DenseNet files are older than the rule that no module's name contains a dot.
OLD_DENSENET_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")

DEEPEST = 6  # dicts inside each other

SHOWN = 3  # names in a message


class Misfit(InputError):
    """A file's tensors are not those of the network."""


class Stored(NamedTuple):
    """A tensor of a file.

    Attributes:
        value: the tensor.
        place: its name in the file, with the keys of the dicts around it.
        group: number of the dict that holds it.
    """

    value: torch.Tensor
    place: str
    group: int


@dataclass(frozen=True)
class Matched:
    """Tensors of a file that fit a network.

    Attributes:
        tensors: by the network's names, in its number types, the first convolution in grey.
        prefix: what its names begin with in the file.
        left_out: names and shapes in the file of a classifier that the network does not have.
        notes: what else was done to them, in words.
    """

    tensors: dict[str, torch.Tensor]
    prefix: str
    left_out: list[str]
    notes: list[str]


def match(
    state: Mapping[Any, Any],
    wanted: Mapping[str, torch.Tensor],
    head: str | tuple[str, ...] = "",
    stem: str = "sum",
) -> Matched:
    """Find a network's tensors in what a file holds.

    Args:
        state: of the file: a state dict, or dicts around one.
        wanted: the network's own state dict without what it keeps. Counters of batches
            (``num_batches_tracked``) may be missing in the file.
        head: how the names of the layers begin that it keeps, and that are left out.
        stem: what a first convolution over three colours becomes, see `in_grey`.

    Raises:
        Misfit: not all are there, or there are others that belong to another network. Says which,
            without the file's name.
        InputError: they are in several places, or not finite.
    """
    stored = _tensors(state)
    needed = [name for name in wanted if not name.endswith("num_batches_tracked")]
    counts = _placements(stored, {name: wanted[name] for name in needed})
    complete = [placement for placement, count in counts.items() if count == len(needed)]
    if not complete:
        raise Misfit(_mismatch(state, stored, wanted, needed, counts, head))
    notes: list[str] = []
    prefix, added = _choose(complete, stored, wanted, notes)
    renamed = {
        added + name.removeprefix(prefix): item
        for name, item in stored.items()
        if name.startswith(prefix)
    }
    left_out = _left_out(renamed, wanted, added, head)
    kinds: Counter[str] = Counter()
    tensors = {
        name: _converted(renamed[name], wanted[name], kinds, stem)
        for name in wanted
        if name in renamed and _fits(renamed[name].value, wanted[name])
    }
    _check_finite(tensors, renamed)
    notes += [f"{count} converted from {kind}" for kind, count in kinds.items()]
    places = {
        item.place.removesuffix(name.removeprefix(added))
        for name, item in renamed.items()
        if name in needed
    }
    shortest = min(places, key=len)
    return Matched(tensors, shortest if shortest.endswith(".") else prefix, left_out, notes)


def in_grey(value: torch.Tensor, wanted: torch.Tensor, stem: str) -> torch.Tensor:
    """A first convolution over three colours as one over the one channel that is wanted.

    Args:
        value: weights (O, 3, H, W), or others, which stay as they are.
        wanted: the network's own.
        stem: ``sum`` of the colours' weights, so that a grey image gives what the original makes
            of it in three equal colours, as timm's ``adapt_input_conv``; or their ``mean``, which
            gives a third of that.
    """
    if not _is_coloured(value, wanted):
        return value
    return value.sum(1, keepdim=True) if stem == "sum" else value.mean(1, keepdim=True)


def _is_coloured(value: torch.Tensor, wanted: torch.Tensor) -> bool:
    return (
        value.dim() == wanted.dim() == 4
        and value.shape[1] == 3
        and value[:, :1].shape == wanted.shape
    )


def _fits(value: torch.Tensor, wanted: torch.Tensor) -> bool:
    if value.is_complex() or value.is_meta:
        return False
    return value.shape == wanted.shape or _is_coloured(value, wanted)


def _tensors(state: Mapping[Any, Any]) -> dict[str, Stored]:
    """All tensors in nested dicts, by names without `WRAPPERS` and in today's spelling."""
    found: dict[str, Stored] = {}
    for number, (path, group) in enumerate(_all(state)):
        for key, value in group.items():
            if isinstance(key, str) and isinstance(value, torch.Tensor):
                place = path + key
                name = ".".join(part for part in place.split(".") if part not in WRAPPERS)
                name = OLD_DENSENET_NAME.sub(r"\1\2.", name)
                found[place if name in found else name] = Stored(value, place, number)
    return found


def _all(state: Mapping[Any, Any]) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """A dict and those in it, each once and with the names that lead to it."""
    return _dicts(state, "", set(), DEEPEST)


def _dicts(
    state: Mapping[Any, Any], path: str, seen: set[int], depth: int
) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    seen.add(id(state))
    yield path, state
    for key, value in state.items():
        if isinstance(value, Mapping) and depth and id(value) not in seen:
            yield from _dicts(value, f"{path}{key}.", seen, depth - 1)


def _placements(
    stored: Mapping[str, Stored], needed: Mapping[str, torch.Tensor]
) -> Counter[tuple[str, str]]:
    """How many tensors are there without a prefix and with another one put in front.

    Returns:
        The number by prefix in the file and prefix that all the network's names have: a file may
        hold the inside of a network's only part.
    """
    parts = next(iter(needed), "").split(".")
    shared = [".".join([*parts[:n], ""]) if n else "" for n in range(len(parts))]
    shared = [start for start in shared if all(name.startswith(start) for name in needed)]
    counts: Counter[tuple[str, str]] = Counter()
    for name, item in stored.items():
        starts = [0, *(place + 1 for place, letter in enumerate(name) if letter == ".")]
        for prefix, added in ((name[:start], added) for start in starts for added in shared):
            same = added and prefix.split(".")[-2:] == added.split(".")[-2:]  # only moves the split
            target = needed.get(added + name.removeprefix(prefix))
            if not same and target is not None and _fits(item.value, target):
                counts[prefix, added] += 1
    return counts


def _choose(
    complete: list[tuple[str, str]],
    stored: Mapping[str, Stored],
    wanted: Mapping[str, torch.Tensor],
    notes: list[str],
) -> tuple[str, str]:
    """The one placement, or of several the one with an ordinary name, which is noted.

    Raises:
        InputError: several hold the network, with different numbers.
    """
    ordinary = [
        placement
        for placement in complete
        if set(placement[0].removesuffix(".").split(".")) <= {*ORDINARY, ""}
    ]
    if len(complete) == 1:
        return complete[0]
    if len(ordinary) == 1:
        others = [prefix for prefix, _ in complete if prefix != ordinary[0][0]]
        notes.append(f"those of '{_shown(others[0])}' would fit, too")
        return ordinary[0]
    first, *others = (
        [stored[prefix + name.removeprefix(added)].value for name in wanted if _is_weight(name)]
        for prefix, added in complete
    )
    if all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True)):
        return complete[0]
    places = _first([prefix for prefix, _ in complete])
    raise InputError(
        f"fits in {len(complete)} places, {places}: save the tensors of one of them alone"
    )


def _is_weight(name: str) -> bool:
    return not name.endswith("num_batches_tracked")


def _left_out(
    renamed: Mapping[str, Stored],
    wanted: Mapping[str, torch.Tensor],
    added: str,
    head: str | tuple[str, ...],
) -> list[str]:
    """Tensors that the network does not have: those of a classifier, or counters beside it.

    Raises:
        Misfit: there are others, so that they are of another network.
    """
    groups = {item.group for name, item in renamed.items() if name in wanted}
    others = {n: s for n, s in renamed.items() if n not in wanted and s.group in groups}

    def top(name: str) -> str:
        return name.removeprefix(added).split(".")[0]

    tops = {top(name) for name in wanted}
    dimensions: dict[str, int] = {}
    for name, item in others.items():
        dimensions[top(name)] = max(item.value.dim(), dimensions.get(top(name), 0))

    def of_classifier(name: str) -> bool:
        if head and name.startswith(head):
            return True
        counter = name == added + top(name) and dimensions[top(name)] < 2
        return top(name) not in tops and (counter or dimensions[top(name)] == 2)

    foreign = [item.place for name, item in others.items() if not of_classifier(name)]
    if foreign:
        fitting = sum(name in renamed for name in wanted)
        raise Misfit(
            f"does not fit: all {fitting} tensors of the network match, but it is of a larger one: "
            f"{len(foreign)} only in the file, as {_first(foreign)}"
        )
    return [
        f"{_shown(name.removeprefix(added))} {tuple(item.value.shape)}"
        for name, item in others.items()
    ]


def _converted(item: Stored, wanted: torch.Tensor, kinds: Counter[str], stem: str) -> torch.Tensor:
    """A tensor in the number type and colours of the network's own.

    Args:
        item: of the file.
        wanted: the network's own.
        kinds: counts number types and colours that were changed.
        stem: as of `in_grey`.
    """
    value = _dense(item.value)
    new = value.to(wanted.dtype)
    if value.dtype != wanted.dtype and wanted.is_floating_point():
        exact = torch.equal(new.to(value.dtype), value)
        whole = not value.is_floating_point()
        kind = f"{item.value.dtype}".removeprefix("torch.")
        kinds[f"{kind}{', taken as they are' * whole}{'' if exact else ', rounded'}"] += 1
    if _is_coloured(value, wanted):
        kinds[f"three colours to their {stem}"] += 1
    return in_grey(new, wanted, stem)


def _dense(value: torch.Tensor) -> torch.Tensor:
    value = value.detach()
    value = value.dequantize() if value.is_quantized else value
    return value if value.layout == torch.strided else value.to_dense()


def _check_finite(tensors: Mapping[str, torch.Tensor], renamed: Mapping[str, Stored]) -> None:
    bad = [name for name, value in tensors.items() if not value.isfinite().all()]
    if not bad:
        return
    item = renamed[bad[0]]
    held = "NaN" if tensors[bad[0]].isnan().any() else "infinity"
    if _dense(item.value).isfinite().all():
        held = f"a number beyond {tensors[bad[0]].dtype}".replace("torch.", "")
    raise InputError(
        f"is not finite: '{_shown(item.place)}' holds {held} ({len(bad)} of {len(tensors)} tensors "
        "are not finite): it is of a training that went wrong"
    )


def _mismatch(
    state: Mapping[Any, Any],
    stored: Mapping[str, Stored],
    wanted: Mapping[str, torch.Tensor],
    needed: list[str],
    counts: Counter[tuple[str, str]],
    head: str | tuple[str, ...],
) -> str:
    """How many tensors match, and the first that do not on each side."""
    if not stored:
        keys = _first([str(key) for key in state])
        hint = any(
            isinstance(value, Unread) for _, group in _all(state) for value in group.values()
        )
        remedy = "; torch.from_numpy makes tensors of NumPy's arrays" if hint else ""
        content = f"there is no tensor in it, but {keys}" if keys else "there is nothing in it"
        return f"does not fit: {content}{remedy}"
    (prefix, added), count = counts.most_common(1)[0] if counts else (("", ""), 0)
    renamed = {
        added + name.removeprefix(prefix): item
        for name, item in stored.items()
        if name.startswith(prefix)
    }
    reshaped = [n for n in needed if n in renamed and not _fits(renamed[n].value, wanted[n])]
    sides = {
        "only in the network": [name for name in needed if name not in renamed],
        "only in the file": [
            item.place
            for name, item in renamed.items()
            if name not in wanted and not (head and name.startswith(head))
        ],
        "of another shape": [
            f"{_shown(name)} {_shape(renamed[name].value)} for {tuple(wanted[name].shape)}"
            for name in reshaped
        ],
    }
    told = [f"{len(names)} {side}, as {_first(names)}" for side, names in sides.items() if names]
    return f"does not fit: {count} of {len(needed)} tensors match; {'; '.join(told)}"


def _shape(value: torch.Tensor) -> str:
    """A shape, with what else keeps a tensor from being used."""
    kind = f" {value.dtype}".replace("torch.", "") if value.is_complex() else ""
    return f"{tuple(value.shape)}{kind}{' without numbers' if value.is_meta else ''}"


def _first(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{_shown(name)}'" for name in names[:SHOWN])
    return f"{shown}{', ...' if len(names) > SHOWN else ''}"


def _shown(name: str) -> str:
    """A name from a file, fit for a line."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)[:80]
