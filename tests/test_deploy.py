"""The examples of docs/deploy.md: the cron line's command and the config file are run, the units verified."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hemoscan.card import Model
from hemoscan.phantom import make_phantom, write_dicom

PAGE = Path(__file__).parents[1] / "docs" / "deploy.md"
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def block(start: str) -> str:
    """Return the page's only block of code that holds a text."""
    (found,) = [text for _, text in BLOCKS if start in text]
    return found


@pytest.fixture
def program() -> Path:
    found = Path(sys.executable).parent / "hemoscan"
    if not found.exists():
        pytest.skip("hemoscan is not installed beside this Python")
    return found


@pytest.mark.skipif(sys.platform == "win32", reason="cron")
def test_the_cron_line_runs_as_cron_would_run_it(program: Path, untrained: Model, tmp_path: Path):
    inbox = tmp_path / "inbox"
    write_dicom(make_phantom("epidural", size=64, slices=8), inbox)
    config = block("/etc/hemoscan.toml\npaths")
    for old, new in {"/srv/pacs/inbox": inbox, "/srv/hemoscan": tmp_path / "out", "/var/log": tmp_path / "log"}.items():
        assert old in config
        config = config.replace(old, str(new))
    config += f'model = "{untrained.folder / "untrained.json"}"\n'
    (tmp_path / "hemoscan.toml").write_text(config.replace("settle = 120", "settle = 0"), encoding="utf-8")
    command = block("*/10 * * * *").split(" ", 5)[5].strip()
    command = command.replace("/opt/hemoscan/bin/hemoscan", str(program))
    command = command.replace("/etc/hemoscan.toml", str(tmp_path / "hemoscan.toml"))
    environment = [f"HOME={tmp_path}", "PATH=/usr/bin:/bin", "SHELL=/bin/sh", "LOGNAME=nobody"]
    for _ in range(2):
        run = subprocess.run(  # noqa: S603
            ["/usr/bin/env", "-i", *environment, "/bin/sh", "-c", command],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert (run.returncode, run.stdout) == (0, ""), run.stderr
        assert len(run.stderr.splitlines()) == 1, "the notice alone is mailed"
    with (tmp_path / "out" / "flags.csv").open(newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["ok"] * 8
    assert list((tmp_path / ".local/state/hemoscan").glob("*.sqlite"))
    assert "8 files known from earlier runs" in (tmp_path / "log/hemoscan/scan.log").read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze")
def test_the_units_are_sound(tmp_path: Path):
    for name in ("hemoscan.service", "hemoscan.timer"):
        text = block(f"/etc/systemd/system/{name}\n").replace("/opt/hemoscan/bin/hemoscan", shutil.which("true") or "")
        (tmp_path / name).write_text(text, encoding="utf-8")
    program = shutil.which("systemd-analyze") or ""
    run = subprocess.run(  # noqa: S603
        [program, "verify", *map(str, sorted(tmp_path.iterdir()))], capture_output=True, text=True, check=False
    )
    ours = [line for line in run.stderr.splitlines() if "hemoscan" in line]
    assert (run.returncode, ours) == (0, []), run.stderr


def test_the_service_takes_the_exit_codes_of_a_run_that_went_well():
    assert "SuccessExitStatus=3 4 75 143\n" in block("hemoscan.service")
