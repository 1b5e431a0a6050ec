"""Augmentation that does not leak into the samples: the network is told what was done to an image.

At sampling it is told "nothing". Every transform is drawn for each image alone; flips are exact,
everything else is one affine warp.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cmtool.rng import StepRng

LABELS = 9
"""Numbers that tell a network what was done to an image."""
_STEP = 0.2
"""log2 of the factor by which one standard deviation scales or stretches."""
_SHIFT = 1 / 8
"""Share of the image's side by which one standard deviation moves it."""


class Moves(NamedTuple):
    """What is done to every image, each (B,); zeros do nothing.

    In this order: mirror left to right (0 or 1), mirror top to bottom (0 or 1), enlarge by
    2^(0.2 scale), turn counterclockwise by `turn` radians, stretch by 2^(0.2 stretch) along the
    axis at `axis` radians (and shrink by as much across it), move right and down by 1/8 of the side
    for each unit.
    """

    mirror_x: Tensor
    mirror_y: Tensor
    scale: Tensor
    turn: Tensor
    stretch: Tensor
    axis: Tensor
    right: Tensor
    down: Tensor


def augment(x: Tensor, p: float, rng: StepRng) -> tuple[Tensor, Tensor]:
    """Transforms images: (B, C, S, S) -> the same, and (B, 9) labels for the network.

    Source:
        Karras et al. 2022, arXiv 2206.00364, Appendix F.2 and Table 6. They resample with a wavelet
        filter of higher order; here it is bicubic.

    Args:
        x: (B, C, S, S) square images.
        p: Probability of each transform; mirroring left to right is drawn fairly whatever p is.
        rng: A row for each image.
    """
    moves = draw(p, rng)
    return transform(x, moves), labels(moves)


def draw(p: float, rng: StepRng) -> Moves:
    """Draws the transforms of every image; p = 0 is off."""
    coins = [rng.rand() for _ in range(5)]
    flips = [(rng.rand() < 0.5).float() for _ in range(2)]
    angles = [math.pi * (2 * rng.rand() - 1) for _ in range(2)]
    normals = [rng.randn() for _ in range(4)]
    y, scale, turn, stretch, shift = ((coin < p).float() for coin in coins)
    return Moves(
        mirror_x=flips[0] * (p > 0),
        mirror_y=flips[1] * y,
        scale=normals[0] * scale,
        turn=angles[0] * turn,
        stretch=normals[1] * stretch,
        axis=angles[1] * stretch,
        right=normals[2] * shift,
        down=normals[3] * shift,
    )


def labels(moves: Moves) -> Tensor:
    """What the network is told, (B, 9) with zeros for an untouched image, in EDM's order.

    mirror_x, mirror_y, scale, cos(turn) - 1, sin(turn), stretch cos(axis), stretch sin(axis),
    right, down.
    """
    mirror_x, mirror_y, scale, turn, stretch, axis, right, down = moves
    return torch.stack(
        [
            *(mirror_x, mirror_y, scale, turn.cos() - 1, turn.sin()),
            *(stretch * axis.cos(), stretch * axis.sin(), right, down),
        ],
        1,
    )


def transform(x: Tensor, moves: Moves) -> Tensor:
    """Moves the images, (B, C, S, S) -> (B, C, S, S); what comes in from outside is mirrored at the
    border."""
    pick = (slice(None), None, None, None)
    x = torch.where(moves.mirror_x[pick] > 0, x.flip(-1), x)
    x = torch.where(moves.mirror_y[pick] > 0, x.flip(-2), x)
    warps = torch.stack(moves[2:]).any(0)
    with torch.autocast(x.device.type, enabled=False):
        size = x.shape[-1]
        back = _back(moves)
        # From pixels to torch's frame, in which the outermost pixels' centres are -1 and 1.
        shift = torch.stack([moves.right, moves.down], 1) * (2 * _SHIFT * size / (size - 1))
        affine = torch.cat([back, -back @ shift[:, :, None]], 2).to(x.dtype)
        grid = F.affine_grid(affine, list(x.shape), align_corners=True)
        warped = F.grid_sample(
            x, grid, mode="bicubic", padding_mode="reflection", align_corners=True
        )
    return torch.where(warps[pick], warped, x)


def _back(moves: Moves) -> Tensor:
    """The matrix from a place in the new image to its place in the old one, (B, 2, 2), x and y
    right and down from the centre."""
    size = (-_STEP * moves.scale).exp2()
    stretch = (-_STEP * moves.stretch).exp2()
    scaled = torch.diag_embed(torch.stack([size, size], 1))
    stretched = torch.diag_embed(torch.stack([stretch, 1 / stretch], 1))
    turned = _rotation(moves.turn)
    along = _rotation(moves.axis)
    return scaled @ turned @ along.mT @ stretched @ along


def _rotation(angle: Tensor) -> Tensor:
    """(B,) -> (B, 2, 2); with y downwards it turns clockwise."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
