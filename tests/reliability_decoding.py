"""What becomes of damaged and hostile files, as a section of docs/reliability.md, printed.

usage: python tests/reliability_decoding.py [--mutants 20000]

The mutants are told by their numbers (tests/mutations.py), so that every run scans the same ones.
"""

from __future__ import annotations

import argparse
import collections
import re
import time

from mutations import SEED
from survey import FILES_PER_SCAN, Survey, survey_mutants, survey_shipped

COMMAND = "python tests/reliability_decoding.py"
COLUMNS = ("files", "rows", "ok", "skipped", "error", "files that cost a decoder process", "files without a row")


def section(mutants: int = 20_000) -> str:
    """Scan, and return the section."""
    started = time.monotonic()
    shipped, damaged = survey_shipped(), survey_mutants(mutants)
    minutes = (time.monotonic() - started) / 60
    return "\n".join(
        (
            "## Damaged and hostile files",
            f"`{COMMAND} --mutants {mutants}` scanned every file that pydicom ships and {mutants} mutants of sound",
            "files: DICOM in every transfer syntax that is read, PNG, JPEG, zips and DICOMDIRs with bits flipped,",
            "bytes and lengths overwritten, ends cut off, pieces zeroed, repeated or spliced in from one another.",
            f"Seed {SEED}, two decoder processes, {minutes:.0f} minutes.",
            "",
            f"| | {' | '.join(COLUMNS)} |",
            f"|---|{'---|' * len(COLUMNS)}",
            _row("pydicom's test files", shipped),
            _row("mutants", damaged),
            "",
            *_lost([*shipped.lost, *damaged.lost]),
            *_memory(damaged),
        )
    )


def _row(name: str, found: Survey) -> str:
    statuses = (found.rows[status] for status in ("ok", "skipped", "error"))
    figures = (found.files, sum(found.rows.values()), *statuses, len(found.lost), len(found.without_row))
    return f"| {name} | {' | '.join(str(figure) for figure in figures)} |"


def _lost(lost: list[tuple[str, str]]) -> list[str]:
    if not lost:
        return ["No file crashed its decoder or outlasted its time."]
    kinds = collections.Counter((re.sub(r"^\d+-", "", name).rpartition(".")[0], reason) for name, reason in lost)
    found = [f"{name}: {reason} ({count})" for (name, reason), count in sorted(kinds.items())]
    head = "What cost a decoder process, by the file that was damaged (each has its error row):"
    return [head, "", *(f"- {line}" for line in found)]


def _memory(found: Survey) -> list[str]:
    if len(found.memory) < 2:
        return []
    first, last = (found.memory[at] / 2**20 for at in (0, -1))
    return [
        "",
        f"The scanning process held {first:.0f} MiB after the first {FILES_PER_SCAN} mutants, {last:.0f} MiB after the",
        f"last, {max(found.memory) / 2**20:.0f} MiB at most.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=20_000)
    print(section(parser.parse_args().mutants))


if __name__ == "__main__":
    main()
