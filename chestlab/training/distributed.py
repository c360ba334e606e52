"""One training in several processes (``torchrun``), with the losses of one process.

Every process holds all images and draws the same random numbers: order, augmentation, mixing and
dropout of whole batches. It then computes its share of each batch. `DistributedDataParallel`
averages the gradients, and batch norm takes its statistics over the whole batch, so that losses
and weights equal those of one process up to rounding.

On several machines the first process of all prints the progress and writes the files. The first one
of each machine reports errors there, and downloads and caches what is not on its disk.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from chestlab.files.errors import InputError, TrainingError
from chestlab.files.progress import Interrupted, StopSignals

# Words in the errors that gloo, NCCL and the store raise when another process has ended.
LOST = re.compile("gloo|nccl|connection|socket|store", re.IGNORECASE)

SIGNAL_SECONDS = 1.0  # a signal to all processes has reached each of them after this time


@dataclass(frozen=True)
class Processes:
    """The processes of a training and this one's place among them, as ``torchrun`` sets it.

    Attributes:
        rank: of this process among all; the one of rank 0 prints and writes files.
        size: number of processes, 1 without ``torchrun``.
        local_rank: rank among the processes on this machine, and the number of this one's GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> Processes:
        """Read the variables that ``torchrun`` sets; one process where they are missing."""
        values = (
            int(os.environ.get(name, default))
            for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
        )
        return cls(*values)

    @property
    def first(self) -> bool:
        """Whether this process prints and writes files."""
        return self.rank == 0

    @property
    def first_here(self) -> bool:
        """Whether this process is the first one on its machine, which reports errors."""
        return self.local_rank == 0

    def share(self, n: int) -> torch.Tensor:
        """This process's rows of a batch of n, int64; shares differ in size by one at most."""
        return torch.arange(n).tensor_split(self.size)[self.rank]

    def device(self, device: torch.device) -> torch.device:
        """The device of this process: of several GPUs the one of its local rank.

        Raises:
            InputError: there are more processes than GPUs, or the device is not CUDA or a CPU.
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
        """Context of the process group; only the first process prints.

        Errors are reported by the first process of each machine. Does nothing for one process.

        Raises:
            TrainingError: another process has ended.
        """
        if self.size == 1:
            yield
            return
        quiet = contextlib.ExitStack()
        if not self.first:
            quiet.enter_context(contextlib.redirect_stdout(quiet.enter_context(_nowhere())))
        try:
            with quiet:
                nccl = torch.cuda.is_available() and dist.is_nccl_available()  # not on Windows
                backend = "cpu:gloo,cuda:nccl" if nccl else "gloo"
                dist.init_process_group(backend)
                yield
                dist.barrier()
                dist.destroy_process_group()
        except (InputError, Interrupted, TrainingError) as error:
            self._exit_unless_first_here(error)
            raise
        except RuntimeError as error:
            if not LOST.search(str(error)):
                raise
            try:
                time.sleep(SIGNAL_SECONDS)  # the signal that ended the other one may come here
                signals.check()
            except Interrupted as interruption:
                self._exit_unless_first_here(interruption)
                raise
            ended = TrainingError("another process of this training has ended")
            self._exit_unless_first_here(ended)
            raise ended from None

    def _exit_unless_first_here(self, error: BaseException) -> None:
        """End silently, where the first process of this machine reports the same error."""
        if not self.first_here:
            if isinstance(error, Interrupted):
                sys.exit(128 + error.signum)
            sys.exit(2 if isinstance(error, InputError) else 1)

    @contextlib.contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """Context of reading files that may have to be downloaded or cached.

        The first process of all leaves it before the first one of each other machine enters, which
        finds the files if the machines share a folder; the others come last. Only the first one of
        all prints warnings.
        """
        if self.size == 1:
            yield
            return
        turn = 0 if self.first else 1 if self.first_here else 2
        for _ in range(turn):
            dist.barrier()
        with contextlib.ExitStack() as quiet:
            if not self.first:
                quiet.enter_context(contextlib.redirect_stderr(quiet.enter_context(_nowhere())))
            yield
        for _ in range(2 - turn):
            dist.barrier()

    def from_first(self, value: Any) -> Any:
        """The first process's ``value``, in every process."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes in the order of their ranks, in every process."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def total(self, x: torch.Tensor) -> torch.Tensor:
        """Sum of the processes' tensors, all of one shape; differentiable."""
        return x if self.size == 1 else _Sum.apply(x)


ONE_PROCESS = Processes()


def _nowhere() -> Any:
    return Path(os.devnull).open("w", encoding="utf-8")


