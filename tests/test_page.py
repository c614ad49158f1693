"""The worklist page: complete, escaped, loading nothing, and of bounded size."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import pytest
from worklist_pages import THRESHOLD, make_study, rows_of_studies, scored, unscored, write_page

from hemoscan import NOTICE
from hemoscan.page import EXAMPLES, MAX_REASONS, MAX_STUDIES, THUMBNAILS
from hemoscan.slices import ERROR, SKIPPED, Row

HOSTILE = "/in/<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&{{ 7*7 }}"


class Elements(HTMLParser):
    """Start tags with their attributes, and texts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def parse(page: Path) -> Elements:
    elements = Elements()
    elements.feed(page.read_text(encoding="utf-8"))
    return elements


def page_of(folder: Path, rows: list[Row], **options: object) -> tuple[str, Elements]:
    path = folder / "page.html"
    write_page(path, rows, **options)  # type: ignore[arg-type]
    return path.read_text(encoding="utf-8"), parse(path)


def articles(elements: Elements) -> list[dict[str, str | None]]:
    return [attributes for tag, attributes in elements.tags if tag == "article"]


def test_studies_stand_in_order_of_urgency(tmp_path: Path):
    rows = [scored("1.1", 1, 0.3), scored("1.2", 1, 0.9), scored("1.3", 1, 0.6), unscored(ERROR, "/x/1", "why", "1.4")]
    text, elements = page_of(tmp_path, rows)
    assert [(a["data-text"] or "").split()[0] for a in articles(elements)] == ["1.2", "1.3", "1.1", "1.4"]
    assert [a["data-flag"] for a in articles(elements)] == ["1", "1", "0", ""]
    for shown in ("0.900", "0.600", "0.300", "not scored", "not flagged"):
        assert shown in text
    assert "negative" not in text.lower()


def test_notice_card_counts_and_reasons_are_shown(tmp_path: Path):
    rows = [scored("1.1", 1, 0.9)] + [unscored(SKIPPED, f"/x/{n}.pdf", "application/pdf") for n in range(5)]
    text, elements = page_of(tmp_path, rows)
    assert NOTICE in html.unescape(text)
    assert "0" * 64 in text
    assert "auc" in text
    shown = "".join(elements.texts)
    assert "5\nskipped" in re.sub(r"\s+", "\n", shown)
    assert shown.count("application/pdf") == 1
    assert [path for path in elements.texts if path.endswith(".pdf")] == [f"/x/{n}.pdf" for n in range(EXAMPLES)]


def test_flagged_slices_alone_have_pictures_the_highest_first(tmp_path: Path):
    rows = [scored("1.1", number, number / 20) for number in range(1, 21)]
    text, elements = page_of(tmp_path, rows)
    captions = [float(found) for found in re.findall(r"<figcaption><b>([\d.]+)</b>", text)]
    assert captions == [pytest.approx(1 - n / 20) for n in range(THUMBNAILS)]
    assert sum(tag == "img" and a.get("class") == "slice" for tag, a in elements.tags) == THUMBNAILS
    assert sum(tag == "img" and a.get("class") == "heatmap" for tag, a in elements.tags) == THUMBNAILS
    flagged = sum(row.probability is not None and row.probability >= THRESHOLD for row in rows)
    assert f"The {THUMBNAILS} highest of {flagged} flagged slices" in text
    assert text.count("<svg") == 1


def test_a_study_with_flagged_slices_that_is_not_flagged_says_why(tmp_path: Path):
    rows = [scored("1.1", 1, 0.6), scored("1.2", 1, 0.9), scored("1.3", 1, 0.1)]
    reason = "Slices are flagged, the study is not: its score is below 0.7"
    text, elements = page_of(tmp_path, rows, study_threshold=0.7)
    assert [a["data-flag"] for a in articles(elements)] == ["1", "0", "0"]
    assert [reason in part for part in text.split("<article")[1:]] == [False, True, False]
    assert reason not in page_of(tmp_path, rows)[0], "any flagged slice flags its study"


def luminance(colour: str) -> float:
    """Return the relative luminance of #rgb or #rrggbb (WCAG 2.2)."""
    digits = colour.removeprefix("#")
    pairs = [digit * 2 for digit in digits] if len(digits) == 3 else [digits[at : at + 2] for at in (0, 2, 4)]
    shares = [int(pair, 16) / 255 for pair in pairs]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_stands_out_by_day_in_the_dark_and_in_print():
    """WCAG 2.2, 1.4.3: 4.5 to 1 for text; 1.4.11: 3 to 1 for what else is to be seen."""
    style = resources.files("hemoscan").joinpath("worklist.css").read_text(encoding="utf-8")
    schemes = [dict(re.findall(r"--([\w-]+): (#\w+)", block)) for block in re.findall(r":root \{(.*?)\}", style, re.S)]
    assert len(schemes) == 3, "light, dark, print"
    for scheme in (schemes[0], schemes[1], {**schemes[0], **schemes[2]}):
        text = [(name, ground, 4.5) for name in ("ink", "faint", "accent") for ground in ("ground", "card")]
        others = [(name, ground, 3.0) for name in ("bar", "focus") for ground in ("ground", "card")]
        for name, ground, least in (*text, *others, ("notice-ink", "notice", 4.5)):
            low, high = sorted((luminance(scheme[name]), luminance(scheme[ground])))
            assert (high + 0.05) / (low + 0.05) >= least, (name, ground)


def test_without_pictures_the_page_says_so(tmp_path: Path):
    text, _ = page_of(tmp_path, [scored("1.1", 1, 0.9)], pictures=False)
    assert "no picture" in text
    assert "image/webp" not in text


