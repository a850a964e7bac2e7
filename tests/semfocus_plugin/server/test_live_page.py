"""The live page as an operator meets it, in a headless Chromium: focus, cancel, reload, two tabs, a cable pulled."""

from __future__ import annotations

import json
import threading

import pytest

pytest.importorskip("fastapi", reason="the extra view is not installed")
pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

import semdrivers
from semdrivers.emulator import Emulator
from semfocus_plugin.server import sharing
from semfocus_plugin.tiles import open_folder, plan_tiles, take_tiles

TOKEN = "0123456789abcdef"
pytestmark = pytest.mark.timeout(300)


class Patient:
    """A plugin whose method scans until it is cancelled, so that no test has to hurry."""

    name = "until-cancelled"

    @semdrivers.hookimpl
    def semdrivers_autofocus_methods(self):
        return {self.name: "scans until it is cancelled"}

    @semdrivers.hookimpl(tryfirst=True)
    def semdrivers_autofocus(self, microscope, settings, progress, cancel):
        if settings.method != self.name:
            return None
        start, trace = microscope.working_distance, []
        microscope.working_distance = start + 0.1
        while not cancel.wait(0.1):
            try:
                image = microscope.acquire(settings.scan_mode)
            except semdrivers.StoppedError:
                break
            except semdrivers.InterlockError:  # a stop between two frames has blanked the beam
                if not cancel.is_set():
                    raise
                break
            trace.append(
                semdrivers.FocusStep(len(trace), "wait", image.working_distance, image.magnification, 1.0, 0.0, 0.0)
            )
            progress(trace[-1])
        return semdrivers.AutofocusResult(
            status="cancelled", reason="cancelled", working_distance=start, start_working_distance=start, score=1.0,
            confidence=0.0, frames=len(trace), elapsed=0.1 * len(trace), method=self.name, trace=tuple(trace),
        )  # fmt: skip


@pytest.fixture(scope="module")
def emulator():
    """A blank specimen, and its server."""
    patient, plugins = Patient(), semdrivers.get_plugin_manager()
    plugins.register(patient)
    blank = Emulator("featureless", seed=1, magnification=2000, working_distance=14.0)
    try:
        with blank as emulator, sharing(emulator.url, port=0) as server:
            yield emulator, server
    finally:
        plugins.unregister(patient)


@pytest.fixture
def server(emulator):
    desk = emulator[1].desk
    desk.release(desk.take("the tests", force=True))
    desk.microscope.beam_on = True
    return emulator[1]


def in_control(page):
    page.locator("#control", has_text="you control").wait_for()
    return page


def begin_a_long_run(page):
    before = page.locator("#run-title").inner_text()
    page.locator("#method").select_option(Patient.name)
    page.keyboard.press("a")
    # The page may still show the run before, with steps of its own.
    page.wait_for_function("before => document.querySelector('#run-title').innerText !== before", arg=before)
    page.locator("#steps tbody tr").nth(1).wait_for()


def cancel(page):
    page.keyboard.press("Escape")
    page.locator("#run-title.cancelled").wait_for()


def test_a_score_that_comes_after_the_run_does_not_replace_that_of_its_last_frame(tab):
    with sharing("emulator://tin-balls?seed=1&magnification=2000", port=0) as server:
        page = in_control(tab(server.page))
        held = []
        page.route("**/api/frames/*/score", lambda route: held.append(route))  # playwright takes no bound method
        with page.expect_request("**/score"):
            page.keyboard.press("n")
        page.keyboard.press("a")
        page.locator("#run-title.focused").wait_for()
        last = page.locator("#score").inner_text()
        with page.expect_response("**/score"):
            held[0].fulfill(json={"score": 0.4, "blur": None})
        page.evaluate("new Promise(done => setTimeout(done, 50))")
        assert page.locator("#score").inner_text() == last


