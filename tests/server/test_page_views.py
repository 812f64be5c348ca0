"""The page's other views: duplicates, labels, the state of an index; keys and errors."""

import re
import shlex
import shutil
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest
from cli.command import invoke
from playwright.sync_api import expect
from server.pages import bring, click_copy, search, wait_for_results
from server.serving import make_index, running
from small_models import open_tiny, save_drawings

from perception_encoder import AutoModel
from perception_encoder.index import Index, Outcome, OutcomeLog, Row, write_lock
from perception_encoder.indexing import Run
from perception_encoder.server import ServerSettings
from perception_encoder.server.http.access import hash_key
from perception_encoder.server.options import AccessSettings
from perception_encoder.sources import SourceOptions, open_sources

SHOWN = "main > section:not([hidden])"
KEY = "a key of twenty signs"


@pytest.fixture
def duplicates(open_page, drawings_server):
    page = open_page(f"{drawings_server.url}/?view=duplicates&tier=pixels")
    expect(page.locator(".group")).to_have_count(2)
    return page


def test_duplicates_are_side_by_side_and_one_of_each_group_stays(duplicates):
    cats = duplicates.locator(".group").filter(has_text="cat.webp")
    expect(cats.locator("img")).to_have_count(2)
    expect(cats.get_by_role("checkbox", checked=True)).to_have_count(1)
    expect(duplicates.get_by_text("2 images would go")).to_be_visible()
    kept = cats.get_by_role("checkbox", checked=True)
    kept.click()
    expect(cats.get_by_role("checkbox", checked=True)).to_have_count(1)  # the last one stays
    cats.get_by_role("checkbox", checked=False).check()
    expect(duplicates.get_by_text("1 image would go")).to_be_visible()


def test_two_images_can_be_compared_and_chosen_from(duplicates):
    group = duplicates.locator(".group").filter(has_text="castle.webp")
    group.get_by_role("button", name="Compare").click()
    dialog = duplicates.get_by_role("dialog", name="Compare two images")
    expect(dialog.locator("img")).to_have_count(2)
    right = dialog.locator("figcaption strong").last.text_content()
    dialog.get_by_role("button", name="Keep the right").click()
    duplicates.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(group.locator(".member.is-kept .name")).to_have_text(right)


def test_the_script_names_what_goes_and_nothing_is_deleted(duplicates, drawings_server):
    items = drawings_server.client.get("/v1/items", params={"limit": 1000}).json()["items"]
    with duplicates.expect_download() as download:
        duplicates.get_by_role("button", name="Script", exact=True).click()
    script = download.value.path().read_text()
    assert script.startswith("#!/bin/sh\n")
    removed = re.findall(r"rm -- '([^']+)'", script)
    shown = duplicates.locator(".member:not(.is-kept) .name")
    assert [Path(path).name for path in removed] == shown.all_text_contents()
    with duplicates.expect_download() as download:
        duplicates.get_by_role("button", name="Keep list").click()
    kept = download.value.path().read_text().splitlines()
    assert len(kept) == 2
    assert not set(kept) & set(removed)
    assert all(Path(item["uri"]).exists() for item in items)


CLIPBOARD = {"permissions": ["clipboard-read", "clipboard-write"]}
PASTED = "navigator.clipboard.readText()"


def test_copy_buttons_fill_the_clipboard(open_page, drawings_server):
    page = open_page(f"{drawings_server.url}/?view=duplicates&tier=pixels", **CLIPBOARD)
    expect(page.locator(".group")).to_have_count(2)
    click_copy(page, page.get_by_role("button", name="Copy script"))
    with page.expect_download() as download:
        page.get_by_role("button", name="Script", exact=True).click()
    assert page.evaluate(PASTED) == download.value.path().read_text()
    expect(page.get_by_role("button", name="Copy script")).to_be_visible()  # as it was before

    page.goto(drawings_server.url)
    wait_for_results(page)  # of the whole index: a click would meet them while they are replaced
    search(page, "cat")
    page.locator(".tile a").first.click()
    viewer = page.get_by_role("dialog", name="Image")
    click_copy(page, viewer.get_by_role("button", name="Copy path"))
    expect(page.locator("#announcements")).to_have_text("Copied")
    assert page.evaluate(PASTED) == viewer.locator(".path").text_content()


