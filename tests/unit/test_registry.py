"""The registry: names from the folder, one class a file, strangers through entry points."""

import subprocess
import sys
from dataclasses import is_dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from cmtool import registry
from cmtool.errors import RecipeError

EVERY = [(kind, name) for kind in registry.KINDS for name in registry.names(kind)]
PACKAGE = Path(registry.__file__).parent


@pytest.mark.parametrize("kind", registry.KINDS)
def test_names_are_the_files_of_the_folder(kind: str):
    files = {path.stem for path in (PACKAGE / kind).glob("*.py")}
    public = {f.replace("_", "-") for f in files if f != "base" and not f.startswith("_")}
    assert registry.names(kind) == sorted(public)


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_every_component_is_a_frozen_dataclass_found_by_its_name(kind: str, name: str):
    cls = registry.load(kind, name)
    assert is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    assert registry.name_of(kind, cls) == name


def test_listing_imports_nothing_heavy():
    code = (
        "import sys; from cmtool import registry\n"
        "assert all(registry.names(kind) for kind in registry.KINDS)\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("losses", "dsn", "unknown loss 'dsn' (did you mean 'dsm'?)"),
        ("solvers", "huen", "unknown solver 'huen' (did you mean 'heun'?)"),
        ("schedules", "zzzzz", "unknown schedule 'zzzzz'"),
        ("schedules", "base", "unknown schedule 'base'"),
        ("losses", "_pairs", "unknown loss '_pairs'"),
        ("networks", "../errors", "unknown network '../errors'"),
    ],
)
def test_an_unknown_name_is_a_recipe_error(kind: str, name: str, message: str):
    with pytest.raises(RecipeError) as caught:
        registry.load(kind, name)
    assert caught.value.message == message
    assert caught.value.hint == f"cmtool --list {kind}"


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a module of another package on the path and registers entry points for it."""

    def install(text: str, **entries: str) -> None:
        (tmp_path / "elsewhere.py").write_text(text, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "elsewhere", raising=False)
        points = [EntryPoint(n, v, "cmtool.solvers") for n, v in entries.items()]

        def entry_points(group: str, name: str | None = None) -> list[EntryPoint]:
            return [p for p in points if p.group == group and name in (None, p.name)]

        monkeypatch.setattr(registry, "entry_points", entry_points)

    return install


STRANGER = "from cmtool.solvers.euler import Euler\nclass Mine(Euler): ...\n"


def test_an_entry_point_adds_a_component(plugin):
    plugin(STRANGER, mine="elsewhere:Mine")
    cls = registry.load("solvers", "mine")
    assert cls.__name__ == "Mine"
    assert registry.name_of("solvers", cls) == "mine"


def test_a_built_in_name_wins_over_an_entry_point(plugin):
    plugin(STRANGER, heun="elsewhere:Mine")
    assert registry.load("solvers", "heun").__module__ == "cmtool.solvers.heun"


def test_an_entry_point_of_another_type_is_refused(plugin):
    plugin("Mine = dict\n", mine="elsewhere:Mine")
    with pytest.raises(TypeError, match="not a Solver"):
        registry.load("solvers", "mine")


@pytest.mark.parametrize("count", [0, 2])
def test_a_file_with_no_or_two_components_is_a_bug(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    classes = "".join(f"class C{i}(Euler): ...\n" for i in range(count))
    (tmp_path / "odd.py").write_text(
        f"from cmtool.solvers.euler import Euler\n{classes}class _Private(Euler): ...\n"
    )
    import cmtool.solvers

    monkeypatch.setattr(cmtool.solvers, "__path__", [str(tmp_path)])
    monkeypatch.setattr(registry, "names", lambda kind: ["odd"])
    monkeypatch.delitem(sys.modules, "cmtool.solvers.odd", raising=False)
    with pytest.raises(TypeError, match=f"one public Solver, found {count}"):
        registry.load("solvers", "odd")
