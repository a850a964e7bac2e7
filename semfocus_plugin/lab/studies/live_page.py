"""Pictures of the live page in six states, as the documents show them.

::

    python -m semfocus_plugin.lab.studies.live_page docs/images

Needs Playwright (``pip install playwright``) and Chromium, Debian's or Playwright's own.
"""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from semdrivers import AutofocusSettings
from semdrivers.emulator import Emulator
from semfocus_plugin.server import sharing

__all__ = ["STATES", "main", "photograph"]

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


def photograph(folder: Path) -> list[Path]:
    """Write a picture of each state to a folder, and return the paths."""
    from playwright.sync_api import sync_playwright

    installed = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    written = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=installed, args=["--no-sandbox"])
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
                path = folder / f"page-{name}.png"
                shown = Image.open(io.BytesIO(page.screenshot()))
                shown.convert("RGB").quantize(128).save(path, optimize=True)
                window.close()
            written.append(path)
        browser.close()
    return written


def main() -> None:
    """Write the pictures to the folder that the command line names."""
    for path in photograph(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images")):
        print(path)


if __name__ == "__main__":
    main()
