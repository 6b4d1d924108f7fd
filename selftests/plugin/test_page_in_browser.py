"""report.html in a real browser: fits wide and narrow windows, loads nothing, and its links have targets."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.errors import Blame
from harness.report import render_page
from harness.verdict import Component, Outcome, Phase, Run, Status, judge, resolve

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt-get install chromium)")

LONG = "registry.example/" + "very-long-path-component-" * 12 + ":v1.0.0"
PROBE = """<script>
const links = [...document.querySelectorAll('a[href^="#"]')];
const right = element => element.getBoundingClientRect().right;
const bars = [...document.querySelectorAll('.bar')];
document.title = JSON.stringify({
  overflow: document.documentElement.scrollWidth - window.innerWidth,
  dangling: links.filter(a => !document.getElementById(a.getAttribute('href').slice(1))).length,
  links: links.length,
  outside: bars.filter(b => right(b) > right(b.parentElement) + 1).length,
  invisible: bars.filter(b => b.getBoundingClientRect().width < 1).length,
  bars: bars.length,
  loaded: performance.getEntriesByType('resource').length,
  heading: document.querySelector('h1').getBoundingClientRect().height,
});
</script>"""


@pytest.fixture(scope="module")
def page() -> str:
    outcomes = (
        Outcome(
            "cluster/node-ready", "One node is Ready", Status.PASSED, promise="How-to: Ready", duration_s=1
        ),
        Outcome(
            "operator/controller",
            f"The controller runs {LONG}",
            Status.FAILED,
            reason=f"{LONG}\n{LONG}",
            hint=LONG,
            blame=Blame.PRODUCT,
            evidence=(f"evidence/{LONG}.yaml",),
        ),
        Outcome("operator/csv", "The CSV", Status.PASSED, needs=("operator/controller",)),
        Outcome("daemonless/kaniko", "kaniko", Status.NOT_APPLICABLE, reason="the lab has none"),
    )
    run = Run(
        run_id="rc-00000000",
        started="2026-11-23T00:00:00Z",
        duration_s=200,
        profile="seed",
        cluster="an ephemeral k3s",
        artifacts=f"bundle /{LONG}",
        gitlab="embedded",
        outcomes=resolve(outcomes),
        phases=(
            Phase("cluster", 0, 9, critical=True),
            Phase("a-step-with-a-long-name-of-its-own", 199.9, 200, Status.FAILED, LONG, blame=Blame.PRODUCT),
        ),
        components=(Component("k3s", "v1", "v1+lab", "v1+lab", "stand-in", LONG),),
        again=f"pytest {LONG}",
    )
    return render_page(run, judge(run))


def render(page: str, tmp_path: Path, width: int) -> dict[str, float]:
    import html
    import json

    path = tmp_path / "report.html"
    path.write_text(page.replace("</body>", PROBE + "</body>"))
    assert CHROMIUM is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900"]
    done = subprocess.run(
        [CHROMIUM, *flags, "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.S)
    assert title, done.stderr[-1000:]
    found: dict[str, float] = json.loads(html.unescape(title.group(1)))
    return found


@pytest.mark.parametrize("width", [1280, 500])  # headless chromium's windows are at least 500 wide
def test_it_fits_and_holds_together(page, tmp_path, width):
    found = render(page, tmp_path, width)
    assert found["overflow"] <= 0
    assert (found["links"], found["dangling"]) == (1, 0)
    assert (found["bars"], found["outside"], found["invisible"]) == (2, 0, 0)
    assert found["loaded"] == 0
    assert found["heading"] > 0


def test_a_page_that_is_too_wide_would_be_seen(page, tmp_path):
    broken = page.replace("<h2>Timeline", '<div style="width:3000px">x</div><h2>Timeline')
    assert render(broken, tmp_path, 500)["overflow"] > 0
