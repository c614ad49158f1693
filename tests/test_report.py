"""`hemoscan experiments`, from run folders to document, pictures and submissions."""

from __future__ import annotations

import json
import re
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from run_folders import draw, drawn_folds, drawn_history, drawn_run, write_csv, write_run
from sklearn.metrics import f1_score, roc_auc_score
from trainer_data import FIRST_TRAINING_ID, FIRST_VALIDATION_ID, make_rows, write_data_set

from hemoscan.card import MODEL_NAMES
from hemoscan.cli import cli
from hemoscan.errors import DataError, ResultsError
from hemoscan.trainer import plots, report, row_figures
from hemoscan.trainer.baselines import BASELINES, baseline_logits, load_features
from hemoscan.trainer.bootstrap import Bootstrap
from hemoscan.trainer.published import PUBLISHED

HEADINGS = ("At 0.5", "Ranking, and at a chosen threshold", "How each was trained")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder without a data set, with few resamples and without the pictures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEMOSCAN_DATA", raising=False)
    monkeypatch.setattr(report, "save_picture", lambda figure, path: None)
    monkeypatch.setattr(row_figures, "BOOTSTRAP", Bootstrap(resamples=50))
    return tmp_path


@pytest.fixture
def pictures(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do write them."""
    monkeypatch.setattr(report, "save_picture", plots.save_picture)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["experiments", "--quiet", *arguments])


def document(*arguments: str, output: str = "docs/experiments.md") -> str:
    result = invoke(*arguments, "-o", output)
    assert result.exit_code == 0, result.output
    return Path(output).read_text(encoding="utf-8")


def section(text: str, recipe: str, name: str) -> str:
    """Return the part of a document that is about a recipe and an input."""
    (found,) = re.findall(rf"^## Recipe `{recipe}`, input `{name}`.*?(?=^## )", text, re.DOTALL | re.MULTILINE)
    return str(found)


def table(text: str, heading: str) -> list[list[str]]:
    """Return the rows of the table below a heading, the header left out."""
    lines = text.partition(f"# {heading}\n\n")[2].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def number(cell: str) -> float:
    return float(cell.split(maxsplit=1)[0])


def test_figures_are_those_of_the_logits(here: Path):
    labels, groups, logits = draw(400)
    write_run(
        here / "run",
        "densenet-weight",
        ids=[str(place) for place in range(400)],
        labels=labels.tolist(),
        groups=groups.tolist(),
        logits=logits.tolist(),
    )
    found = section(document("run"), "report", "brain")
    at_half = {tuple(row[:2]): row[2:] for row in table(found, HEADINGS[0])}
    ours = at_half["densenet-weight", "7 epochs from scratch, validation, cpu"]
    f1 = 100 * f1_score(labels, logits >= 0)
    assert number(ours[3]) == pytest.approx(f1, abs=0.0051)
    assert number(ours[0]) == pytest.approx(100 * ((logits >= 0) == labels).mean(), abs=0.0051)
    ranking = next(row for row in table(found, HEADINGS[1]) if row[0] == "densenet-weight")
    assert number(ranking[2]) == pytest.approx(roc_auc_score(labels, logits), abs=0.00051)
    low, high = map(float, re.findall(r"[\d.]+", ranking[2])[1:])
    assert low <= number(ranking[2]) <= high
    assert number(ranking[-1]) == pytest.approx(number(ranking[-2]) - PUBLISHED["densenet-weight"].f1, abs=0.0101)


def test_the_reports_row_and_the_difference_stand_beside_ours(here: Path):
    drawn_run(here / "run", "resnet-weight")
    rows = table(section(document("run"), "report", "brain"), HEADINGS[0])
    place = next(index for index, row in enumerate(rows) if row[0] == "resnet-weight")
    ours, printed, difference = rows[place : place + 3]
    assert printed == ["", "the report", "82.25", "59.78", "62.65", "61.18"]
    assert difference[:3] == ["", "difference", "not compared"], "an accuracy that cannot be right"
    for column in (3, 4, 5):
        expected = number(ours[column]) - number(printed[column])
        assert float(difference[column]) == pytest.approx(expected, abs=0.0101)


def test_an_accuracy_that_can_be_right_is_compared(here: Path):
    drawn_run(here / "run", "resnet-bias")
    rows = table(section(document("run"), "report", "brain"), HEADINGS[0])
    place = next(index for index, row in enumerate(rows) if row[0] == "resnet-bias")
    assert float(rows[place + 2][2]) == pytest.approx(number(rows[place][2]) - 88.63, abs=0.0101)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, "difference"),
        ({"init": "imagenet"}, "difference"),
        ({"data": "Unibuc brain anomaly detection (in the words of an earlier version)"}, "difference"),
        ({"epochs": 5}, "difference (recipe changed)"),
        ({"init": "densenet-bias.safetensors"}, "difference (own start)"),
        ({"recipe": "strong", "epochs": 15, "input": "head"}, ""),
        ({"data": "a label file of its own"}, ""),
    ],
    ids=["in full", "another start", "words of before", "fewer epochs", "a file", "another recipe", "other data"],
)
def test_only_the_reports_recipe_on_its_data_is_set_beside_the_report(here: Path, changed: dict[str, Any], says: str):
    drawn_run(here / "run", "densenet-bias", **changed)
    text = document("run")
    recipe = changed.get("recipe", "report")
    found = section(text, recipe, changed.get("input", "brain"))
    rows = table(found, HEADINGS[0])
    place = next(index for index, row in enumerate(rows) if row[0] == "densenet-bias")
    beside = [row[1] for row in takewhile(lambda row: not row[0], rows[place + 1 :])]
    assert beside == (["the report", says] if says else [])
    assert ("F1 less the report's" in found) == bool(says)
    assert ("This is not the report's recipe" in found) == (recipe != "report")
    ranking = next(row for row in table(found, HEADINGS[1]) if row[0] == "densenet-bias")
    if says:
        assert number(ranking[-1]) == pytest.approx(number(ranking[-2]) - PUBLISHED["densenet-bias"].f1, abs=0.0101)
        assert ranking[-1].partition(" ")[2] == says.partition(" ")[2]
    full = says == "difference"
    assert f"input `brain`: {int(full)} of 8 in full" in text
    own = "own" in changed.get("data", "")
    assert ("on other data only: densenet-bias" in text) == own == ("cpu, a label file of its own" in found)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, "The rows differ in their experiment alone"),
        ({"epochs": 8, "reweigh_groups": True}, "The rows differ in epochs, groups, too"),
        ({"init": "start.pth"}, "The rows differ in start, too"),
        ({"sizes": [[112, 7]], "negatives": 0.5}, "The rows differ in sizes, share of the negatives, too"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_else_rows_differ_in_is_said(here: Path, changed: dict[str, Any], told: str):
    drawn_run(here / "run", "densenet-base", recipe="strong", input="head")
    drawn_run(here / "run", "densenet-bias", recipe="strong", input="head", **changed)
    found = section(document("run"), "strong", "head")
    assert told in found
    assert found.count("The rows differ in") == 1
    assert ("1 of 2 rows go on from a file of weights" in found) == ("init" in changed)


def test_rows_on_other_data_stand_beside_those_on_the_reports_without_a_difference(here: Path):
    drawn_run(here / "a", "densenet-bias")
    drawn_run(here / "b", "densenet-bias", data="a label file of its own", epochs=3)
    text = document("a", "b")
    found = section(text, "report", "brain")
    assert not reduced(text, "report", "brain"), "fewer epochs on other data are no trial of these"
    differences = {row[0]: row[-1] for row in table(found, HEADINGS[1]) if row[-1] != "-"}
    own, ours = sorted(differences, key=lambda label: "a label file of its own" not in label)
    assert differences[own] == "not compared"
    assert float(differences[ours]) != 0


def test_all_eight_are_listed_and_what_was_not_run_says_so(here: Path):
    drawn_run(here / "run", "resnet-bias")
    text = document("run")
    found = section(text, "report", "brain")
    for heading in HEADINGS[:2]:
        rows = [row for row in table(found, heading) if row[0]]
        assert [row[0] for row in rows] == list(MODEL_NAMES)
        for row in rows:
            empty = set(row[2:]) == {"-"}
            assert (row[1] == "not run") == empty == (row[0] != "resnet-bias")
    raw = section(text, "report", "raw")
    assert raw.split("\n\n")[1].strip() == f"Not run: {', '.join(MODEL_NAMES)}."
    assert f"- input `raw`: 0 of 8 in full; not run: {', '.join(MODEL_NAMES)}" in text
    assert "- input `brain`: 1 of 8 in full; not run: densenet-base" in text


def test_each_row_says_how_it_was_trained(here: Path):
    drawn_run(
        here / "run",
        "densenet-base",
        epochs=4,
        sizes=[[112, 3], [224, 1]],
        init="/home/somebody/start.pth",
        reweigh_groups=True,
        device="cuda",
        precision="bf16",
        seed=3,
        seconds=600,
        trained_on={"slices": 14_999, "positives": 2_238},
    )
    text = document("run")
    (row,) = table(section(text, "report", "brain"), HEADINGS[2])
    assert row[:7] == ["densenet-base", "report", "start.pth", "brain", "reweighed", "4", "112:3,224:1"]
    assert row[7:9] == ["cuda, bf16, a processor, 2 cores", "validation"]
    assert row[9] == "14,999"
    assert row[10].startswith("200, ")
    assert row[11:] == ["3", "10"]
    assert "4 epochs (112:3,224:1) from start.pth, validation, cuda, groups reweighed" in text
    assert "somebody" not in text


def test_recipes_and_inputs_are_kept_apart(here: Path):
    drawn_run(here / "a", "densenet-base", recipe="strong", input="raw")
    drawn_run(here / "b", "densenet-base", input="raw")
    drawn_run(here / "b", "densenet-bias", recipe="strong")
    text = document("a", "b")
    titles = re.findall(r"^## Recipe `(.*?)`, input `(.*?)`", text, re.MULTILINE)
    assert titles == [("report", "raw"), ("report", "brain"), ("strong", "brain"), ("strong", "raw")]
    (row,) = table(section(text, "strong", "raw"), HEADINGS[1])
    assert row[0] == "densenet-base", "another recipe's section lists what was run"
    assert "other recipes: `strong`" in text


def test_folds_give_one_row_of_all_their_slices(here: Path):
    drawn_folds(here / "run", "densenet-bias", folds=3, n=100)
    found = section(document("run"), "report", "brain")
    (row,) = table(found, HEADINGS[2])
    assert row[8] == "3 folds"
    assert row[10].startswith("300, ")
    ranking = next(row for row in table(found, HEADINGS[1]) if row[0] == "densenet-bias")
    drawn = [draw(100, seed) for seed in (1, 2, 3)]
    labels, logits = (np.concatenate([one[place] for one in drawn]) for place in (0, 2))
    assert number(ranking[2]) == pytest.approx(roc_auc_score(labels, logits), abs=0.00051)


def test_intervals_are_those_of_patients_where_they_are_known(here: Path):
    labels, groups, logits = draw(40)
    values = {name: one.tolist() * 9 for name, one in (("labels", labels), ("groups", groups), ("logits", logits))}
    ids = [str(place) for place in range(360)]
    write_run(here / "known", ids=ids, clusters=[place % 40 for place in range(360)], **values)
    write_run(here / "unknown", "densenet-base", ids=ids, **values)
    text = document("known", "unknown")
    found = section(text, "report", "brain")
    widths = {}
    for row in table(found, HEADINGS[1]):
        if row[1] != "not run":
            low, high = map(float, re.findall(r"[\d.]+", row[2])[1:])
            widths[row[0]] = high - low
    assert widths["densenet-bias"] > 2 * widths["densenet-base"]
    held_out = {row[0]: row[10] for row in table(found, HEADINGS[2])}
    assert held_out["densenet-bias"] == f"360, {9 * labels.sum()} positive, in 40 clusters"
    assert held_out["densenet-base"] == f"360, {9 * labels.sum()} positive"
    assert "- 1 of the 2 rows are of run folders that do not say which slices belong together" in text
    assert "run folders that do not say" not in document("known")


def test_rows_of_one_experiment_are_told_apart(here: Path):
    drawn_run(here / "a", "densenet-bias", seed=1)
    drawn_run(here / "b", "densenet-bias", init="imagenet")
    drawn_folds(here / "b", "densenet-bias", init="imagenet")
    rows = table(section(document("a", "b"), "report", "brain"), HEADINGS[2])
    assert [row[0] for row in rows] == [
        "densenet-bias (validation, from ImageNet, seed 0)",
        "densenet-bias (validation, from scratch, seed 1)",
        "densenet-bias (3 folds, from ImageNet, seed 0)",
    ]


def reduced(text: str, recipe: str, name: str) -> str:
    """Return the part about the reduced runs of a recipe and an input."""
    found = text.partition(f"\n## Reduced runs: recipe `{recipe}`, input `{name}`")
    return found[1] + found[2].partition("\n## ")[0]


def at_64_pixels(epochs: int = 1) -> list[dict[str, Any]]:
    return [{**record, "size": 64} for record in drawn_history(epochs)]


def test_trials_stand_apart_and_every_row_says_how_little_was_trained(here: Path):
    drawn_run(here / "whole", "densenet-bias", test_logits=[0.0, 1.0])
    trial = {"epochs": 1, "limit": 500, "history": at_64_pixels(), "trained_on": {"slices": 500, "positives": 70}}
    for name in MODEL_NAMES:
        drawn_run(here / "trial", name, test_logits=[0.0], **trial)
    text = document("whole", "trial")
    ours = {row[0]: row[1] for row in table(section(text, "report", "brain"), HEADINGS[0]) if row[0]}
    assert ours == {
        name: "7 epochs from scratch, validation, cpu" if name == "densenet-bias" else "reduced only, below"
        for name in MODEL_NAMES
    }
    trials = reduced(text, "report", "brain")
    how = "1 epoch at 64 pixels from scratch, first 500 slices, validation, cpu"
    for heading in HEADINGS[:2]:
        rows = table(trials, heading)
        assert [(row[0], row[1]) for row in rows] == [(name, how) for name in MODEL_NAMES]
    for row in table(trials, HEADINGS[2]):
        assert (row[6], row[9]) == ("64", "500")
    links = re.findall(r"pictures/(.+)-losses", text)
    assert links == ["report-brain", "report-brain-reduced"]
    assert "- input `brain`: 1 of 8 in full; reduced only: densenet-base, densenet-weight, " in text
    assert "Here: all slices (1), the first 500 slices of each split (8)." in text
    assert sorted(path.name for path in here.glob("*/submission*")) == ["submission-densenet-bias.csv"]


@pytest.mark.parametrize(
    ("changed", "standing"),
    [
        ({"epochs": 3}, False),
        ({"epochs": 4, "sizes": [[112, 3], [224, 1]]}, False),
        ({"epochs": 8, "sizes": [[112, 1], [224, 7]]}, True),
        ({"epochs": 7, "seed": 1}, True),
        ({"limit": 500}, False),
        ({"epochs": 100, "history": at_64_pixels(100)}, False),
        ({"epochs": 3, "input": "raw"}, True),
        ({"epochs": 3, "recipe": "strong"}, True),
    ],
)
def test_the_larger_budget_stands_for_an_experiment(here: Path, changed: dict[str, Any], standing: bool):
    """Beside another of 7 epochs at 224 pixels, the report's own, which stands whatever the other had."""
    drawn_run(here / "a", "densenet-bias")
    drawn_run(here / "b", "densenet-bias", **changed)
    text = document("a", "b")
    recipe, name = changed.get("recipe", "report"), changed.get("input", "brain")
    assert bool(reduced(text, recipe, name)) == (not standing)
    same = (recipe, name) == ("report", "brain")
    rows = [row for row in table(section(text, recipe, name), HEADINGS[1]) if row[1] not in {"not run"}]
    assert len(rows) == 1 + (same and standing)


def test_a_trial_alone_does_not_stand_for_its_experiment(here: Path):
    drawn_run(here / "run", "densenet-bias", limit=500)
    found = section(document("run"), "report", "brain")
    others = ", ".join(name for name in MODEL_NAMES if name != "densenet-bias")
    assert found.split("\n\n")[1].strip() == f"Not run: {others}."


@pytest.mark.usefixtures("pictures")
def test_every_picture_is_there_and_linked(here: Path):
    drawn_run(here / "a", "densenet-bias")
    drawn_run(here / "a", "resnet-bias")
    drawn_run(here / "b", "densenet-base", recipe="strong", input="raw")
    text = document("a", "b")
    links = re.findall(r"^!\[.+\]\((.+)\)$", text, re.MULTILINE)
    kinds = ("confusion", "curves", "losses")
    assert links == [f"pictures/{name}-{kind}.png" for name in ("report-brain", "strong-raw") for kind in kinds]
    assert sorted(here.glob("docs/pictures/*")) == sorted(here / "docs" / link for link in links)
    for link in links:
        assert (here / "docs" / link).read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("pictures")
def test_the_same_runs_give_the_same_bytes(here: Path):
    drawn_run(here / "run", test_logits=[0.0, 1.0])
    drawn_folds(here / "run")
    contents = []
    for _ in range(2):
        document("run")
        files = [*here.glob("docs/**/*.*"), *here.glob("run/submission*")]
        contents.append({path: path.read_bytes() for path in files})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 5


def test_submissions_are_written_and_named(here: Path):
    drawn_run(here / "run", "resnet-base", test_logits=[-9.0, 9.0])
    text = document("run")
    content = (here / "run" / "submission-resnet-base.csv").read_text(encoding="utf-8")
    assert content == "id,class\n017001,0\n017002,1\n"
    (row,) = table(text, "Test images")
    assert row[:2] == ["report, brain: resnet-base", "`run/submission-resnet-base.csv`"]
    assert row[3:] == ["2 of 5,149: incomplete", "1", "50.00"]


def test_a_submission_of_all_test_images_is_whole(here: Path):
    path = drawn_run(here / "run", "resnet-base")
    rows = [(f"{number:06}", "-9") for number in range(17_001, 22_150)]
    write_csv(path.with_suffix(".test.csv"), ("id", "logit"), rows)
    (row,) = table(document("run"), "Test images")
    assert row[3:] == ["5,149", "0", "0.00"]


@pytest.mark.parametrize(("lacking", "said"), [(None, "2 folds"), (1, "folds 2 of 2")])
def test_the_folds_that_a_submission_is_from_are_said(here: Path, lacking: int | None, said: str):
    drawn_folds(here / "run", folds=2, test_logits=[-9.0, 9.0])
    if lacking:
        (here / "run" / f"densenet-bias.fold{lacking}of2.json").unlink()
    (row,) = table(document("run"), "Test images")
    assert row[:2] == [f"report, brain: densenet-bias ({said})", "`run/submission-densenet-bias.2folds.csv`"]


def test_without_test_scores_that_is_said(here: Path):
    drawn_run(here / "run")
    assert "None of the runs scored the unlabelled test images." in document("run")


@pytest.mark.parametrize("absolute", [False, True])
def test_the_document_names_its_command_but_no_path_of_this_machine(here: Path, absolute: bool):
    drawn_run(here / "runs" / "one")
    folder, output = (here / name if absolute else Path(name) for name in ("runs/one", "docs/out.md"))
    text = document(str(folder), output=str(output))
    expected = "one -o out.md" if absolute else "runs/one -o docs/out.md"
    assert f"\nhemoscan experiments {expected} --data DIR\n" in text
    assert str(here) not in text


@pytest.fixture
def data(here: Path) -> Path:
    """A data set whose positives come from one site, seven in ten."""
    rng = np.random.default_rng(0)
    rows = []
    for first, n in ((FIRST_TRAINING_ID, 60), (FIRST_VALIDATION_ID, 40)):
        tops = rng.choice([70, 115], n)
        labels = (rng.random(n) < np.where(tops == 115, 0.7, 0.1)).astype(int).tolist()
        labels[:2], tops[:2] = [0, 1], [70, 115]
        rows.append(
            [
                make_rows([label], first + i, top=int(top))[0]
                for i, (label, top) in enumerate(zip(labels, tops, strict=True))
            ]
        )
    return write_data_set(here / "set", *rows)


def run_on(data: Path, folder: Path, split: str, names: list[str], known: dict[str, int]) -> None:
    logits = np.random.default_rng(1).normal(size=len(names)) + [2 * known[name] for name in names]
    write_run(
        folder,
        split=split,
        ids=names,
        labels=[known[name] for name in names],
        groups=[70] * len(names),
        logits=logits.tolist(),
    )


def test_baselines_are_fitted_on_the_training_split(here: Path, data: Path):
    found = load_features(data)
    training, validation = found.training, found.validation
    known = dict(zip(validation.ids, validation.labels.tolist(), strict=True))
    run_on(data, here / "run", "validation", list(validation.ids), known)
    found = section(document("run", "--data", str(data)), "report", "brain")
    rows = {row[0]: row for row in table(found, HEADINGS[1])}
    for name in ("lookup", "histogram"):
        row = rows[f"baseline: {name}"]
        assert row[1] == "fitted on the training slices, validation"
        expected = roc_auc_score(validation.labels, baseline_logits(name, training, validation))
        assert number(row[2]) == pytest.approx(expected, abs=0.00051)
    assert "baseline: lookup" in {row[0] for row in table(found, HEADINGS[0])}
    assert re.search(r"The AUC of [01] of 1 rows lies", found)


def test_baselines_of_folds_never_see_the_fold(here: Path, data: Path):
    found = load_features(data)
    training, validation = found.training, found.validation
    ids = [*training.ids, *validation.ids]
    labels = [*training.labels.tolist(), *validation.labels.tolist()]
    known = dict(zip(ids, labels, strict=True))
    for fold in (1, 2):
        run_on(data, here / "run", f"fold{fold}of2", ids[fold - 1 :: 2], known)
    found = section(document("run", "--data", str(data)), "report", "brain")
    row = next(row for row in table(found, HEADINGS[1]) if row[0] == "baseline: lookup")
    assert row[1] == "fitted on the training slices, 2 folds"
    levels = np.concatenate([training.levels, validation.levels])
    inside, scores, values = np.arange(len(ids)) % 2, np.zeros(len(ids)), np.array(labels)
    for place in range(len(ids)):
        others = (inside != inside[place]) & (levels == levels[place])
        scores[place] = values[others].mean()
    assert number(row[2]) == pytest.approx(roc_auc_score(values, scores), abs=0.00051)


def test_baselines_of_several_splits_are_told_apart(here: Path, data: Path):
    found = load_features(data)
    training, validation = found.training, found.validation
    known = {
        **dict(zip(training.ids, training.labels.tolist(), strict=True)),
        **dict(zip(validation.ids, validation.labels.tolist(), strict=True)),
    }
    run_on(data, here / "run", "validation", list(validation.ids), known)
    for fold in (1, 2):
        run_on(data, here / "run", f"fold{fold}of2", list(known)[fold - 1 :: 2], known)
    found = section(document("run", "--data", str(data)), "report", "brain")
    for heading in HEADINGS[:2]:
        rows = [row[0] for row in table(found, heading) if row[0].startswith("baseline")]
        assert rows == [f"baseline: {name} ({split})" for split in ("validation", "2 folds") for name in BASELINES]
    assert re.search(r"The AUC of [012] of 2 rows lies.*\((lookup|histogram) \((validation|2 folds)\), [01]\.", found)


def test_slices_that_the_data_set_lacks_are_said(here: Path, data: Path):
    validation = load_features(data).validation
    known = dict(zip(validation.ids, validation.labels.tolist(), strict=True)) | {"elsewhere": 1}
    run_on(data, here / "run", "validation", [*validation.ids, "elsewhere"], known)
    text = document("run", "--data", str(data))
    assert "fitted on the training slices, validation, 40 of 41 slices" in text


@pytest.mark.parametrize("changed", [{"first": 900_001}, {"data": "a label file of its own", "n": 40}])
def test_runs_on_other_data_have_no_baselines(here: Path, data: Path, changed: dict[str, Any]):
    """Also where their files bear the names of the data set's."""
    drawn_run(here / "run", **changed)
    assert "| baseline" not in document("run", "--data", str(data))


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({}, ["70", "80"]),
        ({"groups": {"70": "1234"}}, ["70", "80"]),
        ({"data": "a label file of its own", "groups": {"70": "town", "80": "city"}}, ["city", "town"]),
        ({"data": "a label file of its own", "groups": {}}, ["all slices"]),
        ({"data": "a label file of its own", "groups": {"-1": "others"}}, ["others (small groups)"]),
    ],
    ids=["grey levels", "grey levels have no names", "sites", "no groups", "a site named others"],
)
def test_groups_of_ones_own_data_bear_their_names(here: Path, changed: dict[str, Any], names: list[str]):
    labels, groups, logits = draw(800)
    write_run(
        here / "run",
        ids=[str(place) for place in range(800)],
        labels=labels.tolist(),
        groups=(groups if len(names) > 1 else np.full(800, -1)).tolist(),
        logits=logits.tolist(),
    )
    path = here / "run" / "densenet-bias.validation.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changed), encoding="utf-8")
    found = section(document("run"), "report", "brain")
    header = found.partition("# Within groups\n\n")[2].splitlines()[0]
    assert [cell.strip() for cell in header.strip("| ").split("|")] == ["model", "split", *names]


