"""ADM, the U-Net of OpenAI's consistency models, and EDM's version of it."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmtool.networks._layers import Guidance, geometric, phases
from cmtool.networks._unet import Plan, Style, UNet, attention_levels, check_fields
from cmtool.networks.base import Network


class AdmEmbedding(nn.Module):
    """Two layers on cos|sin features of the noise level (DDPM: sin|cos) plus a linear map of the
    augmentation, then a vector per class and one of the guidance, then SiLU."""

    def __init__(
        self,
        features: int,
        width: int,
        num_classes: int,
        *,
        augment_dim: int,
        guidance_input: bool,
        ddpm: bool,
    ) -> None:
        super().__init__()
        self.pairs = features // 2
        self.ddpm = ddpm
        self.augment = nn.Linear(augment_dim, features, bias=False) if augment_dim else None
        self.linear1 = nn.Linear(features, width)
        self.linear2 = nn.Linear(width, width)
        self.label = nn.Embedding(num_classes, width) if num_classes else None
        self.guidance = Guidance(width) if guidance_input else None

    def forward(
        self,
        c_noise: Tensor,
        label: Tensor | None,
        augment: Tensor | None,
        guidance: Tensor | None,
    ) -> Tensor:
        """(B,), (B,), (B, augment_dim) and (B,), the last three or None -> (B, E), outside of
        autocast."""
        with torch.autocast(c_noise.device.type, enabled=False):
            last = self.pairs - 1 if self.ddpm else self.pairs
            phase = phases(c_noise, geometric(self.pairs, last, c_noise.device))
            waves = [phase.sin(), phase.cos()] if self.ddpm else [phase.cos(), phase.sin()]
            emb = torch.cat(waves, 1).to(self.linear1.weight.dtype)
            if self.augment is not None:
                if augment is None:  # Zeros, since data-parallel training wants every weight used.
                    augment = emb.new_zeros(emb.shape[0], self.augment.in_features)
                emb = emb + self.augment(augment.to(emb.dtype))
            emb = self.linear2(F.silu(self.linear1(emb)))
            if self.label is not None and label is not None:
                emb = emb + self.label(label.clamp(min=0)) * (label >= 0)[:, None]
            if self.guidance is not None:
                emb = emb + self.guidance(guidance, emb)
            return F.silu(emb)


class AdmUNet(UNet):
    """A U-Net with ADM's embedding; every residual branch and the output start at zero."""

    def __init__(self, plan: Plan, style: Style, embedding: AdmEmbedding) -> None:
        super().__init__(plan, style)
        self.embedding = embedding
        for name, module in self.named_modules():
            if name.rpartition(".")[2] in ("conv2", "proj", "out_conv"):
                for parameter in module.parameters():
                    nn.init.zeros_(parameter)

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        label: Tensor | None = None,
        *,
        augment: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """(B, C, H, W), (B,), (B,) int64 or None, (B, augment_dim) or None, (B,) or None -> F (B,
        C, H, W)."""
        return self.body(x, self.embedding(c_noise, label, augment, guidance))


@dataclass(frozen=True)
class Adm(Network):
    """ADM: multi-head attention at several resolutions, norms scaled by the embedding.

    Source:
        Dhariwal & Nichol 2021, arXiv 2105.05233, section 3, as used by Song et al. 2023, arXiv
        2303.01469. flavor "edm": Karras et al. 2022, arXiv 2206.00364, appendix F.2; flavor "ddpm":
        Ho et al. 2020, arXiv 2006.11239, appendix B.

    Args:
        channels: Width that `channel_mult` multiplies.
        channel_mult: Factor per level, finest first; each level has half the resolution of the one
            before.
        blocks: Residual blocks per level.
        attention: Resolutions with self-attention, in pixels; one that no level has is without
            effect.
        head_channels: Channels of an attention head; 0 is one head of all channels.
        dropout: Probability of dropping an activation.
        scale_shift: The embedding scales and shifts; otherwise it is added.
        resblock_updown: Resampling by residual blocks; otherwise by single convolutions.
        flavor: "openai" wants widths that split into whole groups and heads; "edm" has at least 4
            channels a group and rounds the number of heads down, leaving attention out where that
            gives none; "ddpm" is "openai" with DDPM's noise embedding (sines first, other
            frequencies), group norms with 1e-6 in place of 1e-5, and convolutions that halve the
            size padded on one side only.
        norm_groups: Groups of the normalisations.
        middle_attention: The bottom has attention.
        augment_dim: Number of augmentation parameters; 0 for none.
        guidance_input: Take a guidance weight as an input.
        normalize_affine: What the embedding scales and shifts by has unit mean square over the
            channels, which keeps the derivative with respect to the noise level tame: Lu & Song
            2024, arXiv 2410.11081, Section 4.1.
    """

    channels: int = 192
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    blocks: int = 3
    attention: tuple[int, ...] = (32, 16, 8)
    head_channels: int = 64
    dropout: float = 0.0
    scale_shift: bool = True
    resblock_updown: bool = True
    flavor: Literal["openai", "edm", "ddpm"] = "openai"
    norm_groups: int = 32
    middle_attention: bool = True
    augment_dim: int = 0
    guidance_input: bool = False
    normalize_affine: bool = False

    def __post_init__(self) -> None:
        check_fields(self.channels, self.channel_mult, self.blocks, self.dropout)
        if self.head_channels < 0:
            raise ValueError(f"head_channels: needs at least 0, got {self.head_channels}")
        if self.norm_groups < 1:
            raise ValueError(f"norm_groups: needs at least 1, got {self.norm_groups}")
        if self.flavor not in ("openai", "edm", "ddpm"):
            raise ValueError(f"flavor: needs 'openai', 'edm' or 'ddpm', got '{self.flavor}'")

    def groups(self, channels: int) -> int:
        """Number of normalisation groups of a layer."""
        return min(self.norm_groups, channels // 4) if self.flavor == "edm" else self.norm_groups

    def heads(self, channels: int) -> int:
        """Number of attention heads of a layer.

        Raises:
            ValueError: There is no whole number of heads here, and the flavor wants one.
        """
        if not self.head_channels:
            return 1
        if self.flavor != "edm" and channels % self.head_channels:
            raise ValueError(
                f"head_channels: a width of {channels} is no multiple of {self.head_channels}"
            )
        return channels // self.head_channels

    def build(self, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """Builds the module with fresh weights."""
        width = 4 * self.channels
        widths = tuple(self.channels * m for m in self.channel_mult)
        plan = Plan(
            channels=channels,
            stem=widths[0],
            widths=widths,
            blocks=self.blocks,
            attention=attention_levels(self.attention, image_size, len(widths)),
            resampling="block" if self.resblock_updown else "convolution",
            middle_attention=self.middle_attention,
            pad_one_side=self.flavor == "ddpm",
        )
        style = Style(
            embedding=width,
            groups=self.groups,
            eps=1e-6 if self.flavor == "ddpm" else 1e-5,
            heads=self.heads,
            scale_shift=self.scale_shift,
            residual_scale=1.0,
            taps=(1, 1),
            project_resampled=False,
            dropout=self.dropout,
            normalize_affine=self.normalize_affine,
        )
        embedding = AdmEmbedding(
            self.channels,
            width,
            num_classes,
            augment_dim=self.augment_dim,
            guidance_input=self.guidance_input,
            ddpm=self.flavor == "ddpm",
        )
        return AdmUNet(plan, style, embedding)
