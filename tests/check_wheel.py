"""Check that a wheel holds every file of the package, nothing else, and what is installed, which the tests ran on.

usage: python tests/check_wheel.py FILE.whl
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import hemoscan

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
    site = Path(hemoscan.__file__).parents[1]
    with zipfile.ZipFile(wheel) as archive:
        other = [name for name in sorted(found) if archive.read(name) != (site / name).read_bytes()]
    for name in other:
        print(f"differs from the installed file: {name}")
    print(f"{wheel.name}: {len(found)} files, {wheel.stat().st_size / 2**20:.1f} MiB")
    return int(found != expected or bool(other))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
