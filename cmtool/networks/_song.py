"""The U-Net of score-SDE and EDM; DDPM++ and NCSN++ differ by embedding, encoder and filter."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmtool.networks._layers import Guidance, geometric, phases
from cmtool.networks._unet import Plan, Style, UNet


class SongEmbedding(nn.Module):
    """Two layers on sin|cos features of the noise level plus linear maps of class, augmentation and
    guidance.

    Args:
        features: Width of the features of the noise level; half sines, half cosines.
        width: Width E of the embedding.
        num_classes: Number of classes; 0 for none.
        augment_dim: Number of augmentation parameters; 0 for none.
        guidance_input: Take a guidance weight.
        fourier_scale: Standard deviation of random frequencies; None for a geometric series of
            frequencies.
    """

    frequencies: Tensor | None

    def __init__(
        self,
        features: int,
        width: int,
        *,
        num_classes: int,
        augment_dim: int,
        guidance_input: bool,
        fourier_scale: float | None,
    ) -> None:
        super().__init__()
        self.pairs = features // 2
        self.num_classes = num_classes
        random = None if fourier_scale is None else torch.randn(self.pairs) * fourier_scale
        self.register_buffer("frequencies", random)
        self.label = nn.Linear(num_classes, features) if num_classes else None
        self.augment = nn.Linear(augment_dim, features, bias=False) if augment_dim else None
        self.guidance = Guidance(features) if guidance_input else None
        self.linear1 = nn.Linear(features, width)
        self.linear2 = nn.Linear(width, width)

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
            if self.frequencies is None:
                phase = phases(c_noise, geometric(self.pairs, self.pairs - 1, c_noise.device))
            else:
                phase = phases(c_noise, 2 * math.pi * self.frequencies)
            dtype = self.linear1.weight.dtype
            emb = torch.cat([phase.sin(), phase.cos()], 1).to(dtype)
            if self.label is not None:
                emb = emb + self.label(self._one_hot(label, emb) * math.sqrt(self.num_classes))
            if self.augment is not None:
                if augment is None:  # Zeros, since data-parallel training wants every weight used.
                    augment = emb.new_zeros(emb.shape[0], self.augment.in_features)
                emb = emb + self.augment(augment.to(dtype))
            if self.guidance is not None:
                emb = emb + self.guidance(guidance, emb)
            return F.silu(self.linear2(F.silu(self.linear1(emb))))

    def _one_hot(self, label: Tensor | None, like: Tensor) -> Tensor:
        """(B, num_classes); a row of zeros where there is no class."""
        if label is None:
            return like.new_zeros(like.shape[0], self.num_classes)
        return (label[:, None] == torch.arange(self.num_classes, device=label.device)).to(
            like.dtype
        )


class SongUNet(UNet):
    """A U-Net with the embedding of score-SDE, initialised as in EDM.

    Source:
        Song et al. 2021, arXiv 2011.13456, appendix H; Karras et al. 2022, arXiv 2206.00364,
        appendix F.2.
    """

    def __init__(self, plan: Plan, style: Style, embedding: SongEmbedding) -> None:
        super().__init__(plan, style)
        self.embedding = embedding
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                _initialise(module, name.rpartition(".")[2])

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


def _initialise(module: nn.Conv2d | nn.Linear, name: str) -> None:
    """Glorot's uniform weights, tiny where a residual branch or the network ends; zero biases."""
    gain = {"conv2": 1e-5, "proj": 1e-5, "out_conv": 1e-5, "qkv": math.sqrt(0.2)}.get(name, 1.0)
    nn.init.xavier_uniform_(module.weight, gain)
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def song_style(
    embedding: int, taps: tuple[int, ...], dropout: float, normalize_affine: bool
) -> Style:
    """The blocks of score-SDE: one head, sums scaled by sqrt(1/2), the embedding added."""
    return Style(
        embedding=embedding,
        groups=lambda channels: min(32, channels // 4),
        eps=1e-6,
        heads=lambda channels: 1,
        scale_shift=False,
        residual_scale=math.sqrt(0.5),
        taps=taps,
        project_resampled=True,
        dropout=dropout,
        normalize_affine=normalize_affine,
    )