def test_copying_works_where_the_page_may_not_reach_the_clipboard(open_page):
    with running() as server:
        page = open_page(server.url, **CLIPBOARD)
        page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject('refused'); }")
        click_copy(page, page.locator(SHOWN).get_by_role("button", name="Copy the command"))
        assert page.evaluate(PASTED) == page.locator(f"{SHOWN} pre").text_content()


def test_an_index_without_duplicates_says_so(open_page, drawings_server):
    page = open_page(f"{drawings_server.url}/?view=duplicates&tier=bytes&index=few")
    expect(page.get_by_text("None among 5 images")).to_be_visible()
    page.get_by_role("button", name="Look for similar ones").click()
    expect(page).to_have_url(re.compile("tier=similar"))


SCRIPT_OF = """async ([kept, removed]) => {
  const { removalScript } = await import(new URL("web/removal-script.js", document.baseURI));
  const item = (name) => ({ uri: name, name, member: null });
  return removalScript([{ kept: kept.map(item), removed: removed.map(item) }]);
}"""


def test_images_that_cannot_be_compared_are_listed(open_page, tmp_path):
    files = save_drawings(tmp_path, 3)
    files.append(Path(shutil.copy(files[0], tmp_path / "copy.png")))
    make_index(tmp_path / "changed.lance", open_tiny(), files)
    files[0].unlink()
    settings = ServerSettings(indexes=(str(tmp_path / "changed.lance"),))
    with running(settings, open_model=lambda _: open_tiny()) as server:
        page = open_page(f"{server.url}/?view=duplicates&tier=similar")
        page.get_by_text("1 image left out").click()
        expect(page.locator(".left-out li")).to_contain_text(f"{files[0]} has gone")


def test_a_script_removes_files_of_odd_names_and_only_those(duplicates, tmp_path):
    odd = ["a b.png", "it's.png", "-rf.png", "$HOME;`x`.png", 'say "cheese".png', "line\nbreak.png"]
    for name in [*odd, "kept.png", "break.png"]:
        (tmp_path / name).touch()
    paths = [str(tmp_path / name) for name in odd]
    script = duplicates.evaluate(SCRIPT_OF, [[str(tmp_path / "kept.png")], paths])
    subprocess.run(["sh"], input=script, text=True, cwd=tmp_path, check=True)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"kept.png", "break.png", "line\nbreak.png"}
    (tmp_path / "it's.png").touch()
    gone = duplicates.evaluate(SCRIPT_OF, [[str(tmp_path / "gone.png")], [paths[1]]])
    subprocess.run(["sh"], input=gone, text=True, cwd=tmp_path, check=False)
    assert (tmp_path / "it's.png").exists(), "the image to keep had vanished"


def test_a_cluster_leads_to_all_of_its_images(open_page, drawings_server):
    page = open_page(f"{drawings_server.url}/?view=clusters&k=5")
    clusters = page.locator(".cluster")
    expect(clusters).to_have_count(5)
    sizes = [int(text.split()[0]) for text in clusters.locator(".soft").all_text_contents()]
    assert sum(sizes) == 122
    name = clusters.nth(1).get_by_role("heading")
    expect(name).not_to_have_text("Cluster 2")  # until the words are embedded
    name = name.text_content()
    clusters.nth(1).get_by_role("link", name="Show all").click()
    expect(page.get_by_role("status").filter(has_text=f"{sizes[1]} images")).to_be_visible()
    page.get_by_role("button", name=f"Remove the filter: cluster: {name}").click()
    expect(page.get_by_role("status").filter(has_text="122 images")).to_be_visible()
    page.get_by_role("link", name="Clusters").click()
    clusters.first.locator(".examples a").first.click()
    expect(page.get_by_role("dialog", name="Image")).to_be_visible()


def test_an_image_is_opened_from_the_map(open_page, drawings_server):
    page = open_page(f"{drawings_server.url}/?view=map")
    canvas = page.locator("canvas")
    expect(canvas).to_be_visible()
    expect(page.get_by_role("img", name="Map of 122 images")).to_be_visible()
    page.wait_for_load_state("networkidle")
    whole = canvas.screenshot()
    page.get_by_role("button", name="Zoom in").click()
    page.wait_for_load_state("networkidle")
    assert canvas.screenshot() != whole
    canvas.press("Enter")  # the image in the middle
    viewer = page.get_by_role("dialog", name="Image")
    expect(viewer).to_be_visible()
    page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()
    expect(canvas).to_be_focused()


