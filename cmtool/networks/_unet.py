"""The U-Net that DDPM++, NCSN++ and ADM have in common.

An encoder of levels, each at half the resolution of the one before; two blocks at the bottom; a
decoder that goes back up and takes the encoder's outputs as extra channels, last in first out. A
`Style` says what sort of blocks, a `Plan` how many and how wide. The embedding of noise level and
class is the families' own.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmtool.networks._layers import GroupNorm, Resample, SelfAttention, pixel_norm, residual

Direction = Literal["down", "up"]


@dataclass(frozen=True)
class Style:
    """What the blocks of one family have in common.

    Args:
        embedding: Width E of the embedding that every block receives.
        groups: Number of normalisation groups for a number of channels.
        eps: Added to the variance in the group norms.
        heads: Number of attention heads for a number of channels; 0 leaves attention out.
        scale_shift: The embedding scales and shifts the second norm's output; otherwise it is added
            before that norm.
        residual_scale: Factor on every residual sum.
        taps: Low-pass filter of the resampling blocks.
        project_resampled: The skip of a resampling block has a 1x1 convolution even where the width
            stays.
        dropout: Probability of dropping an activation before the last convolution of a block.
        normalize_affine: What the embedding scales and shifts by is brought to unit mean square.
    """

    embedding: int
    groups: Callable[[int], int]
    eps: float
    heads: Callable[[int], int]
    scale_shift: bool
    residual_scale: float
    taps: tuple[int, ...]
    project_resampled: bool
    dropout: float
    normalize_affine: bool

    def norm(self, channels: int) -> GroupNorm:
        """The family's group norm."""
        return GroupNorm(self.groups(channels), channels, self.eps)


@dataclass(frozen=True)
class Plan:
    """The size of a U-Net.

    Args:
        channels: Image channels, in and out.
        stem: Width after the first convolution.
        widths: Width of each level, finest first.
        blocks: Blocks per encoder level; a decoder level has one more.
        attention: For each level, whether its blocks have attention.
        decoder_attention: Whether that holds for all blocks of a decoder level, or only for the
            last.
        resampling: Resampling by a whole block, or by one convolution.
        side_taps: Filter of the image pyramid that is added to each encoder level; None for no
            pyramid.
        middle_attention: Whether the bottom has attention.
        pad_one_side: A convolution that halves the size sees zeros at the right and below only.
    """

    channels: int
    stem: int
    widths: tuple[int, ...]
    blocks: int
    attention: tuple[bool, ...]
    decoder_attention: Literal["all", "last"] = "all"
    resampling: Literal["block", "convolution"] = "block"
    side_taps: tuple[int, ...] | None = None
    middle_attention: bool = True
    pad_one_side: bool = False


