"""Pictures of flagged slices: overlays as PNG files, thumbnails for the worklist page.

Thumbnails wait in a nameless file on the disk, which is gone with the process, so that memory does not grow with them.
The page of the run before is where those come from that were made then: no other file holds pixels.
"""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import os
import re
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hemoscan.card import Card, InputSpec
from hemoscan.errors import OptionError, OutputError
from hemoscan.heatmap import colour, draw_overlay, grey, write_png
from hemoscan.outputs import write_atomically
from hemoscan.slices import PROBABILITY_DIGITS, Row
from hemoscan.text import to_bytes

THUMBNAIL_SIDE = 160
HEAT_SIDE = 28
QUALITY = 60
# As DICOM has them (PS3.5, 6.2), and as data sets do; others become no file's name.
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
# As worklist.html.j2 writes them.
EMBEDDED = re.compile(
    rb'data-picture="([0-9a-f]{32})"[^<>]*>\s*'
    rb'<img[^<>]* src="data:image/webp;base64,([A-Za-z0-9+/=]+)"[^<>]*>\s*'
    rb'<img[^<>]* src="data:image/webp;base64,([A-Za-z0-9+/=]+)"'
)
MAX_PAGE_BYTES = 2**28

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """A thumbnail and its heatmap, each as base64 of a WebP."""

    slice: str
    heat: str


class Pictures:
    """Takes in flagged slices with their maps, and tells which it lacks."""

    def __init__(self, card: Card, spec: InputSpec, *, heatmaps: Path | None = None, page: Path | None = None) -> None:
        """Look at what was made before.

        Parameters
        ----------
        card
            The model's.
        spec
            The network's input, as it is given to it.
        heatmaps
            Folder of the overlays; None for none.
        page
            The worklist page that thumbnails are for; None for none.

        Raises
        ------
        OptionError
            If `heatmaps` is no folder.
        OutputError
            If it cannot be made.
        """
        self._card, self._spec, self._folder = card, spec, heatmaps
        self._thumbnails = page is not None
        self._store = sqlite3.connect("")  # a nameless file
        self._store.execute("CREATE TABLE pictures (key TEXT PRIMARY KEY, slice BLOB, heat BLOB)")
        self._overlays = set() if heatmaps is None else _list_folder(heatmaps)
        if page is not None:
            self._load(page)

    def close(self) -> None:
        """Let go of the thumbnails."""
        self._store.close()

    def key(self, row: Row) -> str:
        """Return what a slice's picture is known by: changed pixels, another model, another window make it another."""
        decoded = row.decoded
        parts = (
            decoded.path,
            decoded.frame,
            f"{row.probability:.{PROBABILITY_DIGITS}f}",
            self._card.sha256,
            self._spec,
        )
        return hashlib.sha256(to_bytes(repr(parts))).hexdigest()[:32]

    def find(self, row: Row) -> Picture | None:
        """Return a slice's thumbnail."""
        found = self._store.execute("SELECT slice, heat FROM pictures WHERE key = ?", (self.key(row),)).fetchone()
        return None if found is None else Picture(*(base64.b64encode(part).decode("ascii") for part in found))

    def lacks_overlay(self, row: Row) -> bool:
        """Tell whether a flagged slice's overlay is still to be made."""
        return self._folder is not None and bool(row.flag) and overlay_name(row) not in self._overlays

    def lacks_thumbnail(self, row: Row) -> bool:
        """Tell whether a flagged slice's thumbnail is still to be made."""
        return self._thumbnails and bool(row.flag) and self.find(row) is None

    def take(self, row: Row, image: NDArray[np.uint8], activation: NDArray[np.float32]) -> None:
        """Make the pictures of a flagged slice.

        Parameters
        ----------
        row
            The slice.
        image
            Shape (size, size): the network's input.
        activation
            Shape (h, w), logits: the class activation map.

        Raises
        ------
        OutputError
            If the overlay cannot be written.
        """
        if self._folder is not None:
            self._write_overlay(self._folder, row, image, activation)
        if self._thumbnails:
            side = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
            picture = grey(image, self._spec.limits).resize(side, Image.Resampling.LANCZOS)
            heat = colour(activation, (HEAT_SIDE, HEAT_SIDE))
            self._store.execute(
                "INSERT OR REPLACE INTO pictures VALUES (?, ?, ?)", (self.key(row), _webp(picture), _webp(heat))
            )

    def _write_overlay(self, folder: Path, row: Row, image: NDArray[np.uint8], activation: NDArray[np.float32]) -> None:
        caption = f"{self._card.name}: {row.probability:.3f}"
        overlay = draw_overlay(image, activation, self._spec.limits, caption)
        name = overlay_name(row)
        write_atomically(folder / name, lambda file: write_png(overlay, file))
        self._overlays.add(name)

    def _load(self, page: Path) -> None:
        """Take over the thumbnails of the page that is to be replaced."""
        try:
            if page.stat().st_size > MAX_PAGE_BYTES:
                return
            content = page.read_bytes()
        except OSError:
            return
        for key, *parts in (match.groups() for match in EMBEDDED.finditer(content)):
            try:
                pair = [base64.b64decode(part, validate=True) for part in parts]
            except ValueError:
                continue
            self._store.execute("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?)", (key.decode("ascii"), *pair))


def overlay_name(row: Row) -> str:
    """Return the file name of a slice's overlay: its SOPInstanceUID and frame, else a hash of path and frame."""
    decoded = row.decoded
    uid = decoded.identity.sop_uid
    if not FILE_NAME.fullmatch(uid):
        return hashlib.sha256(to_bytes(f"{decoded.path}#{decoded.frame}")).hexdigest()[:32] + ".png"
    return f"{uid}.png" if decoded.frame in (None, 1) else f"{uid}_{decoded.frame}.png"


def _list_folder(folder: Path) -> set[str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return set(os.listdir(folder))  # noqa: PTH208 - names suffice
    except FileExistsError as error:
        raise OptionError(f"--heatmaps {folder}: is no folder; legal: a folder, or one to be made") from error
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _webp(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "WEBP", quality=QUALITY, method=2)
    return content.getvalue()
