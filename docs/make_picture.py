"""Remake the README's picture, docs/figures/report.png: the demo's report on the digits, as Chromium shows it.

Run by ``make picture``; needs Debian's package chromium.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from featgeo.demo import demo

PICTURE = Path(__file__).parent / "figures" / "report.png"
SIZE = "1200,1825"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--blink-settings=preferredColorScheme=1",
]


def main() -> None:
    """Train, analyse, draw."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("error: no chromium on the PATH. Debian, Ubuntu: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        demo(progress=False)["digits"].to_html(page)
        command = [chromium, *FLAGS, f"--user-data-dir={folder}/profile", f"--window-size={SIZE}"]
        subprocess.run(
            [*command, f"--screenshot={PICTURE}", page.as_uri()],
            check=True, timeout=300, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    print(f"Picture: {PICTURE}")


if __name__ == "__main__":
    main()
