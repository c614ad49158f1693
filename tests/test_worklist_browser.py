"""The worklist page in a real browser. Run with `pytest -m browser`; skipped where there is no chromium."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from chromium import Chromium, find_chromium
from worklist_pages import rows_of_studies, write_page

pytestmark = pytest.mark.browser
VISIBLE = "[...document.querySelectorAll('article')].filter(a => !a.hidden)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    executable = find_chromium()
    if executable is None:
        pytest.skip("needs chromium")
    found = Chromium(executable, tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "worklist.html"
    write_page(path, rows_of_studies(9))
    return path


@pytest.fixture
def opened(browser: Chromium, page: Path) -> Chromium:
    browser.open(page)
    browser.media()
    return browser


def column(browser: Chromium, name: str) -> list[Any]:
    found: list[Any] = browser.run(f"{VISIBLE}.map(a => a.dataset.{name})")
    return found


def choose(browser: Chromium, menu: str, value: str) -> None:
    browser.run(f"{menu}.value = '{value}'; {menu}.dispatchEvent(new Event('change'))")


def focused(browser: Chromium) -> str | None:
    found: str | None = browser.run("document.activeElement.closest('article')?.dataset.rank")
    return found


def test_it_loads_nothing_and_complains_of_nothing(opened: Chromium, page: Path):
    requests = [e["params"]["request"]["url"] for e in opened.events if e["method"] == "Network.requestWillBeSent"]
    assert requests[0] == page.as_uri()
    assert all(url.startswith("data:") for url in requests[1:])
    assert [e for e in opened.events if e["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")] == []


def test_pictures_are_decoded(opened: Chromium):
    opened.run("Promise.all([...document.querySelectorAll('details[open] img')].map(i => i.decode()))")
    assert opened.run("[...document.querySelectorAll('details[open] .slice')].every(i => i.naturalWidth === 160)")


def test_injected_script_does_not_run(opened: Chromium):
    opened.run("const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s)")
    assert opened.run("window.ran") is None


def test_sorting(opened: Chromium):
    assert column(opened, "rank") == [str(n) for n in range(1, 10)]
    for menu, key in (("newest", "newest"), ("flagged", "flagged"), ("errors", "errors")):
        choose(opened, "sort", menu)
        values = [int(value or -1) for value in column(opened, key)]
        assert values == sorted(values, reverse=True)
        assert len(set(values)) > 1
    choose(opened, "sort", "urgency")
    assert column(opened, "rank") == [str(n) for n in range(1, 10)]


def test_filtering(opened: Chromium):
    choose(opened, "show", "flagged")
    assert set(column(opened, "flag")) == {"1"}
    choose(opened, "show", "unflagged")
    assert set(column(opened, "flag")) == {"0"}
    choose(opened, "show", "errors")
    assert len(column(opened, "rank")) == 1
    assert opened.run("shown.textContent") == "1 of 9 shown"
    choose(opened, "show", "all")
    opened.run("search.value = 'ARCHIVE 840.7'; search.dispatchEvent(new Event('input'))")
    assert [text.split()[0] for text in column(opened, "text")] == ["1.2.840.7"]
    opened.run("search.value = 'nowhere'; search.dispatchEvent(new Event('input'))")
    assert opened.run("nothing.hidden") is False


def test_keys(opened: Chromium):
    for key, rank in (("j", "1"), ("j", "2"), ("j", "3"), ("k", "2")):
        opened.press(key)
        assert focused(opened) == rank
    before = opened.run("document.activeElement.parentElement.open")
    opened.press("Enter")
    assert opened.run("document.activeElement.parentElement.open") is not before
    opened.press("/")
    assert opened.run("document.activeElement.id") == "search"
    for key in "jk7":
        opened.press(key)
    assert opened.run("search.value") == "jk7"
    opened.press("Escape")
    assert opened.run("document.activeElement.id") != "search"
    assert opened.run("search.value") == "jk7"
    opened.press("Escape")
    assert opened.run("search.value") == ""
    assert len(column(opened, "rank")) == 9


def test_heatmaps_are_shown_and_hidden(opened: Chromium):
    shown = "getComputedStyle(document.querySelector('.heatmap')).visibility"
    assert opened.run(shown) == "hidden"
    opened.press("h")
    assert opened.run(shown) == "visible"
    assert opened.run("heat.checked") is True
    opened.press("h")
    assert opened.run(shown) == "hidden"


def test_the_view_survives_a_reload(browser: Chromium, page: Path):
    browser.open(page, "#sort=newest&show=flagged&heat=1&search=840")
    assert browser.run("[sort.value, show.value, heat.checked, search.value]") == ["newest", "flagged", True, "840"]
    assert set(column(browser, "flag")) == {"1"}
    browser.open(page, "#sort=%3Cb%3E&show=constructor")
    assert browser.run("[sort.value, show.value]") == ["urgency", "all"]


@pytest.mark.parametrize(
    ("age", "words"),
    [
        (timedelta(minutes=5), None),
        (timedelta(minutes=59), None),
        (timedelta(minutes=61), "61 minutes old"),
        (timedelta(hours=50), "50 hours old"),
        (timedelta(hours=-2), "from the future"),
    ],
)
def test_an_old_list_raises_an_alarm(browser: Chromium, tmp_path: Path, age: timedelta, words: str | None):
    write_page(tmp_path / "page.html", [], as_of=datetime.now(UTC) - age)
    browser.open(tmp_path / "page.html")
    assert browser.run("alarm.hidden") is (words is None)
    assert (words or "") in browser.run("alarm.textContent")


def test_it_is_readable_in_the_dark(opened: Chromium):
    def luminance(property_name: str) -> float:
        found = opened.run(f"getComputedStyle(document.body).{property_name}.match(/[\\d.]+/g).map(Number)")
        return float(sum(found[:3]))

    opened.media(prefers_color_scheme="light")
    assert luminance("backgroundColor") > 600 > 200 > luminance("color")
    opened.media(prefers_color_scheme="dark")
    assert luminance("backgroundColor") < 100 < 500 < luminance("color")


def test_every_printed_page_has_the_notice(opened: Chromium, tmp_path: Path):
    pypdf = pytest.importorskip("pypdf")
    opened.pdf(tmp_path / "print.pdf")
    pages = [sheet.extract_text() for sheet in pypdf.PdfReader(tmp_path / "print.pdf").pages]
    assert len(pages) > 2
    assert [text.count("research use only") for text in pages] == [1] * len(pages)


def test_500_studies_are_laid_out_only_where_they_are_seen(browser: Chromium, tmp_path: Path):
    write_page(tmp_path / "page.html", rows_of_studies(500))
    browser.open(tmp_path / "page.html")
    assert len(column(browser, "rank")) == 500
    assert browser.run("getComputedStyle(document.querySelector('article')).contentVisibility") == "auto"
    inside = "{contentVisibilityAuto: true}"
    far = "document.querySelector('article:last-of-type summary span')"
    assert browser.run(f"document.querySelector('article summary span').checkVisibility({inside})") is True
    assert browser.run(f"{far}.checkVisibility({inside})") is False
    choose(browser, "sort", "newest")
    assert column(browser, "rank")[:2] != ["1", "2"]
