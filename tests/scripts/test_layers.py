"""What `lint-imports` does not see: the scripts at the top level, which belong to no package."""

from __future__ import annotations

import ast

import pytest
from conftest import ROOT

SCRIPTS = sorted(ROOT.glob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_uses_neither_studies_nor_benchmarks_nor_tests(path):
    above = {folder.name for folder in (ROOT / "studies", ROOT / "benchmarks", ROOT / "tests")}
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Import):
            imported |= {name.name.split(".")[0] for name in node.names}
    assert not imported & above


def test_the_contracts_name_every_script():
    contracts = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert [path.stem for path in SCRIPTS if f'"{path.stem}"' not in contracts] == []
