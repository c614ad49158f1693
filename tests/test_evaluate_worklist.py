"""Studies of a scan are measured as its worklist has them; other studies by their highest slice."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from hemoscan.cli import cli
from hemoscan.outputs import restore
from hemoscan.reread import RECORD_KEYS
from hemoscan.results import Results
from hemoscan.slices import BONE_KERNEL, OUT_OF_DISTRIBUTION, Decoded, Identity, Row
from hemoscan.trainer.bootstrap import Bootstrap
from hemoscan.trainer.evaluate import AS_IN_WORKLIST, HIGHEST_SLICE, Outcome, Source, run_evaluation
from hemoscan.trainer.tabulate import tabulate

STUDIES, SLICES, BONE = 12, 14, 2
THRESHOLD, STUDY_THRESHOLD = 0.5, 0.6


def study_rows(study: int, rng: np.random.Generator, *, png: bool) -> list[Row]:
    """Return a series of twelve slices, the first of them strange, and two of a bone kernel that score high."""
    rows = []
    for i in range(SLICES):
        bone = i >= SLICES - BONE
        notes = (BONE_KERNEL,) if bone else (OUT_OF_DISTRIBUTION,) if i == 0 else ()
        probability = round(float(rng.uniform(0.9, 1) if bone else rng.uniform(0, 0.45 if i == 0 else 1)), 6)
        identity = Identity(f"1.{study}", f"1.{study}.{bone}", f"1.{study}.{bone}.{i}", i, 5.0 * i)
        if png:
            identity, notes = Identity(), ()
        decoded = Decoded(f"/ct/{study}/{i}.x", f"/ct/{study}", None, 1, identity, notes)
        rows.append(Row(decoded, probability, probability >= THRESHOLD, "densenet-bias"))
    return rows


class Scanned:
    """A scan of some studies with its labels, positive in every third study."""

    def __init__(self, folder: Path, *, png: bool = False, study_threshold: float | None = STUDY_THRESHOLD) -> None:
        rng = np.random.default_rng(0)
        self.folder, self.slices = folder, folder / "flags.csv"
        self.rows = [row for study in range(STUDIES) for row in study_rows(study, rng, png=png)]
        self.study_threshold = study_threshold
        self.publish()

    def publish(self) -> None:
        unread = Row(Decoded("/ct/0/note.txt", "/ct/0", None, status="error", reason="why"), None, None, "m")
        results = Results(self.slices, study_threshold=self.study_threshold)
        record = dict.fromkeys(RECORD_KEYS, "") | {"arguments": {}, "study_threshold": self.study_threshold}
        results.publish([unread, *self.rows], lambda: record)

    def spoil(self, study: int, *slices: int) -> None:
        """Make slices of a study unreadable."""
        for i in slices:
            row = self.rows[study * SLICES + i]
            self.rows[study * SLICES + i] = Row(replace(row.decoded, status="error", reason="why"), None, None, "m")
        self.publish()

    def labels_of_one_slice(self, *columns: str) -> Path:
        """Label the sixth slice of each third study positive, and no other."""
        path = self.folder / "labels.csv"
        lines = [",".join(["path", "label", *columns])]
        for at, row in enumerate(self.rows):
            study, i = divmod(at, SLICES)
            cells = [row.decoded.path, str(int(study % 3 == 0 and i == 5)), *[str(study) for _ in columns]]
            lines.append(",".join(cells))
        path.write_text("\n".join([*lines, ""]), encoding="utf-8")
        return path

    def labels(self, *columns: str, study: Callable[[int], Any] = str, every: int = 1) -> Path:
        path = self.folder / "labels.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", *columns])
            for at, row in enumerate(self.rows):
                number, i = divmod(at, SLICES)
                if i % every == 0:
                    writer.writerow([row.decoded.path, int(number % 3 == 0), *[study(number) for _ in columns]])
        return path

    def evaluate(self, labels: Path, **options: Any) -> Outcome:
        return run_evaluation(Source(self.slices, **options), labels, Bootstrap(0))

    def worklist(self) -> list[tuple[float, bool]]:
        """Return score and flag of each study as the scan wrote them, in the order of their names."""
        with self.slices.with_suffix(".studies.csv").open(encoding="utf-8", newline="") as file:
            rows = {restore(row["study_uid"]): row for row in csv.DictReader(file) if row["score"]}
        return [(float(rows[uid]["score"]), rows[uid]["flag"] == "1") for uid in sorted(rows)]


@pytest.fixture
def scanned(tmp_path: Path) -> Scanned:
    return Scanned(tmp_path)


def judged(outcome: Outcome) -> list[tuple[float, bool]]:
    assert outcome.study_sample is not None
    return list(zip(outcome.study_sample.scores.tolist(), outcome.study_sample.flags.tolist(), strict=True))


@pytest.mark.parametrize("study_threshold", [STUDY_THRESHOLD, None])
def test_studies_are_those_of_the_worklist(tmp_path: Path, study_threshold: float | None):
    scanned = Scanned(tmp_path, study_threshold=study_threshold)
    outcome = scanned.evaluate(scanned.labels())
    assert outcome.studies_by == AS_IN_WORKLIST
    assert judged(outcome) == scanned.worklist()
    assert judged(outcome) != judged(scanned.evaluate(scanned.labels(), threshold=THRESHOLD))
    assert outcome.study_sample is not None
    assert sorted(outcome.study_sample.labels.tolist()) == [0] * 8 + [1] * 4
    assert outcome.studies is not None
    assert outcome.studies.confusion["true_positives"] == int(
        (outcome.study_sample.flags & (outcome.study_sample.labels == 1)).sum()
    )


def test_slices_without_label_count_in_the_worklist(scanned: Scanned):
    outcome = scanned.evaluate(scanned.labels(every=7))
    assert (len(outcome.first.slices), outcome.studies_by) == (2 * STUDIES, AS_IN_WORKLIST)
    assert judged(outcome) == scanned.worklist()


def test_studies_of_the_labels_may_have_other_names(scanned: Scanned):
    """Names in the order of the UIDs, which is that of the worklist's here."""
    names = {number: f"{place:02}" for place, number in enumerate(sorted(range(STUDIES), key=lambda n: f"1.{n}"))}
    outcome = scanned.evaluate(scanned.labels("study", study=names.__getitem__))
    assert outcome.studies_by == AS_IN_WORKLIST
    assert judged(outcome) == scanned.worklist()


