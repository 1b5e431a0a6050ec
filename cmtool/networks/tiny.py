"""A small U-Net made for a CPU at 8 to 32 pixels.

Matrix units want few pixels and many channels, so the image enters as `patch` x `patch` squares
(space-to-depth) and each lower level halves the sides again. Activations are (B, H, W, C) from door
to door: every 1x1 layer is a plain matrix product, every change of resolution a view, and a 3x3
convolution sees the same memory as channels-last, its weights too. A block has two convolutions and
two fused elementwise passes; skip connections add, they do not concatenate. The upper levels hold
twice as many blocks as the lowest: weight gradients over few positions are slow.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmtool.networks._layers import Guidance, attention, has_tangent, pixel_norm, wide
from cmtool.networks.base import Network


@dataclass(frozen=True)
class Tiny(Network):
    """A U-Net of residual blocks, each level half the size of the one above.

    Args:
        width: Channels of the first level.
        multipliers: Channels of each level as a multiple of `width`; one entry is one level.
        blocks: Residual blocks of each level on the way down, and again on the way up; the lowest
            level has them once.
        patch: Side of the pixel squares that become one position, 1 = none.
        attention: Self-attention after each block of the lowest level.
        head_channels: Channels of one attention head.
        dropout: Share of the activations that a block drops while training, [0, 1).
        guidance_input: Take a guidance weight as an input.
        normalize_affine: What the embedding shifts by has unit mean square over the channels, which
            keeps the derivative with respect to the noise level tame: Lu & Song 2024, arXiv
            2410.11081, Section 4.1.
    """

    width: int = 160
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 2
    patch: int = 2
    attention: bool = False
    head_channels: int = 64
    dropout: float = 0.0
    guidance_input: bool = False
    normalize_affine: bool = False

    def __post_init__(self) -> None:
        for field in ("width", "blocks", "patch", "head_channels"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, not '{getattr(self, field)}'")
        if not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(f"multipliers must be whole numbers from 1, not '{self.multipliers}'")
        lowest = self.width * self.multipliers[-1]
        if self.attention and lowest % self.head_channels:
            raise ValueError(
                f"head_channels must divide the {lowest} channels of the lowest level, "
                f"not '{self.head_channels}'"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not '{self.dropout}'")

    def build(self, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """Builds the module with fresh weights.

        Raises:
            ValueError: `image_size` is no multiple of patch * 2^(levels - 1) pixels.
        """
        square = self.patch * 2 ** (len(self.multipliers) - 1)
        if image_size % square:
            raise ValueError(
                f"patch and multipliers need an image size that is a multiple of {square}, "
                f"not '{image_size}'"
            )
        return TinyUNet(self, channels, num_classes)


class TinyUNet(nn.Module):
    """The module of `Tiny`. `c_noise` should be of order 1, as ln(sigma)/4 is."""

    def __init__(self, spec: Tiny, channels: int, num_classes: int) -> None:
        super().__init__()
        widths = [spec.width * m for m in spec.multipliers]
        emb = 4 * spec.width
        upper, pixels = widths[:-1], channels * spec.patch**2

        def stage(width: int, heads: int = 0) -> Stage:
            return Stage(Block(width, emb, heads, spec) for _ in range(spec.blocks))

        self.patch = spec.patch
        self.embed = Embedding(emb, num_classes, spec.guidance_input)
        self.enter = Conv(pixels, widths[0])
        self.down = nn.ModuleList(stage(w) for w in upper)
        self.shrink = nn.ModuleList(map(nn.Linear, upper, widths[1:]))
        self.bottom = stage(widths[-1], widths[-1] // spec.head_channels if spec.attention else 0)
        self.grow = nn.ModuleList(map(nn.Linear, widths[1:], upper))
        self.up = nn.ModuleList(stage(w) for w in upper)
        self.leave = Conv(widths[0], pixels, gain=0.0)

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        label: Tensor | None = None,
        *,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """Maps x (B, C, H, W), c_noise (B,), label (B,) and guidance (B,) to F (B, C, H, W)."""
        emb = self.embed(c_noise, label, guidance)
        h = self.enter(to_depth(x.permute(0, 2, 3, 1), self.patch))
        skips = []
        for blocks, shrink in zip(self.down, self.shrink, strict=True):
            h = blocks(h, emb)
            skips.append(h)
            h = shrink(halve(h))
        h = self.bottom(h, emb)
        for blocks, grow in zip(self.up[::-1], self.grow[::-1], strict=True):
            h = add_doubled(grow(h), skips.pop())
            h = blocks(h, emb)
        h = self.leave(F.silu(norm(h)))
        return to_space(h, self.patch).permute(0, 3, 1, 2)


class Embedding(nn.Module):
    """Noise level, class and guidance to one vector (B, width), in float32 under autocast too.

    The frequencies are slow (at most 16 radians for one unit of c_noise), which keeps the network
    smooth along a trajectory, as a consistency model needs.
    """

    frequencies: Tensor

    def __init__(
        self, width: int, num_classes: int, guidance_input: bool, features: int = 64
    ) -> None:
        super().__init__()
        frequencies = torch.logspace(-2, 4, features // 2, base=2.0)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.first = nn.Linear(features, width)
        self.second = nn.Linear(width, width)
        self.classes = nn.Parameter(torch.randn(num_classes, width)) if num_classes else None
        self.guidance = Guidance(width) if guidance_input else None

    def forward(self, c_noise: Tensor, label: Tensor | None, guidance: Tensor | None) -> Tensor:
        with torch.autocast(c_noise.device.type, enabled=False):
            phase = c_noise.to(self.frequencies.dtype)[:, None] * self.frequencies
            emb = self.second(F.silu(self.first(torch.cat([phase.cos(), phase.sin()], 1))))
            if self.classes is not None and label is not None:
                # A product, not a lookup: the row of "no class" is all zeros.
                one_hot = label[:, None] == torch.arange(len(self.classes), device=label.device)
                emb = emb + one_hot.to(emb.dtype) @ self.classes
            if self.guidance is not None:
                emb = emb + self.guidance(guidance, emb)
            return F.silu(emb)


class Stage(nn.ModuleList):
    """Blocks of one width, one after the other."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        for block in self:
            x = block(x, emb)
        return x


