"""docs/performance.md: each benchmark replaces its own section."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

from performance import HEAD, SECTIONS, table, write_section

BENCHMARKS = Path(__file__).parent / "benchmarks"
IMPORT = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"


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


@pytest.mark.skipif(find_spec("psutil") is None, reason="the benchmarks' psutil is not installed")
def test_every_benchmark_can_be_imported():
    names = sorted(path.stem for path in BENCHMARKS.glob("*.py"))
    assert names
    command = [sys.executable, "-c", IMPORT, *names]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    assert not done.returncode, done.stderr
