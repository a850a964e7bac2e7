"""The label page as a person meets it, in a headless Chromium: as one file, and fed by the live page's server."""

from __future__ import annotations

import dataclasses
import json
import urllib.error
import urllib.request

import numpy as np
import pytest

from semdrivers import Image
from semfocus_plugin import labelling
from semfocus_plugin.labelling import Row, read_sheet, write_sheet

FILES = ("a.ome.tif", "b.ome.tif", "c.ome.tif")
TOKEN = "0123456789abcdef"
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def sheet(tmp_path):
    """A sheet of three pictures, one labelled, and its page."""
    random = np.random.default_rng(1)
    for name in FILES:
        Image(random.integers(0, 256, (600, 800)).astype(np.uint8), 14.0, 3000.0, 100.0).save(tmp_path / name)
    rows = [Row(name, 3000.0, 4.4, label=6.0 if name == "c.ome.tif" else None) for name in FILES]
    return write_page(write_sheet(tmp_path / "labels.csv", rows))


def write_page(sheet):
    """Write the page of a sheet anew, as `semfocus label` does."""
    rows = read_sheet(sheet)
    previews = {row.file: labelling.preview_of(row, sheet.parent) for row in rows}
    text = labelling.page(labelling.for_review(rows), previews, sheet.name)
    sheet.with_suffix(".html").write_text(text, encoding="utf-8")
    return sheet


def labels(sheet):
    return {row.file: row.label for row in read_sheet(sheet)}


def shown(page, file):
    page.locator("#file", has_text=file).wait_for()
    page.wait_for_function("() => document.querySelector('#crop img').naturalWidth === 320")


def download(page, path):
    with page.expect_download() as saved:
        page.locator("#save").click()
    saved.value.save_as(path)
    return labels(path)


def test_keys_label_at_once_and_the_score_is_hidden_until_then(tab, sheet):
    page = tab(sheet.with_suffix(".html").as_uri())
    shown(page, "a.ome.tif")  # the first without a label, though the labelled one comes first
    assert page.locator("#said").inner_text() == ""
    assert "4.4" not in page.locator("main").inner_text()
    page.keyboard.press("7")
    shown(page, "b.ome.tif")
    assert page.locator("#said").inner_text() == ""
    page.keyboard.press("ArrowLeft")
    assert page.locator("#said").inner_text() == "label 7; the network says 4.4"
    page.keyboard.press("n")
    shown(page, "b.ome.tif")
    page.keyboard.press("z")
    shown(page, "a.ome.tif")
    assert page.locator("#count").inner_text() == "1 of 3 labelled"
    page.locator("#exactly").fill("2.5")
    page.keyboard.press("Enter")
    assert download(page, sheet.with_name("saved.csv")) == {"a.ome.tif": 2.5, "b.ome.tif": None, "c.ome.tif": 6.0}


def test_reopening_shows_the_labels_until_the_sheet_says_otherwise(tab, sheet):
    address = sheet.with_suffix(".html").as_uri()
    page = tab(address)
    shown(page, "a.ome.tif")
    page.keyboard.press("7")
    page.keyboard.press("3")
    page.locator("#state", has_text="2 kept in this browser").wait_for()
    again = page.context.new_page()
    again.goto(address)
    shown(again, "c.ome.tif")
    assert again.locator("#count").inner_text() == "3 of 3 labelled"
    # Somebody gives one of them in the sheet: that is newer. The other is still kept.
    write_sheet(
        sheet,
        [
            dataclasses.replace(row, label=row.label or (1.0 if row.file == "a.ome.tif" else None))
            for row in read_sheet(sheet)
        ],
    )
    write_page(sheet)
    again.reload()
    assert download(again, sheet.with_name("saved.csv")) == {"a.ome.tif": 1.0, "b.ome.tif": 3.0, "c.ome.tif": 6.0}


def test_a_label_of_the_sheet_is_never_lost_without_asking(tab, sheet):
    page = tab(sheet.with_suffix(".html").as_uri())
    page.locator("#which").select_option(label="c.ome.tif: 6")
    page.keyboard.press("Delete")
    asked = []
    page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    page.locator("#save").click()
    assert "c.ome.tif" in asked[0]
    page.once("dialog", lambda dialog: dialog.accept())
    assert download(page, sheet.with_name("saved.csv"))["c.ome.tif"] is None


