"""The report of a run: what it reads, what it draws, and that nothing in it can act."""

import json
import os
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from cli_world import cmtool
from hypothesis import given
from hypothesis import strategies as st
from run_folders import TEXT, add_checkpoint, evaluation, make_run, record, write_log

from cmtool import images, recipe
from cmtool.workflows import run_report
from cmtool.workflows._curves import MOST_POINTS, curves_of, drawn, thin
from cmtool.workflows._html import data, text
from cmtool.workflows._run_facts import Series, facts_of, is_run, last_record, read_log
from cmtool.workflows.run_report import MOST_SAMPLES, report, sections

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{data}}\x1b\u202e"
VALUES = st.lists(st.floats(-1e150, 1e150, allow_nan=False), min_size=1, max_size=700)


class Page(HTMLParser):
    """What a browser would make of a page: elements with their attributes, and the text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.tags if name == tag]


def written(run: Path) -> str:
    return report(str(run), run.parent / "report.html", overwrite=True).read_text(encoding="utf-8")


# The log.


@given(VALUES, st.integers(1, 60))
def test_thinning_keeps_the_extremes_and_the_end(values: list[float], most: int):
    steps = list(range(10, 10 * len(values) + 1, 10))
    x, means, low, high = thin(steps, values, most)
    assert len(x) <= most
    assert x[-1] == steps[-1]
    assert x == sorted(set(x))
    assert (min(low), max(high)) == (min(values), max(values))
    assert all(a <= b <= c for a, b, c in zip(low, means, high, strict=True))
    if len(values) <= most:
        assert means == values


def test_a_thinned_mean_is_that_of_its_lines():
    steps, values = np.arange(1, 1001), np.random.default_rng(0).normal(size=1000)
    _, means, _, _ = thin(steps.tolist(), values.tolist(), 250)
    assert np.allclose(means, values.reshape(250, 4).mean(1), atol=1e-12)


def test_a_log_that_begins_again_replaces_what_it_repeats():
    series = Series()
    for step, value in [(10, 1.0), (20, 2.0), (30, 3.0), (20, 5.0), (40, 6.0)]:
        series.add(step, value)
    assert (list(series.steps), list(series.values)) == ([10, 20, 40], [1.0, 5.0, 6.0])


def test_damaged_lines_and_values_are_counted(tmp_path: Path):
    run = make_run(tmp_path / "run", saved=50)
    bad = ["{", '{"index": "7"}', "[1]", '{"index": -1}', '{"index": true}', "[" * 100_000]
    odd = [record(60, loss=float("nan")), record(70, grad_norm=float("inf"), note="x", ok=True)]
    lines = [*bad, *(json.dumps(line) for line in odd), '{"index": 80, "loss": 1' + "0" * 400 + "}"]
    with (run / "log.jsonl").open("ab") as file:
        file.write("\n".join(lines).encode() + b"\n\xff\xfe\n\n" + b'{"index": 90, "lo')
    log = read_log(run / "log.jsonl")
    assert log.damaged == len(bad) + 2
    assert log.endless == 3
    assert log.lines == 5 + 3
    assert "note" not in log.series
    assert "ok" not in log.series
    page = written(run)
    assert f"{log.damaged} line(s) that are damaged" in page
    assert "3 value(s) that are not finite" in page
    assert last_record(run / "log.jsonl")["index"] == 80


def test_the_curves_are_the_log(tmp_path: Path):
    run = make_run(tmp_path / "run")
    curves, constant = curves_of(read_log(run / "log.jsonl"), 32, 600)
    assert [c.name for c in curves] == ["loss", "N", "grad_norm"]
    assert constant == {"mu": 0.0, "lr": 2e-3, "images/s": 64.0}
    lines = [record(step) for step in range(10, 601, 10)]
    for curve in curves:
        assert curve.steps == [line["index"] for line in lines]
        assert curve.values == [line[curve.name] for line in lines]
        assert drawn(curve)["values"] == curve.values
        for step, value, (x, y) in zip(curve.steps, curve.values, drawn(curve)["at"], strict=True):
            assert x == pytest.approx(step / 6, abs=1e-3)
            low, high = (np.log(v) if curve.y.log else v for v in (curve.y.low, curve.y.high))
            here = np.log(value) if curve.y.log else value
            assert y == pytest.approx(100 * (high - here) / (high - low), abs=1e-3)
    assert [c.y.log for c in curves] == [True, True, False]


@pytest.mark.parametrize(("lines", "most"), [(1, 40_000), (10, 60_000), (16_000, 500_000)])
def test_short_and_long_runs(tmp_path: Path, lines: int, most: int):
    run = make_run(tmp_path / "run", grids=0)
    write_log(run, [record(50 * i, grad_norm=i % 13) for i in range(1, lines + 1)])
    began = time.process_time()
    page = written(run)
    assert time.process_time() - began < 20
    assert len(page) < most
    points = [len(curve["steps"]) for curve in json.loads(part(page))]
    assert max(points) == min(lines, 239)
    assert max(points) <= MOST_POINTS
    assert ("mean of up to 67 of them" in page) == (lines > 1000)


def part(page: str) -> str:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return found[1]


@pytest.mark.parametrize(
    "values", [[1e-149, 1e149], [0.0, -5.0], [1e16, 1e16 + 2], [7.0], [-9e149]]
)
def test_odd_ranges_have_few_ticks(tmp_path: Path, values: list[float]):
    run = make_run(tmp_path / "run", grids=0)
    write_log(run, [{"index": i, "odd": value} for i, value in enumerate(values)])
    page = Page(written(run))
    ticks = [found for found in page.all("span") if found.get("class") == "y"]
    assert 1 <= len(ticks) <= 10
    places = [float(re.findall(r"top:([-\d.]+)%", str(found["style"]))[0]) for found in ticks]
    assert all(-0.01 <= place <= 100.01 for place in places)


# The state.


def aged(run: Path, seconds: float) -> Path:
    then = time.time() - seconds
    for file in ("log.jsonl", "latest", "recipe.toml"):
        if (run / file).exists():
            os.utime(run / file, (then, then))
    return run


def test_how_a_run_stands(tmp_path: Path):
    assert facts_of(aged(make_run(tmp_path / "a"), 10)).state == "finished"
    assert facts_of(aged(make_run(tmp_path / "b", saved=300), 10)).state == "running"
    found = facts_of(aged(make_run(tmp_path / "c", saved=300), 400))
    assert (found.state, found.step, found.problems) == ("interrupted", 300, ())
    begun = make_run(tmp_path / "d", saved=300)
    (begun / "step-00000300").rename(tmp_path / "gone")
    (begun / "latest").unlink()
    found = facts_of(aged(begun, 400))
    assert (found.state, found.step, found.meta) == ("interrupted", 300, None)
    broken = make_run(tmp_path / "e")
    (broken / "step-00000600" / "meta.json").write_text('{"format": 1')
    assert facts_of(broken).state == "damaged"
    nothing = make_run(tmp_path / "f")
    (nothing / "recipe.toml").write_bytes(b"\xff[loss")
    found = facts_of(nothing)
    assert found.state == "damaged"
    assert found.problems == ("cannot read recipe.toml: it is no text",)
    assert not is_run(nothing / "step-00000600")
    assert not is_run(tmp_path)


def test_slow_steps_are_waited_for(tmp_path: Path):
    run = make_run(tmp_path / "run", saved=300)
    write_log(run, [record(300, seconds=30.0)])
    assert facts_of(aged(run, 3600)).state == "running"  # A line comes every 25 minutes.


# The page.


def test_a_damaged_run_has_a_page_all_the_same(tmp_path: Path):
    run = make_run(tmp_path / "run")
    (run / "step-00000600" / "meta.json").write_text("{")
    (run / "recipe.toml").write_text("[loss\n<b>")
    (run / "samples" / "step-00000001.png").write_text("no picture")
    (run / "log.jsonl").write_bytes(b"\0\0\0\n")
    page = Page(written(run))
    assert "cannot be read as a recipe" in page.text
    assert "1 picture(s) could not be read" in page.text
    assert "[loss\n<b>" in page.text
    assert len(page.all("img")) == 5
    assert not page.all("b")


def test_what_comes_from_files_is_inert(tmp_path: Path):
    text_of = TEXT.replace('"digits"', json.dumps(EVIL.replace("\u202e", "")))
    run = make_run(tmp_path / "<img src=x onerror=alert(3)>", text=text_of)
    folder = run / "step-00000600"
    meta = json.loads((folder / "meta.json").read_text())
    meta |= {"origin": {EVIL: EVIL, "data": {EVIL: [EVIL]}}, "versions": {EVIL: EVIL}}
    (folder / "meta.json").write_text(
        json.dumps(meta | {"classes": [EVIL], "sha256": {EVIL: EVIL}})
    )
    write_log(run, [record(i, **{EVIL: i / 3}) for i in (10, 20)])
    (run / "samples" / f"{EVIL.replace('/', '')}.png").write_bytes(
        next((run / "samples").glob("*.png")).read_bytes()
    )
    told = evaluation(str(run), 3.0) | {"command": EVIL, "notes": [EVIL]}
    (tmp_path.parent / "evals").mkdir(exist_ok=True)
    (tmp_path.parent / "evals" / "a-fd.json").write_text(json.dumps(told))
    content = written(run)
    page = Page(content)
    assert len(page.all("script")) == 2
    assert all(str(found["src"]).startswith("data:image/png;base64,") for found in page.all("img"))
    assert not [name for _, found in page.tags for name in found if name.startswith("on")]
    assert not page.all("b")
    assert "<script>alert(1)</script>" in page.text
    assert "{{data}}" in page.text
    assert "\x1b" not in content
    assert "\u202e" not in content
    assert json.loads(part(content))


def test_the_page_reaches_for_nothing(tmp_path: Path):
    content = written(make_run(tmp_path / "run"))
    page = Page(content)
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert str(policy).startswith("default-src 'none'; img-src data:;")
    assert "unsafe-eval" not in str(policy)
    assert not re.findall(r"(?:https?:)?//\w+\.\w+", content)
    assert not page.all("link")
    addresses = [found.get("href") for found in page.all("a")]
    assert all(str(address).startswith("#") for address in addresses)


@given(st.text())
def test_text_is_text(value: str):
    escaped = text(value)
    assert not set("<>\"'") & set(escaped)
    assert Page(f"<p>{escaped}</p>").tags == [("p", {})]
    escaped.encode("utf-8")  # No lone half of a pair is left.


@given(st.lists(st.text() | st.floats(allow_nan=False, allow_infinity=False)))
def test_data_comes_back_and_closes_nothing(value: list[str | float]):
    assert "<" not in data(value)
    assert json.loads(data(value)) == value


def test_the_recipe_marks_what_differs(tmp_path: Path):
    content = sections(make_run(tmp_path / "run"))["recipe"]
    assert "<dt>lr</dt><dd><mark>0.002</mark> <small>0.0001</small></dd>" in content
    assert "<dt>optimizer</dt><dd>&quot;radam&quot;</dd>" in content
    assert "<dt>width</dt><dd><mark>16</mark>" in content
    resolved = recipe.parse(TEXT, "test")
    keys = re.findall(r"<dt>(\w+)</dt>", content)
    assert set(vars(resolved.train)) | set(vars(resolved.data)) <= set(keys)


def test_many_grids_are_thinned_and_it_is_said(tmp_path: Path):
    run = make_run(tmp_path / "run", grids=90)
    content = sections(run)["samples"]
    page = Page(content)
    assert len(page.all("img")) == MOST_SAMPLES
    assert f"{MOST_SAMPLES} of 90 grids are in this page" in page.text
    titles = [str(found["title"]) for found in page.all("img")]
    assert (titles[0], titles[-1]) == ("step 6", "step 600")
    assert [("hidden" in found) for found in page.all("img")] == [True] * (MOST_SAMPLES - 1) + [
        False
    ]


def test_large_grids_are_thinned_by_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run_report, "MOST_BYTES", 80_000)
    run = make_run(tmp_path / "run", grids=0)
    noise = np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)
    for i in range(6):  # 24 kB each.
        images.save_png(run / "samples" / f"step-{i:08d}.png", noise)
    page = Page(sections(run)["samples"])
    assert [found["title"] for found in page.all("img")] == ["step 0", "step 2", "step 5"]


def test_reports_of_this_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run = make_run(Path("runs/a"))
    other = make_run(Path("runs/ab"))
    Path("evals/s").mkdir(parents=True)
    Path("evals/a-fd.json").write_text(json.dumps(evaluation("runs/a", 12.25)))
    step = evaluation("runs/a/step-00000600", 13.5)
    Path("evals/a-fd-2.json").write_text(json.dumps(step))
    Path("evals/ab-fd.json").write_text(json.dumps(evaluation("runs/ab", 99.0)))
    Path("evals/odd.json").write_text('{"rows": [{"model": "runs/a"}]}')
    Path("evals/cut.json").write_text('{"rows": [')
    search = {
        "settings": {"metric": "fd-pixel", "model": "runs/a"},
        "evaluations": [{"times": [80.0, t], "value": t} for t in (0.5, 0.25)],
        "result": None,
    }
    Path("evals/s/search.json").write_text(json.dumps(search))
    os.utime("evals/a-fd.json", (1, 1))
    page = Page(sections(run)["figures"])
    assert len(page.all("table")) == 3
    assert "12.25 [11.25, 13.25]" in page.text
    assert "13.5 [12.5, 14.5]" in page.text
    assert "99" not in page.text
    assert page.text.count("older than the newest checkpoint") == 1
    assert page.text.index("80, 0.25") < page.text.index("80, 0.5")
    assert "2 file(s) in evals/ are no such report" in page.text
    assert "a-fd.json" not in Page(sections(other)["figures"]).text


def test_provenance_names_every_checkpoint_and_no_folder_of_this_machine(tmp_path: Path):
    run = make_run(tmp_path / "run", text=TEXT.replace('"digits"', '"/home/me/photos"'))
    resolved = (run / "recipe.toml").read_text()
    damaged = add_checkpoint(run, 500, resolved)
    (damaged / "student.safetensors").unlink()
    light = add_checkpoint(run, 550, resolved)
    (light / "resume" / "state.pt").unlink()
    content = written(run)
    page = Page(content)
    for words in ("lacks student", "whole, weights only", "whole, can be resumed", "ab" * 32):
        assert words in page.text
    assert "dm/step-7" in page.text
    assert "cmtool distill digits/cd --teacher runs/dm" in page.text
    assert "/home/me" not in content
    assert "cmtool eval fd --model" in page.text
    assert str(tmp_path) not in content
    (run / "step-00000600" / "meta.json").write_text("{")
    assert "step-00000600" in written(run)
    assert str(tmp_path) not in written(run)


# The command.


def test_it_refuses_what_it_cannot_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs/a"))
    done = cmtool("info", "runs/a", "--html", "out/r.html")
    assert (done.exit_code, done.stdout) == (0, "out/r.html\n")
    before = Path("out/r.html").read_bytes()
    for words, answer in {
        ("runs/a", "--html", "out/r.html"): "'out/r.html' is there already",
        ("runs/a", "--html", "r.txt"): "cannot write the report to 'r.txt'",
        ("runs/a/step-00000600", "--html", "r.html"): "is no run's folder",
        ("digits", "--html", "r.html"): "'digits' is no run's folder",
        ("--html", "r.html"): "no run is given",
        ("runs/a", "--html", "out/r.html/x.html"): "cannot write 'out/r.html/x.html'",
    }.items():
        done = cmtool("info", *words)
        assert done.exit_code == 2
        assert answer in done.stderr
        assert "hint: " in done.stderr
    assert Path("out/r.html").read_bytes() == before
    assert not list(Path("out").glob(".*"))
    assert cmtool("info", "runs/a", "--html", "out/r.html", "--overwrite").exit_code == 0