def test_labels_become_bars(open_page, drawings_server, gallery):
    page = open_page(f"{drawings_server.url}/?view=classify")
    bring(page, gallery / "banana.webp")
    expect(page.get_by_alt_text("The image to classify")).to_be_visible()
    page.get_by_label("Labels").fill("a banana, a blue heart\na bus")
    bars = page.locator(".bars li")
    expect(bars).to_have_count(3)
    shares = [float(text.removesuffix(" %")) for text in page.locator(".share").all_text_contents()]
    assert shares == sorted(shares, reverse=True)
    assert abs(sum(shares) - 100) < 2
    widths = page.locator(".fill").evaluate_all("(all) => all.map((one) => one.offsetWidth)")
    assert widths == sorted(widths, reverse=True)
    assert "labels=a+banana" in page.url
    page.reload()
    expect(bars).to_have_count(3)


def test_one_label_is_answered_with_yes_or_no(open_page, drawings_server, gallery):
    page = open_page(f"{drawings_server.url}/?view=classify&labels=a+banana")
    bring(page, gallery / "banana.webp")
    expect(page.locator(".answer strong")).to_have_text("Yes")
    expect(page.locator(".share")).to_have_count(0)
    page.get_by_label("Labels").fill("a suitcase")
    expect(page.locator(".answer strong")).to_have_text("No")
    page.get_by_label("Labels").fill("a suitcase, a bus")
    expect(page.locator(".answer")).to_have_text("None of these labels is likely.")


def test_an_image_of_the_index_can_be_classified(open_page, drawings_server):
    page = open_page(drawings_server.url)
    wait_for_results(page)
    name = search(page, "a cat")[0]
    page.locator(".tile a").first.click()
    page.get_by_role("link", name="Classify", exact=True).last.click()
    page.get_by_label("Labels").fill("cat, bus")
    page.get_by_label("Sentence").fill("a drawing of a {}")
    expect(page.locator(".bars li")).to_have_count(2)
    item = re.search(r"like=([0-9a-f]+)", page.url)[1]
    row = drawings_server.client.get(f"/v1/items/{item}").json()
    assert row["name"].endswith(f"/{name}")


def test_photos_with_pe_nano_get_a_notice_and_commands(open_page, tmp_path):
    model = AutoModel.from_pretrained("pe-nano")
    photos = save_drawings(tmp_path, 3, ".jpg")
    index = tmp_path / "my photos.lance"
    make_index(index, model, photos)
    with running(ServerSettings(indexes=(str(index),)), open_model=lambda _: model) as server:
        page = open_page(server.url)
        notice = page.get_by_role("note", name="Notice")
        expect(notice).to_contain_text("pe-nano, which knows drawings, not photos")
        expect(notice.locator("pre")).to_have_text(
            f"pe index --reembed PE-Core-S16-384 --index '{index}'"
        )
        notice.get_by_role("button", name="Close the notice").click()
        expect(notice).to_be_hidden()
        page.get_by_role("link", name="Index").click()
        expect(page.locator(".commands code").first).to_have_text(
            f"pe index ~/Pictures --index '{index}'"
        )


def test_the_page_and_the_command_line_agree_on_duplicates(duplicates, tmp_path):
    command = duplicates.locator(".same-command code").text_content()
    _, _, *arguments = shlex.split(command)
    script = tmp_path / "remove.sh"
    arguments[-1] = str(script)
    assert invoke("duplicates", *arguments).exit_code == 0
    with duplicates.expect_download() as download:
        duplicates.get_by_role("button", name="Script", exact=True).click()
    removed = [
        re.findall(r"^[^#\n]*rm -- (\S+|'[^']+')", text, re.MULTILINE)
        for text in (script.read_text(), download.value.path().read_text())
    ]
    assert [one.strip("'") for one in removed[0]] == [one.strip("'") for one in removed[1]]
    assert len(removed[0]) == 2


