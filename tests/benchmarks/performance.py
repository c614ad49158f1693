"""docs/performance.md, docs/robustness.md: sections that benchmarks write, each its own, leaving the others alone."""

from __future__ import annotations

import re
from pathlib import Path

SECTIONS = (
    "scan",
    "growth",
    "start",
    "first",
    "workers",
    "heatmaps",
    "page",
    "decoding",
    "engines",
    "parity",
    "int8",
)
HEAD = """# Performance

Every section is written by the command that it names, on the machine that it names. What a GPU or a processor with bf16
does stands here only where a section names one; the commands for a GPU are `tests/benchmarks/workers.py --device cuda`
and `tests/benchmarks/training_speed.py`.
"""
ROBUSTNESS_SECTIONS = ("changed", "ablation", "strangers")
ROBUSTNESS_HEAD = """# On other hospitals' slices

What a model's AUC loses where slices look otherwise, and what it was not trained for. Every section is written by the
command that it names. The slices are of one data set, without patient ids: all figures are optimistic, and for other
scanners they are a stand-in; [your own slices](evaluation.md) tell.
"""


def write_section(path: Path, name: str, text: str, sections: tuple[str, ...] = SECTIONS, head: str = HEAD) -> None:
    """Put a section into the file, in the order of `sections`; `text` is Markdown that starts with a heading."""
    if name not in sections:
        raise ValueError(f"section {name!r}; legal: {', '.join(sections)}")
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    found = dict(re.findall(r"<!-- begin (\w+) -->\n(.*?)<!-- end \1 -->", old, flags=re.DOTALL))
    found[name] = text.strip() + "\n"
    parts = [f"<!-- begin {key} -->\n{found[key]}<!-- end {key} -->\n" for key in sections if key in found]
    path.write_text("\n".join([head, *parts]), encoding="utf-8")


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def machine_line() -> str:
    """Return what the figures were measured on."""
    from hemoscan.machine import describe_machine

    found = describe_machine()
    packages, sets = found["packages"], found["instruction_sets"]
    assert isinstance(packages, dict)
    assert isinstance(sets, list)
    versions = ", ".join(f"{name} {packages[name]}" for name in ("torch", "openvino"))
    return f"{found['processor']}, {found['cores']} cores, {', '.join(sets) or 'no vector sets known'}; {versions}"
