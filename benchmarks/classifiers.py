"""Classifiers of real images that judge generated ones, as feature networks of `cmtool.metrics`.

`resnet56`: the published CIFAR-10 classifier, from $CMTOOL_SHARED/weights. `digit-cnn`: a small
network for MNIST, trained here in a few minutes and kept in the user's cache.
"""

import hashlib
import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cmtool.data import places
from cmtool.data.catalog import open_data
from cmtool.metrics.features.base import Extractor

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from cifar_resnet import Resnet

RESNET56 = "weights/cifar10_resnet56-4bfd9763.safetensors"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH, ROUNDS, SHIFT = 128, 4, 2


def resnet56() -> Extractor:
    """64 pooled features and 10 classes; 93 % right on CIFAR-10's test images."""
    path = Path(os.environ["CMTOOL_SHARED"]) / RESNET56
    net = Resnet(9).eval()
    net.load_state_dict(load_file(path))

    def look(images: Tensor, probabilities: bool) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
        features = net((images / 255 - mean) / std)
        return features, net.linear(features).softmax(1)

    return Extractor("resnet56", 64, 10, look, {"weights": _hash(path)})


class DigitCNN(nn.Module):
    """Three stages of 3x3 convolutions, 28 -> 14 -> 7 -> 3 pixels; 128 features."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 32, 64, 96)
        self.stages = nn.Sequential(*map(_stage, widths, widths[1:]))
        self.hidden = nn.Linear(96 * 3 * 3, 128)
        self.classes = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.hidden(self.stages(x).flatten(1)))


def _stage(before: int, width: int) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs in (before, width):
        conv = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2))


def digit_cnn() -> Extractor:
    """128 features and 10 classes; above 99 % right on MNIST's test digits."""
    path = places.cache_dir() / "figures" / "digit-cnn.safetensors"
    net = DigitCNN()
    if path.is_file():
        net.load_state_dict(load_file(path))
    else:
        _train(net)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(net.state_dict(), path)
    net.eval()

    def look(images: Tensor, probabilities: bool) -> tuple[Tensor, Tensor]:
        features = net(images / 127.5 - 1)
        return features, net.classes(features).softmax(1)

    return Extractor("digit-cnn", 128, 10, look, {"weights": _hash(path)}, colour=False)


def _train(net: DigitCNN) -> None:
    """Adam under one cycle of the learning rate; digits moved by up to two pixels."""
    torch.manual_seed(0)
    data = open_data("mnist")
    pixels = torch.from_numpy(data.images(torch.arange(len(data)).numpy()))
    padded = F.pad(pixels, (SHIFT,) * 4)
    labels = torch.from_numpy(data.labels)
    per_round = len(data) // BATCH
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, ROUNDS * per_round)
    for _ in range(ROUNDS):
        for i in torch.randperm(len(data))[: per_round * BATCH].view(per_round, BATCH):
            y, x = torch.randint(0, 2 * SHIFT + 1, (2,)).tolist()
            digits = padded[i, :, y : y + 28, x : x + 28] / 127.5 - 1
            with torch.autocast("cpu", torch.bfloat16):
                said = net.classes(net(digits))
            loss = F.cross_entropy(said.float(), labels[i], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"digit-cnn: loss {loss:.3f}", file=sys.stderr)


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


CLASSIFIERS = {"cifar10": resnet56, "mnist": digit_cnn}
