"""The report of a run in a real browser: it draws the log, its slider moves, nothing complains."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from run_folders import make_run, record

from cmtool import images
from cmtool.workflows.run_report import report

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ASK = """<script>addEventListener("load", () => {
const answers = {};
const grids = [...document.querySelectorAll(".samples img")];
const seen = () => grids.map((grid) => grid.hidden ? 0 : grid.naturalWidth);
const told = (plot) => plot.parentElement.querySelector("output").textContent;
const figures = document.getElementById("figures").getBoundingClientRect().top;
answers.atFirst = seen();
const range = document.querySelector(".samples input");
range.value = 0;
range.dispatchEvent(new Event("input"));
answers.afterInput = seen();
answers.label = document.querySelector(".samples output").textContent;
const plots = [...document.querySelectorAll(".plot")];
answers.atRest = plots.map(told);
const box = plots[0].getBoundingClientRect();
const middle = {clientX: box.left + box.width / 2};
plots[0].dispatchEvent(new PointerEvent("pointermove", middle));
answers.pointed = plots.map(told);
const hidden = (plot) => [...plot.querySelectorAll("i")].map((mark) => mark.hidden);
answers.marks = plots.map(hidden);
const dot = plots[0].querySelectorAll("i")[1].getBoundingClientRect();
answers.dot = (dot.left + dot.right) / 2 - box.left - box.width / 2;
const press = (key) => plots[0].dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
press("Home"); answers.home = told(plots[0]);
press("ArrowRight"); answers.right = told(plots[0]);
press("End"); answers.end = told(plots[0]);
plots[0].dispatchEvent(new PointerEvent("pointerleave"));
answers.left = plots.map(told);
answers.jump = document.getElementById("figures").getBoundingClientRect().top - figures;
answers.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
answers.names = plots.map((plot) => plot.getAttribute("aria-label"));
answers.unnamed = [...document.querySelectorAll("img:not([alt]), input:not([aria-label])")].length;
const out = document.createElement("pre");
out.id = "answers";
out.textContent = JSON.stringify(answers);
document.body.append(out);
});</script>
"""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    run = make_run(folder / "runs" / "digits-ict", grids=0)
    for i in range(4):  # Each of another width, so that the page can tell which is seen.
        shade = np.full((40, 50 + i, 3), 60 * i, np.uint8)
        images.save_png(run / "samples" / f"step-{150 * (i + 1):08d}.png", shade)
    return report(str(run), folder / "report.html")


def opened(browser: str, address: str, folder: Path, *words: str) -> tuple[str, list[str]]:
    """The page as it is after its scripts, and what the console said."""
    command = [
        *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *(f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--dump-dom"),
    ]
    home = {**os.environ, "HOME": str(folder)}
    done = subprocess.run(
        [*command, *words, address], capture_output=True, text=True, timeout=240, env=home
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def shown(dom: str) -> list[str]:
    """Titles of the pictures that are not hidden."""
    tags = re.findall(r"<img [^>]*>", dom)
    return [re.findall(r'title="([^"]*)"', tag)[0] for tag in tags if " hidden" not in tag]


def test_as_it_is_written(browser: str, page: Path, tmp_path: Path):
    dom, complaints = opened(browser, f"{page.as_uri()}#sample=1", tmp_path)
    assert complaints == []
    assert shown(dom) == ["step 300"]  # The address chose it: the script has run.
    assert dom.count("<path") == 2 * 3
    curves = re.findall(r'class="line" d="(.*?)"', dom)
    for name, path in zip(("loss", "N", "grad_norm"), curves, strict=True):
        points = [tuple(map(float, pair.split())) for pair in path.removeprefix("M").split("L")]
        lines = [record(step) for step in range(10, 601, 10)]
        assert len(points) == len(lines)
        values = np.array([line[name] for line in lines])
        heights = np.array([y for _, y in points])
        assert np.allclose([x for x, _ in points], [line["index"] / 6 for line in lines], atol=1e-3)
        drawn = np.log(values) if name != "grad_norm" else values
        # Heights are the values up to where the axis begins and how long it is.
        slope, base = np.polyfit(drawn, heights, 1)
        assert slope < 0
        assert np.allclose(slope * drawn + base, heights, atol=2e-3)


def test_it_answers_pointer_and_keys(browser: str, page: Path, tmp_path: Path):
    content = page.read_text(encoding="utf-8")
    # The page's policy lets no other script run, the test's neither.
    policy = re.search(r"<meta http-equiv=.*?>", content)
    assert policy
    copy = tmp_path / "asked.html"
    copy.write_text(content.replace(policy[0], "").replace("</body>", f"{ASK}</body>"))
    dom, complaints = opened(browser, copy.as_uri(), tmp_path, "--window-size=500,900")
    assert complaints == []
    found = re.search(r'<pre id="answers">(.*?)</pre>', dom)
    assert found
    answers = json.loads(found[1])
    assert answers["atFirst"] == [0, 0, 0, 53]
    assert answers["afterInput"] == [50, 0, 0, 0]
    assert answers["label"] == "step 150"
    at = {step: record(step) for step in (10, 20, 300, 600)}
    names = ("loss", "N", "grad_norm")
    assert answers["atRest"] == [f"{at[600][name]:.4g} at step 600" for name in names]
    for name, told in zip(names, answers["pointed"], strict=True):
        value, step = told.split(" at step ")
        assert step == "300"
        assert float(value) == pytest.approx(at[300][name], rel=1e-5)
    assert answers["marks"] == [[False, False]] * 3
    assert abs(answers["dot"]) < 2
    for key, step in (("home", 10), ("right", 20), ("end", 600)):
        value, there = answers[key].split(" at step ")
        assert (int(there), float(value)) == (step, pytest.approx(at[step]["loss"], rel=1e-5))
    assert answers["left"] == answers["atRest"]
    assert abs(answers["jump"]) < 1
    assert answers["overflow"] <= 0
    assert answers["unnamed"] == 0
    assert all(re.match(r".+ against steps: .+ largest", name) for name in answers["names"])


def test_a_foreign_script_does_not_run(browser: str, page: Path, tmp_path: Path):
    copy = tmp_path / "forged.html"
    forged = page.read_text(encoding="utf-8").replace(
        "</body>", "<script>document.title = 'taken'</script></body>"
    )
    copy.write_text(forged)
    dom, complaints = opened(browser, copy.as_uri(), tmp_path)
    assert "<title>taken" not in dom
    assert any("Content Security Policy" in line for line in complaints)


def test_a_screenshot_is_no_blank_sheet(browser: str, page: Path, tmp_path: Path):
    for name, words in {
        "light": [],
        "dark": ["--blink-settings=preferredColorScheme=0"],
    }.items():
        file = tmp_path / f"{name}.png"
        size = [f"--screenshot={file}", "--window-size=1000,900"]
        opened(browser, page.as_uri(), tmp_path, *size, *words)
        pixels = images.read(file, name)
        assert pixels.shape[:2] == (900, 1000)
        assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 50
        assert (pixels.mean() > 128) == (name == "light")
