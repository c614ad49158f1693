"""Stand-ins for the decoder that worker processes can import: they know a file by its name."""

from __future__ import annotations

import ctypes
import hashlib
import os
import time
from pathlib import Path

import numpy as np

from hemoscan.decode import DecodeOptions, decode
from hemoscan.slices import Decoded
from hemoscan.sources import Entry, Reader


def blank(entry: Entry, reader: Reader, options: DecodeOptions) -> list[Decoded]:
    """Return an image, whatever the file."""
    return [Decoded(entry.path, entry.folder, None, image=np.zeros((8, 8), np.uint8))]


def late(entry: Entry, reader: Reader, options: DecodeOptions) -> list[Decoded]:
    """Decode after up to 10 ms, the same for the same path."""
    time.sleep(hashlib.sha256(entry.path.encode()).digest()[0] / 255 / 100)
    return decode(entry, reader, options)


def abort(entry: Entry) -> None:
    os.abort()


def segfault(entry: Entry) -> None:
    ctypes.string_at(0)


def leave(entry: Entry) -> None:
    os._exit(3)


def sleep(entry: Entry) -> None:
    time.sleep(3600)


def spin(entry: Entry) -> None:
    while True:
        pass


def allocate(entry: Entry) -> None:
    hoard = []
    while True:
        hoard.append(np.ones(2**24, np.uint8))


def once(entry: Entry) -> None:
    """Crash at the first attempt, not at the second."""
    trace = Path(f"{entry.path}.tried")
    if not trace.exists():
        trace.touch()
        os.abort()


def speak(entry: Entry) -> None:
    os.write(1, b"Doe^Jane\n")
    os.write(2, b"Doe^Jane\n")


HOSTILE = {"abort": abort, "segfault": segfault, "leave": leave, "sleep": sleep, "spin": spin}
HOSTILE |= {"allocate": allocate, "once": once, "speak": speak}


def hostile(entry: Entry, reader: Reader, options: DecodeOptions) -> list[Decoded]:
    """Do what the file's name says; any other file is decoded."""
    HOSTILE.get(Path(entry.path).name.split("-")[0], lambda entry: None)(entry)
    return decode(entry, reader, options)


def pid(entry: Entry, reader: Reader, options: DecodeOptions) -> list[Decoded]:
    """Tell which process decodes."""
    return [Decoded(entry.path, entry.folder, None, reason=str(os.getpid()))]
