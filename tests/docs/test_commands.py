"""Every command and every piece of Python in the pages works; the convention is in doc_pages.py."""

import os
from pathlib import Path

import pytest
from by_path import module_at
from doc_pages import WORDS, Block, Page, commands_of, pages
from doc_runs import SCRIPTS, problem_of, problem_of_cmtool, run, script

PAGES = pages()
NAMES = [page.name for page in PAGES]
every_page = pytest.mark.parametrize("page", PAGES, ids=NAMES)


def runnable(page: Page) -> list[Block]:
    return [b for b in page.blocks() if b.tag in ("", "bash", "sh", "text", "console", "python")]


@every_page
def test_every_block_is_understood(page: Page):
    wrong = []
    for block in page.blocks():
        unknown = [word for word in block.marks if word not in (*WORDS, "skip")]
        if unknown or (block.marks == ("skip",) and not block.reason):
            wrong.append(f"line {block.line}: test: {block.mark}")
        try:
            if block.tag == "python":
                compile(block.text, f"{page.name}:{block.line}", "exec")
            found = commands_of(block)
        except (SyntaxError, ValueError) as problem:
            wrong.append(str(problem))
        else:
            wrong += [text for c in found if (text := problem_of(c)) and "skip" not in block.marks]
    assert not wrong, "\n".join(wrong)


@every_page
def test_commands_in_sentences_have_the_options_they_name(page: Page):
    spans = [(n, text) for n, text in page.spans() if text.startswith("cmtool ")]
    synopses = [
        (block.line, line.split(" # ")[0])
        for block in page.blocks()
        if block.tag == "text" or "skip" in block.marks
        for line in block.text.splitlines()
        if line.startswith("cmtool ")
    ]
    found = {f"line {n}: {s}": problem_of_cmtool(s.split()[1:]) for n, s in spans + synopses}
    assert not {text: problem for text, problem in found.items() if problem}


@every_page
def test_scripts_are_among_those_that_slow_runs_run(page: Page):
    texts = [text for _, text in page.spans()]
    texts += [line for block in page.blocks() for line in block.text.splitlines()]
    named = [text.split()[1] for text in texts if text.startswith("python benchmarks/")]
    assert not {*named} - {*SCRIPTS}


@every_page
def test_no_command_is_indented_in_place_of_fenced(page: Page):
    words = ("cmtool ", "python ", "torchrun ", "accelerate ")
    indented = [n for n, s in page.prose() if s.startswith("    ") and s.lstrip().startswith(words)]
    assert not indented


def go_through(page: Page, folder: Path, *, slow: bool) -> None:
    """Runs a page from top to bottom; every failure is told, not only the first."""
    more = Path(__file__).parent / f"fixtures_{page.name.removeprefix('docs/')[:-3]}.py"
    more = more.with_name(more.name.replace("/", "_"))
    if more.is_file():
        module_at(more).make(folder)
    wrong, names = [], {"__name__": "page"}
    for block in runnable(page):
        if "skip" in block.marks or ("slow" in block.marks and not slow):
            continue
        if block.tag == "python":
            try:
                exec(compile(block.text, f"{page.name}:{block.line}", "exec"), names)
            except Exception as problem:
                wrong.append(f"line {block.line}: {problem!r}")
        else:
            wrong += [text for c in commands_of(block) if (text := run(c, slow=slow))]
    os.chdir(folder)
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.filterwarnings("default")
@every_page
def test_a_page_works(page: Page, scratch: Path):
    go_through(page, scratch, slow=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@every_page
def test_a_page_works_as_it_is_written(page: Page, scratch: Path):
    go_through(page, scratch, slow=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_works(name: str, scratch: Path):
    if "shipped_figures" in name and "CMTOOL_SHARED" not in os.environ:
        pytest.skip("the classifier's weights: set CMTOOL_SHARED")
    assert script(name) is None
