"""What the Tab key offers after an option: names from folders and from files' headers, at once.

Where no name begins with what was typed, nothing is offered and the shell completes a path. No
completer may fail: what it printed would stand in the middle of the user's line.
"""

import ast
import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import typer

from cmtool import registry, shipped
from cmtool.data import names as data

DEVICES = ("cpu", "cuda", "mps")
DTYPES = ("float32", "bfloat16", "float16")
ENGINES = ("torch", "onnx", "aoti")
FEATURES = ("pixel", "lite0", "inception")
METRICS = ("fd-pixel", "fd-lite0", "kid-lite0", "fid", "kid")
PROTOCOLS = ("cm-cifar10", "adm", "edm", "clean")
ARCHIVES = (".zip", ".npz")
WEIGHTS = (".safetensors", ".pt", ".pkl")

Completer = Callable[[typer.Context, str], list[str]]


def offer(
    names: Callable[[typer.Context], Iterable[str]], *suffixes: str, files: bool = False
) -> Completer:
    """A completer of the names that begin with what was typed.

    Args:
        names: What there is.
        suffixes: Files of this folder that may stand there too.
        files: Whether folders and such files may.
    """

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        try:
            found = [name for name in names(ctx) if name.startswith(incomplete)]
            more = _paths(suffixes) if found and (files or suffixes) else []
        except Exception:  # See the top of this file.
            return []
        return found + [path for path in more if path.startswith(incomplete)]

    return complete


def these(*names: str) -> Completer:
    """A completer of fixed names."""
    return offer(lambda ctx: names)


def several(names: Callable[[typer.Context], Iterable[str]]) -> Completer:
    """A completer of names with commas between them."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        head, comma, last = incomplete.rpartition(",")
        return [head + comma + name for name in offer(names)(ctx, last)]

    return complete


def _paths(suffixes: tuple[str, ...]) -> list[str]:
    """Folders, and files of a kind, of the working directory."""
    found = [path for path in Path().iterdir() if not path.name.startswith(".")]
    folders = [f"{path.name}/" for path in found if path.is_dir() and path.name != "runs"]
    return sorted(folders + [path.name for path in found if path.suffix in suffixes])


def _models(ctx: typer.Context) -> list[str]:
    runs = [file.parent.as_posix() for file in Path("runs").glob("*/latest")]
    return sorted(runs) + [shipped.PREFIX + name for name in shipped.names()]


def _teachers(ctx: typer.Context) -> list[str]:
    return [name for name in _models(ctx) if _is_diffusion(Path(name))]


def _is_diffusion(model: Path) -> bool:
    try:
        return bool(_header(model)["kind"] == "diffusion")
    except (OSError, ValueError, KeyError):  # A run that is broken or has no step yet.
        return False


def _recipes(ctx: typer.Context) -> list[str]:
    from cmtool import recipe  # Here, as it costs a tenth of a help page's time.

    return recipe.names()


def _methods(ctx: typer.Context) -> list[str]:
    """Those that take a teacher after `distill`, the others after `train`."""
    wanted = f"needs_teacher_model: ClassVar[bool] = {ctx.info_name == 'distill'}"
    return [name for name in registry.names("losses") if wanted in _source("losses", name)]


def recipe_keys() -> list[str]:
    """Every key of a recipe, section.field=."""
    from cmtool.recipe import Recipe

    kinds = {base.lower(): kind for kind, base in registry.KINDS.items()}
    found = []
    for section in dataclasses.fields(Recipe):
        if section.name in kinds:
            fields = ["name", *sorted(_fields_of(kinds[section.name]))]
        else:
            settings: Any = section.default_factory
            fields = [field.name for field in dataclasses.fields(settings)]
        found += [f"{section.name}.{field}=" for field in fields]
    return found


def _fields_of(kind: str) -> set[str]:
    """The fields of all components of a kind: whatever has a default in their files."""
    folder = Path(registry.__file__).parent / kind
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in folder.glob("*.py")]
    classes = [
        node
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.bases
    ]
    return {
        line.target.id
        for node in classes
        for line in node.body
        if isinstance(line, ast.AnnAssign)
        and isinstance(line.target, ast.Name)
        and line.value is not None
        and not ast.unparse(line.annotation).startswith("ClassVar")
    }


def _source(kind: str, name: str) -> str:
    file = Path(registry.__file__).parent / kind / f"{name.replace('-', '_')}.py"
    return file.read_text(encoding="utf-8")


def _labels(ctx: typer.Context) -> list[str]:
    return list(_meta(ctx)["classes"])


def _weights(ctx: typer.Context) -> list[str]:
    return ["ema", *_meta(ctx)["weights"]]


def _meta(ctx: typer.Context) -> Any:
    """What the model that stands in the line says of itself."""
    given = ctx.params["model"] or ctx.args  # Unparsed before an option without its value.
    last = given[-1] if isinstance(given, list | tuple) else given
    return _header(Path(str(last).partition("@")[0]))


def _header(model: Path) -> Any:
    """What a run's last checkpoint, or a file, says of itself."""
    if shipped.is_name(model.as_posix()):
        model = shipped.path(model.as_posix())
    if model.is_file():
        with model.open("rb") as file:
            texts = json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]
        return json.loads(texts["cmtool"])
    step = (model / "latest").read_text(encoding="utf-8").strip()
    return json.loads((model / step / "meta.json").read_text(encoding="utf-8"))


model = offer(_models, *WEIGHTS, files=True)
teacher = offer(_teachers, *WEIGHTS, files=True)
model_or_data = offer(lambda ctx: [*_models(ctx), *data.names()], *WEIGHTS, files=True)
models = several(_models)
recipe = offer(_recipes, ".toml", files=True)
dataset = offer(lambda ctx: data.names(), *ARCHIVES, files=True)
method = offer(_methods)
solver = offer(lambda ctx: registry.names("solvers"))
schedule = offer(lambda ctx: registry.names("schedules"))
format_ = offer(lambda ctx: registry.names("formats"))
features = offer(lambda ctx: FEATURES, ".pt", ".pt2", ".ts")
setting = offer(lambda ctx: recipe_keys())
label = several(_labels)
weights = offer(_weights)