class Block(nn.Module):
    """A residual block, resampling before its first convolution, and attention after it."""

    def __init__(
        self,
        width_in: int,
        width_out: int,
        style: Style,
        *,
        resample: Direction | None = None,
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.scale_shift = style.scale_shift
        self.residual_scale = style.residual_scale
        self.dropout = style.dropout
        self.normalize_affine = style.normalize_affine
        self.norm1 = style.norm(width_in)
        self.resample = Resample(resample, style.taps) if resample else None
        self.conv1 = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.affine = nn.Linear(style.embedding, width_out * (2 if style.scale_shift else 1))
        self.norm2 = style.norm(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1)
        project = width_in != width_out or (resample is not None and style.project_resampled)
        self.skip = nn.Conv2d(width_in, width_out, 1) if project else None
        heads = style.heads(width_out) if attention else 0
        self.attention = (
            SelfAttention(style.norm(width_out), width_out, heads, style.residual_scale)
            if heads
            else None
        )

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """(B, C, H, W), (B, E) -> (B, C', H', W')."""
        h = F.silu(self.norm1(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv1(h)
        modulation = self.affine(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = modulation.chunk(2, 1)
            h = torch.addcmul(self._tame(shift), self.norm2(h), self._tame(1 + scale))
        else:
            h = self.norm2(h + self._tame(modulation))
        h = self.conv2(F.dropout(F.silu(h), self.dropout, self.training))
        x = residual(x if self.skip is None else self.skip(x), h, self.residual_scale)
        return x if self.attention is None else self.attention(x)

    def _tame(self, a: Tensor) -> Tensor:
        return pixel_norm(a).to(a.dtype) if self.normalize_affine else a


class ResamplingConv(nn.Module):
    """A convolution with stride 2, or on pixels repeated 2x2; the embedding is not used."""

    def __init__(self, direction: Direction, width: int, pad_one_side: bool) -> None:
        super().__init__()
        self.up = direction == "up"
        self.pad_one_side = pad_one_side and not self.up
        padding = 0 if self.pad_one_side else 1
        self.conv = nn.Conv2d(width, width, 3, stride=1 if self.up else 2, padding=padding)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """(B, C, H, W), (B, E) -> (B, C, 2H, 2W) or (B, C, H/2, W/2)."""
        if self.up:
            x = F.interpolate(x, scale_factor=2.0)
        elif self.pad_one_side:
            x = F.pad(x, (0, 1, 0, 1))
        return cast(Tensor, self.conv(x))


class SideInput(nn.Module):
    """One step of the image pyramid: a 3x3 convolution, then half the size."""

    def __init__(self, width_in: int, width_out: int, taps: tuple[int, ...]) -> None:
        super().__init__()
        # The convolution covers the filter's border too, so the filter pads nothing itself.
        self.conv = nn.Conv2d(width_in, width_out, 3, padding=len(taps) // 2)
        self.resample = Resample("down", taps, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H/2, W/2)."""
        return cast(Tensor, self.resample(self.conv(x)))


class Level(nn.Module):
    """The modules at one resolution: the way in (from above or below), then the blocks."""

    def __init__(
        self,
        blocks: list[Block],
        *,
        down: nn.Module | None = None,
        up: nn.Module | None = None,
        side: SideInput | None = None,
    ) -> None:
        super().__init__()
        self.down = down
        self.up = up
        self.side = side
        self.blocks = nn.ModuleList(blocks)


class UNet(nn.Module):
    """The convolutional body, without the embedding.

    `encoder[i]` and `decoder[i]` are the levels at 2^-i times the image's resolution.
    """

    def __init__(self, plan: Plan, style: Style) -> None:
        super().__init__()
        self.stem = nn.Conv2d(plan.channels, plan.stem, 3, padding=1)
        skips = [plan.stem]
        self.encoder = nn.ModuleList(_encoder(plan, style, skips))
        width = plan.widths[-1]
        self.middle = nn.ModuleList(
            [
                Block(width, width, style, attention=plan.middle_attention),
                Block(width, width, style),
            ]
        )
        self.decoder = nn.ModuleList(_decoder(plan, style, skips))
        self.out_norm = style.norm(plan.widths[0])
        self.out_conv = nn.Conv2d(plan.widths[0], plan.channels, 3, padding=1)

    def body(self, x: Tensor, emb: Tensor) -> Tensor:
        """(B, C, H, W), (B, E) -> F (B, C, H, W)."""
        side = x
        x = self.stem(x)
        skips = [x]
        for level in _levels(self.encoder):
            if level.down is not None:
                x = level.down(x, emb)
                if level.side is not None:
                    x = side = (x + level.side(side)) * 0.5**0.5
                skips.append(x)
            for block in level.blocks:
                x = block(x, emb)
                skips.append(x)
        for block in self.middle:
            x = block(x, emb)
        for level in reversed(_levels(self.decoder)):
            if level.up is not None:
                x = level.up(x, emb)
            for block in level.blocks:
                x = block(torch.cat([x, skips.pop()], 1), emb)
        return cast(Tensor, self.out_conv(F.silu(self.out_norm(x))))


def _levels(modules: nn.ModuleList) -> list[Level]:
    return cast(list[Level], list(modules))


def _resampler(direction: Direction, width: int, plan: Plan, style: Style) -> nn.Module:
    if plan.resampling == "convolution":
        return ResamplingConv(direction, width, plan.pad_one_side)
    return Block(width, width, style, resample=direction)


def _encoder(plan: Plan, style: Style, skips: list[int]) -> Iterable[Level]:
    """Builds the encoder's levels, appending the width of each output to `skips`."""
    width, side_width = plan.stem, plan.channels
    for i, level_width in enumerate(plan.widths):
        down, side = None, None
        if i > 0:
            down = _resampler("down", width, plan, style)
            if plan.side_taps is not None:
                side = SideInput(side_width, width, plan.side_taps)
                side_width = width
            skips.append(width)
        blocks = []
        for _ in range(plan.blocks):
            blocks.append(Block(width, level_width, style, attention=plan.attention[i]))
            width = level_width
            skips.append(width)
        yield Level(blocks, down=down, side=side)


def _decoder(plan: Plan, style: Style, skips: list[int]) -> list[Level]:
    """Builds the decoder's levels, finest first, taking the widths from the end of `skips`."""
    levels: list[Level] = []
    width = plan.widths[-1]
    for i in reversed(range(len(plan.widths))):
        up = _resampler("up", width, plan, style) if levels else None
        blocks = []
        for b in range(plan.blocks + 1):
            here = plan.decoder_attention == "all" or b == plan.blocks
            attend = plan.attention[i] and here
            blocks.append(Block(width + skips.pop(), plan.widths[i], style, attention=attend))
            width = plan.widths[i]
        levels.insert(0, Level(blocks, up=up))
    return levels


def check_fields(channels: int, channel_mult: tuple[int, ...], blocks: int, dropout: float) -> None:
    """Checks the fields that the three descriptions share.

    Raises:
        ValueError: A field makes no sense; the text names it.
    """
    if channels < 4 or channels % 2:
        raise ValueError(f"channels: needs an even number of at least 4, got {channels}")
    if not channel_mult or min(channel_mult) < 1:
        raise ValueError(
            f"channel_mult: needs one factor of at least 1 per level, got {channel_mult}"
        )
    if blocks < 1:
        raise ValueError(f"blocks: needs at least 1, got {blocks}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout: needs 0 <= dropout < 1, got {dropout}")


def attention_levels(attention: tuple[int, ...], image_size: int, levels: int) -> tuple[bool, ...]:
    """Which levels of a U-Net for `image_size` pixels have one of the listed resolutions.

    Raises:
        ValueError: The image cannot be halved often enough.
    """
    if image_size < 1 or image_size % 2 ** (levels - 1):
        raise ValueError(
            f"channel_mult: {levels} levels need an image size divisible by {2 ** (levels - 1)}, "
            f"got {image_size}"
        )
    return tuple(image_size >> i in attention for i in range(levels))
