"""docs/performance.md: each benchmark replaces its own section."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

from performance import HEAD, SECTIONS, table, write_section


def test_sections_stand_in_their_order_and_leave_the_others(tmp_path: Path):
    path = tmp_path / "performance.md"
    for name, text in ((SECTIONS[1], "## B\nold"), (SECTIONS[0], "## A"), (SECTIONS[1], "## B\nnew\\1\n\n")):
        write_section(path, name, text)
    content = path.read_text()
    assert content.startswith(HEAD)
    assert content.index("## A") < content.index("## B\nnew\\1\n<!-- end")
    assert "old" not in content


def test_an_unknown_section_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="legal"):
        write_section(tmp_path / "performance.md", "other", "")


def test_a_table_is_markdown():
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
