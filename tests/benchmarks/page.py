"""How long a browser takes with a large worklist page: from a change of sort, filter or search to the next frame.

usage: python tests/benchmarks/page.py [--studies 500] [--write docs/performance.md]

Needs chromium. The clock is the browser's own (`performance.now()`), from before the control's event until after the
frame that follows is drawn; the median and the longest of some rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from performance import machine_line, table, write_section

sys.path.insert(0, str(Path(__file__).parents[1]))
from chromium import Chromium, find_chromium
from worklist_pages import rows_of_studies, write_page

ROUNDS = 7
ACTIONS = {
    "sort": ("sort.value = round % 2 ? 'newest' : 'flagged'", "sort", "change"),
    "filter": ("show.value = round % 2 ? 'flagged' : 'all'", "show", "change"),
    "search": ("search.value = round % 2 ? '840.1' : ''", "search", "input"),
    "heatmaps on and off": ("heat.checked = round % 2 === 1", "heat", "change"),
}
TIME = """new Promise(done => {{
  const round = {round};
  const started = performance.now();
  {change};
  {control}.dispatchEvent(new Event('{event}'));
  const drawn = new MessageChannel();
  drawn.port1.onmessage = () => done(performance.now() - started);
  requestAnimationFrame(() => drawn.port2.postMessage(0));
}})"""


def measure(browser: Chromium, studies: int, page: Path) -> str:
    """Measure all; return the section of docs/performance.md."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    write_page(page, rows_of_studies(studies))
    started = time.perf_counter()
    browser.open(page)
    loaded = time.perf_counter() - started
    rows = [["open", f"{1000 * loaded:.0f}", ""]]
    for name, (change, control, event) in ACTIONS.items():
        times = [
            float(browser.run(TIME.format(round=number, change=change, control=control, event=event)))
            for number in range(1, ROUNDS + 1)
        ]
        rows.append([name, f"{statistics.median(times):.0f}", f"{max(times):.0f}"])
    pictures, size = page.read_text(encoding="utf-8").count("data-picture="), page.stat().st_size / 2**20
    return f"""## The worklist page
`python tests/benchmarks/page.py --studies {studies} --write docs/performance.md`: {machine_line()};
chromium, headless, without GPU; load average {load:.1f} before the start: so many other processes wanted the cores.

A page of {studies} studies with {pictures} pictures, {size:.1f} MiB. Milliseconds from the user's action to the frame
that shows it, of {ROUNDS} rounds; opening is from asking for the file until all of it is loaded, once.

{table(["action", "median ms", "longest ms"], rows)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=500)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    executable = find_chromium()
    if executable is None:
        raise SystemExit("needs chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = Chromium(executable, Path(folder))
        try:
            text = measure(browser, options.studies, Path(folder, "page.html"))
        finally:
            browser.close()
    print(text)
    if options.write:
        write_section(options.write, "page", text)


if __name__ == "__main__":
    main()
