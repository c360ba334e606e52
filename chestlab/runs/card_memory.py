"""A warning before a training that does not fit into the graphics card's memory."""

from __future__ import annotations

import sys

import torch

from chestlab.data.splits import FINDINGS
from chestlab.runs.experiment import Experiment
from chestlab.training.device import resolve_amp
from chestlab.training.memory import Memory, training_need

# Above this many bytes, and with no more pixels in a batch than experiments 5 to 9 have, nothing is
# estimated: it takes one or two seconds.
PLENTY, MANY_PIXELS = 8_000_000_000, 32 * 224**2


def warn_of_memory(experiment: Experiment) -> None:
    """Say on stderr what will not fit on the card; silent on other devices."""
    if experiment.device.type != "cuda" or not experiment.processes.first:
        return
    free = torch.cuda.mem_get_info(experiment.device)[0]
    try:
        warning = memory_warning(experiment, free)
    except Exception as error:  # a network of one's own may do what tensors without numbers cannot
        reason = " ".join(str(error).split())[:200]
        warning = f"NOTE: the memory that training takes is not estimated: {reason}"
    if warning:
        print(warning, file=sys.stderr, flush=True)


def memory_warning(experiment: Experiment, free: int) -> str:
    """What to know about an experiment on a card with ``free`` bytes; empty where all fits."""
    recipe, size = experiment.recipe, experiment.data.size
    pixels = recipe.batch_size * (recipe.image_size or size) ** 2
    if free >= PLENTY and pixels <= MANY_PIXELS:
        return ""
    images = len(experiment.train) + len(experiment.data.val)
    findings = len(FINDINGS) if experiment.options.task == "findings" else 0
    amp = resolve_amp(recipe, experiment.device)
    need = training_need(experiment.build_random, recipe.stages[-1], (images, size), amp, findings)
    return in_words(need, free, recipe.graph)


def in_words(need: Memory, free: int, graph: bool) -> str:
    """`memory_warning` of an estimate; ``graph``: a CUDA graph is wanted."""
    if need.kept > free:
        return (
            f"WARNING: images, weights and averages alone take about {need.kept / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB of the card are free: this training will not fit, however small "
            "its batches; --device cpu, or closing what uses the card"
        )
    if need.without_graph > free:
        return (
            f"WARNING: training takes about {need.without_graph / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB of the card are free: batches will be halved until they fit; "
            "--batch-size or --image-size with a smaller number, or closing what uses the card, "
            "avoids that"
        )
    if graph and need.with_graph > free:
        return (
            f"NOTE: with a CUDA graph training takes about {need.with_graph / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB of the card are free: it may go on without the graph, slower"
        )
    return ""
