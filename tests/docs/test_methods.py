"""The pages of the methods: one for each loss, and what they name exists."""

import re

import pytest
from doc_pages import ROOT, Page

from cmtool import registry

FOLDER = ROOT / "docs" / "methods"
METHODS = registry.names("losses")
SECTIONS = ("Formula", "Where it differs", "Recipes", "On digits", "Tests")
ROW = re.compile(r"\| `([\w-]+)` \| (\d+) \|(?: \d+ \|)?((?: [\d.]+ \|){3})$", re.MULTILINE)


def text_of(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def test_every_method_has_its_page():
    assert {path.stem for path in FOLDER.glob("*.md")} == {*METHODS, "README"}


@pytest.mark.parametrize("method", METHODS)
def test_pages_are_short_and_in_the_same_order(method: str):
    heads = re.findall(r"^## (.*)$", text_of(method), re.MULTILINE)
    assert len(heads) == len(SECTIONS)
    assert all(head.startswith(start) for head, start in zip(heads, SECTIONS, strict=True))
    assert len(text_of(method).splitlines()) <= 120


@pytest.mark.parametrize("name", [*METHODS, "README"])
def test_the_tests_that_are_named_are_in_the_file_that_is_named(name: str):
    code = ""
    named = 0
    for link, test in re.findall(r"\]\((\S+?\.py)\)|`(test_\w+)`", text_of(name)):
        if link:
            code = (FOLDER / link).read_text(encoding="utf-8")
        else:
            assert f"def {test}(" in code, f"{name}: {test}"
            named += 1
    assert named >= 3


@pytest.mark.parametrize("method", METHODS)
def test_the_recipes_that_are_named_exist_and_none_is_left_out(method: str):
    section = text_of(method).split("## Recipes")[1].split("|")[0]
    named = set(re.findall(r"`([\w-]+/[\w-]+)`", section))
    using = {
        path.relative_to(ROOT / "recipes").with_suffix("").as_posix()
        for path in (ROOT / "recipes").rglob("*.toml")
        if f'name = "{method}"' in path.read_text(encoding="utf-8")
    }
    assert named == using


def test_figures_at_equal_time_are_those_of_the_recipes_page():
    ours = ROW.findall(text_of("README"))
    there = ROW.findall((ROOT / "recipes" / "README.md").read_text(encoding="utf-8"))
    assert len(ours) == len(METHODS) - 1
    assert set(ours) <= set(there)


@pytest.mark.parametrize("method", METHODS)
def test_pictures_are_small(method: str):
    assert (FOLDER / f"{method}.png").stat().st_size < 30_000
    assert [link for _, link in Page(FOLDER / f"{method}.md").pictures()] == [f"{method}.png"]