class Block(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))) + shift(emb))), then attention if `heads` > 0."""

    def __init__(self, width: int, emb: int, heads: int, spec: Tiny) -> None:
        super().__init__()
        self.first = Conv(width, width)
        self.shift = nn.Linear(emb, width)
        self.second = Conv(width, width, gain=0.0)
        self.attend = Attention(width, heads) if heads else None
        self.dropout = spec.dropout
        self.normalize_affine = spec.normalize_affine

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            shift = self.shift(emb)
            shift = pixel_norm(shift) if self.normalize_affine else shift
        h = self.first(F.silu(norm(x)))
        h = F.silu(norm(h) + shift[:, None, None, :].to(h.dtype))
        out: Tensor = x + self.second(F.dropout(h, self.dropout, self.training))
        if self.attend is not None:
            out = self.attend(out)
        return out


class Attention(nn.Module):
    """Residual self-attention over all positions of (B, H, W, C)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        b, height, width, c = x.shape
        qkv = self.qkv(norm(x)).view(b, height * width, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        out: Tensor = x + self.out(attention(q, k, v).transpose(1, 2).reshape(x.shape))
        return out


class Conv(nn.Module):
    """A 3x3 convolution of (B, H, W, C); its weights start at variance gain^2 / inputs."""

    def __init__(self, width_in: int, width_out: int, gain: float = 1.0) -> None:
        super().__init__()
        std = gain / math.sqrt(9 * width_in)
        self.weight = nn.Parameter(torch.randn(width_out, 3, 3, width_in) * std)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.permute(0, 3, 1, 2)
        return F.conv2d(x.permute(0, 3, 1, 2), weight, padding=1).permute(0, 2, 3, 1)


def norm(x: Tensor) -> Tensor:
    """Zero mean, unit variance over the channels of each position; statistics in float32.

    Inside a forward-mode derivative the plain formula is taken: the gradient of `F.layer_norm`'s
    tangent is wrong (torch 2.15).
    """
    if has_tangent(x):
        variance, mean = torch.var_mean(x.to(wide(x.dtype)), -1, correction=0, keepdim=True)
        return ((x - mean) * (variance + 1e-5).rsqrt()).to(x.dtype)
    return F.layer_norm(x, x.shape[-1:])


def halve(x: Tensor) -> Tensor:
    """(B, 2 H, 2 W, C) -> (B, H, W, C): the means of 2 x 2 squares."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def add_doubled(x: Tensor, y: Tensor) -> Tensor:
    """x (B, H, W, C) at twice its size (nearest neighbour) plus y (B, 2 H, 2 W, C), in one pass."""
    b, h, w, c = x.shape
    return (x[:, :, None, :, None] + y.reshape(b, h, 2, w, 2, c)).reshape(y.shape)


def to_depth(x: Tensor, k: int) -> Tensor:
    """(B, k H, k W, C) -> (B, H, W, k k C)."""
    b, h, w, c = x.shape
    squares = x.reshape(b, h // k, k, w // k, k, c).transpose(2, 3)
    return squares.reshape(b, h // k, w // k, k * k * c)


def to_space(x: Tensor, k: int) -> Tensor:
    """(B, H, W, k k C) -> (B, k H, k W, C), the inverse of `to_depth`."""
    b, h, w, _ = x.shape
    return x.reshape(b, h, w, k, k, -1).transpose(2, 3).reshape(b, k * h, k * w, -1)
