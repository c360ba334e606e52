"""The training step as one CUDA graph: recorded once, then launched as a whole at every step.

A small network's step is hundreds of kernels of a few microseconds each; launching them one by one
takes longer than running them. A graph repeats the recorded kernels on the recorded addresses and
nothing else, so whatever differs between two steps has to lie in tensors that stay where they are:
the images' numbers, the learning rates, and the offsets of the random generators.
Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator

import torch

WARM_UP = 3  # steps before the capture; the first ones load libraries and make the moments

_failed: list[torch.cuda.CUDAGraph] = []  # some versions' allocator asks them until it ends

Step = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]


class CaptureError(RuntimeError):
    """The step cannot be captured; nothing of it has happened."""


def supported(device: torch.device) -> bool:
    """Whether steps on the device can be captured, as far as this process knows."""
    return device.type == "cuda" and not _failed


class StepGraph:
    """A step that is run a few times, captured, and replayed from then on.

    Args:
        optimizer: fused, so that neither its step nor a loss scaler's waits for the device. Its
            learning rates stay floats between steps, and may be changed there.
        noise: the generator on the CUDA device that the step draws from besides the default one.
            What both give, and their states, are as without a graph.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, noise: torch.Generator) -> None:
        self.optimizer = optimizer
        self.generators = (noise, torch.cuda.default_generators[noise.device.index or 0])
        self.stream = torch.cuda.Stream()
        self.warm = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def run(self, rows: torch.Tensor, eager: Step, step: Step) -> tuple[torch.Tensor, ...]:
        """One step.

        Args:
            rows: (B,) int64 on the device, with the same B at every call.
            eager: the step as it is run before the capture; it may do whatever it likes.
            step: the same as it is captured: launches kernels, waits for none of them, and leaves
                no gradients. Python in it runs once, so no number of its own may change later.

        Returns:
            What the step returns, in new tensors.

        Raises:
            CaptureError: nothing of this step has happened, and the next one can be run eagerly.
        """
        if self.graph is None and self.warm < WARM_UP:
            self.warm += 1
            with self._own_stream():
                return eager(rows)
        if self.graph is None:
            self.graph = self._capture(rows, step)
        self.rows.copy_(rows)
        for i, group in enumerate(self.optimizer.param_groups):
            if group["lr"] != self.filled[i]:
                self.rates[i].fill_(group["lr"])
                self.filled[i] = group["lr"]
        self.graph.replay()
        return tuple(result.clone() for result in self.results)

    @contextlib.contextmanager
    def _own_stream(self) -> Iterator[None]:
        """Context of the stream to capture: what autograd and libraries keep belongs to it."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            yield
        torch.cuda.current_stream().wait_stream(self.stream)

    def _capture(self, rows: torch.Tensor, step: Step) -> torch.cuda.CUDAGraph:
        groups = self.optimizer.param_groups
        self.rows = rows.clone()
        self.filled = [group["lr"] for group in groups]
        before = [generator.clone_state() for generator in self.generators]
        graph, reason = None, ""
        try:
            graph = torch.cuda.CUDAGraph()
            self.rates = [torch.full((), rate, device=rows.device) for rate in self.filled]
            for group, rate in zip(groups, self.rates, strict=True):
                group.update(lr=rate, capturable=True)
            with warnings.catch_warnings():  # later versions register by themselves, and say so
                warnings.simplefilter("ignore")
                if hasattr(graph, "register_generator_state"):
                    graph.register_generator_state(self.generators[0])
            with self._own_stream(), torch.cuda.graph(graph, stream=self.stream):
                self.results = step(self.rows)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
        finally:
            for group, rate in zip(groups, self.filled, strict=True):
                group.update(lr=rate, capturable=False)
        if graph is not None and not reason:
            return graph
        # Out of the handler, whose traceback would keep the memory.
        if graph is not None:
            _failed.append(graph)
            graph.reset()
        self.optimizer.zero_grad(set_to_none=True)
        for left in ("grad_scale", "found_inf"):  # by a loss scaler
            vars(self.optimizer).pop(left, None)
        for generator, state in zip(self.generators, before, strict=True):
            generator.graphsafe_set_state(state)  # a generator left in capture mode draws nothing
        raise CaptureError(reason)
