"""Studies: each a question with a page in `results/` as its answer; `python -m studies.NAME`."""
