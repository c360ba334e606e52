"""Figures and pages."""

from __future__ import annotations

import os
import sys


def _load_matplotlib_despite_its_backend() -> None:
    """Import matplotlib also where ``MPLBACKEND`` holds a name that it refuses.

    Figures are drawn on Agg canvases and need no backend, but matplotlib cannot be imported while
    that variable holds an unknown one. A known one is kept, for a notebook's own figures.
    """
    name = os.environ.get("MPLBACKEND", "")
    always_known = name.lower() in ("", "agg") or name.startswith("module://")
    if always_known or "matplotlib" in sys.modules:
        return
    del os.environ["MPLBACKEND"]
    import matplotlib

    try:
        matplotlib.rcParams["backend"] = name  # as its import does
    except ValueError:
        print(f"NOTE: MPLBACKEND '{name}' is no backend of matplotlib: ignored", file=sys.stderr)
    else:
        os.environ["MPLBACKEND"] = name


_load_matplotlib_despite_its_backend()
