"""What tests of the page do again and again: read its tiles, drop images on it."""

import base64
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, Response, expect
from server.conftest import WAIT_MS

DROP = """([kind, name, type, data]) => {
  const bytes = Uint8Array.from(atob(data), (sign) => sign.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name, { type }));
  const options = { bubbles: true, cancelable: true };
  if (kind === "paste") {
    document.body.dispatchEvent(
      new ClipboardEvent("paste", { ...options, clipboardData: dataTransfer }));
  } else {
    document.body.dispatchEvent(new DragEvent("dragover", { ...options, dataTransfer }));
    document.body.dispatchEvent(new DragEvent("drop", { ...options, dataTransfer }));
  }
}"""


def names(page: Page, most: int = 10) -> list[str]:
    """Files of the first tiles, in order."""
    return page.locator(".tile .caption .name").all_text_contents()[:most]


def wait_for_results(page: Page) -> None:
    expect(page.locator("#results:not(.is-stale) .tile").first).to_be_visible()


def expect_search(page: Page):
    """Wait for the first page of hits, as `page.expect_response` does.

    The page asks for more on its own: for hits that follow, at an offset, and while an index is
    new for its cutoffs, without one. A reply to these is not what a click or a key brought.
    """

    def begins(response: Response) -> bool:
        if not response.url.endswith("/v1/search"):
            return False
        return response.request.post_data_json.get("offset") == 0

    return page.expect_response(begins)


def search(page: Page, words: str) -> list[str]:
    """Type words, send them, and return the first hits' files."""
    page.get_by_label("Search query").fill(words)
    with expect_search(page):
        page.get_by_label("Search query").press("Enter")
    wait_for_results(page)
    return names(page)


def bring(page: Page, file: Path, kind: str = "drop") -> None:
    """Drop or paste an image."""
    data = base64.b64encode(file.read_bytes()).decode()
    page.evaluate(DROP, [kind, file.name, f"image/{file.suffix[1:]}", data])


def overflows(page: Page) -> bool:
    """Whether the page can be scrolled sideways."""
    return bool(page.evaluate("document.documentElement.scrollWidth > innerWidth"))


def until(page: Page, is_so: Callable[[], bool]) -> None:
    """Wait; `wait_for_function` would need what the page's policy forbids."""
    end = time.monotonic() + WAIT_MS / 1000
    while not is_so():
        if time.monotonic() > end:
            pytest.fail(f"it did not happen in {WAIT_MS // 1000} s")
        page.wait_for_timeout(50)


RECORD = """(button) => {
  button.said = [];
  const note = () => button.said.push(button.textContent);
  const changes = { subtree: true, characterData: true, childList: true };
  new MutationObserver(note).observe(button, changes);
}"""


def click_copy(page: Page, button: Locator) -> None:
    """Click a button that copies; it says "Copied" only for a moment."""
    element = button.element_handle()
    element.evaluate(RECORD)
    element.click()
    until(page, lambda: bool(element.evaluate("(button) => button.said.length > 0")))
    assert element.evaluate("(button) => button.said[0]") == "Copied"


def scroll_beyond(page: Page, place: int) -> None:
    """Scroll down, screen after screen, until an image at a later place has a tile."""

    def is_there() -> bool:
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
        assert page.locator(".tile").count() < 250
        return place_of_last(page) > place

    until(page, is_there)


def place_of_last(page: Page) -> int:
    return int(page.locator(".tile").last.get_attribute("data-at") or 0)
