"""What the training scripts share: `Recipe`, `hyperparameter` and `run`, and six packages below.

Each package uses only those before it: `files`, `data`, `evaluation`, `training`, `reporting`,
`runs`.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from chestlab.training.openmp import choose_waiting

if TYPE_CHECKING:
    from chestlab.runs.run import run
    from chestlab.training.recipe import Recipe, hyperparameter

# All are read when the libraries are loaded, and do nothing on other systems.
# What MPS lacks in this version of PyTorch is computed on the CPU:
# https://docs.pytorch.org/docs/stable/mps_environment_variables.html
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
# Intel's Fortran library, in Anaconda's SciPy for Windows, would end the process on Ctrl-C.
os.environ.setdefault("FOR_DISABLE_CONSOLE_CTRL_HANDLER", "1")
choose_waiting()

__all__ = ["Recipe", "hyperparameter", "run"]
_MODULES = {
    "run": "chestlab.runs.run",
    "Recipe": "chestlab.training.recipe",
    "hyperparameter": "chestlab.training.recipe",
}


def __getattr__(name: str) -> Any:
    """Import on first use: whoever needs a package alone should not wait for PyTorch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'chestlab' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULES[name]), name)