def test_the_state_of_an_index_is_live_while_somebody_writes(open_page, tmp_path):
    model = open_tiny()
    files = save_drawings(tmp_path, 12)
    index = tmp_path / "growing.lance"
    make_index(index, model, files[:6])
    OutcomeLog(str(index)).append(
        [
            *(Outcome(str(file), "embedded") for file in files[:6]),
            Outcome("broken.png", "failed", reason="truncated", message="broken.png: cut short"),
        ],
        "a run",
    )
    settings = ServerSettings(indexes=(str(index),))
    with running(settings, open_model=lambda _: open_tiny()) as server:
        page = open_page(f"{server.url}/?view=index")
        expect(page.locator(".number").first).to_have_text("6images")
        expect(page.get_by_text("Up to date.")).to_be_visible()
        expect(page.get_by_text("1 item could not be read")).to_be_visible()
        expect(page.locator(".failures li")).to_have_text("broken.pngcut short")  # named once
        more = [Row(str(file)) for file in files[6:]]
        vectors = model.embed_images(files[6:])
        may_end = threading.Event()

        def write():
            Index.open(index).add(more, vectors)
            with write_lock(str(index)):
                may_end.wait(30)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            expect(page.get_by_text("pe index is writing this index now.")).to_be_visible()
            expect(page.locator(".number").first).to_have_text("12images")
            expect(page.locator("#writing-dot")).to_be_visible()
        finally:
            may_end.set()
            writer.join()
        expect(page.get_by_text("Up to date.")).to_be_visible()


def test_what_failed_inside_an_archive_is_named_once(open_page, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        archive.add(tmp_path / "broken.png", "broken.png")
    index = tmp_path / "few.lance"
    make_index(index, open_tiny(), save_drawings(tmp_path, 1))
    sources = open_sources([str(tmp_path / "all.tar")], SourceOptions())
    (outcome,) = Run(open_tiny(), Index.open(index), sources).outcomes()
    settings = ServerSettings(indexes=(str(index),))
    with running(settings, open_model=lambda _: open_tiny()) as server:
        page = open_page(f"{server.url}/?view=index")
        name, told = page.locator(".failures li code"), page.locator(".failures li span")
        expect(name).to_have_text(f"{tmp_path / 'all.tar'}/broken.png")
        expect(told).not_to_be_empty()
        expect(told).not_to_contain_text("broken.png")
        assert outcome.message.endswith(told.text_content())


def test_a_server_without_indexes_says_how_to_make_one(open_page):
    with running() as server:
        page = open_page(server.url)
        expect(page.locator(SHOWN).get_by_text("No images yet")).to_be_visible()
        expect(page.locator(SHOWN).get_by_text("pe index ~/Pictures")).to_be_visible()
        for view in ("duplicates", "index"):
            page.goto(f"{server.url}/?view={view}")
            expect(page.locator(SHOWN).get_by_text("No images yet")).to_be_visible()


def test_a_server_that_wants_a_key_gets_it_once(open_page, tmp_path):
    make_index(tmp_path / "closed.lance", open_tiny(), save_drawings(tmp_path, 4))
    settings = ServerSettings(
        indexes=(str(tmp_path / "closed.lance"),),
        access=AccessSettings(key_hashes=(hash_key(KEY),)),
    )
    with running(settings, open_model=lambda _: open_tiny()) as server:
        page = open_page(server.url, expected=("401",))
        page.get_by_label("Key", exact=True).fill("another key of some length")
        page.get_by_role("button", name="Go on").click()
        expect(page.get_by_role("alert")).to_have_text("That key is not accepted.")
        page.get_by_label("Key", exact=True).fill(KEY)
        page.get_by_role("button", name="Go on").click()
        expect(page.locator(".tile img.is-drawn")).to_have_count(4)
        page.reload()
        expect(page.locator(".tile img.is-drawn")).to_have_count(4)
        assert KEY not in page.content()


def test_a_server_that_has_ended_is_told_from_one_that_finds_nothing(open_page, tmp_path):
    make_index(tmp_path / "a.lance", open_tiny(), save_drawings(tmp_path, 4))
    settings = ServerSettings(indexes=(str(tmp_path / "a.lance"),))
    with running(settings, open_model=lambda _: open_tiny()) as server:
        page = open_page(server.url, expected=("ERR_",))
        wait_for_results(page)
    page.get_by_label("Search query").fill("a cat")
    page.get_by_label("Search query").press("Enter")
    shown = page.locator(SHOWN)
    expect(shown.get_by_text("The server does not answer")).to_be_visible()
    expect(shown.get_by_role("button", name="Try again")).to_be_visible()
