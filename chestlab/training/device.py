"""What the device decides: number format of a forward pass, and whether freed memory is kept."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys

import torch

from recipe import Recipe

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def resolve_amp(recipe: Recipe, device: torch.device) -> torch.dtype | None:
    """The mixed-precision type of a run, None for float32 throughout.

    ``auto`` is bf16 on a CUDA device that has it natively and fp16 with loss scaling on one that
    does not; on a CPU bf16 where the processor has it and the recipe was measured faster with it.
    """
    if recipe.amp != "auto":
        return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[recipe.amp]
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if native else torch.float16
    if device.type == "cpu" and recipe.cpu_bf16 and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.bfloat16
    return None


def autocast(device: torch.device, amp: torch.dtype | None) -> contextlib.AbstractContextManager:
    """The context of a forward pass."""
    return torch.autocast(device.type, amp) if amp else contextlib.nullcontext()


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
