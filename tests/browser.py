"""A headless Chromium for tests, where the machine has one, and the screenshots they keep."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

SCREENSHOTS = Path(__file__).parents[1] / "out" / "screenshots"


@contextmanager
def browser_page(**options: Any) -> Iterator[Any]:
    """A fresh page; skips the test where there is no browser.

    Args:
        options: of playwright's ``new_page``.
    """
    if not CHROMIUM.exists():
        pytest.skip(f"no Chromium at {CHROMIUM}: install the package chromium, or name another with $CHROMIUM")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install 'mireg[browser]'")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        try:
            yield browser.new_page(**options)
        finally:
            browser.close()


def keep_screenshot(page: Any, name: str) -> None:
    """Keep what the page shows, whole, for people to look at."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / name, full_page=True)
