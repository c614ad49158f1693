"""Check that a wheel holds every file of the package and nothing else: `python tests/check_wheel.py FILE.whl`."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

FOLDERS = {"scanner": "hemoscan", "trainer": "hemoscan/trainer", "weights": "hemoscan/weights"}


def main(wheel: Path) -> int:
    root = Path(__file__).parents[1]
    command = ["git", "ls-files", *FOLDERS]
    tracked = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.split()  # noqa: S603
    parts = [line.partition("/") for line in tracked]
    expected = {f"{FOLDERS[folder]}/{rest}" for folder, _, rest in parts}
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    for name in sorted(expected - found):
        print(f"missing from the wheel: {name}")
    for name in sorted(found - expected):
        print(f"not a file of the package: {name}")
    print(f"{wheel.name}: {len(found)} files, {wheel.stat().st_size / 2**20:.1f} MiB")
    return int(found != expected)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
