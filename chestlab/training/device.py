"""The device of a run: choice, mixed precision, and memory that is kept for the next step."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import re
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import torch

from chestlab.files.errors import NO_MEMORY, InputError
from chestlab.training.recipe import Recipe

NATIVE_BF16 = (8, 0)  # compute capability from which on CUDA devices have it

WINDOWS_SHARE = 0.95  # of the free memory; the rest is for what the driver itself needs

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def resolve_amp(recipe: Recipe, device: torch.device) -> torch.dtype | None:
    """The mixed-precision type of a run, None for float32 throughout.

    ``auto`` is bf16 on a CUDA device that has it natively and fp16 with loss scaling on one that
    does not; on a CPU bf16 where the processor has it and the recipe was measured faster with it.
    """
    if recipe.amp != "auto":
        return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[recipe.amp]
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= NATIVE_BF16:
            return torch.bfloat16
        # https://github.com/pytorch/pytorch/issues/77955: convolutions in fp16 that return NaN
        return None if "GTX 16" in torch.cuda.get_device_name(device) else torch.float16
    if device.type == "cpu" and recipe.cpu_bf16 and native_cpu_bf16():
        return torch.bfloat16
    return None


def native_cpu_bf16() -> bool:
    """Whether oneDNN computes in bf16 here; PyTorch for Apple silicon is built without oneDNN."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def autocast(device: torch.device, amp: torch.dtype | None) -> contextlib.AbstractContextManager:
    """The context of a forward pass."""
    return torch.autocast(device.type, amp) if amp else contextlib.nullcontext()


def memory_format(device: torch.device) -> torch.memory_format:
    """The layout of images and weights (N, C, H, W): channels last, where convolutions are faster.

    Not on MPS, where the backward pass of batch norm raises an error in that layout up to
    PyTorch 2.12. Source: https://github.com/pytorch/pytorch/pull/188371
    """
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Context in which a lack of memory is `torch.OutOfMemoryError`, as on CUDA, on any device."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or not NO_MEMORY.search(str(error)):
            raise
        raise torch.OutOfMemoryError(str(error)) from None


@functools.cache
def keep_freed_memory() -> None:
    """Let the process keep what it frees, for the next step, until it ends.

    By default glibc asks the system anew for every activation and gives it back after use, and
    the system clears each of those pages again. Does nothing where the C library is not glibc.
    Source: https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library has no mallopt
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


def check_precision(recipe: Recipe, device: torch.device) -> None:
    """Raise `InputError` where the recipe asks for fp16 on a CPU, or for what MPS lacks here."""
    if recipe.amp == "fp16" and device.type == "cpu":
        raise InputError("--amp fp16: not on a CPU; allowed there are auto, off and bf16")
    on_cuda = recipe.amp == "bf16" and device.type == "cuda"
    if on_cuda and torch.cuda.get_device_capability(device) < NATIVE_BF16:
        print(
            "NOTE: --amp bf16: this card computes bf16 in software, which is slow; --amp auto "
            "takes what it has",
            file=sys.stderr,
        )
    if device.type != "mps":
        return
    if recipe.amp == "bf16" and not torch.backends.mps.is_macos_or_newer(14, 0):
        raise InputError("--amp bf16: not on MPS before macOS 14; allowed here are auto and off")
    unscale = "aten::_amp_foreach_non_finite_check_and_unscale_"
    if recipe.amp == "fp16" and not torch._C._dispatch_has_kernel_for_dispatch_key(unscale, "MPS"):
        raise InputError(
            "--amp fp16: this version of PyTorch cannot scale the loss on MPS; allowed here are "
            "auto, off and bf16"
        )


def precision(trainer: Any) -> str:
    """The number format of a trainer's forward pass, as it is printed and stored."""
    return {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[trainer.amp]


def _unusable_card() -> str:
    """Why the installed PyTorch cannot compute on the graphics card; empty where it can.

    A build has kernels for the compute capabilities that it names, and for later ones of the same
    major version; ``compute_``, intermediate code, is for all later ones.
    """
    major, minor = torch.cuda.get_device_capability()
    for name in torch.cuda.get_arch_list():
        known = re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", name)
        if known is None:  # of another maker's cards
            return ""
        of_kernels = int(known[2]), int(known[3])
        later = of_kernels <= (major, minor)
        if later and (known[1] == "compute" or of_kernels[0] == major):
            return ""
    return (
        f"this build of PyTorch has no kernels for {torch.cuda.get_device_name()} (compute "
        f"capability {major}.{minor}); an older build may have them: {GET_STARTED}"
    )


GET_STARTED = "https://pytorch.org/get-started/locally/"


def pick_device(wanted: str) -> torch.device:
    """``auto`` is CUDA, then MPS, then the CPU.

    Raises:
        InputError: the device asked for is not there.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if available["cuda"] and wanted != "cpu" and (reason := _unusable_card()):
        if wanted == "cuda":
            raise InputError(f"--device cuda: {reason}")
        print(f"NOTE: {reason}. Training on the CPU.", file=sys.stderr)
        available["cuda"] = False
    if wanted == "auto":
        wanted = next(kind for kind, there in available.items() if there)
    if not available[wanted]:
        usable = ", ".join(kind for kind, there in available.items() if there)
        raise InputError(f"--device {wanted}: PyTorch finds none here; allowed are auto, {usable}")
    cpu_only = torch.version.cuda is None and torch.version.hip is None
    if wanted == "cpu" and cpu_only and shutil.which("nvidia-smi"):
        print(
            "NOTE: this machine has an NVIDIA card, but the installed PyTorch was built without "
            f"CUDA. Training on the CPU. The way out: {GET_STARTED}",
            file=sys.stderr,
        )
    device = torch.device(wanted)
    if wanted == "cuda" and sys.platform == "win32":
        _keep_to_the_card(device)
    return device


def _keep_to_the_card(device: torch.device) -> None:
    """Let PyTorch ask for no more memory than the card has free.

    NVIDIA's driver for Windows gives the computer's own memory instead of an error, many times
    slower: no batch would ever be halved, and a training would crawl.
    Source: https://nvidia.custhelp.com/app/answers/detail/a_id/5490
    """
    free, total = torch.cuda.mem_get_info(device)
    usable = WINDOWS_SHARE * (free + torch.cuda.memory_reserved(device)) / total
    torch.cuda.set_per_process_memory_fraction(min(1.0, usable), device)
