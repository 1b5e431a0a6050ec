"""EDM2, the magnitude-preserving U-Net."""

import math
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmtool.networks._layers import Guidance, attention, phases, pixel_norm, wide
from cmtool.networks._unet import attention_levels, check_fields
from cmtool.networks.base import Network

RESIDUAL = 0.3
"""Share of a residual branch in a sum; the class's share beside the noise level is a half."""
CLIP = 256.0


@dataclass(frozen=True)
class Edm2(Network):
    """EDM2: no biases, no group norms; every layer keeps the magnitude of its activations.

    Each weight is used over its own norm, in training and in evaluation, and the stored one stays
    as it is. The reference also rewrites the stored weights to unit norm at every training step
    (forced normalisation), here that is left out: the function is the same, but an optimizer's
    steps turn a weight less and less as it grows. The reference's head for a learned log-variance
    is no part of the network; a loss that learns a weight brings its own.

    Its trouble as a consistency model: random Fourier features of the noise level make it change
    fast along a trajectory, and a student distilled from it may end in black images. Lower
    `fourier_scale` and set `normalize_affine` before training the teacher, or take ddpmpp.

    Source:
        Karras et al. 2023, arXiv 2312.02696, config G and Appendix B.

    Args:
        channels: Width that `channel_mult` multiplies; published: 128 (XS), 192 (S), 256 (M), 320
            (L), 384 (XL), 448 (XXL).
        channel_mult: Factor per level, finest first; each level has half the resolution of the one
            before.
        blocks: Residual blocks per level.
        attention: Resolutions with self-attention, in pixels; one that no level has is without
            effect.
        head_channels: Channels of an attention head; a width has as many heads as fit.
        dropout: Probability of dropping an activation.
        fourier_scale: Standard deviation of the random frequencies.
        guidance_input: Take a guidance weight as an input.
        normalize_affine: What the embedding scales by has unit mean square over the channels, which
            keeps the derivative with respect to the noise level tame: Lu & Song 2024, arXiv
            2410.11081, Section 4.1.
    """

    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    blocks: int = 3
    attention: tuple[int, ...] = (16, 8)
    head_channels: int = 64
    dropout: float = 0.0
    fourier_scale: float = 1.0
    guidance_input: bool = False
    normalize_affine: bool = False

    def __post_init__(self) -> None:
        check_fields(self.channels, self.channel_mult, self.blocks, self.dropout)
        if self.head_channels < 1:
            raise ValueError(f"head_channels: needs at least 1, got {self.head_channels}")

    def build(self, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """Builds the module with fresh weights.

        Raises:
            ValueError: The image cannot be halved often enough.
        """
        attention = attention_levels(self.attention, image_size, len(self.channel_mult))
        return Edm2UNet(self, attention, channels, num_classes)


class Edm2UNet(nn.Module):
    """The module of `Edm2`; `encoder[i]` and `decoder[i]` are the levels at 2^-i times the size."""

    def __init__(
        self, spec: Edm2, attention: tuple[bool, ...], channels: int, num_classes: int
    ) -> None:
        super().__init__()
        widths = [spec.channels * m for m in spec.channel_mult]
        self.embedding = Embedding(spec, widths[0], max(widths), num_classes)
        make = Blocks(spec, max(widths))
        self.stem = Weight(channels + 1, widths[0], 3)
        skips = [widths[0]]
        self.encoder = nn.ModuleList()
        width = widths[0]
        for i, here in enumerate(widths):
            down = make("encoder", width, width, resample="down") if i else None
            skips += [width] if i else []
            blocks = []
            for _ in range(spec.blocks):
                blocks.append(make("encoder", width, here, attention=attention[i]))
                width = here
                skips.append(width)
            self.encoder.append(Level(blocks, down=down))
        self.middle = nn.ModuleList(
            [make("decoder", width, width, attention=True), make("decoder", width, width)]
        )
        levels: list[Level] = []
        for i in reversed(range(len(widths))):
            up = make("decoder", width, width, resample="up") if levels else None
            blocks = []
            for _ in range(spec.blocks + 1):
                joined = width + skips.pop()
                blocks.append(make("decoder", joined, widths[i], attention=attention[i]))
                width = widths[i]
            levels.insert(0, Level(blocks, up=up))
        self.decoder = nn.ModuleList(levels)
        self.out_conv = Weight(widths[0], channels, 3)
        self.out_gain = nn.Parameter(torch.zeros(()))

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        label: Tensor | None = None,
        *,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """(B, C, H, W), (B,), (B,) int64 or None, (B,) or None -> F (B, C, H, W)."""
        emb = self.embedding(c_noise, label, guidance)
        x = self.stem(torch.cat([x, torch.ones_like(x[:, :1])], 1))
        skips = [x]
        for level in cast(list[Level], list(self.encoder)):
            if level.down is not None:
                x = level.down(x, emb)
                skips.append(x)
            for block in level.blocks:
                x = block(x, emb)
                skips.append(x)
        for block in self.middle:
            x = block(x, emb)
        for level in reversed(cast(list[Level], list(self.decoder))):
            if level.up is not None:
                x = level.up(x, emb)
            for block in level.blocks:
                x = block(join(x, skips.pop()), emb)
        out: Tensor = self.out_conv(x, self.out_gain)
        return out


class Embedding(nn.Module):
    """Noise level, class and guidance to one vector (B, E), outside of autocast."""

    frequencies: Tensor
    offsets: Tensor

    def __init__(self, spec: Edm2, features: int, width: int, num_classes: int) -> None:
        super().__init__()
        frequencies = 2 * math.pi * spec.fourier_scale * torch.randn(features)
        self.register_buffer("frequencies", frequencies)
        self.register_buffer("offsets", 2 * math.pi * torch.rand(features))
        self.noise = Weight(features, width)
        self.num_classes = num_classes
        self.label = Weight(num_classes, width) if num_classes else None
        self.guidance = Guidance(width) if spec.guidance_input else None

    def forward(self, c_noise: Tensor, label: Tensor | None, guidance: Tensor | None) -> Tensor:
        with torch.autocast(c_noise.device.type, enabled=False):
            phase = phases(c_noise, self.frequencies)
            waves = math.sqrt(2) * (phase + self.offsets.to(phase.dtype)).cos()
            emb: Tensor = self.noise(waves.to(self.noise.weight.dtype))
            if self.label is not None:
                if label is None:
                    label = torch.full_like(c_noise, -1, dtype=torch.long)
                classes = torch.arange(self.num_classes, device=label.device)
                one_hot = (label[:, None] == classes).to(emb.dtype)
                emb = blend(emb, self.label(one_hot * math.sqrt(self.num_classes)), 0.5)
            if self.guidance is not None:
                emb = emb + self.guidance(guidance, emb)
            return silu(emb)


class Weight(nn.Module):
    """A convolution, or a matrix product where `kernel` is 0, with a weight of unit norm.

    The norm is that of each output's weights, so the layer keeps the magnitude of what it gets.

    Source:
        Karras et al. 2023, arXiv 2312.02696, Eq. 66.
    """

    def __init__(self, width_in: int, width_out: int, kernel: int = 0) -> None:
        super().__init__()
        shape = (kernel, kernel) if kernel else ()
        self.weight = nn.Parameter(torch.randn(width_out, width_in, *shape))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        w = self.weight.to(wide(self.weight.dtype)).flatten(1)
        w = unit(w, 1) * (gain / math.sqrt(w.shape[1]))
        w = w.view_as(self.weight).to(x.dtype)
        return F.conv2d(x, w, padding=w.shape[-1] // 2) if w.ndim == 4 else F.linear(x, w)


@dataclass(frozen=True)
class Blocks:
    """Makes the blocks of one network."""

    spec: Edm2
    embedding: int

    def __call__(
        self,
        side: Literal["encoder", "decoder"],
        width_in: int,
        width_out: int,
        *,
        resample: Literal["down", "up"] | None = None,
        attention: bool = False,
    ) -> "Block":
        heads = width_out // self.spec.head_channels if attention else 0
        return Block(self, side == "encoder", width_in, width_out, resample, heads)


class Block(nn.Module):
    """Two convolutions beside a skip, the embedding scaling in between, and attention.

    An encoder's block projects and normalises what it gets, a decoder's projects the skip alone.
    """

    def __init__(
        self,
        made: Blocks,
        encoder: bool,
        width_in: int,
        width_out: int,
        resample: Literal["down", "up"] | None,
        heads: int,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.resample = resample
        self.dropout = made.spec.dropout
        self.normalize_affine = made.spec.normalize_affine
        self.skip = Weight(width_in, width_out, 1) if width_in != width_out else None
        self.conv1 = Weight(width_out if encoder else width_in, width_out, 3)
        self.affine = Weight(made.embedding, width_out)
        self.affine_gain = nn.Parameter(torch.zeros(()))
        self.conv2 = Weight(width_out, width_out, 3)
        self.attention = Attention(width_out, heads) if heads else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """(B, C, H, W), (B, E) -> (B, C', H', W')."""
        if self.resample == "down":
            x = F.avg_pool2d(x, 2)
        if self.resample == "up":
            x = F.interpolate(x, scale_factor=2.0)
        if self.encoder:
            x = unit(x if self.skip is None else self.skip(x), 1)
        scale = self.affine(emb, self.affine_gain) + 1
        if self.normalize_affine:
            scale = pixel_norm(scale).to(scale.dtype)
        h = silu(self.conv1(silu(x)) * scale[:, :, None, None])
        h = self.conv2(F.dropout(h, self.dropout, self.training))
        if not self.encoder and self.skip is not None:
            x = self.skip(x)
        x = blend(x, h, RESIDUAL)
        if self.attention is not None:
            x = blend(x, self.attention(x), RESIDUAL)
        return x.clamp(-CLIP, CLIP)


class Attention(nn.Module):
    """Attention between the pixels, by the cosines of queries and keys.

    The 3C output channels of `qkv` are ordered (q k v, head, d).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Weight(width, 3 * width, 1)
        self.proj = Weight(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W), without the skip."""
        batch, channels, height, width = x.shape
        tokens = self.qkv(x).flatten(2).transpose(1, 2)
        heads = tokens.reshape(batch, height * width, 3, self.heads, channels // self.heads)
        q, k, v = unit(heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        out = attention(q, k, v).transpose(1, 2).reshape(batch, height, width, channels)
        mixed: Tensor = self.proj(out.permute(0, 3, 1, 2))
        return mixed


class Level(nn.Module):
    """The blocks at one resolution and the way in, from above or below."""

    def __init__(
        self, blocks: list[Block], *, down: Block | None = None, up: Block | None = None
    ) -> None:
        super().__init__()
        self.down = down
        self.up = up
        self.blocks = nn.ModuleList(blocks)


def silu(x: Tensor) -> Tensor:
    """SiLU over what it leaves of a standard normal's magnitude (Eq. 81)."""
    return F.silu(x) / 0.596


def unit(x: Tensor, axis: int) -> Tensor:
    """x over the root mean square along an axis."""
    y = x.to(wide(x.dtype))
    norm: Tensor = torch.linalg.vector_norm(y, dim=axis, keepdim=True)
    return (y / (1e-4 + norm / math.sqrt(x.shape[axis]))).to(x.dtype)


def blend(a: Tensor, b: Tensor, share: float) -> Tensor:
    """A weighted sum of the magnitude of its equal, independent parts (Eq. 88)."""
    mixed: Tensor = torch.lerp(a, b, share)
    return mixed / math.hypot(1 - share, share)


def join(a: Tensor, b: Tensor) -> Tensor:
    """(B, C, *) and (B, C', *) side by side, each with half of the magnitude (Eq. 103)."""
    total = math.sqrt((a.shape[1] + b.shape[1]) / 2)
    return torch.cat([a * (total / math.sqrt(a.shape[1])), b * (total / math.sqrt(b.shape[1]))], 1)
