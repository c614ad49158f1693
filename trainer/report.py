"""`hemoscan experiments`: from run folders to the document, its pictures and the submissions."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hemoscan.errors import DataError
from hemoscan.outputs import refuse_inputs, write_atomically
from hemoscan.trainer.baselines import SplitFeatures, load_features
from hemoscan.trainer.console import reading_bar
from hemoscan.trainer.data import default_folder
from hemoscan.trainer.document import write_document
from hemoscan.trainer.plots import confusion_figure, curves_figure, losses_figure, save_picture
from hemoscan.trainer.row_figures import AT_HALF
from hemoscan.trainer.rows import Section, make_sections
from hemoscan.trainer.splits import VALIDATION
from hemoscan.trainer.submission import Submission, write_submission
from hemoscan.trainer.trainings import read_run_folders

PICTURES = "pictures"


@dataclass(frozen=True)
class Written:
    """What was written, and what could not be measured."""

    document: Path
    pictures: tuple[Path, ...]
    submissions: tuple[Path, ...]
    trainings: int
    rows: int
    without_baselines: str
    """Why there are no baseline rows; empty if there are."""


def write_report(
    folders: Sequence[Path],
    output: Path,
    data: Path | None,
    *,
    quiet: bool = True,
) -> Written:
    """Write the document, its pictures in `pictures/` beside it, and submissions into the run folders.

    Parameters
    ----------
    folders
        Run folders of `hemoscan train`.
    output
        The document, Markdown.
    data
        The data set, for the baselines. None: HEMOSCAN_DATA, else ./data, and no baselines where neither is there.
    quiet
        No progress bar while the data set is read.

    Raises
    ------
    OptionError
        If the document would take the place of a file of a run folder.
    ResultsError
        If a run folder cannot be read.
    DataError
        If the data set that `data` names cannot be read.
    OutputError
        If something cannot be written.
    """
    kept = ("*.json", "*.csv")
    refuse_inputs(output, (path for folder in folders for pattern in kept for path in folder.glob(pattern)))
    results = read_run_folders(folders)
    features, reason = _features(data, quiet)
    sections = make_sections(results, features)
    pictures = {section.name: _draw(section, output.parent / PICTURES) for section in sections if section.rows}
    submissions = _submissions(sections)
    text = write_document(
        sections,
        {name: [_link(title, path) for title, path in drawn.items()] for name, drawn in pictures.items()},
        submissions,
        command=_command(folders, output),
        baselines=reason,
    )
    write_atomically(output, lambda file: file.write(text.encode()))
    return Written(
        document=output,
        pictures=tuple(path for drawn in pictures.values() for path in drawn.values()),
        submissions=tuple(one.path for one in submissions.values()),
        trainings=sum(len(one.runs) for one in results),
        rows=len(results),
        without_baselines=reason,
    )


def summarise(written: Written) -> list[str]:
    """Return the lines that a user is told."""
    lines = [f"{written.document}: {written.rows} rows from {written.trainings} trainings"]
    lines += [f"picture: {path}" for path in written.pictures]
    lines += [f"submission: {path}" for path in written.submissions]
    return lines + [f"no baselines: {written.without_baselines}"] * bool(written.without_baselines)


def _features(data: Path | None, quiet: bool) -> tuple[SplitFeatures | None, str]:
    try:
        return load_features(data or default_folder(), progress=reading_bar(quiet, "slices")), ""
    except DataError:
        if data is not None:
            raise
        return None, "the data set was not at hand; name its folder with `--data`"


def _draw(section: Section, folder: Path) -> dict[str, Path]:
    rows, title = section.rows, section.title.replace("`", "")
    confusions = {row.label: row.figures.confusion[AT_HALF] for row in rows}
    histories = {row.label: [run.record["history"] for run in row.result.runs] for row in rows if row.result}
    figures = {
        f"Confusion matrices at 0.5: {title}": confusion_figure(confusions),
        f"ROC and precision-recall curves: {title}": curves_figure([row.curve for row in rows + section.baselines]),
        f"Training loss and AUC by epoch: {title}": losses_figure(histories),
    }
    paths = [folder / f"{section.name}-{kind}.png" for kind in ("confusion", "curves", "losses")]
    for figure, path in zip(figures.values(), paths, strict=True):
        save_picture(figure, path)
    return dict(zip(figures, paths, strict=True))


def _link(title: str, path: Path) -> str:
    return f"![{title}]({PICTURES}/{path.name})"


def _submissions(sections: Sequence[Section]) -> dict[str, Submission]:
    found = {}
    for section in sections:
        for row in section.rows:
            written = write_submission(row.result) if row.result else None
            if written:
                # Of a cross-validation that lacks folds the file is from those that are there.
                split = f" ({row.split})" if row.split != VALIDATION and row.split not in row.label else ""
                found[f"{section.recipe}, {section.input}{', reduced' * section.reduced}: {row.label}{split}"] = written
    return found


def _command(folders: Sequence[Path], output: Path) -> str:
    """Return the command; of paths outside the working folder the names, since machines differ in the rest."""
    words = [_short(folder) for folder in folders]
    return f"hemoscan experiments {' '.join(map(shlex.quote, words))} -o {shlex.quote(_short(output))} --data DIR"


def _short(path: Path) -> str:
    return path.name if path.is_absolute() else path.as_posix()
