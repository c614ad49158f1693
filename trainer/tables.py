"""CSV files of other people: with a header in any case, with commas, semicolons or tabs, with or without a BOM."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hemoscan.errors import DataError

DELIMITERS = ",;\t"
SHOWN = 100
SHOWN_COLUMNS = 1000


@dataclass(frozen=True)
class Table:
    """An open CSV file."""

    path: Path
    header: tuple[str, ...]
    """As in the file."""
    rows: Iterator[tuple[int, list[str]]]
    """Number of the line and its cells, stripped, as many as the header has; blank lines are left out."""

    @property
    def columns(self) -> str:
        """The header, for errors."""
        return shorten(", ".join(self.header), SHOWN_COLUMNS)

    def column(self, names: Sequence[str]) -> int | None:
        """Return the place of the one column with one of `names`, None if there is none.

        Case, spaces, `_` and `-` make no difference.

        Raises
        ------
        DataError
            If several columns have such a name.
        """
        wanted = {_plain(name) for name in names}
        found = [place for place, name in enumerate(self.header) if _plain(name) in wanted]
        if len(found) > 1:
            several = ", ".join(self.header[place] for place in found)
            raise DataError(f"{self.path}: columns {shorten(several, SHOWN_COLUMNS)}; legal: one of {', '.join(names)}")
        return found[0] if found else None

    def error(self, line: int, place: int, cells: Sequence[str], legal: str) -> DataError:
        """Return the error that says what is wrong with a cell."""
        name, value = shorten(self.header[place]), shorten(cells[place])
        return DataError(f"{self.path}, line {line}: {name} is {value!r}; legal: {legal}")


def shorten(text: str, most: int = SHOWN) -> str:
    """Return a text out of a file as an error shows it: its beginning, if it is long."""
    return text if len(text) <= most else f"{text[:most]}..."


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character not in " _-")


@contextmanager
def open_table(path: Path) -> Iterator[Table]:
    """Open a CSV file with a header; its delimiter is the one of `DELIMITERS` that the header has most of.

    Raises
    ------
    DataError
        If it cannot be read, has no header, or a row has another number of cells; also while its rows are read.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            if not first.strip():
                raise DataError(f"{path}: the first line is empty; legal: a CSV with a header")
            delimiter = max(DELIMITERS, key=first.count)
            file.seek(0)
            # Else a quote that is never closed takes all further rows into its cell.
            lines = _numbered(path, csv.reader(file, delimiter=delimiter, strict=True))
            _, header = next(lines)
            yield Table(path, tuple(header), _checked(path, lines, len(header)))
    except (OSError, UnicodeDecodeError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"{path}: cannot be read as a CSV in UTF-8: {text}") from error


class _Lines(Protocol):
    """What `csv.reader` returns."""

    line_num: int

    def __next__(self) -> list[str]: ...


def _numbered(path: Path, lines: _Lines) -> Iterator[tuple[int, list[str]]]:
    """Yield the last line of each row, and its cells; an error names the first, where a quote that is left open is."""
    while True:
        first = lines.line_num + 1
        try:
            cells = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{path}, line {first}: the row that begins here cannot be read as a CSV: {error}; "
                "legal: a quote that opens a cell is closed at the end of the cell"
            ) from error
        yield lines.line_num, [cell.strip() for cell in cells]


def _checked(path: Path, rows: Iterator[tuple[int, list[str]]], width: int) -> Iterator[tuple[int, list[str]]]:
    for line, cells in rows:
        if any(cells):
            if len(cells) != width:
                raise DataError(f"{path}, line {line}: {len(cells)} cells; legal: {width}, as many as the header has")
            yield line, cells
