"""A browser, for the tests of the pages."""

from __future__ import annotations

import shutil

import pytest

PATIENCE = 60_000
"""Milliseconds that anything may take on a busy machine."""


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium, Debian's or Playwright's own."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    installed = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with playwright.sync_playwright() as started:
        try:
            opened = started.chromium.launch(executable_path=installed, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


@pytest.fixture
def tab(browser):
    """Open the page of a server in a window of its own; errors of its scripts fail the test."""
    windows, errors = [], []

    def opened(address, **settings):
        window = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **settings})
        windows.append(window)
        page = window.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        return page

    yield opened
    for window in windows:
        window.close()
    assert errors == []
