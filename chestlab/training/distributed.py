"""One training in several processes (``torchrun``), with the losses of one process.

Every process holds all images, draws the same order, the same augmentation and the same dropout
for a whole batch, and works on its share of it. The mean loss and its gradient are those of the
whole batch, and so are the statistics of batch norm: what one process computes, up to rounding.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from chestlab.files.errors import InputError, TrainingError
from chestlab.files.progress import Interrupted, StopSignals

# Words in what gloo, NCCL and the store say when another process is gone.
LOST = re.compile("gloo|nccl|connection|socket|store", re.IGNORECASE)

SIGNAL_SECONDS = 1.0  # within which a signal to all processes has reached this one, too


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this is, as ``torchrun`` says in the environment.

    Attributes:
        rank: 0 is the one that writes and speaks.
        size: 1 without ``torchrun``.
        local_rank: among those on this machine; the number of its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> Processes:
        """One process where ``torchrun`` has not set its variables."""
        values = (
            int(os.environ.get(name, default))
            for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
        )
        return cls(*values)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, n: int) -> torch.Tensor:
        """Which of the places 0..n - 1 in a batch are this process's; all differ by one at most."""
        return torch.arange(n).tensor_split(self.size)[self.rank]

    def device(self, device: torch.device) -> torch.device:
        """This process's own of the devices of a kind.

        Raises:
            InputError: there are more processes than GPUs, or the kind knows one process only.
        """
        if self.size == 1 or device.type == "cpu":
            return device
        if device.type != "cuda":
            raise InputError(f"--device {device.type}: torchrun needs cuda or cpu")
        if self.local_rank >= torch.cuda.device_count():
            raise InputError(
                f"torchrun has started more processes than the {torch.cuda.device_count()} GPUs of "
                "this machine: lower --nproc-per-node, or take --device cpu"
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    @contextlib.contextmanager
    def together(self, signals: StopSignals) -> Iterator[None]:
        """Context in which the processes can talk; only the first one says what went wrong.

        Raises:
            TrainingError: another process is gone, which the first one learns from the backend.
        """
        if self.size == 1:
            yield
            return
        quiet = contextlib.ExitStack()
        if not self.first:
            quiet.enter_context(contextlib.redirect_stdout(quiet.enter_context(_nowhere())))
        try:
            with quiet:
                backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
                dist.init_process_group(backend)
                yield
                dist.barrier()
                dist.destroy_process_group()
        except (InputError, Interrupted, TrainingError) as error:
            self._speak_or_leave(error)
            raise
        except RuntimeError as error:
            if not LOST.search(str(error)):
                raise
            try:
                time.sleep(SIGNAL_SECONDS)  # what has ended the other one may be on its way here
                signals.check()
            except Interrupted as interruption:
                self._speak_or_leave(interruption)
                raise
            told = TrainingError("another process of this training has ended")
            self._speak_or_leave(told)
            raise told from None

    def _speak_or_leave(self, error: BaseException) -> None:
        """End every process but the first, which has the same to say, without a word."""
        if not self.first:
            if isinstance(error, Interrupted):
                sys.exit(128 + error.signum)
            sys.exit(2 if isinstance(error, InputError) else 1)

    @contextlib.contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """Context that the first process has left before the others enter, who warn of nothing."""
        if self.size == 1:
            yield
        elif self.first:
            yield
            dist.barrier()
        else:
            dist.barrier()
            with _nowhere() as nowhere, contextlib.redirect_stderr(nowhere):
                yield

    def from_first(self, value: Any) -> Any:
        """The first process's ``value``."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def total(self, x: torch.Tensor) -> torch.Tensor:
        """Sum of each process's tensor, all of one shape; differentiable."""
        return x if self.size == 1 else _Sum.apply(x)


ONE_PROCESS = Processes()


def _nowhere() -> Any:
    return Path(os.devnull).open("w", encoding="utf-8")


class _Sum(torch.autograd.Function):
    """All-reduce whose backward is one, too.

    `torch.distributed.nn.functional.all_reduce` is the same, and announced to go away.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        total = x.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _Sum.apply(gradient)


class WholeBatch:
    """What the modules below must know of the batch of which they are given a share.

    Attributes:
        places: (n,) of this process's images in the whole batch.
        size: images of the whole batch.
        generator: the same in every process.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.places = torch.arange(0)
        self.size = 0

    def rand(self, shape: torch.Size) -> torch.Tensor:
        """This process's rows, (n, ...), of uniform numbers (size, ...) drawn for all."""
        device = self.generator.device
        drawn = torch.rand((self.size, *shape[1:]), generator=self.generator, device=device)
        return drawn[self.places]


class WholeBatchDropout(nn.Module):
    """Dropout, or stochastic depth, drawn for the whole batch.

    Args:
        rate: probability of a zero.
        per_image: an image is zero as a whole, or not at all.
        batch: of which the input is a share.
    """

    def __init__(self, rate: float, per_image: bool, batch: WholeBatch) -> None:
        super().__init__()
        self.rate, self.per_image, self.batch = rate, per_image, batch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or not self.rate:
            return x
        shape = torch.Size((len(x), *[1] * (x.dim() - 1))) if self.per_image else x.shape
        kept = self.batch.rand(shape) >= self.rate
        return x * kept / (1 - self.rate) if self.rate < 1 else x * 0


class GatheredBatchNorm(_BatchNorm):
    """Batch norm with the statistics of the whole batch, where `nn.SyncBatchNorm` is not: a CPU.

    (n, C, ...) to the same; every process has a share of n images.
    """

    def __init__(self, norm: _BatchNorm, processes: Processes) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine)
        self.load_state_dict(norm.state_dict())
        self.processes = processes

    def _check_input_dim(self, x: torch.Tensor) -> None:
        """Any number of dimensions will do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        dims, shape = [0, *range(2, x.dim())], (1, -1, *[1] * (x.dim() - 2))
        values = x.float()
        count = values.new_tensor([values.numel() / values.shape[1]])
        sums = self.processes.total(torch.cat([values.sum(dims), count]))
        mean, count = sums[:-1] / sums[-1], sums[-1]
        centred = values - mean.view(shape)
        variance = self.processes.total(centred.square().sum(dims)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        normalised = centred * (variance + self.eps).rsqrt().view(shape)
        return (normalised * self.weight.view(shape) + self.bias.view(shape)).to(x.dtype)


def share_batches(network: nn.Module, batch: WholeBatch, processes: Processes) -> nn.Module:
    """Make dropout and batch norm of ``network`` act on whole batches; names of weights stay."""
    from torchvision.ops import StochasticDepth

    device = next(network.parameters()).device
    synced = device.type == "cuda" and processes.size > 1
    if synced:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if isinstance(module, nn.Dropout | StochasticDepth):
            per_image = isinstance(module, StochasticDepth)
            network.set_submodule(name, WholeBatchDropout(module.p, per_image, batch))
        elif isinstance(module, _BatchNorm) and processes.size > 1 and not synced:
            network.set_submodule(name, GatheredBatchNorm(module, processes).to(device))
    return network
