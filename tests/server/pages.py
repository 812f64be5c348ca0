"""What tests of the page do again and again: read its tiles, drop images on it."""

import base64
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, Response, expect

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
    """Wait for a page of hits, as `page.expect_response` does.

    While an index is new, the page also asks for its cutoffs now and then, with `k` of 1: a reply
    to that is not what a click or a key brought.
    """

    def brings_hits(response: Response) -> bool:
        if not response.url.endswith("/v1/search"):
            return False
        return response.request.post_data_json["k"] > 1

    return page.expect_response(brings_hits)


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
    for _ in range(100):
        if is_so():
            return
        page.wait_for_timeout(100)
    pytest.fail("it did not happen in 10 s")