@pytest.mark.parametrize("columns", [(), ("study",)], ids=["the scan's", "the labels'"])
def test_a_study_stays_positive_though_its_positive_slice_has_no_score(scanned: Scanned, columns: tuple[str, ...]):
    labels = scanned.labels_of_one_slice(*columns)
    assert scanned.evaluate(labels).studies.positives == 4
    for study in range(0, STUDIES, 3):
        scanned.spoil(study, 5)
    found = scanned.evaluate(labels)
    assert (found.slices.positives, found.studies.positives) == (0, 4)
    assert found.studies.confusion["true_positives"] > 0
    assert (found.first.belongs.positive_unscored, found.first.belongs.positives_astray) == (0, 0)
    compared = run_evaluation(Source(scanned.slices), labels, Bootstrap(0), other=Source(scanned.slices)).compared
    assert compared.studies["sensitivity"].first == pytest.approx(1)


@pytest.mark.parametrize("columns", [(), ("study",)], ids=["the scan's", "the labels'"])
def test_a_positive_study_without_any_score_is_told(scanned: Scanned, columns: tuple[str, ...]):
    labels = scanned.labels_of_one_slice(*columns)
    scanned.spoil(3, *range(SLICES))
    found = scanned.evaluate(labels)
    assert (found.studies.n, found.studies.positives) == (STUDIES - 1, 3)
    assert found.first.belongs.positive_unscored == 1
    assert "  not counted: 1 positive study without a scored slice\n" in tabulate(found) + "\n"
    assert json.loads(found.to_json())["results"]["positive_studies_without_score"] == 1


def test_positives_of_which_no_row_tells_the_study_are_told(scanned: Scanned):
    labels = scanned.labels_of_one_slice()
    with labels.open("a", encoding="utf-8") as file:
        file.write("/ct/elsewhere/1.dcm,1\n/ct/elsewhere/2.dcm,0\n")
    found = scanned.evaluate(labels)
    assert found.first.belongs.positives_astray == 1
    assert "  not counted: 1 positive slice without score, of unknown study\n" in tabulate(found) + "\n"


