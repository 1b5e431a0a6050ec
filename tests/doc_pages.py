"""Reads the pages in Markdown: their commands, Python, spans of code, links and pictures.

The convention. In README.md, recipes/README.md and docs/**/*.md

- each line of a fenced block without a tag, or tagged bash, is a command (`#` begins a comment, a
  backslash at the end goes on); so is a line that begins with `$ ` in a block tagged text or
  console. Its other lines are output: the command has to print them, other numbers aside (`...`
  stands for what is left out);
- a block tagged python is run, after the page's commands above it;
- all blocks of a page run in order in one folder, which `doc_world.py` fills beforehand; a page
  that needs more has a file tests/docs/fixtures_PAGE.py (sub-folders joined by _) with a function
  make(folder), which is called in that folder;
- how commands are made short is in the tables of `doc_runs.py`;
- a comment on the line before a block changes what is done with it:

      <!-- test: slow -->           only in slow runs
      <!-- test: dry-run -->        --dry-run is added
      <!-- test: 2 processes -->    for GPUs; 2 processes on the CPU
      <!-- test: other output -->   what it prints here may differ from what is shown
      <!-- test: skip, REASON -->   not run; its options and syntax are still checked

- a picture has a command beside it, or one on its page that names its file, or the comment
  <!-- made by: COMMAND -->;
- so has a table of measured figures: a command or a test in its section, or a comment there,
  <!-- figures: WHERE FROM -->, or anywhere <!-- figures of this page: WHERE FROM -->.
"""

import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORDS = ("slow", "dry-run", "2 processes", "other output")

_FENCE = re.compile(r"^(?P<dent> *)```(?P<tag>[\w-]*) *$")
_MARK = re.compile(r"^ *<!-- test: (.*) -->$")
_SHELL = ("|", "<", ">", ">>")
_ENVIRONMENT = re.compile(r"^[A-Z][A-Z0-9_]*=")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Args:
        line: Of its fence, from 1.
        tag: After the fence.
        text: Its lines, without the fence's indentation.
        mark: What the comment before it says; empty without one.
    """

    line: int
    tag: str
    text: str
    mark: str

    @property
    def marks(self) -> tuple[str, ...]:
        """The words of the mark, `skip` without its reason."""
        if self.mark.startswith("skip"):
            return ("skip",)
        return tuple(word.strip() for word in self.mark.split(",")) if self.mark else ()

    @property
    def reason(self) -> str:
        """Why it is not run."""
        return self.mark.removeprefix("skip").lstrip(", ")


@dataclass(frozen=True)
class Command:
    """One command of a page.

    Args:
        line: Where it begins, from 1.
        words: As a shell would split them.
        environment: Variables that are set before it.
        rest: A redirection or pipe after it, as typed.
        marks: Of its block.
        output: Lines shown below it.
    """

    line: int
    words: tuple[str, ...]
    environment: tuple[str, ...]
    rest: str
    marks: tuple[str, ...]
    output: tuple[str, ...] = ()

    def __str__(self) -> str:
        return shlex.join(self.words)


@dataclass(frozen=True)
class Page:
    """A file in Markdown."""

    path: Path

    @property
    def name(self) -> str:
        """Its path below the root."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def lines(self) -> list[str]:
        """Its text."""
        return self.path.read_text(encoding="utf-8").splitlines()

    def blocks(self) -> list[Block]:
        """Its fenced blocks."""
        found: list[Block] = []
        mark, begun, dent, tag = "", 0, 0, ""
        for number, line in enumerate(self.lines, 1):
            fence = _FENCE.match(line)
            if begun:
                if fence and not fence["tag"]:
                    body = (text[dent:] for text in self.lines[begun : number - 1])
                    found.append(Block(begun, tag, "\n".join(body), mark))
                    begun, mark = 0, ""
            elif fence:
                begun, dent, tag = number, len(fence["dent"]), fence["tag"]
            elif line.strip():
                told = _MARK.match(line)
                mark = told[1] if told else ""
        assert not begun, f"{self.name}:{begun}: a fence is not closed"
        return found

    def prose(self) -> list[tuple[int, str]]:
        """Numbered lines outside of fenced blocks."""
        inside = False
        found = []
        for number, line in enumerate(self.lines, 1):
            if _FENCE.match(line):
                inside = not inside
            elif not inside:
                found.append((number, line))
        return found

    def spans(self) -> list[tuple[int, str]]:
        """Code between single backticks, which may go over the end of a line."""
        found, text, starts = [], "", []
        for number, line in self.prose():
            starts.append((len(text), number))
            text += line + "\n"
        for match in re.finditer(r"(?<!`)`([^`]+)`(?!`)", text):
            line = max(number for start, number in starts if start <= match.start())
            found.append((line, " ".join(match[1].split())))
        return found

    def links(self) -> list[tuple[int, str]]:
        """Targets of links and pictures."""
        pattern = r"\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)"
        bare = ((n, re.sub(r"`[^`]*`", "", line)) for n, line in self.prose())
        return [(n, target) for n, line in bare for target in re.findall(pattern, line)]

    def pictures(self) -> list[tuple[int, str]]:
        """Targets of pictures, in Markdown or HTML."""
        pattern = r"!\[[^]]*\]\(<?([^)\s>]+)|<img[^>]* src=\"([^\"]+)\""
        return [
            (number, one or other)
            for number, line in self.prose()
            for one, other in re.findall(pattern, line)
        ]

    def anchors(self) -> set[str]:
        """What a link may have after #, as GitHub makes it of the headings."""
        found: set[str] = set()
        for _, line in self.prose():
            found |= set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", line))
            heading = re.match(r"#{1,6} +(.*?) *#*$", line)
            if heading:
                text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading[1]).lower()
                slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
                number = 0
                while (one := f"{slug}-{number}" if number else slug) in found:
                    number += 1
                found.add(one)
        return found


