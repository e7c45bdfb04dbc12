from __future__ import annotations

import json
import re
import shutil
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.reporting import build_report
from experiments.reporting.figures.cost import pareto
from experiments.reporting.page import script_json
from experiments.reporting.run import Run
from mer.errors import UserError

MakeRun = Callable[..., Run]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--virtual-time-budget=3000",
]
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
WORLD = {"effects": {"fusion=tacfn": 0.06}, "studies": 6, "lose": [("fusion=gated", 3)], "hosts": ("host-a", "host-b")}


@pytest.fixture(scope="module")
def page(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_report(make_run(**WORLD).folder, tmp_path_factory.mktemp("page") / "report")


def chromium(page: Path, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_all_files_are_there(page: Path) -> None:
    folder = page.parent
    assert {p.name for p in folder.iterdir()} == {
        "index.html",
        "report.json",
        "protocol.txt",
        "protocol.tex",
        "tables",
        "figures",
    }
    for name in ("main", "claims", "accounting", "conditions", "classes", "cost", "effects", "pruning", "boundaries"):
        for ending in ("tex", "md", "csv"):
            assert (folder / "tables" / f"{name}.{ending}").stat().st_size > 0
    for name in ("forest", "effects", "missing", "learning", "search", "cost"):
        assert (folder / "figures" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert not list(folder.parent.glob("_*"))


def test_figures_have_embedded_outlines_and_no_dates(page: Path) -> None:
    pdf = (page.parent / "figures" / "forest.pdf").read_bytes()
    streams = b"".join(_inflated(s) for s in re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL))
    assert b"/Type3" not in pdf + streams
    assert b"/FontFile2" in pdf + streams  # TrueType, which is what type 42 becomes in PDF
    assert b"CreationDate" not in pdf
    width = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ", pdf)
    assert width is not None
    assert float(width[1]) == pytest.approx(6.75 * 72)


def _inflated(stream: bytes) -> bytes:
    try:
        return zlib.decompress(stream)
    except zlib.error:
        return b""


def test_the_page_fetches_nothing_and_says_what_matters(page: Path) -> None:
    text = page.read_text()
    outside = re.findall(r"""(?:src|href)=["'](?!#|data:)([^"']+)""", text)
    assert outside == []
    assert "url(http" not in text
    assert "@import" not in text
    assert "tacfn beats concat by" in text
    assert text.index('id="accounting"') < text.index('id="claims"') < text.index('id="tables"')
    assert "Synthetic data" in text
    assert "Incomplete: 1 of 18 confirm slots" in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_names_from_a_run_cannot_become_markup(make_run: MakeRun, tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    run = make_run(factors={"fusion": ("concat", evil, "a_b & c%")}, studies=3, predictions=False)
    text = build_report(run.folder, tmp_path / "r").read_text()
    assert "<script>alert" not in text
    assert "</script><script>" not in script_json([evil])
    assert text.count("<script") == 2


def test_report_json_is_plain_and_complete(page: Path) -> None:
    content = json.loads((page.parent / "report.json").read_text())
    assert content["format"] == 1
    assert sum(entry["slots"] for entry in content["accounting"]) == 3 * 6 * 5
    claim = next(c for c in content["claims"] if c["contrast"]["name"] == "tacfn vs concat")
    assert claim["verdict"] == "better"
    assert 0 < claim["adjusted"] < 0.05
    assert {"main", "claims"} <= set(content["tables"])


def test_a_report_replaces_a_report_and_nothing_else(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(**WORLD)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("my own page")
    for folder in ("mine", "site"):
        with pytest.raises(UserError, match="is not a report"):
            build_report(run.folder, tmp_path / folder)
    first = build_report(run.folder, tmp_path / "r")
    before = {p.relative_to(first.parent): p.read_bytes() for p in first.parent.rglob("*") if p.is_file()}
    (first.parent / "tables" / "stale.tex").write_text("old")
    build_report(run.folder, tmp_path / "r")
    after = {p.relative_to(first.parent): p.read_bytes() for p in first.parent.rglob("*") if p.is_file()}
    assert after == before


def test_pareto_front() -> None:
    points = {"a": (1.0, 0.5), "b": (1.0, 0.6), "c": (2.0, 0.6), "d": (3.0, 0.9), "e": (2.5, 0.7)}
    assert pareto(points) == ["b", "e", "d"]
    assert pareto(points, higher_is_better=False) == ["a"]


@needs_chromium
def test_the_page_works_in_a_browser(page: Path, tmp_path: Path) -> None:
    """Opens the page, sorts a table with the keyboard's click, filters it and opens the trial details."""
    probe = """<script>
    window.addEventListener("error", function (e) { document.title = "ERROR " + e.message; });
    window.addEventListener("load", function () {
      var table = document.getElementById("table-main");
      var heads = table.querySelectorAll("thead tr:last-child th");
      var i = Array.prototype.findIndex.call(heads, function (h) { return h.textContent === "UA (%)"; });
      function key(row) { return Number(row.cells[i].dataset.sort); }
      function column() { return Array.prototype.map.call(table.tBodies[0].rows, key); }
      heads[i].firstChild.click(); var up = column(); heads[i].firstChild.click(); var down = column();
      var input = document.querySelector("input[data-filter=table-main]");
      input.value = "tacfn"; input.dispatchEvent(new Event("input"));
      var left = Array.prototype.filter.call(table.tBodies[0].rows, function (r) { return !r.hidden; }).length;
      document.getElementById("trial-details").open = true;
      setTimeout(function () {
        var out = document.createElement("pre"); out.id = "probe";
        out.textContent = JSON.stringify({ up: up, down: down, left: left, sort: heads[i].getAttribute("aria-sort"),
          trials: document.querySelectorAll("#table-trials tbody tr").length, title: document.title,
          wide: document.documentElement.scrollWidth <= window.innerWidth });
        document.body.appendChild(out);
      }, 300);
    });
    </script></body>"""
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text().replace("</body>", probe))
    done = chromium(probed, tmp_path, "--dump-dom", "--window-size=1000,900")
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr[-2000:]
    result = json.loads(found[1])
    assert result["up"] == sorted(result["up"])
    assert result["down"] == sorted(result["up"], reverse=True)
    assert result["left"] == 1
    assert result["sort"] == "descending"
    assert result["trials"] == 3 * 6 * 5
    assert not result["title"].startswith("ERROR")
    assert result["wide"]


@needs_chromium
def test_no_console_errors_in_light_and_dark(page: Path, tmp_path: Path) -> None:
    brightness = []
    for scheme in ("1", "0"):  # Blink's preferredColorScheme: light, dark
        shot = tmp_path / f"{scheme}.png"
        done = chromium(
            page, tmp_path / scheme, f"--screenshot={shot}", "--window-size=1000,800", "--enable-logging=stderr",
            f"--blink-settings=preferredColorScheme={scheme}",
        )  # fmt: skip
        assert "CONSOLE" not in done.stderr, done.stderr
        from matplotlib.image import imread

        brightness.append(float(imread(shot)[..., :3].mean()))
    assert brightness[0] > 0.8
    assert brightness[1] < 0.3
