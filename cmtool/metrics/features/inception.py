"""`inception`: the network of FID, in NVIDIA's TorchScript file, which clean-fid and EDM use too.

The file is looked for in one cache, checked by its hash before anything of it runs, and fetched
once. It is read, hashed and loaded from the same bytes, so that no other process can swap it.
"""

import hashlib
import io
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cmtool.data import places
from cmtool.errors import DataError, RecipeError, Say, did_you_mean
from cmtool.metrics.features.base import Extractor, Facts
from cmtool.metrics.features.resize import bilinear, clean

NAME = "inception-2015-12-05.pt"
SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
BYTES = 95_607_719
URLS = (
    f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{NAME}",
    f"https://openaipublic.blob.core.windows.net/consistency/inception/{NAME}",
)
CLEANFIDS = Path("." if sys.platform == "win32" else "/tmp")
"""Where clean-fid puts the file."""
SIZE = 299
DIM = 2048
CLASSES = 1008
VERSION = 1


def _inside(net: Any, images: Tensor) -> Tensor:
    features: Tensor = net(images.float(), return_features=True)
    return features


def _cleaned(net: Any, images: Tensor) -> Tensor:
    features: Tensor = net.layers((clean(images, SIZE) - 128) / 128)
    return features


def _pytorch(net: Any, images: Tensor) -> Tensor:
    features: Tensor = net.layers(2 * (bilinear(images, SIZE) / 255) - 1)
    return features


MODES: dict[str, tuple[Callable[[Any, Tensor], Tensor], str, str]] = {
    "legacy_tensorflow": (_inside, "in the network: TF1 bilinear 299", "(x - 128) / 128"),
    "clean": (_cleaned, "clean-fid: Pillow bicubic 299", "(x - 128) / 128"),
    "legacy_pytorch": (_pytorch, "torch bilinear 299", "x / 127.5 - 1"),
}


def open_inception(
    device: torch.device, mode: str, say: Say, *, _unchecked: Path | None = None
) -> Extractor:
    """The network with 2048 pooled features, and 1008 probabilities without the head's bias.

    Source:
        Szegedy et al. 2016, arXiv 1512.00567; Heusel et al. 2017, arXiv 1706.08500; the modes are
        clean-fid's: Parmar, Zhang & Zhu 2022, arXiv 2104.11222.

    Args:
        device: Where it runs.
        mode: How images come to 299 x 299, one of `MODES`.
        say: Is told of the download.
        _unchecked: A test's file of the same layout in place of the network; its figures are
            called `random`.

    Raises:
        DataError: The file is not here and cannot be fetched, or is another.
        RecipeError: There is no such mode.
    """
    if mode not in MODES:
        raise RecipeError(
            f"unknown mode '{mode}'{did_you_mean(mode, MODES)}", f"one of {', '.join(MODES)}"
        )
    content = find(say) if _unchecked is None else _unchecked.read_bytes()
    with warnings.catch_warnings():
        # torch.jit.load is deprecated; the network is published in no other form.
        warnings.simplefilter("ignore")
        net: Any = torch.jit.load(io.BytesIO(content), map_location="cpu")  # type: ignore[no-untyped-call]
    net.eval().to(device)
    _, resize, convention = MODES[mode]
    facts: Facts = {
        "features": "inception",
        "weights": hashlib.sha256(content).hexdigest(),
        "mode": mode,
        "resize": resize,
        "input": convention,
        "version": VERSION,
    }
    checked = _unchecked is None
    return Extractor(
        "inception",
        DIM,
        CLASSES,
        _Inception(net, mode),
        facts,
        device,
        official=checked,
        random=not checked,
    )


class _Inception:
    def __init__(self, net: Any, mode: str) -> None:
        self.net = net
        self.features = MODES[mode][0]

    def __call__(self, images: Tensor, probabilities: bool) -> tuple[Tensor, Tensor | None]:
        features = self.features(self.net, images).reshape(len(images), DIM)
        if not probabilities:
            return features, None
        # What the file's own `no_output_bias=True` computes, without a second pass.
        return features, F.linear(features, self.net.output.weight).softmax(1)


def find(say: Say) -> bytes:
    """The file's content: from our cache, from where clean-fid keeps it, or fetched into our cache.

    Raises:
        DataError: None of these; the text tells what to put where.
    """
    ours = places.cache_dir() / "weights" / NAME
    for path in (ours, CLEANFIDS / NAME):
        content = _content(path)
        if content is None:
            continue
        found = hashlib.sha256(content).hexdigest()
        if found == SHA256:
            return content
        if path == ours:
            raise DataError(
                f"'{path}' is damaged or another file: {len(content):,} bytes, sha256 {found}; "
                f"the network has {BYTES:,} bytes, sha256 {SHA256}",
                f"remove it, or replace it by {URLS[0]}",
            )
        say(f"passed over '{path}', which has sha256 {found}")
    return _fetch(ours, say)


def _content(path: Path) -> bytes | None:
    """What is in a file, or None if there is none that may be read; no more than is needed."""
    try:
        with path.open("rb") as file:
            return file.read(BYTES + 1)
    except OSError:
        return None


def _fetch(path: Path, say: Say) -> bytes:
    reasons = []
    for url in URLS:
        try:
            places.download(url, path, SHA256, say)
            return path.read_bytes()
        except (DataError, OSError) as problem:
            reason = problem.message if isinstance(problem, DataError) else str(problem)
            reasons.append(reason)
            if places.offline():
                break
    tried = "".join(f"\n  tried   {reason}" for reason in reasons)
    raise DataError(
        "FID, KID and IS need the Inception network, which is not here"
        f"\n  file    {NAME}, {BYTES:,} bytes\n  sha256  {SHA256}\n  from    {URLS[0]}"
        f"\n  place   {path}{tried}",
        "put the file there; or, without it: cmtool eval fd --features lite0",
    )
