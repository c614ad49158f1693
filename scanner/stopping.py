"""SIGINT and SIGTERM during a scan: the first asks it to finish its batch, the second ends the process at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Stop:
    """Whether the scan is asked to end."""

    signal: int | None = None
    """The signal that asked, None so far."""

    def __bool__(self) -> bool:
        return self.signal is not None


@contextlib.contextmanager
def graceful() -> Iterator[Stop]:
    """Have the signals ask the scan within to end. Those that are ignored, as under nohup, stay ignored."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals belong to the main thread
        return
    handled = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]

    def ask(number: int, _frame: FrameType | None) -> None:
        stop.signal = number
        for each in handled:
            signal.signal(each, signal.SIG_DFL)
        with contextlib.suppress(OSError):  # not by print, whose buffer the signal may have interrupted
            os.write(2, b"hemoscan: finishing the batch; once more ends at once\n")

    before = {number: signal.signal(number, ask) for number in handled}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
