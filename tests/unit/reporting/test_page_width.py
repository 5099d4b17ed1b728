"""Nothing makes a page wider than its window, in a real browser; what is wider scrolls and says so."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from embedspace.metrics import Interval
from embedspace.reporting import Report, Section, Table, write_report
from embedspace.runs import Run
from tests.unit.reporting.test_report import curve, pair_of, record

PROBE = """<script>
document.querySelectorAll("details").forEach((fold) => { fold.open = true; });
setTimeout(() => {
  const outside = [...document.querySelectorAll("main *, header *")].filter((each) =>
    !each.closest(".scroll") && !each.closest("svg") && each.getBoundingClientRect().right > innerWidth + 1);
  const boxes = [...document.querySelectorAll(".scroll")].filter((box) => box.scrollWidth > box.clientWidth + 1);
  const found = document.createElement("pre");
  found.id = "found";
  found.textContent = JSON.stringify({
    outside: outside.map((each) => `${each.tagName} ${each.className}`),
    page: document.documentElement.scrollWidth - innerWidth,
    wide: boxes.length,
    silent: boxes.filter((box) => !box.classList.contains("wide")).length,
    kept: document.querySelectorAll("figcaption .save").length,
  });
  document.body.append(found);
}, 500);
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a browser: apt-get install chromium")
@pytest.mark.parametrize("width", [500, 1280])
def test_nothing_is_wider_than_the_window_and_what_scrolls_says_so(tmp_path: Path, width: int) -> None:
    columns = ["Condition", *(f"A measure with a long name, number {n}" for n in range(14))]
    numbers = [Interval(n / 3, n / 4, n / 2, 12) for n in range(14)]
    rows = [[f"condition {row}", *numbers] for row in range(5)]
    word = "Donaudampfschifffahrtsgesellschaft" * 9
    section = Section("A part", f"A finding about {word}.", word, [curve(), curve()],
                      [Table(columns, rows, "A wide table."), Table(columns, rows[:2], "A table of two rows.")],
                      [pair_of(word, word, "Indeed.")], "In plain words.")  # fmt: skip
    with Run.open(tmp_path, {}, fingerprint="abc") as run:
        for number in range(3):
            run.log.append([record(number, word)])
        page = write_report(Report("A title", word, [section, section]), run).read_text()
    free = re.sub(
        r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page
    )  # it forbids the probe as well
    probed = tmp_path / "probed.html"
    probed.write_text(free.replace("</body>", f"{PROBE}</body>"))
    shown = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900",
         "--virtual-time-budget=5000", "--dump-dom", probed.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    match = re.search(r'<pre id="found">(.*?)</pre>', shown, flags=re.DOTALL)
    assert match is not None, shown[-2000:]
    found = json.loads(match[1])
    assert found["outside"] == []
    assert found["page"] <= 0
    assert found["wide"] >= 1
    assert found["silent"] == 0
    assert found["kept"] == 4
