"""Measurements: `python -m benchmarks.NAME`."""

import chestlab  # noqa: F401  # before PyTorch, for which it sets environment variables
