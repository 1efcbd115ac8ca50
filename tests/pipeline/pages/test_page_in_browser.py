"""Pages as a browser shows them. Skipped without Chromium."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chromium import Browser, chromium
from tests.pipeline.pages.made_pages import NASTY, made_content
from unialign.pipeline.pages.page import page_text

SECONDS = 3


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def opened(browser: Browser, path: Path, text: str) -> float:
    path.write_text(text, encoding="utf-8")
    browser.messages.clear()
    browser.requests.clear()
    seconds = browser.open(path)
    assert browser.look("document.documentElement.dataset.failed || ''") == ""
    assert browser.messages == []
    assert [each for each in browser.requests if not each.startswith(("file:", "data:"))] == []
    return seconds


def test_names_are_texts_whatever_they_are(browser: Browser, tmp_path: Path) -> None:
    opened(browser, tmp_path / "nasty.html", page_text(made_content(4, 60)))
    assert browser.look("document.documentElement.dataset.broken || ''") == ""
    assert browser.look("document.querySelectorAll('main script, main img').length") == 0
    assert browser.look("document.title") == NASTY[1]
    assert browser.look("document.querySelector('h1').textContent") == NASTY[1]
    assert browser.look("[...document.querySelectorAll('.claims li')].map(each => each.textContent)") == list(NASTY)
    found = browser.look("document.querySelector('.player .id').textContent")
    assert found.startswith(NASTY[:4])
    assert browser.look("getComputedStyle(document.querySelector('.tip')).visibility") == "visible"


def test_50_000_clips_of_400_classes_open_in_seconds(browser: Browser, tmp_path: Path) -> None:
    text = page_text(made_content(400, 50_000, 12))
    assert len(text) < 10_000_000
    seconds = opened(browser, tmp_path / "large.html", text)
    assert seconds < SECONDS, seconds
    # All are in the list, and few of them in the page.
    assert browser.look("document.querySelector('.controls [aria-live]').textContent").endswith(
        "with frames or skeletons"
    )
    assert browser.look("document.querySelectorAll('.row').length") < 60
    browser.look("document.querySelector('.list').scrollTop = 1e9")
    browser.look("new Promise(done => setTimeout(done, 100))")
    assert "clip 0499" in browser.look("[...document.querySelectorAll('.row')].at(-1).textContent")


def test_keys_search_move_and_change_the_theme(browser: Browser, tmp_path: Path) -> None:
    opened(browser, tmp_path / "keys.html", page_text(made_content(6, 80)))
    first = browser.look("document.querySelector('.player .id').textContent")
    browser.key("j")
    second = browser.look("document.querySelector('.player .id').textContent")
    assert first != second
    browser.key("k")
    assert browser.look("document.querySelector('.player .id').textContent") == first
    browser.key("d")
    assert browser.look("document.documentElement.dataset.theme") == "dark"
    browser.key("/")
    for letter in "000042":
        browser.key(letter)
    assert browser.look("document.querySelectorAll('.row').length") <= 1
    assert browser.look("document.activeElement.id") == "search"
    browser.key("Escape")
    browser.key("?")
    assert browser.look("document.querySelector('dialog').open") is True


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(browser: Browser, tmp_path: Path, width: int) -> None:
    path = tmp_path / "narrow.html"
    path.write_text(page_text(made_content(30, 200)), encoding="utf-8")
    browser.open(path, width=width)
    assert browser.look("document.documentElement.scrollWidth") <= width
