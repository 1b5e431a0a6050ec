"""The CIFAR-10 classifiers of He et al. 2016 with identity shortcuts, as files for features.

Source:
    He et al. 2016, arXiv 1512.03385, Section 4.2; names as in the published weights.
"""

import hashlib
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions and an identity, subsampled and padded with zeros where the width grows."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.grow = width - before
        self.conv1 = nn.Conv2d(before, width, 3, 2 if self.grow else 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.grow:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.grow // 2, self.grow // 2))
        return F.relu(h + x)


class Resnet(nn.Module):
    """6 n + 2 layers; 64 pooled features: the last layer only takes its weights along."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        widths = [16, *[16] * blocks, *[32] * blocks, *[64] * blocks]
        parts = [Block(a, b) for a, b in pairwise(widths)]
        self.layer1 = nn.Sequential(*parts[:blocks])
        self.layer2 = nn.Sequential(*parts[blocks : 2 * blocks])
        self.layer3 = nn.Sequential(*parts[2 * blocks :])
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x))).mean((2, 3))


def export_resnet(weights: Path, folder: Path) -> Path:
    """Writes the network with its published weights and its sidecar; the file's path."""
    depth = int(weights.name.split("resnet")[1].split("-")[0])
    net = Resnet((depth - 2) // 6)
    net.load_state_dict(load_file(weights))
    path = folder / f"resnet{depth}.pt2"
    batch = torch.export.Dim("batch", min=1)
    example = (torch.zeros(2, 3, 32, 32),)
    torch.export.save(torch.export.export(net.eval(), example, dynamic_shapes=({0: batch},)), path)
    path.with_suffix(".toml").write_text(
        f'sha256 = "{hashlib.sha256(path.read_bytes()).hexdigest()}"\n'
        'dim = 64\nsize = 32\nresize = "none"\n'
        "mean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]\n"
    )
    return path