def test_focus_with_one_key_and_see_why_it_is_believed(tab):
    with sharing("emulator://tin-balls?seed=1&magnification=2000", port=0) as server:
        page = in_control(tab(server.page))
        page.keyboard.press("a")
        page.locator("#run-title.focused").wait_for()
        result = server.desk.run.result
        assert f"{result.working_distance:.3f} mm" in page.locator("#distance").inner_text()
        assert page.locator("#steps tbody tr").count() == result.frames
        assert page.locator("#plot .score-point").count() == result.frames
        assert page.locator("#plot .posterior").count() == 1
        assert page.locator("#scale").inner_text().endswith("m")
        assert page.locator("#history img").nth(1).get_attribute("alt") == "after run 1"
        assert page.locator("#emulator").is_visible()
        assert float(page.locator("#score").inner_text()) == pytest.approx(result.trace[-1].score, abs=0.06)
        with page.expect_download() as download:
            page.get_by_role("button", name="Report").click()
        assert download.value.suggested_filename == "run-1.html"
        page.locator("#blur", has_text="px").wait_for()
        page.locator("#emulator summary").click()
        place, stigmator = (getattr(server.desk.microscope, name) for name in ("working_distance", "stigmator"))
        page.locator("#defocus").fill("-50")
        page.locator("#astigmatism-y").fill("2")
        page.locator("#detune").click()
        page.locator("#message", has_text="detuned").wait_for()
        assert server.desk.microscope.working_distance == pytest.approx(place - 0.05, abs=0.001)
        assert server.desk.microscope.stigmator == pytest.approx((stigmator[0], stigmator[1] + 2))
        page.locator("#specimen").select_option("tem-grid")
        page.locator("#new-specimen").click()
        page.locator("#message", has_text="tem-grid is under the beam").wait_for()
        page.locator("#faults").fill("no-such-fault")
        page.locator("#new-specimen").click()
        page.locator("#message.bad", has_text="no-such-fault").wait_for()
        assert server.desk.microscope.acquire().pixels.std() > 0


def test_stigmate_corrects_the_stigmator_and_draws_what_is_left(tab):
    with sharing("emulator://tin-balls?seed=1&magnification=5000", port=0) as server:
        page = in_control(tab(server.page))
        before = server.desk.microscope.stigmator = (40.0, -20.0)
        page.keyboard.press("t")
        page.locator("#run-title.focused").wait_for()
        result = server.desk.run.result
        assert result.start_stigmator == before
        assert result.stigmator != before
        page.wait_for_function("x => +document.querySelector('#stigmator-x').value === x", arg=result.stigmator[0])
        page.locator("#astigmatism", has_text="astigmatism left").wait_for()
        turned = page.locator("#ellipse ellipse").get_attribute("transform")
        angle = float(turned.removeprefix("rotate(").removesuffix(")"))  # of SVG: from the lines to the next line
        assert angle % 180 == pytest.approx(result.astigmatism.angle)


class HoldsAMovedStigmator:
    """A plugin that holds the first frame whose stigmator was moved, so that no test has to hurry."""

    def __init__(self, start):
        self.start, self.reached, self.go_on = start, threading.Event(), threading.Event()

    @semdrivers.hookimpl
    def semdrivers_frame(self, microscope, image):
        if microscope.stigmator != self.start and not self.reached.is_set():
            self.reached.set()
            self.go_on.wait(240)


