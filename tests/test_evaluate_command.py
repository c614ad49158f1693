"""`hemoscan evaluate` on files: what is printed, written and drawn, and what is refused."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as sk
from click.testing import CliRunner, Result
from PIL import Image

from hemoscan.cli import cli
from hemoscan.results import SLICE_COLUMNS

PICTURES = {f"{kind}-slices.png" for kind in ("roc", "precision-recall", "reliability")}


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["evaluate", *(str(argument) for argument in arguments)])


def write(path: Path, header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


class Site:
    """Sixty slices of twenty studies, scored by a scan and by another tool, and labelled."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        self.folder, self.labels = folder, rng.random(60) < 0.3
        self.scores = np.round(np.clip(rng.normal(0.3 + 0.3 * self.labels, 0.2), 0, 1), 6)
        self.others = np.round(rng.normal(self.labels, 2), 3)
        self.flags = self.scores >= 0.4
        self.slices = folder / "flags.csv"
        rows = [self.row(i) for i in range(60)]
        rows += [("/ct/notes.txt", "", "", "", "", "", "", "", "", "skipped", "text", "m", "")]
        write(self.slices, SLICE_COLUMNS, rows)
        self.uids = write(
            folder / "l.csv", ("SOPInstanceUID", "label"), [(f"1.{i}", int(self.labels[i])) for i in range(60)]
        )
        self.tool = write(
            folder / "tool.csv", ("path", "score"), [(f"{i // 3}/{i}.dcm", self.others[i]) for i in range(60)]
        )

    def row(self, i: int) -> tuple[Any, ...]:
        path, study = f"/ct/{i // 3}/{i}.dcm", f"2.{i // 3}"
        return (path, 1, study, "3.1", f"1.{i}", i, "", f"{self.scores[i]:.6f}", int(self.flags[i]), "ok", "", "m", "")

    def label_file(self, header: tuple[str, ...], *columns: list[Any]) -> Path:
        """Write labels by path, with further columns."""
        paths = [f"{i // 3}/{i}.dcm" for i in range(60)]
        rows = list(zip(paths, self.labels.astype(int), *columns, strict=True))
        return write(self.folder / "labels.csv", ("path", "label", *header), rows)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_slices_and_studies_of_a_scan(site: Site):
    result = invoke(
        site.slices, site.uids, "--bootstrap", 100, "-o", site.folder / "out" / "e.json", "--prevalence", 0.02
    )
    assert result.exit_code == 0, result.output
    found = json.loads((site.folder / "out" / "e.json").read_text(encoding="utf-8"))
    slices = found["slices"]["estimates"]
    assert slices["auc"]["value"] == pytest.approx(sk.roc_auc_score(site.labels, site.scores))
    assert slices["sensitivity"]["value"] == pytest.approx(sk.recall_score(site.labels, site.flags))
    assert slices["auc"]["low"] < slices["auc"]["value"] < slices["auc"]["high"]
    assert 0 < slices["ppv_at_0.02"]["value"] < slices["ppv"]["value"]
    studies = (site.labels.reshape(20, 3).max(1), site.scores.reshape(20, 3).max(1))
    assert found["studies"]["n"] == 20
    assert found["studies"]["estimates"]["auc"]["value"] == pytest.approx(sk.roc_auc_score(*studies))
    assert found["results"]["left_out"] == {"skipped": 1}
    assert found["bootstrap"] == {"resamples": 100, "seed": 0, "level": 0.95, "clusters": "study"}
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "60 scored, 1 skipped; flagged by: flags of the file" in result.stdout
    assert "joined with labels: 60 by SOPInstanceUID" in result.stdout
    assert "100 bootstrap draws of 20 studies" in result.stdout
    assert "where 0.02 are positive" in result.stdout


def test_the_same_files_give_the_same_output(site: Site):
    one, again, other = (invoke(site.slices, site.uids, "--bootstrap", 50, "--seed", seed).stdout for seed in (0, 0, 1))
    assert one == again
    assert one != other