class _Sum(torch.autograd.Function):
    """All-reduce with an all-reduce as its backward pass.

    `torch.distributed.nn.functional.all_reduce` does the same and is deprecated.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        total = x.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _Sum.apply(gradient)


class SharedBatches:
    """Divides every batch of a training among the processes; with one, it changes nothing.

    Attributes:
        size: rows of network input in the current batch, of all processes together.
        rows: (n,) int64, those that are this process's.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.size = 0
        self.rows = torch.arange(0)

    def convert(self, network: nn.Module) -> nn.Module:
        """Let dropout and batch norm of ``network`` act on whole batches; weights keep their names.

        To be called before anything refers to the network's modules.
        """
        if self.processes.size == 1:
            return network
        from torchvision.ops import StochasticDepth

        on_cuda = next(network.parameters()).is_cuda
        for name, module in list(network.named_modules(remove_duplicate=False)):
            if isinstance(module, nn.Dropout | StochasticDepth):
                network.set_submodule(name, WholeBatchDropout(module, self))
            elif isinstance(module, _BatchNorm):
                if on_cuda and not list(module.children()):
                    shared = nn.SyncBatchNorm.convert_sync_batchnorm(module)
                else:
                    shared = GatheredBatchNorm(module, self.processes)
                network.set_submodule(name, shared)
        return network

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network whose forward pass has its gradients averaged over the processes."""
        if self.processes.size == 1:
            return network
        with warnings.catch_warnings():  # of the argument's new name in PyTorch 2.14
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(network, broadcast_buffers=False)

    def take(
        self, views: list[torch.Tensor], labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """This process's share of a batch.

        Args:
            views: augmented copies of the N images, each (N, 1, H, W).
            labels: (N,) or (N, F).

        Returns:
            The images of all views, first the first views, and one row of labels for each image.
        """
        x = views[0] if len(views) == 1 else torch.cat(views)
        self.size = len(x)
        if self.processes.size == 1:
            return x, labels
        share = self.processes.share(len(labels)).to(x.device)
        self.rows = torch.cat([share + i * len(labels) for i in range(len(views))])
        return x[self.rows], labels[share]

    def gather(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The outputs of all processes (size, D) of this one's (n, D), and which rows these are.

        Differentiable.
        """
        if self.processes.size == 1:
            return z, torch.arange(len(z), device=z.device)
        everyone = z.new_zeros(self.size, z.shape[1]).index_copy(0, self.rows, z)
        return self.processes.total(everyone), self.rows

    def accumulate(self, network: nn.Module, last: bool) -> contextlib.AbstractContextManager:
        """Context of a forward and backward pass; after the ``last`` one gradients are averaged."""
        if last or not isinstance(network, DistributedDataParallel):
            return contextlib.nullcontext()
        return network.no_sync()


class WholeBatchDropout(nn.Module):
    """Dropout or stochastic depth, drawn for the whole batch as one process would draw it.

    Args:
        layer: `nn.Dropout` or torchvision's `StochasticDepth`.
        batches: says of which batch the input, (n, ...), is a share.
    """

    def __init__(self, layer: nn.Module, batches: SharedBatches) -> None:
        super().__init__()
        self.layer, self.batches = layer, batches
        self.per_value = isinstance(layer, nn.Dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        shape = x.shape[1:] if self.per_value else (1,) * (x.dim() - 1)
        ones = torch.ones((self.batches.size, *shape), dtype=x.dtype, device=x.device)
        if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
            ones = ones.contiguous(memory_format=torch.channels_last)  # the order of the draws
        return x * self.layer(ones)[self.batches.rows]


class GatheredBatchNorm(_BatchNorm):
    """Batch norm over the whole batch, where `nn.SyncBatchNorm` does not work.

    That is on a CPU, and where a batch norm has layers of its own that follow it: the activation of
    timm's `BatchNormAct2d`, which `nn.SyncBatchNorm` would leave out. They keep their names.
    (n, C, ...) to the same shape; n is this process's share.
    """

    momentum: float  # these are optional in other batch norms
    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def __init__(self, norm: _BatchNorm, processes: Processes) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine)
        for name, layer in norm.named_children():
            self.add_module(name, layer)
        self.load_state_dict(norm.state_dict())
        self.to(norm.weight).train(norm.training)
        self.processes = processes

    def _check_input_dim(self, x: torch.Tensor) -> None:
        """Allow any number of dimensions."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self._normalised(x) if self.training else super().forward(x)
        for layer in self.children():
            x = layer(x)
        return x

    def _normalised(self, x: torch.Tensor) -> torch.Tensor:
        dims, shape = [0, *range(2, x.dim())], (1, -1, *[1] * (x.dim() - 2))
        values = x.to(torch.promote_types(x.dtype, torch.float32))
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
