"""The command line's ways to a worklist page: `scan --html`, `--heatmaps`, `--jsonl`, and `report`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import MappingEngine, invoke


def test_a_scan_and_reports_of_it(epidural: Path, card_path: Path, tmp_path: Path, mapping_engine: MappingEngine):
    output, state, page = tmp_path / "out.csv", tmp_path / "state.sqlite", tmp_path / "list.html"
    options = ("-m", card_path, "-d", "cpu", "--threshold", "0.4", "--stale-after", "2", "--state", state)
    extras = ("--html", page, "--heatmaps", tmp_path / "maps", "--jsonl", tmp_path / "out.jsonl")
    result = invoke("scan", epidural, "-o", output, *options, *extras)
    assert result.exit_code == 0, result.output
    assert f"page      {page}" in result.output
    text = page.read_text(encoding="utf-8")
    pictures = text.count("data-picture=")
    assert 0 < pictures == len(list((tmp_path / "maps").iterdir()))
    assert 'data-stale-after="2.0"' in text
    assert len((tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()) == 8
    assert json.loads(output.with_suffix(".run.json").read_text(encoding="utf-8"))["arguments"]["html"] == str(page)

    result = invoke("report", output)
    assert result.exit_code == 0, result.output
    assert f"1 studies, 1 flagged: {tmp_path / 'out.html'}" in result.output
    assert (tmp_path / "out.html").read_text(encoding="utf-8").count("data-picture=") == pictures

    mapping_engine.mapped.clear()
    result = invoke("report", "--state", state, "-m", card_path, "--threshold", "0", "-o", tmp_path / "state.html")
    assert result.exit_code == 0, result.output
    assert mapping_engine.mapped == [8]
    mapping_engine.mapped.clear()
    result = invoke("report", "--state", state, "-m", card_path, "-o", tmp_path / "none.html", "--no-pictures")
    assert result.exit_code == 0, result.output
    assert mapping_engine.mapped == []


@pytest.mark.parametrize("folder", [".", "maps"])
def test_overlays_are_not_laid_where_the_next_scan_would_find_them(epidural: Path, card_path: Path, folder: str):
    result = invoke(
        "scan", epidural, "-m", card_path, "-d", "cpu", "-o", epidural / "out.csv", "--heatmaps", epidural / folder
    )
    assert result.exit_code == 2
    assert "lies in what is scanned, so would be scanned; legal: a folder elsewhere" in result.output
    assert not (epidural / "maps").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("report",), "hemoscan.run.json: the run record of hemoscan.csv cannot be read: No such file"),
        (("report", "a.csv", "--state", "b"), "legal: one of them"),
        (("report", "a.csv", "--threshold", "0.5"), "legal: with --state"),
        (("report", "--state", "none.sqlite"), "none.sqlite: cannot be read: No such file"),
        (("report", "--stale-after", "0"), "legal: hours, above 0"),
        (("scan", ".", "--stale-after", "nan"), "legal: hours, above 0"),
    ],
)
def test_wrong_usage_says_what_is_legal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
):
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
    assert not list(tmp_path.iterdir())


def test_a_report_by_another_model_is_refused(epidural: Path, card_path: Path, tmp_path: Path):
    invoke("scan", epidural, "-m", card_path, "-d", "cpu", "-o", tmp_path / "out.csv")
    record = tmp_path / "out.run.json"
    content = json.loads(record.read_text(encoding="utf-8"))
    record.write_text(json.dumps({**content, "sha256": "1" * 64}), encoding="utf-8")
    result = invoke("report", tmp_path / "out.csv")
    assert result.exit_code == 2
    assert "scored by other weights than those of densenet-bias" in result.output