def test_without_data_the_baselines_are_said_to_lack(here: Path):
    drawn_run(here / "run")
    result = invoke("run")
    assert result.exit_code == 0
    assert "no baselines: the data set was not at hand" in result.stdout
    assert "The baselines were not measured" in Path("docs/experiments.md").read_text(encoding="utf-8")


def test_data_that_is_named_must_be_there(here: Path):
    drawn_run(here / "run")
    result = invoke("run", "--data", "nowhere")
    assert isinstance(result.exception, DataError)
    assert not Path("docs").exists()


@pytest.mark.parametrize("suffix", [".json", ".csv", ".test.csv"])
def test_what_is_read_is_never_overwritten(here: Path, suffix: str):
    record = drawn_run(here / "run", n=40, test_logits=[0.5])
    output = record.with_suffix(suffix)
    before = output.read_bytes()
    result = invoke("run", "-o", str(output))
    assert result.exit_code == 2, result.output
    assert "is read, too; legal: the path of a new file" in " ".join(result.stderr.split())
    assert output.read_bytes() == before
    assert not (here / "run" / "pictures").exists()


def test_a_folder_without_trainings_writes_nothing(here: Path):
    (here / "run").mkdir()
    result = invoke("run")
    assert isinstance(result.exception, ResultsError)
    assert not Path("docs").exists()