@pytest.mark.parametrize("png", [False, True], ids=["uids", "folders"])
def test_studies_that_are_others_take_the_highest_slice(tmp_path: Path, png: bool):
    scanned = Scanned(tmp_path, png=png)
    outcome = scanned.evaluate(scanned.labels("study", study=lambda number: number // 2))
    assert outcome.studies_by == HIGHEST_SLICE
    probabilities = np.array([row.probability for row in scanned.rows]).reshape(STUDIES // 2, -1)
    assert judged(outcome) == [(value, value >= THRESHOLD) for value in probabilities.max(1).tolist()]
    assert outcome.not_as_in_worklist == f"the studies of the labels are not one to one those of {scanned.slices}"


def test_folders_are_the_studies_of_files_without_uid_where_the_labels_agree(tmp_path: Path):
    scanned = Scanned(tmp_path, png=True)
    outcome = scanned.evaluate(scanned.labels("study"))
    assert outcome.studies_by == AS_IN_WORKLIST
    assert judged(outcome) == scanned.worklist()
    assert scanned.evaluate(scanned.labels()).studies_by is None


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (None, "cannot be read: No such file"),
        ("{}", "lacks arguments"),
        ("no", "no run record of hemoscan"),
        pytest.param("[" * 200_000, "no run record of hemoscan", id="deep"),
    ],
)
def test_without_run_record_the_highest_slice_counts(scanned: Scanned, record: str | None, why: str):
    path = scanned.slices.with_suffix(".run.json")
    path.unlink()
    if record is not None:
        path.write_text(record, encoding="utf-8")
    outcome = scanned.evaluate(scanned.labels())
    assert outcome.studies_by == HIGHEST_SLICE
    assert outcome.not_as_in_worklist is not None
    assert re.search(rf"flags\.run\.json: .*{why}", outcome.not_as_in_worklist)


@pytest.mark.parametrize("threshold", ["much", "nan", [0.5], math.nan, math.inf, -0.1, 7, True, 10**400])
def test_a_record_that_holds_what_none_holds_is_none(scanned: Scanned, threshold: Any):
    path = scanned.slices.with_suffix(".run.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**record, "study_threshold": threshold}), encoding="utf-8")
    outcome = scanned.evaluate(scanned.labels())
    assert outcome.studies_by == HIGHEST_SLICE
    assert outcome.not_as_in_worklist == f"{path}: study_threshold is {threshold!r:.50}; legal: 0 to 1"


def test_an_instance_number_that_no_float_holds_is_told(scanned: Scanned):
    text = scanned.slices.read_text(encoding="utf-8")
    scanned.slices.write_text(text.replace(",5,25.", f",{'1' * 400},25.", 1), encoding="utf-8")
    outcome = scanned.evaluate(scanned.labels())
    assert outcome.studies_by == HIGHEST_SLICE
    assert outcome.not_as_in_worklist is not None
    assert "row 8: no CSV of slices by `hemoscan scan`: instance_number '111" in outcome.not_as_in_worklist
    assert len(outcome.not_as_in_worklist) < 400


def test_a_file_of_other_columns_takes_the_highest_slice(scanned: Scanned):
    with scanned.slices.open(encoding="utf-8", newline="") as file:
        rows = [row[1:7] + row[:1] + row[7:] for row in csv.reader(file)]
    with scanned.slices.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    assert scanned.evaluate(scanned.labels()).studies_by == HIGHEST_SLICE


def test_scores_that_are_not_the_scan_s_take_the_highest_slice(scanned: Scanned):
    lines = scanned.slices.read_text(encoding="utf-8").splitlines()
    text = "\n".join([f"{lines[0]},second", *(f"{line},0.25" for line in lines[1:]), ""])
    scanned.slices.write_text(text, encoding="utf-8")
    assert scanned.evaluate(scanned.labels(), score_column="second").studies_by == HIGHEST_SLICE
    assert scanned.evaluate(scanned.labels(), score_column="probability").studies_by == AS_IN_WORKLIST


def test_the_output_says_how_studies_are_judged(scanned: Scanned):
    json_path = scanned.folder / "e.json"
    arguments = ["evaluate", str(scanned.slices), str(scanned.labels()), "--bootstrap", "10", "-o", str(json_path)]
    result = CliRunner().invoke(cli, [*arguments, "--compare", str(scanned.slices)])
    assert result.exit_code == 0, result.output
    assert "  score and flag: as in the worklist\n" in result.stdout
    assert "  flagged (as in the worklist): TP" in result.stdout
    assert "  score and flag of both: highest slice, flagged if any slice is\n" in result.stdout
    found = json.loads(json_path.read_text(encoding="utf-8"))
    assert (found["studies_by"], found["comparison"]["studies_by"]) == (AS_IN_WORKLIST, HIGHEST_SLICE)
    result = CliRunner().invoke(cli, [*arguments, "--threshold", "0.5"])
    assert "  score and flag: highest slice, flagged if any slice is\n" in result.stdout
    assert "  flagged (score >= 0.5): TP" in result.stdout
    found = json.loads(json_path.read_text(encoding="utf-8"))
    assert (found["studies_by"], found["not_as_in_worklist"]) == (HIGHEST_SLICE, None), "as was asked for"
    scanned.slices.with_suffix(".run.json").unlink()
    result = CliRunner().invoke(cli, arguments)
    assert re.search(r"^  not as in the worklist: \.\.\..*: No such file or directory$", result.stdout, re.MULTILINE)
    assert json.loads(json_path.read_text(encoding="utf-8"))["not_as_in_worklist"].endswith("No such file or directory")
    assert max(map(len, result.stdout.splitlines())) <= 80
