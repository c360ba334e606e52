"""Studies: each a question with a page in `results/` as its answer; `python -m studies.NAME`."""

import chestlab  # noqa: F401  # which sets environment variables that PyTorch reads when loaded
