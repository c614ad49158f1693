"""Runs the long checks of unattended scans and writes what they counted to docs/reliability.md.

    python tests/reliability.py [--only NAME] [--scale 0.1]

A section that is not run keeps its text, with the command and the counts of when it was.
"""

from __future__ import annotations

import argparse
import collections
import re
import signal
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

from survey import Survey, survey_mutants, survey_shipped
from unattended import Nursery, Setting, arrive, fill_up, interrupt, start_together

from hemoscan.machine import describe_machine

DOCUMENT = Path(__file__).parents[1] / "docs" / "reliability.md"
WIDTH = 140
HEAD = """# What unattended runs were put through

Written by `python tests/reliability.py`: each section has its command, and counts, not promises. Scans have an engine
that scores by the mean; those that are interrupted run in processes of their own, where it notes every image it is
given. Everything else is the real program. A few of each check run with every `pytest`, as many as here with
`pytest -m slow`.
"""

Check = Callable[[Path, float], dict[str, int]]
SECTIONS: dict[str, tuple[str, str, Check]] = {}


def section(name: str, title: str, text: str) -> Callable[[Check], Check]:
    """Register a check: it is given an empty folder and a scale, 1 for the full counts, and returns what it counted."""

    def register(check: Check) -> Check:
        SECTIONS[name] = (title, text, check)
        return check

    return register


def times(count: int, scale: float) -> int:
    return max(1, round(count * scale))


@section(
    "kill",
    "Killed at random moments",
    """Scans of 40 slices are ended by `kill -9` after a random time, up to three times each, then resumed. The final
    CSVs are compared byte for byte with those of a scan that nobody interrupted. A kill loses the batch (here of 4
    slices) that is being scored: those are scored twice. What was kept is never scored again.""",
)
def kill(folder: Path, scale: float) -> dict[str, int]:
    with Nursery(folder) as nursery:
        return dict(interrupt(Setting(folder, nursery), signal.SIGKILL, times(50, scale)))


@section(
    "terminate",
    "Terminated at random moments",
    """The same with SIGTERM: the batch is finished, the exit code is 143, and no slice is scored twice.""",
)
def terminate(folder: Path, scale: float) -> dict[str, int]:
    with Nursery(folder) as nursery:
        return dict(interrupt(Setting(folder, nursery), signal.SIGTERM, times(50, scale)))


@section(
    "together",
    "Two runs started together",
    """Two scans with one state are started at the same moment: one scans, the other exits 75 and names the holder of
    the lock.""",
)
def together(folder: Path, scale: float) -> dict[str, int]:
    with Nursery(folder) as nursery:
        return dict(start_together(Setting(folder, nursery), times(20, scale)))


@section(
    "full",
    "A file system that fills up",
    """Outputs and state lie on a tmpfs of 4 KiB, 12 KiB and so on up to where all of it fits, so that it is full at
    another stage each time. Then it is given room, and the scan is resumed.""",
)
def full(folder: Path, scale: float) -> dict[str, int]:
    pages = range(1, 48, 2 if scale >= 1 else 6)
    with Nursery(folder) as nursery:
        return dict(fill_up(Setting(folder, nursery), [4096 * count for count in pages]))


@section(
    "nightly",
    "Files that arrive during scans",
    """200 studies of 2 slices arrive, each file written in two parts, while the folder is scanned five times. After a
    last scan every slice has one result, and the CSV equals that of a one-shot scan byte for byte.""",
)
def nightly(folder: Path, scale: float) -> dict[str, int]:
    with Nursery(folder) as nursery:
        return dict(arrive(Setting(folder, nursery), times(200, scale), 5))


@section(
    "shipped",
    "The test files of pydicom",
    """Every file that pydicom ships for its own tests is scanned, with two decoder processes.""",
)
def shipped(folder: Path, scale: float) -> dict[str, int]:
    return tally(survey_shipped())


@section(
    "mutants",
    "Damaged and hostile files",
    """Sound files (DICOM in every transfer syntax that is read, PNG, JPEG, zips and DICOMDIRs) are damaged: bits
    flipped, bytes and lengths overwritten, ends cut off, pieces zeroed, repeated or spliced in from one another. Each
    is told by its number (tests/mutations.py), so that every run scans the same ones, with two decoder processes. What
    crashes its decoder, or outlasts its time, has an error row like any other that cannot be read.""",
)
def mutants(folder: Path, scale: float) -> dict[str, int]:
    return tally(survey_mutants(times(20_000, scale)))


def tally(found: Survey) -> dict[str, int]:
    """Return what became of files, and of the scanning process's memory where there were several scans."""
    counts = {"files": found.files, "rows": found.rows.total(), "files without a row": len(found.without_row)}
    counts |= {f"rows `{status}`": found.rows[status] for status in ("ok", "skipped", "error")}
    counts["files that cost a decoder process"] = len(found.lost)
    counts |= collections.Counter(f"of these: {reason}" for _, reason in sorted(found.lost))
    if len(found.memory) > 1:
        held = [size // 2**20 for size in found.memory]
        counts |= {
            "MiB held after the first scan": held[0],
            "MiB held after the last": held[-1],
            "MiB at most": max(held),
        }
    return counts


def report(name: str, scale: float) -> str:
    """Run a check and return its section."""
    title, text, check = SECTIONS[name]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        counts = check(Path(folder), scale)
    command = f"python tests/reliability.py --only {name}" + ("" if scale == 1 else f" --scale {scale:g}")
    rows = [f"| {what} | {count} |" for what, count in counts.items()]
    took = f"`{command}`, {time.monotonic() - began:.0f} s on {describe_machine()['processor']}."
    wrapped = textwrap.fill(" ".join(text.split()), WIDTH)
    return "\n".join([f"## {title}", wrapped, "", "| counted | |", "|---|---|", *rows, "", took, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=SECTIONS, action="append", help="the others keep their text")
    parser.add_argument("--scale", type=float, default=1.0, help="of the counts")
    options = parser.parse_args()
    before = DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.exists() else HEAD
    kept = {part.split("\n", 1)[0]: f"## {part}" for part in re.split(r"^## ", before, flags=re.MULTILINE)[1:]}
    for name in options.only or SECTIONS:
        try:
            kept[SECTIONS[name][0]] = report(name, options.scale)
        except PermissionError as error:
            print(f"{name}: left as it is: {error}", file=sys.stderr)
        else:
            DOCUMENT.write_text("\n".join([HEAD, *(text.rstrip() + "\n" for text in kept.values())]), encoding="utf-8")


if __name__ == "__main__":
    main()
