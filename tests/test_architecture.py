"""Who may import whom, and how big things may get: the rules of the design, from the source."""

import ast
import subprocess
import sys
from fnmatch import fnmatch
from functools import cache
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "cmtool"
MODULES = {
    ".".join(("cmtool", *path.relative_to(PACKAGE).with_suffix("").parts)): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if "_recipes" not in path.parts
}

# From the top down; a module imports what stands below its row. Inside a row marked "together"
# modules may import each other as long as there is no circle.
LAYERS: list[tuple[str, list[str]]] = [
    ("alone", ["cmtool.__main__"]),
    ("together", ["cmtool.cli", "cmtool.cli.*"]),
    # A format opens what it wrote as every command does, with `workflows.load`.
    (
        "together",
        ["cmtool.workflows", "cmtool.workflows.*", "cmtool.formats", "cmtool.formats.*"],
    ),
    (
        "together",
        [
            *("cmtool.training", "cmtool.checkpoint", "cmtool.images", "cmtool.plots"),
            *("cmtool.signals", "cmtool.pictures", "cmtool.arrays"),
            *("cmtool.meta", "cmtool.tensor_file"),
            *("cmtool.data", "cmtool.data.*", "cmtool.metrics", "cmtool.metrics.*"),
            *("cmtool.foreign", "cmtool.foreign.*"),
        ],
    ),
    (
        "together",
        [
            *("cmtool.losses", "cmtool.losses.*", "cmtool.editors", "cmtool.editors.*"),
            *("cmtool.networks", "cmtool.networks.*", "cmtool.schedules", "cmtool.schedules.*"),
            *("cmtool.solvers", "cmtool.solvers.*", "cmtool.interpolation"),
        ],
    ),
    (
        "together",
        [
            *("cmtool.teacher", "cmtool.sampling", "cmtool.denoiser", "cmtool.preconditioner"),
            *("cmtool.ema", "cmtool.rng", "cmtool.augment"),
        ],
    ),
    (
        "together",
        [
            *("cmtool.tensors", "cmtool.schedules.base", "cmtool.solvers.base"),
            "cmtool.networks.base",
        ],
    ),
    (
        "together",
        [f"cmtool.{name}" for name in ("recipe", "registry", "settings", "_toml", "shipped")],
    ),
    ("alone", ["cmtool.pickled"]),
    ("together", ["cmtool.errors", "cmtool.files"]),
]
COMPONENT_KINDS = ("losses", "editors", "networks", "schedules", "solvers")
# In these folders a file stands for itself: it imports `base` and `_private` files, no sibling.
SIBLINGS_APART = (*COMPONENT_KINDS, "workflows", "formats")
# `load` is `cmtool.load`: every workflow begins with a model.
SHARED = ("base", "load", "fit")
# Third party, and the modules of ours that may name it. The rest of R1 to R8 is ruff's.
ONLY_IN = {
    "PIL": ["cmtool.images", "cmtool.pictures", "cmtool.plots"],
    "accelerate": ["cmtool.training", "cmtool.checkpoint", "cmtool.workflows.*"],
    "cleanfid": ["cmtool.metrics.*"],
    "click": [],
    "deepinv": ["cmtool.editors._physics"],
    "lpips": ["cmtool.losses._distance", "cmtool.metrics.*"],
    "rich": ["cmtool.cli", "cmtool.cli.*"],
    "typer": ["cmtool.cli", "cmtool.cli.*"],
    "cmtool.recipe": [
        *("cmtool.cli", "cmtool.cli.*", "cmtool.workflows.*"),
        *("cmtool.checkpoint", "cmtool.training", "cmtool.foreign.*"),
    ],
    "cmtool.registry": [
        *("cmtool.recipe", "cmtool.cli", "cmtool.cli.*", "cmtool.workflows.*"),
        *("cmtool.checkpoint", "cmtool.training", "cmtool.foreign.*"),
    ],
}


def fits(module: str, patterns: list[str]) -> bool:
    return any(fnmatch(module, pattern) for pattern in patterns)


def row(module: str) -> int:
    """The row of a module; an exact name beats a pattern, so that `base` files can stand lower."""
    module = module.removesuffix(".__init__")
    for exact in (True, False):
        for index, (_, patterns) in enumerate(LAYERS):
            if module in patterns if exact else fits(module, patterns):
                return index
    raise AssertionError(f"{module} has no row in LAYERS; add it where it belongs")


