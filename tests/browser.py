"""A real browser without a window, for tests and pictures of the page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
ABSENT = None if CHROMIUM and DRIVER else "needs chromium and chromedriver (Debian: both)"

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--force-device-scale-factor=1"),
    "--force-prefers-reduced-motion",  # or a click comes while the page still scrolls
)


@contextmanager
def browser() -> Iterator[Chrome]:
    """Chromium with an empty profile of its own, which logs its console and its requests."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = Chrome(options, ChromeService(str(DRIVER)))
        driver.set_page_load_timeout(120)
        driver.set_script_timeout(120)
        try:
            yield driver
        finally:
            driver.quit()


def look(driver: Chrome, *, width: int, height: int = 900, dark: bool = False) -> None:
    """Give the page a size in CSS pixels and the reader's wish for light or dark."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wish = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [wish]})


def requests(driver: Chrome) -> list[str]:
    """Addresses asked for since the last call."""
    found = []
    for entry in driver.get_log("performance"):
        message: dict[str, Any] = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            found.append(message["params"]["request"]["url"])
    return found


def complaints(driver: Chrome) -> list[str]:
    """What the browser's console says since the last call."""
    return [entry["message"] for entry in driver.get_log("browser")]


def opened(driver: Chrome, path: Path) -> None:
    """Open a file from the disk."""
    driver.get(path.resolve().as_uri())