@pytest.mark.slow
def test_cancel_while_it_stigmates_puts_all_back_and_every_tab_shows_it(tab):
    with sharing("emulator://tin-balls?seed=1&magnification=5000", port=0) as server:
        page, other, desk = in_control(tab(server.page)), tab(server.page), server.desk
        start = {"#set-distance": "14.9", "#set-magnification": "5000", "#stigmator-x": "40", "#stigmator-y": "-20"}
        for field, value in start.items():
            with page.expect_response(lambda answer: answer.request.method == "PUT"):
                page.locator(field).fill(value)
                page.locator(field).blur()
        shown = "start => Object.entries(start).every(([id, value]) => document.querySelector(id).value === value)"
        other.wait_for_function(shown, arg=start)
        # The page has no control for it: the run may look at other magnifications, too.
        settings = {"stigmate": True, "may_change_magnification": True}
        page.route("**/api/autofocus", lambda route: route.continue_(post_data=json.dumps(settings)))
        holds = HoldsAMovedStigmator((40.0, -20.0))
        semdrivers.get_plugin_manager().register(holds)
        try:
            # Playwright runs the route on this thread: whoever waits for the run before the answer holds the request up.
            with page.expect_response("**/api/autofocus"):
                page.keyboard.press("t")
            assert holds.reached.wait(240)
            other.locator("#steps tbody tr").nth(1).wait_for()
            with page.expect_response("**/api/autofocus/1"):
                page.keyboard.press("Escape")
            holds.go_on.set()
            page.locator("#run-title.cancelled").wait_for()
        finally:
            holds.go_on.set()
            semdrivers.get_plugin_manager().unregister(holds)
        result, microscope = desk.run.result, desk.microscope
        assert result.stigmator == result.start_stigmator == microscope.stigmator == (40.0, -20.0)
        assert len({step.magnification for step in result.trace}) > 1
        assert (microscope.working_distance, microscope.magnification) == (14.9, 5000.0)
        for each in (page, other):
            each.locator("#distance", has_text="14.900 mm").wait_for()
            each.locator("#magnification", has_text="5,000×").wait_for()
            each.wait_for_function(shown, arg=start)


def test_tiles_and_map_are_shown_as_their_folder_grows(tab, tmp_path):
    folder, url = tmp_path / "night", "emulator://tin-balls?seed=1&magnification=5000"
    with semdrivers.connect(url) as microscope, sharing(url, port=0, tiles=folder) as server:
        page = in_control(tab(server.page))
        page.locator("#tiles-title", has_text="none in").wait_for()
        width, height = (n * microscope.acquire().pixel_size * 1e-6 for n in (320, 240))
        plan = plan_tiles(
            (2, 1), None, 0.1, place=microscope.stage_position, field=(width, height), magnification=5000,
            mode=microscope.capabilities.scan_modes[0],
        )  # fmt: skip
        open_folder(folder, lambda: plan, resume=False, overwrite=False)
        focus_map = take_tiles(microscope, folder, plan)
        page.locator("#tiles-title", has_text="2 of 2").wait_for()
        assert page.locator("#mosaic rect.taken").count() == 2
        assert page.locator("#mosaic .map-point").count() == len(focus_map.points)
        assert "score" in page.locator("#mosaic rect title").first.text_content()


def test_cancel_in_the_middle_puts_the_lens_back(tab, server):
    page = in_control(tab(server.page))
    start = server.desk.microscope.working_distance
    begin_a_long_run(page)
    assert page.locator("#set-distance").is_disabled()
    assert server.desk.microscope.working_distance == pytest.approx(start + 0.1)
    cancel(page)
    assert server.desk.microscope.working_distance == start
    page.locator("#distance", has_text=f"{start:.3f} mm").wait_for()


def test_a_reload_in_the_middle_keeps_run_and_control(tab, server):
    page = in_control(tab(server.page))
    begin_a_long_run(page)
    number = server.desk.run.number
    page.reload()
    in_control(page)
    assert server.desk.run.number == number
    page.locator("#run-title", has_text=f"Run {number}").wait_for()
    assert page.locator("#steps tbody tr").count() >= 2
    cancel(page)


def test_one_tab_controls_the_other_watches_and_may_take_over(tab, server):
    first = in_control(tab(server.page))
    second = tab(server.page)
    second.locator("#control", has_text="watching").wait_for()
    assert second.locator("#autofocus").is_disabled()
    begin_a_long_run(first)
    second.locator("#steps tbody tr").nth(1).wait_for()
    assert second.locator("#cancel").is_disabled()
    first.close()
    second.locator("#steps tbody tr").nth(4).wait_for()  # closing the tab harms nothing
    second.on("dialog", lambda dialog: dialog.accept())
    second.locator("#take").click()
    in_control(second)
    cancel(second)