def pages() -> list[Page]:
    """All pages that are tested."""
    paths = [ROOT / "README.md", ROOT / "recipes" / "README.md", *(ROOT / "docs").rglob("*.md")]
    return [Page(path) for path in sorted(paths)]


def commands_of(block: Block) -> list[Command]:
    """The commands of a block; none of one that holds output, Python or a recipe.

    Raises:
        ValueError: A line is no command; the text says where and what to do.
    """
    if block.tag in ("", "bash", "sh"):
        shown = False
    elif block.tag in ("text", "console"):
        shown = True
    else:
        return []
    found: list[Command] = []
    text, begun = "", 0
    for number, line in enumerate(block.text.splitlines(), block.line + 1):
        if not text:
            begun = number
            if shown and not line.startswith("$ "):
                if found:
                    found[-1] = replace(found[-1], output=(*found[-1].output, line))
                continue
            line = line.removeprefix("$ ")
        text += line
        if text.endswith("\\"):
            text = text[:-1]
            continue
        found += _split(text, begun, block.marks)
        text = ""
    return found


def _split(text: str, line: int, marks: tuple[str, ...]) -> list[Command]:
    """The commands of one line: `;` and `&&` part them."""
    try:
        words = shlex.split(text, comments=True)
    except ValueError as problem:
        raise ValueError(f"line {line}: {problem}: {text}") from None
    found, current = [], []
    for word in [*words, ";"]:
        if word not in (";", "&&"):
            current.append(word)
        elif current:
            found.append(_command(current, line, marks))
            current = []
    return found


def _command(words: list[str], line: int, marks: tuple[str, ...]) -> Command:
    environment = []
    while words and _ENVIRONMENT.match(words[0]):
        environment.append(words.pop(0))
    cut = next((i for i, word in enumerate(words) if word in _SHELL), len(words))
    rest = " ".join(w if w in _SHELL else shlex.quote(w) for w in words[cut:])
    return Command(line, tuple(words[:cut]), tuple(environment), rest, marks)