def test_nothing_that_a_file_is_called_or_holds_becomes_markup(tmp_path: Path):
    rows = [
        scored(HOSTILE, 1, 0.9, path=HOSTILE, series_uid=HOSTILE),
        unscored(ERROR, HOSTILE, HOSTILE),
        unscored(SKIPPED, HOSTILE, HOSTILE, HOSTILE),
    ]
    _, elements = page_of(tmp_path, rows, identifiers=lambda study: (HOSTILE,))
    _, known = page_of(tmp_path, [scored("1", 1, 0.9), unscored(ERROR, "/a", "b"), unscored(SKIPPED, "/a", "c")])
    assert {tag for tag, _ in elements.tags} == {tag for tag, _ in known.tags}
    assert sum(tag == "script" for tag, _ in elements.tags) == 1
    assert not [name for _, attributes in elements.tags for name in attributes if name.startswith("on")]
    assert HOSTILE in elements.texts
    assert "49" not in "".join(text for text in elements.texts if "alert" in text)


def test_names_that_are_not_utf_8_do_not_end_the_page(tmp_path: Path):
    text, _ = page_of(tmp_path, [scored("1.1", 1, 0.9, path="/in/caf\udce9.dcm"), unscored(ERROR, "/caf\udce9", "x")])
    assert "caf\\udce9" in text


def test_the_page_loads_nothing(tmp_path: Path):
    text, elements = page_of(tmp_path, rows_of_studies(6))
    for tag, attributes in elements.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href", "background", "formaction"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), f"{tag} {name}={value}"
        assert "style" not in attributes, "the policy forbids it"
    assert not re.findall(r"url\(|@import|https?:|//[a-z]+\.[a-z]|import\(|fetch\(|XMLHttp|WebSocket|eval\(", text)


def test_the_policy_forbids_every_load_and_all_but_the_page_s_own_script(tmp_path: Path):
    text, elements = page_of(tmp_path, [scored("1.1", 1, 0.9)])
    (policy,) = [a["content"] for tag, a in elements.tags if a.get("http-equiv") == "Content-Security-Policy"]
    directives = dict(part.strip().split(" ", 1) for part in (policy or "").split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["img-src"] == "data:"
    assert directives["base-uri"] == directives["form-action"] == "'none'"
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert directives[f"{tag}-src"] == f"'sha256-{digest}'"


def test_the_time_is_for_the_browser_to_judge(tmp_path: Path):
    as_of = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    _, elements = page_of(tmp_path, [], as_of=as_of, stale_after=0.5)
    (time,) = [attributes for tag, attributes in elements.tags if tag == "time"]
    assert datetime.fromisoformat(time["datetime"] or "") == as_of
    assert time["data-stale-after"] == "0.5"


@pytest.mark.parametrize(
    ("state", "words"),
    [("done", None), ("running", "this list is not complete"), ("interrupted", "ended early (interrupted)")],
)
def test_a_scan_that_is_not_done_is_no_complete_list(tmp_path: Path, state: str, words: str | None):
    text, _ = page_of(tmp_path, [scored("1.1", 1, 0.9)], state=state)
    assert ("complete</strong>" in text) is (words is not None)
    assert (words or "") in text


def test_identifiers_are_shown_if_they_are_asked_for(tmp_path: Path):
    text, _ = page_of(tmp_path, [scored("1.1", 1, 0.9)], identifiers=lambda study: ("PAT-1", "", "20300102"))
    assert "<b>PAT-1</b> <b>20300102</b>" in text


def test_500_studies_take_a_bounded_page(tmp_path: Path):
    text, elements = page_of(tmp_path, rows_of_studies(500))
    assert len(articles(elements)) == 500
    shown = text.count("data-picture=")
    assert shown > 500
    assert len(text) < 4000 * 500 + 6000 * shown
    opened = [attributes for tag, attributes in elements.tags if tag == "details" and "open" in attributes]
    assert 0 < len(opened) <= 3


def test_what_is_kept_of_a_run_does_not_grow_with_its_flagged_slices(tmp_path: Path):
    rows = [scored("1.1", number, 0.9) for number in range(1, 3001)]
    page = write_page(tmp_path / "page.html", rows, pictures=False)
    (kept,) = page._kept.values()
    assert len(kept.top) == THUMBNAILS
    assert [row.decoded.identity.instance_number for row in kept.flagged] == list(range(1, THUMBNAILS + 1))


def test_studies_and_reasons_beyond_bounds_are_counted(tmp_path: Path):
    rows = [scored(f"1.{n}", 1, 0.1) for n in range(MAX_STUDIES + 3)]
    rows += [unscored(ERROR, "/x", f"reason {n}") for n in range(MAX_REASONS + 5)]
    text, elements = page_of(tmp_path, rows)
    assert len(articles(elements)) == MAX_STUDIES
    assert "4 less urgent studies are in the CSV alone" in text  # and the unreadable files' folder
    assert "other reasons" in text
    assert '<td class="number">5</td>' in text


def test_an_empty_scan_makes_a_page(tmp_path: Path):
    text, elements = page_of(tmp_path, [])
    assert "No study was found." in text
    assert articles(elements) == []


def test_series_have_their_own_charts(tmp_path: Path):
    rows = [*make_study(1), *(scored("1.2.840.1", n, 0.2, series_uid="other") for n in range(5))]
    text, _ = page_of(tmp_path, rows)
    assert re.findall(r"aria-label=\"Scores along z, .* of (\d+) flagged\"", text) == ["24", "5"]
