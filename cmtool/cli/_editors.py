"""What the editors' files say of themselves, read without running them: their options and what they
do."""

import ast
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Optional

from cmtool import registry

_TYPES = {"bool": bool, "int": int, "float": float, "str": str, "Literal": Literal}


@dataclass(frozen=True)
class Option:
    """A field of an editor's dataclass."""

    name: str
    type: Any
    default: Any
    text: str


@dataclass(frozen=True)
class Sketch:
    """An editor as its file describes it.

    Args:
        name: Its name.
        text: The first paragraph of its docstring.
        options: Its fields.
        constants: Its class variables that are plain values.
        inverse: Whether it wants the extra of that name.
    """

    name: str
    text: str
    options: tuple[Option, ...]
    constants: dict[str, Any] = field(default_factory=dict)
    inverse: bool = False

    @property
    def masked(self) -> bool:
        """Whether it repaints a part of the picture."""
        return "mask" in self.constants.get("pictures", {})

    @property
    def degrades(self) -> bool:
        """Whether it measures the picture itself."""
        return bool(self.constants.get("degrades"))

    @property
    def page(self) -> str:
        """Where docs/ tell of it."""
        if self.inverse:
            return "inverse.md"
        free = self.constants["group"] == "free"
        return "stroke-denoise-interpolate.md" if free else "editing.md"

    @property
    def help(self) -> str:
        """Its help page's text, in Markdown."""
        command, hole = f"cmtool edit {self.name}", " --mask mask.png" if self.masked else ""
        lines = [
            f"- `{command} in.png{hole}` : writes in.{self.name}.png",
            f"- `{command} in.png{hole} --n 4 --compare` : four results, and all in one picture",
        ]
        more = [self.text]
        if self.degrades:
            more.append("The picture is a clean one: it is measured first, and compared with.")
        else:
            told = "degrades it first, and says how near the result comes"
            lines.append(f"- `{command} clean.png{hole} --simulate` : {told}")
        if self.inverse:
            more.append("Wants deepinv: `pip install 'cmtool[inverse]'`")
        return "\n\n".join([*more, "Examples:", *lines])


def sketches() -> list[Sketch]:
    """All built-in editors, in alphabetical order."""
    folder = Path(registry.__file__).parent / "editors"
    return [
        _sketch(name, folder / f"{name.replace('-', '_')}.py") for name in registry.names("editors")
    ]


def _sketch(name: str, path: Path) -> Sketch:
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    node = next(
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(base) == "Editor" for base in node.bases)
    )
    doc = ast.get_docstring(node) or ""
    texts = _arguments(doc)
    options, constants = [], {}
    for line in node.body:
        if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name):
            continue
        value = None if line.value is None else ast.literal_eval(line.value)
        if ast.unparse(line.annotation).startswith("ClassVar"):
            constants[line.target.id] = value
        else:
            key = line.target.id
            options.append(Option(key, _type(line.annotation), value, texts.get(key, "")))
    text = " ".join(doc.split("\n\n")[0].split())
    return Sketch(name, text, tuple(options), constants, "editors._physics import" in source)


def _type(node: ast.expr) -> Any:
    """The type that an annotation names: a plain one, Literal, or either with None."""
    if isinstance(node, ast.BinOp):
        sides = [side for side in (node.left, node.right) if ast.unparse(side) != "None"]
        return Optional[_type(sides[0])]  # noqa: UP045 - the type is not known before
    if isinstance(node, ast.Subscript):
        values = ast.literal_eval(node.slice)
        return Literal[values]
    return _TYPES[ast.unparse(node)]


def _arguments(doc: str) -> dict[str, str]:
    """The lines under `Args:` of a docstring, by name."""
    found: dict[str, str] = {}
    lines = iter(doc.splitlines())
    name = ""
    for line in lines:
        if line.strip() == "Args:":
            break
    for line in lines:
        if line.strip() and not line.startswith(" "):
            break
        start, colon, rest = line.strip().partition(":")
        if (
            colon
            and line.startswith("    ")
            and not line.startswith("     ")
            and start.isidentifier()
        ):
            name, found[start] = start, rest.strip()
        elif name and line.strip():
            found[name] += f" {line.strip()}"
    return found
