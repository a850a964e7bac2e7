"""Pictures of the live page in six states, and of the label page, as the documents show them.

::

    python -m semfocus_plugin.lab.studies.live_page docs/images

Needs Playwright (``pip install playwright``) and Chromium, Debian's or Playwright's own.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

import semdrivers
from semdrivers import AutofocusSettings
from semdrivers.emulator import Emulator
from semfocus_plugin import labelling
from semfocus_plugin.server import sharing

__all__ = ["STATES", "chromium", "main", "photograph"]

_PATIENCE = 120_000
_TIN, _BLANK = "tin-balls", "featureless"


def _ready(page: Any, *_: Any) -> None:
    page.locator("#snap").click()
    page.locator("#message", has_text="is saved").wait_for()
    page.locator("#score", has_text=".").wait_for()


def _focusing(page: Any, *_: Any) -> None:
    page.locator("#method").select_option("paper")
    page.keyboard.press("a")
    page.locator("#steps tbody tr").nth(3).wait_for()


def _ended(page: Any, *_: Any) -> None:
    page.keyboard.press("a")
    page.locator("#run-title.focused, #run-title.refused").wait_for()
    page.locator("#history img").nth(1).wait_for()


def _lost(page: Any, emulator: Emulator) -> None:
    _ended(page)
    emulator.usb.unplug()
    page.locator("#snap").click()
    page.locator("#lost").wait_for()


def _watching(page: Any, *_: Any) -> None:
    page.locator("#control", has_text="watching").wait_for()
    page.locator("#history img").nth(1).wait_for()


STATES: dict[str, tuple[str, Any, Callable[..., None]]] = {
    "ready": (_TIN, "light", _ready),
    "focusing": (_BLANK, "light", _focusing),
    "focused": (_TIN, "light", _ended),
    "refused": (_BLANK, "dark", _ended),
    "watching": (_TIN, "dark", _watching),
    "lost": (_TIN, "light", _lost),
}
"""By name of a state: the specimen, the colours, and how to get there."""


@contextmanager
def chromium() -> Iterator[Any]:
    """Open a headless Chromium, Debian's or Playwright's own."""
    from playwright.sync_api import sync_playwright

    installed = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=installed, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def photograph(folder: Path) -> list[Path]:
    """Write a picture of each state to a folder, and return the paths."""
    written = []
    with chromium() as browser:
        for name, (specimen, colours, reach) in STATES.items():
            with Emulator(specimen, seed=1, magnification=2000) as emulator, sharing(emulator.url, port=0) as server:
                if name == "watching":
                    server.desk.take("night script")
                    server.desk.focus("night script", AutofocusSettings(), travel_given=False)
                window = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme=colours)
                page = window.new_page()
                page.set_default_timeout(_PATIENCE)
                page.goto(server.page)
                if name != "watching":
                    page.locator("#control", has_text="you control").wait_for()
                reach(page, emulator)
                written.append(_kept(page, folder / f"page-{name}.png"))
                window.close()
        page = browser.new_context(viewport={"width": 900, "height": 700}).new_page()
        with tempfile.TemporaryDirectory() as night:
            page.goto(_labels(Path(night)).as_uri())
            page.keyboard.press("6")
            page.keyboard.press("ArrowLeft")
            page.wait_for_function("() => document.querySelector('#crop img').naturalWidth > 0")
            written.append(_kept(page, folder / "page-labels.png"))
    return written


def _kept(page: Any, path: Path) -> Path:
    shown = Image.open(io.BytesIO(page.screenshot()))
    shown.convert("RGB").quantize(128).save(path, optimize=True)
    return path


def _labels(folder: Path) -> Path:
    """Make a few pictures, some out of focus, and their label page; returns the page."""
    with semdrivers.connect(f"emulator://{_TIN}?seed=1&magnification=2000") as microscope:
        focus = microscope.autofocus().working_distance
        for count, defocus in enumerate((0.1, 0.0, -0.05, 0.2), 1):
            microscope.working_distance = focus + defocus
            microscope.acquire(microscope.capabilities.scan_modes[-1]).save(folder / f"{count:04d}.ome.tif")
    rows, _ = labelling.propose(folder, [], folder)
    previews = {row.file: labelling.preview_of(row, folder) for row in rows}
    path = folder / "labels.html"
    path.write_text(labelling.page(rows, previews, "labels.csv"), encoding="utf-8")
    return path


def main() -> None:
    """Write the pictures to the folder that the command line names."""
    for path in photograph(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images")):
        print(path)


if __name__ == "__main__":
    main()
