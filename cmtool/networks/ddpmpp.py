"""DDPM++, the network of the "VP" models of score-SDE and EDM."""

from dataclasses import dataclass

from torch import nn

from cmtool.networks._song import SongEmbedding, SongUNet, song_style
from cmtool.networks._unet import Plan, attention_levels, check_fields
from cmtool.networks.base import Network


@dataclass(frozen=True)
class Ddpmpp(Network):
    """DDPM++: sinusoidal embedding of the noise level, 2x2 mean and nearest-neighbour resampling.

    Its `forward` takes one keyword more, `augment` (B, augment_dim): the parameters of EDM's
    augmentations. None and zeros both mean an image that was not augmented.

    Source:
        Song et al. 2021, arXiv 2011.13456; Karras et al. 2022, arXiv 2206.00364, Table 7 and
        appendix F.2.

    Args:
        channels: Width that `channel_mult` multiplies.
        channel_mult: Factor per level, finest first; each level has half the resolution of the one
            before.
        blocks: Residual blocks per level.
        attention: Resolutions with self-attention, in pixels; one that no level has is without
            effect.
        dropout: Probability of dropping an activation.
        augment_dim: Number of augmentation parameters; 0 for none.
        guidance_input: Take a guidance weight as an input.
        normalize_affine: What the embedding shifts by has unit mean square over the channels, which
            keeps the derivative with respect to the noise level tame: Lu & Song 2024, arXiv
            2410.11081, Section 4.1.
    """

    channels: int = 128
    channel_mult: tuple[int, ...] = (2, 2, 2)
    blocks: int = 4
    attention: tuple[int, ...] = (16,)
    dropout: float = 0.0
    augment_dim: int = 0
    guidance_input: bool = False
    normalize_affine: bool = False

    def __post_init__(self) -> None:
        check_fields(self.channels, self.channel_mult, self.blocks, self.dropout)

    def build(self, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """Builds the module with fresh weights."""
        width = 4 * self.channels
        plan = Plan(
            channels=channels,
            stem=self.channels,
            widths=tuple(self.channels * m for m in self.channel_mult),
            blocks=self.blocks,
            attention=attention_levels(self.attention, image_size, len(self.channel_mult)),
            decoder_attention="last",
        )
        embedding = SongEmbedding(
            self.channels,
            width,
            num_classes=num_classes,
            augment_dim=self.augment_dim,
            guidance_input=self.guidance_input,
            fourier_scale=None,
        )
        style = song_style(width, (1, 1), self.dropout, self.normalize_affine)
        return SongUNet(plan, style, embedding)
