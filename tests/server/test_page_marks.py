"""Marking hits on the page: more like these, less like these, and a classifier from marks."""

import pytest
from playwright.sync_api import expect
from server.pages import expect_search, names, overflows, search, wait_for_results

from perception_encoder.analysis.classifier_file import parse_classifier


@pytest.fixture
def page(open_page, drawings_server):
    page = open_page(drawings_server.url)
    wait_for_results(page)
    return page


def marks_of(page):
    return page.get_by_role("group", name="Marked images")


def mark_by_keys(page, number, key):
    """Mark the hit at a position, and return its name."""
    name = names(page)[number]
    with expect_search(page):
        page.locator(".tile a").nth(number).press(key)
    wait_for_results(page)
    expect(page.locator(".tile .name").filter(has_text=name)).to_have_count(0)
    return name


def test_keys_mark_hits_which_are_then_replaced_by_others(page):
    before = search(page, "an animal")
    liked = mark_by_keys(page, 1, "+")
    unliked = mark_by_keys(page, 0, "-")
    expect(marks_of(page).get_by_role("group", name="More like")).to_be_visible()
    after = names(page)
    assert not {liked, unliked} & set(after)
    assert after != before
    assert "more=" in page.url
    assert "less=" in page.url
    page.reload()
    wait_for_results(page)
    assert names(page) == after
    page.go_back()
    expect(page.locator(".tile .name").filter(has_text=unliked).first).to_be_visible()


def test_selected_images_are_marked_by_buttons_and_marks_are_taken_away(page):
    search(page, "a heart")
    for number in (0, 1):
        page.locator(".tile a").nth(number).press(" ")
    bar = page.get_by_role("region", name="Selection")
    with expect_search(page):
        bar.get_by_role("button", name="More like these").click()
    expect(bar).to_be_hidden()
    row = marks_of(page)
    expect(row.get_by_role("img", include_hidden=True)).to_have_count(0)  # they say nothing more
    marks = row.get_by_role("button", name="Take this mark away")
    expect(marks).to_have_count(2)
    with expect_search(page):
        marks.first.click()
    expect(marks).to_have_count(1)
    row.get_by_role("button", name="Clear marks").click()
    expect(row).to_be_hidden()
    expect(page.get_by_label("Search query")).to_have_value("a heart")


def test_marks_alone_are_a_search_and_are_no_hits_of_any_page(page):
    name = mark_by_keys(page, 3, "+")
    shown = page.locator(".tile .name")
    while True:
        count = shown.count()
        page.keyboard.press("End")
        page.mouse.wheel(0, 20_000)
        page.wait_for_timeout(300)
        if shown.count() == count:
            break
    assert name not in shown.all_text_contents()


def test_marks_teach_a_classifier_that_is_downloaded(page):
    search(page, "a heart")
    mark_by_keys(page, 0, "+")
    mark_by_keys(page, 0, "+")
    row = marks_of(page)
    expect(row.get_by_role("button", name="Teach")).to_have_count(0)  # nothing to tell it from
    mark_by_keys(page, 9, "-")
    row.get_by_label("Label of the liked images").fill("heart")
    with page.expect_download() as download:
        row.get_by_role("button", name="Teach").click()
    assert download.value.suggested_filename == "heart.npz"
    classifier = parse_classifier(download.value.path().read_bytes())
    assert classifier.labels == ("heart",)
    expect(row).to_contain_text("pe classify IMAGES --classifier heart.npz")


def test_a_phone_has_room_for_marks(open_page, drawings_server):
    page = open_page(drawings_server.url, width=390, height=780, has_touch=True)
    wait_for_results(page)
    search(page, "a heart")
    page.locator(".tile input").first.check()
    bar = page.get_by_role("region", name="Selection")
    with expect_search(page):
        bar.get_by_role("button", name="More like these").tap()
    expect(marks_of(page)).to_be_visible()
    assert not overflows(page)
