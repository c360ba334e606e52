"""Ways to damage a file, and a pickle that runs a command, for the tests of reading files."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path


class Payload:
    """Unpickled, it runs a command that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f'echo ran > "{self.path}"',)


def truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 1, 1, 2, 8, 64])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def flip_bits_at_the_end(data: bytearray, rng: random.Random) -> None:
    """Where a zip has its directory, of which every field counts."""
    for _ in range(rng.choice([1, 1, 2])):
        data[-rng.randrange(1, min(len(data), 1200))] ^= 1 << rng.randrange(8)


def zero_block(data: bytearray, rng: random.Random) -> None:
    start, length = rng.randrange(len(data)), rng.choice([1, 16, 512, 4096])
    data[start : start + length] = bytes(len(data[start : start + length]))


def random_block(data: bytearray, rng: random.Random) -> None:
    start, length = rng.randrange(len(data)), rng.choice([1, 4, 64, 512])
    data[start : start + length] = rng.randbytes(len(data[start : start + length]))


def remove_block(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.choice([1, 16, 512])]


def repeat_block(data: bytearray, rng: random.Random) -> None:
    start, length = rng.randrange(len(data)), rng.choice([1, 16, 512])
    data[start:start] = data[start : start + length]


def swap_blocks(data: bytearray, rng: random.Random) -> None:
    length = rng.choice([16, 512, 2048])
    one, other = (rng.randrange(0, len(data) - length) for _ in range(2))
    data[one : one + length], data[other : other + length] = (
        data[other : other + length],
        data[one : one + length],
    )


def extreme_number(data: bytearray, rng: random.Random) -> None:
    """A length, offset or size of some header becomes the largest or an odd one."""
    value = rng.choice([0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFF, 1, 0])
    start = rng.randrange(len(data) - 4)
    data[start : start + 4] = struct.pack("<I", value)


BYTE_MUTATIONS = (
    truncate,
    flip_bits,
    flip_bits_at_the_end,
    zero_block,
    random_block,
    remove_block,
    repeat_block,
    swap_blocks,
    extreme_number,
)
