"""The pages on bad input say nothing that no test holds."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGES = [TESTS.parent / "docs" / name for name in ("bad-input.md", "bad-input-training.md")]
LINES = [
    line
    for page in PAGES
    for line in page.read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| input |")
]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in LINES]


def test_each_input_is_told_of_once() -> None:
    assert len(ROWS) > 60
    assert all(len(row) == 3 for row in ROWS)
    assert max(Counter(row[0] for row in ROWS).values()) == 1


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_a_row_is_held_by_a_test(row: list[str]) -> None:
    file, name = re.fullmatch(r"`([\w/]+\.py)::(test_\w+)`", row[2]).groups()
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
