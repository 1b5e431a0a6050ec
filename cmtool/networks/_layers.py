"""Layers that the networks share: attention, group norm, resampling, frequencies.

Not here: blocks and whole U-Nets (`_unet.py`), and anything that only one network needs.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention, softmax(q k^T / sqrt(d)) v.

    The fast kernels have no forward-mode derivative, so inside one (`torch.func.jvp`) the plain
    formula is taken.

    Args:
        q: (B, heads, N, d) queries.
        k: (B, heads, M, d) keys.
        v: (B, heads, M, d) values.

    Returns:
        (B, heads, N, d).
    """
    if any(has_tangent(a) for a in (q, k, v)):
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


def has_tangent(a: Tensor) -> bool:
    """Whether a forward-mode derivative is being taken through `a`."""
    return forward_ad.unpack_dual(a).tangent is not None  # type: ignore[no-untyped-call]


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type for sums and phases: float32, or float64 where `dtype` is float64."""
    return torch.promote_types(dtype, torch.float32)


class GroupNorm(nn.GroupNorm):
    """Group normalisation with statistics in float32; the result has the type of the input.

    Raises:
        ValueError: The channels do not split into the groups.
    """

    def __init__(self, groups: int, channels: int, eps: float) -> None:
        if groups < 1 or channels % groups:
            raise ValueError(f"channels: a layer of {channels} does not split into {groups} groups")
        super().__init__(groups, channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        dtype = wide(x.dtype)
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        return F.group_norm(x.to(dtype), self.num_groups, weight, bias, self.eps).to(x.dtype)


class SelfAttention(nn.Module):
    """Attention between the pixels of an image: (x + proj(attention(norm(x)))) scale.

    The 3C output channels of `qkv` are ordered (q k v, head, d).

    Args:
        norm: Normalisation before the projection.
        channels: Channels C.
        heads: Attention heads; divides `channels`.
        scale: Factor on the sum.
    """

    def __init__(self, norm: nn.Module, channels: int, heads: int, scale: float) -> None:
        super().__init__()
        self.heads = heads
        self.scale = scale
        self.norm = norm
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        batch, channels, height, width = x.shape
        # The fast kernels want a head's channels side by side: no copy if x is channels-last.
        tokens = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).contiguous()
        heads = tokens.reshape(batch, height * width, 3, self.heads, channels // self.heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)
        out = attention(q, k, v).transpose(1, 2).reshape(batch, height, width, channels)
        return residual(x, self.proj(out.permute(0, 3, 1, 2)), self.scale)


class Guidance(nn.Module):
    """What an embedding learns of a guidance weight: zero at first, and always for weight 1.

    Args:
        width: Width E of the embedding.
    """

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        frequencies = torch.logspace(-3, 2, 16, base=2.0)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.weight = nn.Parameter(torch.zeros(width, 2 * len(frequencies)))

    def forward(self, guidance: Tensor | None, like: Tensor) -> Tensor:
        """(B,) weights, or None for 1, to (B, E), in the type of `like` (B, *)."""
        if guidance is None:
            guidance = like.new_ones(like.shape[0])
        phase = phases(guidance - 1, self.frequencies)
        told = torch.cat([phase.sin(), phase.cos() - 1], 1)
        return F.linear(told.to(like.dtype), self.weight)


def pixel_norm(x: Tensor) -> Tensor:
    """x over the root mean square of its channels, (B, C, *) -> (B, C, *), in float32 or wider."""
    x = x.to(wide(x.dtype))
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def residual(x: Tensor, y: Tensor, scale: float) -> Tensor:
    """(x + y) scale."""
    return x + y if scale == 1 else (x + y) * scale


class Resample(nn.Module):
    """Halves or doubles the height and width of an image with a separable low-pass filter.

    The filter is outer(f, f) / sum(f)^2 for taps f, applied with stride 2, or, going up, four times
    that on an image with zeros in between. With taps (1, 1) that is the mean of 2x2 pixels, and the
    nearest neighbour.

    Args:
        direction: Which of the two.
        taps: The filter's taps f, an even number of them.
        padding: Zeros at each border; without it the size is exactly halved or doubled.
    """

    filter: Tensor | None

    def __init__(
        self, direction: Literal["down", "up"], taps: tuple[int, ...], padding: int | None = None
    ) -> None:
        super().__init__()
        self.direction = direction
        self.padding = len(taps) // 2 - 1 if padding is None else padding
        f = torch.tensor(taps, dtype=torch.float32)
        f = torch.outer(f, f) / f.sum() ** 2
        self.register_buffer("filter", None if taps == (1, 1) else f)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H/2, W/2) or (B, C, 2H, 2W)."""
        down = self.direction == "down"
        if self.filter is None:
            return F.avg_pool2d(x, 2) if down else F.interpolate(x, scale_factor=2.0)
        channels = x.shape[1]
        kernel = self.filter.to(x.dtype).expand(channels, 1, -1, -1)
        if down:
            return F.conv2d(x, kernel, stride=2, padding=self.padding, groups=channels)
        return F.conv_transpose2d(x, 4 * kernel, stride=2, padding=self.padding, groups=channels)


def geometric(n: int, last: int, device: torch.device) -> Tensor:
    """Frequencies 10000^(-i/last) for i = 0 .. n-1, (n,) float32."""
    i = torch.arange(n, dtype=torch.float32, device=device)
    return torch.exp(-math.log(10000) / last * i)


def phases(c_noise: Tensor, frequencies: Tensor) -> Tensor:
    """The products c_noise * frequency in float32 or wider: (B,), (n,) -> (B, n)."""
    dtype = wide(c_noise.dtype)
    return c_noise.to(dtype)[:, None] * frequencies.to(dtype)
