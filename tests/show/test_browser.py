"""The page in a real browser, at the width of a phone and of a desk."""

import re
import shutil
import struct
import subprocess

import pytest

from featgeo.show.html import page
from tests.show.fakes import five_layers

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PROBE = """<script>
const tell = () => console.log("probe", document.documentElement.scrollWidth, document.documentElement.clientWidth,
  [...document.querySelectorAll(".view")].filter((e) => e.checkVisibility()).length,
  document.getElementById("save").hidden);
addEventListener("resize", tell); tell();
</script></body>"""
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
]  # fmt: skip


@pytest.mark.skipif(CHROMIUM is None, reason="neither chromium nor chromium-browser is on the PATH")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_and_the_console_stays_clean(tmp_path, width):
    target, picture = tmp_path / "report.html", tmp_path / "picture.png"
    target.write_text(page(five_layers()).replace("</body>", PROBE), encoding="utf-8")
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},3000"]
    done = subprocess.run(
        [*command, f"--screenshot={picture}", target.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    told = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert all('"probe ' in line for line in told), told
    inner, outer, views, hidden = re.findall(r"probe (\d+) (\d+) (\d+) (\w+)", told[-1])[0]
    assert int(inner) <= int(outer) == width  # nothing sticks out
    assert int(views) == 4  # of the two operating points, one
    assert hidden == "false"
    head = picture.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", head[16:24]) == (width, 3000)
    assert picture.stat().st_size > 50_000  # not an empty page
