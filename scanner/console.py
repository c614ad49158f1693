"""What commands have in common: options, colours, progress, completion of models' names."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from hemoscan import DEFAULT_MODEL

if TYPE_CHECKING:
    from hemoscan.scan import Report

Command = TypeVar("Command", bound=Callable[..., Any])


def parse_window(text: str) -> tuple[float, float]:
    """Read `C,W`, centre and width in HU; fail with the legal form."""
    try:
        centre, width = (float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r}; legal: centre and width in HU, such as 40,80") from None
    if not (0 < width <= 65536 and -32768 <= centre <= 32767):
        raise click.BadParameter(f"{text!r}; legal: centre -32768 to 32767, width above 0 to 65536")
    return centre, width


device_option = click.option(
    "-d", "--device", default="auto", show_default=True, metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps."
)
precision_option = click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    show_default=True,
    help="auto: bf16 where the device computes in it, else fp32.",
)
png_window_option = click.option(
    "--png-window",
    type=parse_window,
    metavar="C,W",
    help="Window that 0 to 255 of stretched PNG/JPEG exports span, such as 40,80.",
)


def paint(text: str, **style: Any) -> str:
    """Return a text in `click.style`, unless NO_COLOR is set (no-color.org); `click.echo` strips it off a terminal."""
    return text if os.environ.get("NO_COLOR") else click.style(text, **style)


def complete_model(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a model, or else the path of a card."""
    from hemoscan.card import MODEL_NAMES  # noqa: PLC0415

    found = [CompletionItem(name) for name in MODEL_NAMES if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


def model_option(text: str) -> Callable[[Command], Command]:
    """Return the option for the model that a command uses."""
    return click.option(
        "-m", "--model", default=DEFAULT_MODEL, show_default=True, shell_complete=complete_model, help=text
    )


@contextlib.contextmanager
def show_progress(quiet: bool, paths: Sequence[Path], limit: int | None = None) -> Iterator[Any]:
    """Yield what shows a scan's progress on a terminal, with rate and time left; nothing under cron.

    The time left is of files that are not known yet, once all are counted, which another thread does meanwhile. A file
    of many frames is worth one: the time left is then too short, and is no longer shown once more are done.
    """
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield lambda report: None
        return
    from tqdm import tqdm  # noqa: PLC0415 - slow to import

    with tqdm(unit=" slices", file=sys.stderr, dynamic_ncols=True) as bar:
        count = _Count(paths, limit)

        def show(report: Report) -> None:
            if count.total is not None:
                bar.total = max(count.total - report.known, 0)
            bar.set_postfix(flagged=report.flagged, errors=report.counts["error"], refresh=False)
            bar.update()

        try:
            yield show
        finally:
            count.stopped.set()


class _Count:
    """Counts the files under the paths in a thread of its own."""

    def __init__(self, paths: Sequence[Path], limit: int | None) -> None:
        self.total: int | None = None
        """Files; None while they are being counted."""
        self.stopped = threading.Event()
        threading.Thread(target=self._run, args=(paths, limit), daemon=True, name="count").start()

    def _run(self, paths: Sequence[Path], limit: int | None) -> None:
        from hemoscan.sources import find_entries  # noqa: PLC0415

        total = 0
        with contextlib.suppress(Exception):  # the scan itself meets it, and tells
            for total, _ in enumerate(find_entries(paths), 1):
                if self.stopped.is_set():
                    return
                if total == limit:
                    break
            self.total = total
