"""Pictures of the page that `asap-eval report html` makes: wide and narrow, light and dark.

    python docs/screenshots.py build/report/index.html docs

Needs Chromium, its driver and selenium (`pip install '.[dev]'`).
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the browser of the tests

from browser import ABSENT, browser, look, opened

SIZES = {"wide": (1280, 1500), "narrow": (375, 1500)}


def main(page: Path, folder: Path) -> None:
    """Write ``page-<size>-<light|dark>.png`` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with browser() as driver:
        for name, (width, height) in SIZES.items():
            for scheme in ("light", "dark"):
                look(driver, width=width, height=height, dark=scheme == "dark")
                opened(driver, page)
                image = Image.open(BytesIO(driver.get_screenshot_as_png())).convert("RGB")
                path = folder / f"page-{name}-{scheme}.png"
                image.save(path, optimize=True)
                print(path, f"{path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    if ABSENT:
        raise SystemExit(ABSENT)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