def test_a_threshold_replaces_the_flags(site: Site):
    result = invoke(site.slices, site.uids, "--threshold", 0.55, "--bootstrap", 0, "-o", site.folder / "e.json")
    assert "flagged by: score >= 0.55" in result.stdout
    assert "bootstrap" not in result.stdout
    found = json.loads((site.folder / "e.json").read_text(encoding="utf-8"))["slices"]["estimates"]
    assert found["specificity"]["value"] == pytest.approx(sk.recall_score(~site.labels, site.scores < 0.55))
    assert found["auc"]["low"] is None


def test_patients_and_groups_of_the_labels(site: Site):
    patients, groups = [i // 6 for i in range(60)], ["north" if i < 40 else "south" for i in range(60)]
    labels = site.label_file(("patient", "site"), patients, groups)
    result = invoke(site.slices, labels, "--bootstrap", 50, "-o", site.folder / "e.json")
    assert result.exit_code == 0, result.output
    assert "50 bootstrap draws of 10 patients" in result.stdout
    assert "of fewer than 20 patients they are too narrow" in result.stdout
    assert "AUC, groups balanced" in result.stdout
    found = json.loads((site.folder / "e.json").read_text(encoding="utf-8"))["slices"]["groups"]
    north = found["north"]
    assert north["estimates"]["auc"]["value"] == pytest.approx(sk.roc_auc_score(site.labels[:40], site.scores[:40]))
    assert set(found) == {"north", "others"}
    assert "patient" not in json.dumps(found)


def test_a_study_s_name_need_be_unique_within_its_patient_only(site: Site):
    patients, studies = [i // 6 for i in range(60)], [i // 3 % 2 for i in range(60)]
    labels = site.label_file(("patient", "study"), patients, studies)
    assert invoke(site.slices, labels, "--bootstrap", 0, "-o", site.folder / "e.json").exit_code == 0
    found = json.loads((site.folder / "e.json").read_text(encoding="utf-8"))["studies"]
    assert (found["n"], found["clusters"]) == (20, 10)
    assert found["positives"] == site.labels.reshape(20, 3).any(1).sum()


def test_what_the_labels_do_not_know_may_be_empty(site: Site):
    """Of 20 studies of 3, those of the last ten have no patient, and the last has no study."""
    patients = [i // 6 if i < 30 else "" for i in range(60)]
    studies = [i // 3 if i < 57 else "" for i in range(60)]
    labels = site.label_file(("patient", "study"), patients, studies)
    result = invoke(site.slices, labels, "--bootstrap", 20, "-o", site.folder / "e.json")
    assert result.exit_code == 0, result.output
    assert "30 slices have no patient: they count with their study, else alone" in result.stdout
    found = json.loads((site.folder / "e.json").read_text(encoding="utf-8"))
    assert found["results"]["without_patient"] == 30
    assert found["slices"]["clusters"] == 5 + 9 + 3
    assert (found["studies"]["n"], found["studies"]["clusters"]) == (19, 5 + 9)


def test_a_slice_without_patient_is_of_its_study_s(site: Site):
    labels = site.label_file(("patient",), [i // 6 if i % 3 else "" for i in range(60)])
    result = invoke(site.slices, labels, "--bootstrap", 0, "-o", site.folder / "e.json")
    assert result.exit_code == 0, result.output
    assert json.loads((site.folder / "e.json").read_text(encoding="utf-8"))["slices"]["clusters"] == 10


def test_slices_without_group_are_among_the_others(site: Site):
    labels = site.label_file(("site",), ["north" if i < 40 else "" for i in range(60)])
    assert invoke(site.slices, labels, "--bootstrap", 0, "-o", site.folder / "e.json").exit_code == 0
    found = json.loads((site.folder / "e.json").read_text(encoding="utf-8"))["slices"]["groups"]
    assert {name: group["n"] for name, group in found.items()} == {"north": 40, "others": 20}


def test_a_site_named_others_is_kept_apart_from_the_small_groups(site: Site):
    labels = site.label_file(("site",), ["others" if i < 40 else "south" for i in range(60)])
    assert invoke(site.slices, labels, "--bootstrap", 0, "-o", site.folder / "e.json").exit_code == 0
    found = json.loads((site.folder / "e.json").read_text(encoding="utf-8"))["slices"]["groups"]
    assert {name: group["n"] for name, group in found.items()} == {"others": 40, "others (small groups)": 20}


def test_two_results_are_compared(site: Site):
    arguments = ["--compare", site.tool, "--compare-threshold", 0.5, "--bootstrap", 100, "-o", site.folder / "e.json"]
    result = invoke(site.slices, site.label_file(()), *arguments, "--plots", site.folder / "p")
    assert result.exit_code == 0, result.output
    found = json.loads((site.folder / "e.json").read_text(encoding="utf-8"))
    auc = found["comparison"]["slices"]["auc"]
    difference = sk.roc_auc_score(site.labels, site.others) - sk.roc_auc_score(site.labels, site.scores)
    assert auc["difference"]["value"] == pytest.approx(difference)
    assert auc["second"] - auc["first"] == pytest.approx(difference)
    assert 0 < auc["p"] <= 1
    assert set(found["comparison"]["studies"]) == set(found["comparison"]["slices"])
    assert "brier" not in found["comparison"]["slices"]
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert {path.name for path in (site.folder / "p").iterdir()} >= PICTURES - {"reliability-slices.png"}


def test_results_compared_with_themselves_are_no_different(site: Site):
    arguments = ["--compare", site.slices, "--bootstrap", 50, "-o", site.folder / "e.json"]
    assert invoke(site.slices, site.uids, *arguments).exit_code == 0
    found = json.loads((site.folder / "e.json").read_text(encoding="utf-8"))["comparison"]
    auc = found["slices"]["auc"]
    for level in ("slices", "studies"):
        for row in found[level].values():
            assert row["first"] == row["second"]
            assert row["difference"]["value"] == 0
            assert {row["difference"]["low"], row["difference"]["high"]} <= {0, None}
    assert found["slices"]["auc"] == {**auc, "difference": {"value": 0, "low": 0, "high": 0}, "p": 1}


def test_pictures_are_drawn(site: Site):
    result = invoke(site.slices, site.uids, "--bootstrap", 50, "--plots", site.folder / "p")
    assert result.exit_code == 0, result.output
    pictures = list((site.folder / "p").iterdir())
    assert {path.name for path in pictures} == PICTURES | {"roc-studies.png", "precision-recall-studies.png"}
    for path in pictures:
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 10, "something is drawn"
            assert image.text == {}, "no name of a machine or a file"


def test_one_label_alone_is_measured_as_far_as_it_goes(site: Site):
    site.labels[:] = False
    result = invoke(site.slices, site.label_file(()), "--bootstrap", 20, "--plots", site.folder / "p")
    assert result.exit_code == 0, result.output
    assert "AUC                                       -" in result.stdout
    assert {path.name for path in (site.folder / "p").iterdir()} == {"reliability-slices.png"}


def test_what_has_no_partner_is_counted_and_listed(site: Site):
    labels = write(site.folder / "l.csv", ("sop_uid", "label"), [("1.0", 1), ("1.1", 0), ("1.999", 0)])
    result = invoke(site.slices, labels, "--bootstrap", 20, "-v")
    assert "58 scores without label, 1 labels without score" in result.stdout
    assert "/ct/0/2.dcm" not in result.stdout
    assert f"without label in {labels}: /ct/0/2.dcm" in result.stderr
    assert f"without score in {site.slices}: 1.999" in result.stderr


def test_a_copy_counts_once_with_the_highest_score(site: Site):
    copies = [list(site.row(i)) for i in (3, 4)]
    for copy, score in zip(copies, ("0.000001", "0.999999"), strict=True):
        copy[0], copy[7], copy[8] = copy[0] + ".copy", score, int(float(score) > 0.5)
    with site.slices.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(copies)
    result = invoke(site.slices, site.uids, "--bootstrap", 0, "-v", "-o", site.folder / "e.json")
    assert result.exit_code == 0, result.output
    assert "2 scores of copies left out: the highest score of a slice counts" in result.stdout
    assert "without label" not in result.output
    found = json.loads((site.folder / "e.json").read_text(encoding="utf-8"))
    site.scores[4] = 0.999999
    assert (found["results"]["copies"], found["slices"]["n"]) == (2, 60)
    assert found["slices"]["estimates"]["auc"]["value"] == pytest.approx(sk.roc_auc_score(site.labels, site.scores))


def test_a_site_whose_letters_the_terminal_lacks_ends_nothing(site: Site):
    labels = site.label_file(("site",), ["\u5317" if i < 40 else "south" for i in range(60)])
    command = [sys.executable, "-m", "hemoscan", "evaluate", site.slices, labels, "--bootstrap", "0", "-o", "e.json"]
    run = subprocess.run(  # noqa: S603
        command, capture_output=True, check=False, cwd=site.folder, env={**os.environ, "PYTHONIOENCODING": "cp1252"}
    )
    assert run.returncode == 0, run.stderr
    assert rb"\u5317 (" in run.stdout
    assert "\u5317" in json.loads((site.folder / "e.json").read_text(encoding="utf-8"))["slices"]["groups"]


def test_figures_are_written_though_nobody_reads_the_text(site: Site, monkeypatch: pytest.MonkeyPatch):
    def closed(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("hemoscan.trainer.tabulate.tabulate", closed)
    assert isinstance(invoke(site.slices, site.uids, "-o", site.folder / "e.json").exception, BrokenPipeError)
    assert (site.folder / "e.json").is_file()


def test_no_patient_of_the_labels_is_printed_or_written(site: Site):
    labels = site.label_file(("patient",), [f"DOE^{i // 6}" for i in range(60)])
    result = invoke(site.slices, labels, "--bootstrap", 20, "-v", "-o", site.folder / "e.json")
    assert result.exit_code == 0
    assert "DOE" not in result.output + (site.folder / "e.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--threshold", "nan"), "legal: a finite number"),
        (("--prevalence", "1"), "0<x<1"),
        (("--prevalence", "nan"), "legal: a finite number"),
        (("--score-column", "ich"), "score column 'ich'; legal"),
        (("--bootstrap", "-1"), "--bootstrap"),
    ],
)
def test_wrong_options_are_wrong_usage(site: Site, arguments: tuple[str, ...], complaint: str):
    result = invoke(site.slices, site.uids, *arguments)
    assert result.exit_code == 2
    assert complaint in " ".join(result.stderr.split())


def test_what_is_read_is_never_overwritten(site: Site):
    before = site.slices.read_bytes()
    link = site.folder / "link.csv"
    link.hardlink_to(site.slices)
    beside = [site.folder / f"{name}{suffix}" for name in ("flags", "tool") for suffix in (".run.json", ".studies.csv")]
    for path in (site.slices, site.uids, site.tool, link, *beside):
        result = invoke(site.slices, site.uids, "--compare", site.tool, "-o", path)
        assert result.exit_code == 2
        assert "is read, too" in " ".join(result.stderr.split())
    assert site.slices.read_bytes() == before
    assert not any(path.exists() for path in beside)


def test_scores_without_flags_or_probabilities_need_a_threshold(site: Site):
    result = invoke(site.tool, site.label_file(()))
    assert result.exit_code == 2
    assert "--threshold" in " ".join(result.stderr.split())


@pytest.mark.parametrize("which", [0, 1])
def test_files_that_cannot_be_read_are_named(site: Site, which: int):
    files = [site.slices, site.uids]
    files[which] = site.folder / "none.csv"
    error = invoke(*files).exception
    assert type(error).__name__ == "DataError"
    assert "none.csv" in str(error)


def test_labels_of_other_slices_are_refused(site: Site):
    labels = write(site.folder / "l.csv", ("path", "label"), [("x/y.dcm", 1)])
    error = invoke(site.slices, labels).exception
    assert type(error).__name__ == "DataError"
    assert "no slice is in both" in str(error)
