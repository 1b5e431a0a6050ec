"""Links lead somewhere, pictures and figures have the command that made them, no page is lost."""

import os
import re
from pathlib import Path

import pytest
from doc_pages import ROOT, Page, pages

PAGES = pages()
NAMES = [page.name for page in PAGES]
every_page = pytest.mark.parametrize("page", PAGES, ids=NAMES)
OTHERS = ("http://", "https://", "mailto:")
FENCED = re.compile(r"^(?:\$ )?(?:python|cmtool|make) ", re.MULTILINE)
COMMAND = re.compile(r"`(?:python|cmtool|make)[ `]|tests/[\w/]+\.py|<!-- figures: .+ -->")
NEAR = 10
"""Lines between a picture and its command."""
WHOLE = "<!-- figures of this page: "


def target_of(page: Page, link: str) -> tuple[Path, str]:
    """The file and the anchor of a link inside the repository."""
    path, _, anchor = link.partition("#")
    return Path(os.path.normpath(page.path.parent / path)) if path else page.path, anchor


@every_page
def test_links_lead_somewhere(page: Page):
    wrong = []
    for line, link in [*page.links(), *page.pictures()]:
        if link.startswith(OTHERS):
            continue
        path, anchor = target_of(page, link)
        if not path.exists():
            wrong.append(f"line {line}: no file '{link}'")
        elif anchor and anchor not in Page(path).anchors():
            wrong.append(f"line {line}: no heading for '{link}'")
    assert not wrong, "\n".join(wrong)


@every_page
def test_pictures_have_the_command_that_made_them(page: Page):
    fenced = "\n".join(block.text for block in page.blocks())
    wrong = []
    for line, link in page.pictures():
        near = "\n".join(page.lines[max(0, line - 1 - NEAR) : line + NEAR])
        named = re.search(rf"\b{re.escape(Path(link).name)}\b", fenced)
        if not named and not FENCED.search(near) and "<!-- made by: " not in near:
            wrong.append(f"line {line}: nothing makes '{link}'")
    assert not wrong, "\n".join(wrong)


def tables(page: Page) -> list[tuple[int, str, str]]:
    """(line, table, what is said around it) of every table: its section, and the opening text of
    the sections that this one is part of, the page's own aside."""
    found: list[tuple[int, str, str]] = []
    heads = [(n, len(m[0])) for n, line in page.prose() if (m := re.match(r"#+(?= )", line))]
    rows = {n for n, line in page.prose() if line.startswith("|")}
    for first in sorted(n for n in rows if n - 1 not in rows):
        last = next(n for n in range(first, len(page.lines) + 2) if n not in rows)
        around, depth = [], 7
        for n, level in reversed([head for head in heads if head[0] < first]):
            if level < depth and (level > 1 or depth == 7):
                end = min((m for m, _ in heads if m > n), default=len(page.lines) + 1)
                around += page.lines[n - 1 : end - 1]
                depth = level
        found.append((first, "\n".join(page.lines[first - 1 : last - 1]), "\n".join(around)))
    return found


@every_page
def test_tables_of_figures_have_the_command_that_made_them(page: Page):
    wrong = []
    if any(line.startswith(WHOLE) for line in page.lines):
        return
    for line, table, section in tables(page):
        cells = re.findall(r"(?<=\|)[^|\n]*(?=\|)", table)
        figures = [c for c in cells if re.search(r"\d\.\d", re.sub(r"`[^`]*`", "", c))]
        if len(figures) >= 4 and not (COMMAND.search(section) or FENCED.search(section)):
            wrong.append(f"line {line}: nothing says how {len(figures)} figures were made")
    assert not wrong, "\n".join(wrong)


def test_every_page_is_reached_from_the_first():
    known = {page.path: page for page in PAGES}
    ways = [ROOT / "README.md"]
    reached = set(ways)
    while ways:
        page = known[ways.pop()]
        found = {target_of(page, link)[0] for _, link in page.links() if ":" not in link}
        found |= {path / "README.md" for path in found}
        ways += [path for path in found - reached if path in known]
        reached |= found
    assert not {str(path) for path in set(known) - reached}