@pytest.mark.parametrize("arguments", [(), ("nowhere",)])
def test_wrong_usage(arguments: tuple[str, ...]):
    assert invoke(*arguments).exit_code == 2


def test_what_differs_is_counted_from_the_runs(here: Path):
    drawn_run(here / "a", "densenet-bias", init="imagenet", input="raw")
    drawn_run(here / "a", "resnet-bias", init="imagenet", input="raw")
    drawn_folds(here / "b", "densenet-bias", epochs=2)
    text = document("a", "b").partition("## What differs from the report")[2]
    for expected in (
        "from ImageNet (2), from scratch (1)",
        "`brain` (1), `raw` (2)",
        "3 folds (1), the validation split (2)",
        "2 epochs (1), 7 epochs (2)",
        "resnet-weight (82.25 % printed, 88.24 % implied)",
        "resnet-weight-bias (73.21 % printed, 86.46 % implied)",
        "nobody can\n  recompute them",
    ):
        assert expected in text


def test_a_malformed_record_is_told_before_anything_is_written(here: Path, pictures: None):
    drawn_run(here / "run", "densenet-base", test_logits=[0.0, 1.0])
    drawn_run(here / "run", "densenet-bias", test_logits=[0.0, 1.0], trained_on={"slices": "x"})
    before = set(here.rglob("*"))
    result = invoke("run", "-o", "docs/experiments.md")
    assert isinstance(result.exception, ResultsError)
    assert "run/densenet-bias.validation.json" in str(result.exception)
    assert set(here.rglob("*")) == before