def test_a_tab_that_is_duplicated_watches_and_a_reload_keeps_control(tab, server):
    first = in_control(tab(server.page))
    with first.context.expect_page() as opened:
        first.evaluate("() => { window.open(location.href); }")  # the copy has all that the first one stores
    copy = opened.value
    copy.locator("#control", has_text="watching").wait_for()
    assert copy.locator("#autofocus").is_disabled()
    first.reload()
    in_control(first)
    copy.locator("#control", has_text="watching").wait_for()


def test_everybody_can_stop_and_the_beam_goes_off(tab, server):
    first = in_control(tab(server.page))
    second = tab(server.page)
    second.locator("#control", has_text="watching").wait_for()
    begin_a_long_run(first)
    second.locator("#stop").click()
    first.locator("#run-title.cancelled").wait_for()
    assert not server.desk.microscope.beam_on


def test_live_shows_frame_after_frame_and_ends_with_the_tab(tab, server):
    page = in_control(tab(server.page))
    page.locator("#live").click()
    shown = page.locator("#frame[data-frame]")
    shown.wait_for()
    first = int(shown.get_attribute("data-frame"))
    page.locator(f"#frame:not([data-frame='{first}'])").wait_for()
    assert int(page.locator("#frame").get_attribute("data-frame")) > first
    page.close()
    with server.desk.operating():
        seen = server.desk.frames[-1].number
    page = tab(server.page)
    page.locator("#frame[data-frame]").wait_for()
    assert server.desk.frames[-1].number - seen <= 1


def test_unplugged_in_the_middle_of_a_run_it_fails_and_says_so(tab, emulator, server):
    page = in_control(tab(server.page))
    begin_a_long_run(page)
    emulator[0].usb.unplug()
    try:
        page.locator("#run-title.failed").wait_for()
        page.locator("#lost").wait_for()
    finally:
        emulator[0].usb.plug()
    page.locator("#reconnect").click()
    page.locator("#lost").wait_for(state="hidden")
    assert server.desk.microscope.working_distance == pytest.approx(14.0)


def test_an_instrument_unplugged_is_shown_and_reconnected(tab, emulator, server):
    page = in_control(tab(server.page))
    emulator[0].usb.unplug()
    try:
        page.locator("#snap").click()
        page.locator("#lost").wait_for()
        assert page.locator("#autofocus").is_disabled()
    finally:
        emulator[0].usb.plug()
    page.locator("#reconnect").click()
    page.locator("#lost").wait_for(state="hidden")
    with page.expect_download() as download:
        page.locator("#snap").click()
    assert download.value.suggested_filename.endswith(".ome.tif")


def test_the_page_asks_for_the_token_and_puts_it_in_no_address(tab):
    with sharing("emulator://featureless?seed=1", port=0, token=TOKEN) as server:
        page = tab(server.page)
        page.locator("#token").fill(TOKEN)
        page.keyboard.press("Enter")
        in_control(page)
        other = tab(f"{server.page}#token={TOKEN}")
        other.locator("#control", has_text="watching").wait_for()
        assert TOKEN not in other.url


@pytest.mark.parametrize("size", [(1280, 800), (768, 1024)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_and_every_control_has_a_name(tab, server, size, scheme):
    page = in_control(tab(server.page, viewport={"width": size[0], "height": size[1]}, color_scheme=scheme))
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    box = page.locator("#stop").bounding_box()
    assert box["y"] + box["height"] <= size[1]
    for control in page.locator("button:visible, input:visible, select:visible").all():
        name = control.evaluate("e => (e.labels?.[0]?.innerText || e.innerText || e.ariaLabel || '').trim()")
        assert name, control.evaluate("e => e.outerHTML")