def test_the_crop_is_chosen_and_both_pictures_have_a_scale_bar(tab, sheet):
    page = tab(sheet.with_suffix(".html").as_uri())
    shown(page, "a.ome.tif")
    middle = page.locator("#crop img").get_attribute("src")
    box = page.locator("#whole img").bounding_box()
    page.mouse.click(box["x"] + 5, box["y"] + 5)
    corner = page.locator("#crop img").get_attribute("src")
    assert corner != middle
    assert page.evaluate("() => document.querySelector('#frame').style.left") == "0%"
    page.keyboard.press("c")
    assert page.locator("#crop img").get_attribute("src") not in (corner, middle)
    # 800 and 320 pixels of 100 nm.
    assert page.locator("#whole .scale").inner_text() == "20 µm"
    assert page.locator("#crop .scale").inner_text() == "10 µm"
    share = page.evaluate(
        "() => { const box = document.querySelector('#crop .scale'); return box.offsetWidth / box.parentElement.offsetWidth }"
    )
    assert share == pytest.approx(10 / 32, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_fingers(tab, sheet, scheme):
    page = tab(
        sheet.with_suffix(".html").as_uri(), viewport={"width": 390, "height": 844}, has_touch=True, color_scheme=scheme
    )
    shown(page, "a.ome.tif")
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    for button in page.locator("#labels button").all():
        box = button.bounding_box()
        assert min(box["width"], box["height"]) >= 44
    page.locator("#labels button", has_text="8").tap()
    shown(page, "b.ome.tif")
    for control in page.locator("button:visible, input:visible, select:visible").all():
        assert control.evaluate("e => (e.ariaLabel || e.labels?.[0]?.innerText || e.innerText || '').trim()")


def test_served_by_the_live_page_labels_are_in_the_sheet_at_once(tab, sheet):
    pytest.importorskip("fastapi", reason="the extra view is not installed")
    from semfocus_plugin.server import sharing

    with sharing("emulator://featureless?seed=1", port=0, token=TOKEN, labels=sheet) as server:
        page = tab(f"{server.page}#token={TOKEN}")
        page.locator("#label-page").click()
        shown(page, "a.ome.tif")
        page.keyboard.press("7")
        page.locator("#state", has_text="all in the sheet").wait_for()
        assert labels(sheet) == {"a.ome.tif": 7.0, "b.ome.tif": None, "c.ome.tif": 6.0}
        # What somebody else writes into the sheet meanwhile stays.
        write_sheet(
            sheet,
            [
                dataclasses.replace(row, label=5.0 if row.file == "c.ome.tif" else row.label)
                for row in read_sheet(sheet)
            ],
        )
        page.keyboard.press("2")
        page.wait_for_function("() => document.querySelector('#count').innerText === '3 of 3 labelled'")
        page.locator("#state", has_text="all in the sheet").wait_for()
        assert labels(sheet) == {"a.ome.tif": 7.0, "b.ome.tif": 2.0, "c.ome.tif": 5.0}
        page.keyboard.press("z")
        page.wait_for_function("() => document.querySelector('#count').innerText === '2 of 3 labelled'")
        page.locator("#state", has_text="all in the sheet").wait_for()
        assert labels(sheet)["b.ome.tif"] is None
        page.locator("#which").select_option(label="c.ome.tif: 6")
        asked = []
        page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
        page.keyboard.press("Delete")
        assert "c.ome.tif" in asked[0]
        assert labels(sheet)["c.ome.tif"] == 5.0


def test_a_server_that_went_away_loses_no_label(tab, sheet):
    pytest.importorskip("fastapi", reason="the extra view is not installed")
    from semfocus_plugin.server import sharing

    with sharing("emulator://featureless?seed=1", port=0, labels=sheet) as server:
        port, page = server.port, tab(f"{server.page}labels")
        shown(page, "a.ome.tif")
    page.keyboard.press("7")
    page.locator("#state.bad", has_text="kept in this browser").wait_for()
    assert labels(sheet)["a.ome.tif"] is None
    with sharing("emulator://featureless?seed=1", port=port, labels=sheet) as server:
        page.reload()
        page.locator("#state", has_text="all in the sheet").wait_for()
    assert labels(sheet)["a.ome.tif"] == 7.0


def test_a_server_writes_labels_of_its_sheet_alone(sheet):
    pytest.importorskip("fastapi", reason="the extra view is not installed")
    from semfocus_plugin.server import sharing

    def put(server, **body):
        content, kind = (
            json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"},
        )
        try:
            with urllib.request.urlopen(
                urllib.request.Request(f"{server.page}api/labels", content, kind, method="PUT")
            ) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    with sharing("emulator://featureless?seed=1", port=0, token=TOKEN, labels=sheet) as server:
        assert put(server, file="a.ome.tif", label=9.5) == 422
        assert put(server, file="../a.ome.tif", label=5) == 404
        for path in ("api/labels", "api/labels/picture?file=a.ome.tif"):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(server.page + path)
        assert put(server, file="a.ome.tif", label=5) == 200
    assert labels(sheet) == {"a.ome.tif": 5.0, "b.ome.tif": None, "c.ome.tif": 6.0}
