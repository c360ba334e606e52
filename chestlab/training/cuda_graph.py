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
from torch import nn

from chestlab.training.device import memory_errors
from chestlab.training.graph_check import StepState, largest_error

WARM_UP = 3  # steps before the capture; the first ones load libraries and make the moments

_failed: list[torch.cuda.CUDAGraph] = []  # some versions' allocator asks them until it ends

Step = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]


class CaptureError(RuntimeError):
    """The step cannot be captured; nothing of it has happened."""


def supported(device: torch.device) -> bool:
    """Whether steps on the device can be captured, as far as this process knows."""
    return device.type == "cuda" and not _failed


class StepGraph:
    """A step that is run a few times, captured, compared with the eager one, and replayed.

    Args:
        model: that the step trains.
        optimizer: fused, so that neither its step nor a loss scaler's waits for the device. Its
            learning rates stay floats between steps, and may be changed there.
        noise: the generator on the CUDA device that the step draws from besides the default one.
            What both give, and their states, are as without a graph.
        scaler: of the step's loss.
        bound: largest error of the first replay, see `graph_check.largest_error`.

    Attributes:
        error: of the first replay, None before it.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        noise: torch.Generator,
        scaler: torch.amp.GradScaler,
        bound: float,
    ) -> None:
        self.model, self.optimizer, self.scaler = model, optimizer, scaler
        self.bound = bound
        self.error: float | None = None
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
            CaptureError: the step cannot be captured, or its first replay differs from the eager
                step; nothing of this step has happened, and it can be run eagerly.
        """
        if self.graph is None and self.warm < WARM_UP:
            self.warm += 1
            with self._own_stream():
                return eager(rows)
        if self.graph is None:
            self.graph = self._capture(rows, step)
            return self._first_replay(self.graph, rows, step)
        return self._replay(self.graph, rows)

    def _replay(self, graph: torch.cuda.CUDAGraph, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.rows.copy_(rows)
        for i, group in enumerate(self.optimizer.param_groups):
            if group["lr"] != self.filled[i]:
                self.rates[i].fill_(group["lr"])
                self.filled[i] = group["lr"]
        graph.replay()
        return tuple(result.clone() for result in self.results)

    def _first_replay(
        self, graph: torch.cuda.CUDAGraph, rows: torch.Tensor, step: Step
    ) -> tuple[torch.Tensor, ...]:
        """A replay that must equal the same step without a graph, up to rounding."""
        start, reason = self._state(), ""
        try:
            with memory_errors():
                with self._own_stream():
                    eager_loss = step(rows)[0].cpu()
                eager = self._state(), eager_loss
                start.restore()
                results = self._replay(graph, rows)
                kind, self.error = largest_error(start, eager, (self._state(), results[0].cpu()))
            if self.error <= self.bound:
                torch.cuda.empty_cache()  # the eager step's memory belongs to a stream of its own
                return results
            reason = f"error of its {kind}: {self.error:.2g} of the eager step's change"
        except torch.OutOfMemoryError:
            reason = "out of memory in comparing it with the eager step"
        self._discard(graph)
        start.restore()
        raise CaptureError(reason)

    def _state(self) -> StepState:
        return StepState(self.model, self.optimizer, self.scaler, self.generators)

    def _discard(self, graph: torch.cuda.CUDAGraph | None, broken: bool = False) -> None:
        """Leave nothing of a step that was stopped half-way, random numbers apart.

        Args:
            graph: that is of no use.
            broken: its capture was stopped, which some versions' allocator does not get over.
        """
        if graph is not None:
            if broken:
                _failed.append(graph)
            graph.reset()
        self.optimizer.zero_grad(set_to_none=True)
        for left in ("grad_scale", "found_inf"):  # by a loss scaler
            vars(self.optimizer).pop(left, None)

    @contextlib.contextmanager
    def _own_stream(self) -> Iterator[None]:
        """Context of the stream to capture: what autograd and libraries keep belongs to it."""
        self.stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(self.stream):
                yield
        finally:
            torch.cuda.current_stream().wait_stream(self.stream)

    def _capture(self, rows: torch.Tensor, step: Step) -> torch.cuda.CUDAGraph:
        groups = self.optimizer.param_groups
        self.rows = torch.zeros_like(rows)  # not the batch of the comparison, which it must read
        self.filled = [group["lr"] for group in groups]
        before = [generator.clone_state() for generator in self.generators]
        graph, reason, broken = None, "", False
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
            broken = not isinstance(error, torch.OutOfMemoryError)
        finally:
            for group, rate in zip(groups, self.filled, strict=True):
                group.update(lr=rate, capturable=False)
        if graph is not None and not reason:
            return graph
        # Out of the handler, whose traceback would keep the memory.
        self._discard(graph, broken)
        for generator, state in zip(self.generators, before, strict=True):
            generator.graphsafe_set_state(state)  # a generator left in capture mode draws nothing
        raise CaptureError(reason)
