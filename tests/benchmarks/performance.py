"""docs/performance.md: sections that benchmarks write, each replacing its own and leaving the others as they are."""

from __future__ import annotations

import re
from pathlib import Path

SECTIONS = ("scan", "heatmaps", "page", "engines", "parity")
HEAD = """# Performance

Every section is written by the command that it names, on the machine that it names.
"""


def write_section(path: Path, name: str, text: str) -> None:
    """Put a section into the file, in the order of SECTIONS; `text` is Markdown that starts with a heading."""
    if name not in SECTIONS:
        raise ValueError(f"section {name!r}; legal: {', '.join(SECTIONS)}")
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    found = dict(re.findall(r"<!-- begin (\w+) -->\n(.*?)<!-- end \1 -->", old, flags=re.DOTALL))
    found[name] = text.strip() + "\n"
    parts = [f"<!-- begin {key} -->\n{found[key]}<!-- end {key} -->\n" for key in SECTIONS if key in found]
    path.write_text("\n".join([HEAD, *parts]), encoding="utf-8")


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