class Imports(ast.NodeVisitor):
    """Collects the modules that a file imports, those for the type checker left out."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) not in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.found |= {alias.name for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0, "relative import"
        for alias in node.names:
            full = f"{node.module}.{alias.name}"
            self.found.add(full if is_module(full) else str(node.module))


def is_module(name: str) -> bool:
    return name in MODULES or f"{name}.__init__" in MODULES


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@cache
def imports(module: str) -> frozenset[str]:
    visitor = Imports()
    visitor.visit(tree(module))
    return frozenset(visitor.found)


def ours(module: str) -> list[str]:
    return sorted(name for name in imports(module) if name.split(".")[0] == "cmtool")


LAYERED = [module for module in MODULES if module != "cmtool.__init__"]


@pytest.mark.parametrize("module", LAYERED)
def test_r3_imports_go_down(module: str):
    for other in ours(module):
        if other == "cmtool":  # `__version__`; its functions would be a call upwards
            continue
        here, there = row(module), row(other)
        allowed = here < there or (here == there and LAYERS[here][0] == "together")
        assert allowed, f"{module} imports {other}, which stands above it"


def test_r3_there_is_no_circle():
    graph = {m.removesuffix(".__init__"): {o for o in ours(m) if o != "cmtool"} for m in LAYERED}
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("module", LAYERED)
def test_r4_siblings_and_private_files(module: str):
    folder = module.split(".")[1]
    for other in ours(module):
        _, _, rest = other.partition(".")
        package, _, name = rest.partition(".")
        if name.startswith("_"):
            assert package == folder, f"{module} imports the private file {other}"
        elif name and name not in SHARED and package in SIBLINGS_APART:
            outside = package not in COMPONENT_KINDS or folder not in COMPONENT_KINDS
            assert package != folder, f"{module} imports its sibling {other}"
            assert outside, f"the component {module} imports the component {other}"


@pytest.mark.parametrize("module", LAYERED)
def test_r6_to_r8_each_library_has_its_place(module: str):
    name = module.removesuffix(".__init__")
    for other in imports(module):
        for library, places in ONLY_IN.items():
            if other == library or other.startswith(f"{library}."):
                assert fits(name, places), f"{module} imports {other}"


@pytest.mark.parametrize(
    "module",
    [
        m
        for m in LAYERED
        # The second is the only module of its folder, beside the files that it finds.
        if m.endswith(".__init__") and m not in ("cmtool.cli.__init__", "cmtool.shipped.__init__")
    ],
)
def test_r5_a_package_is_its_docstring(module: str):
    assert ast.get_docstring(tree(module))
    assert len(tree(module).body) == 1


@pytest.mark.parametrize("module", MODULES)
def test_every_module_can_be_imported(module: str):
    if not module.endswith("__main__"):
        import_module(module.removesuffix(".__init__"))


@pytest.mark.parametrize("module", MODULES)
def test_every_module_and_public_name_has_a_docstring(module: str):
    assert ast.get_docstring(tree(module)), f"{module} has no docstring"
    for node in tree(module).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{module}.{node.name} has no docstring"


# Budgets.


def length(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def lines(module: str) -> int:
    return len(MODULES[module].read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("module", MODULES)
def test_size_of_modules(module: str):
    folder, name = MODULES[module].parent.name, MODULES[module].stem
    budget = 400
    if folder == "cli" and not name.startswith("_"):
        budget = 80
    elif folder in COMPONENT_KINDS and folder != "networks" and name != "base":
        budget = 400 if name.startswith("_") else 120
    assert lines(module) <= budget


@pytest.mark.parametrize("module", MODULES)
def test_size_of_functions(module: str):
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = length(node) - (length(node.body[0]) if ast.get_docstring(node) else 0)
            assert size <= 60, f"{module}.{node.name} has {size} lines"


HEAVY = {"torch", "torchvision", "numpy", "PIL", "accelerate", "lpips", "cleanfid", "safetensors"}


@pytest.mark.parametrize(
    "code",
    [
        "import cmtool",
        "import cmtool.cli",
        "import cmtool.recipe",
        "from cmtool import registry; [registry.names(kind) for kind in registry.KINDS]",
    ],
)
def test_r1_nothing_heavy_before_a_command_runs(code: str):
    check = f"{code}\nimport sys\nfound = {HEAVY} & set(sys.modules)\nassert not found, found"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
