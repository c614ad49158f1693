"""The config file: every option of scan, the command line wins, wrong ones are told."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from hemoscan.cli import scan
from hemoscan.errors import OptionError


def parse(tmp_path: Path, text: str, *arguments: str) -> dict[str, object]:
    (tmp_path / "c.toml").write_text(text, encoding="utf-8")
    return scan.make_context("scan", ["--config", str(tmp_path / "c.toml"), *arguments]).params


ALL = """
paths = ["a", "b"]
output = "new/flags.csv"
model = "resnet-base"
device = "cpu"
engine = "torch"
precision = "fp32"
batch-size = 3
workers = 2
file-timeout = 20
threads = 1
threshold = 0.25
operating-point = "sensitive"
calibration = "site.json"
window = [40, 80]
png-window = "40,80"
repair-12bit = false
ray = "head:6379"
limit = 5
rescan = true
settle = 1.5
order = "newest"
time-budget = 60
prune = true
identifiers = true
state = "s.sqlite"
html = "page.html"
heatmaps = "maps"
jsonl = "rows.jsonl"
stale-after = 2
log-file = "l.log"
log-format = "json"
verbose = 2
quiet = true
"""


def test_every_option_can_be_set(tmp_path: Path):
    found = parse(tmp_path, ALL)
    assert found.pop("config") == tmp_path / "c.toml"
    assert found == {
        "paths": (Path("a"), Path("b")),
        "output": Path("new/flags.csv"),
        "model": "resnet-base",
        "device": "cpu",
        "engine": "torch",
        "precision": "fp32",
        "batch_size": 3,
        "workers": 2,
        "file_timeout": 20.0,
        "threads": 1,
        "threshold": 0.25,
        "operating_point": "sensitive",
        "calibration": Path("site.json"),
        "window": (40, 80),
        "png_window": (40, 80),
        "repair_12bit": False,
        "ray": "head:6379",
        "limit": 5,
        "rescan": True,
        "settle": 1.5,
        "order": "newest",
        "time_budget": 60,
        "prune": True,
        "identifiers": True,
        "state": Path("s.sqlite"),
        "html": Path("page.html"),
        "heatmaps": Path("maps"),
        "jsonl": Path("rows.jsonl"),
        "stale_after": 2.0,
        "log_file": Path("l.log"),
        "log_format": "json",
        "verbose": 2,
        "quiet": True,
    }


def test_no_option_is_forgotten_above(tmp_path: Path):
    options = {param.name for param in scan.params} - {"config", "help"}
    assert options <= set(parse(tmp_path, ALL))
    assert all(f"{str(name).replace('_', '-')} = " in ALL for name in options)


def test_the_command_line_wins(tmp_path: Path):
    found = parse(tmp_path, ALL, "c", "--batch-size", "9", "--resume", "--repair-12bit", "--threshold", "0.5")
    assert found["paths"] == (Path("c"),)
    assert (found["batch_size"], found["rescan"], found["repair_12bit"], found["threshold"]) == (9, False, True, 0.5)
    assert found["model"] == "resnet-base"


@pytest.mark.parametrize(("text", "rescan"), [("resume = true", False), ("resume = false", True), ("", False)])
def test_a_switch_has_two_names(tmp_path: Path, text: str, rescan: bool):
    assert parse(tmp_path, text, "a")["rescan"] == rescan


def test_one_path_needs_no_list(tmp_path: Path):
    assert parse(tmp_path, 'paths = "/data/inbox"')["paths"] == (Path("/data/inbox"),)


@pytest.mark.parametrize("text", ["surprise = 1", "[scan]\noutput = 'a'", "config = 'a'", "help = true", "o = 'a'"])
def test_an_unknown_option_is_told_with_the_legal_ones(tmp_path: Path, text: str):
    with pytest.raises(
        OptionError, match=r"c\.toml: \w+: no such option; legal: batch-size, calibration, device, .*, workers"
    ):
        parse(tmp_path, text, "a")


@pytest.mark.parametrize(
    "text",
    [
        "batch-size = 2.5",
        "batch-size = true",
        "batch-size = 0",
        "threshold = 2",
        "quiet = 7",
        "order = 'size'",
        "window = [1, 2, 3]",
        "settle = -1",
        "time-budget = nan",
    ],
)
def test_a_wrong_value_is_wrong_usage(tmp_path: Path, text: str):
    with pytest.raises(click.UsageError):
        parse(tmp_path, text, "a")


@pytest.mark.parametrize("text", ["output = ", "a" * 10, "\x00"])
def test_what_is_no_toml_is_told(tmp_path: Path, text: str):
    with pytest.raises(OptionError, match=r"c\.toml: not TOML: "):
        parse(tmp_path, text, "a")


def test_a_file_that_is_not_there_is_told(tmp_path: Path):
    with pytest.raises(OptionError, match="cannot be read"):
        scan.make_context("scan", ["--config", str(tmp_path / "absent.toml"), "a"])


def test_paths_are_still_needed(tmp_path: Path):
    with pytest.raises(click.MissingParameter):
        parse(tmp_path, "batch-size = 2")
