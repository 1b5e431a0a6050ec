"""Denoisers: a network inside its preconditioning.

    D(x_t, t) = c_skip(t) x_t + c_out(t) F(c_in(t) x_t, c_noise(t))

A diffusion model and a consistency model are the same object; only c_skip and c_out differ, so that
the second is the identity at its smallest time.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from cmtool.preconditioner import EDM as EDM
from cmtool.preconditioner import Consistency as Consistency
from cmtool.preconditioner import Preconditioner
from cmtool.schedules.base import Schedule
from cmtool.tensors import Batch, Denoise, expand

Kind = Literal["diffusion", "consistency"]
Use = int | str
"""What noise levels are for: so many steps of drawing, or an editor."""


class Guidable(NamedTuple):
    """The weights of classifier-free guidance at which a model answers, and how: the network takes
    the weight as an input, or is asked twice, with the class and without."""

    low: float
    high: float
    as_input: bool


class LogWeight(nn.Module):
    """A learned weight of the noise level, w(sigma): (B,) -> (B,); zero at first.

    Only training reads it: it is trained, averaged and checkpointed with the network, not exported.

    Source:
        Karras et al. 2023, arXiv 2312.02696, Appendix B.2 (one linear layer on Fourier features);
        Lu & Song 2024, arXiv 2410.11081, Section 4.2.
    """

    frequencies: Tensor

    def __init__(self, features: int = 64) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(-2, 4, features // 2, base=2.0))
        self.linear = nn.Linear(features, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, sigma: Tensor) -> Tensor:
        """Noise levels (B,) to log-weights (B,), in float32 whatever autocast says."""
        with torch.autocast(sigma.device.type, enabled=False):
            phase = sigma.log()[:, None] / 4 * self.frequencies.to(sigma)
            weights: Tensor = self.linear(torch.cat([phase.cos(), phase.sin()], 1))
        return weights[:, 0]


HEAD = "log_weight."
"""Prefix of the learned weight's keys beside the network's own."""


class Denoiser(nn.Module):
    """A trained (or training) model: denoiser(x_t, t, label) -> x0_hat in float32.

    Args:
        network: Computes F; see `cmtool.networks.base.Network`.
        precond: The preconditioning.
        schedule: The noising process that the model was trained on.
        kind: "diffusion" or "consistency"; decides which sampler is legal.
        image_shape: (C, H, W) of one image.
        classes: The classes' names, in order of their numbers; empty for an unconditional model.
        grid: Decreasing noise levels that the model was made for; Euler's method along them ends at
            an image, as in progressive distillation. Empty for models of any levels.
        guidable: Which guidance it was trained for; None is none.
        null_class: Whether a model of classes was also trained without: with label None it answers
            for pictures of any class.
        times: Number of steps to so many decreasing noise levels, at which a consistency model is
            sampled in place of the schedule's; or an editor's name to its levels.

    Example:
        >>> model = Denoiser(nn.Identity(), EDM(), None, "diffusion", (1, 2, 2))
        >>> model.num_classes
        0
    """

    def __init__(
        self,
        network: nn.Module,
        precond: Preconditioner,
        schedule: Schedule,
        kind: Kind,
        image_shape: tuple[int, int, int],
        classes: tuple[str, ...] = (),
        grid: tuple[float, ...] = (),
        guidable: Guidable | None = None,
        null_class: bool = False,
        times: Mapping[Use, tuple[float, ...]] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.precond = precond
        self.schedule = schedule
        self.kind: Kind = kind
        self.image_shape = image_shape
        self.classes = classes
        self.grid = grid
        self.guidable = guidable
        self.null_class = null_class
        self.times: dict[Use, tuple[float, ...]] = dict(times or {})
        self.log_weight: LogWeight | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 for an unconditional model."""
        return len(self.classes)

    def state(self) -> dict[str, Tensor]:
        """The weights under the network's own keys, and those of `log_weight` if there is one."""
        head = {} if self.log_weight is None else self.log_weight.state_dict(prefix=HEAD)
        return {**self.network.state_dict(), **head}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes weights from `state()`; a learned weight that is not wanted here is left out."""
        self.network.load_state_dict({k: v for k, v in state.items() if not k.startswith(HEAD)})
        if self.log_weight is not None:
            head = {k.removeprefix(HEAD): v for k, v in state.items() if k.startswith(HEAD)}
            self.log_weight.load_state_dict(head)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    def forward(
        self,
        x: Tensor,
        t: Tensor | float,
        label: Tensor | None = None,
        *,
        augment: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """Denoises.

        Args:
            x: (B, C, H, W) noisy images: images in [-1, 1] plus noise of standard deviation t.
            t: (B,), or one number for all: noise levels.
            label: (B,) int64 classes; -1, or None for all, means no class.
            augment: (B, 9) what was done to the images, for a network that is told of it; None is
                nothing, as for every image that is drawn.
            guidance: (B,) guidance weights, for a network that takes them; None is 1.

        Returns:
            (B, C, H, W) float32 (float64 if the weights are): the clean images, or for a
            consistency model the ends of the trajectories. Not clamped.
        """
        dtype = torch.float64 if x.dtype == torch.float64 and self._is_double() else torch.float32
        x = x.to(dtype)
        # Not len(x), which an exported program takes for a constant.
        t = torch.as_tensor(t, dtype=dtype, device=x.device).expand(x.shape[0])
        c = self.precond(t)
        raw = self.raw(expand(c.c_in, x) * x, t, label, augment=augment, guidance=guidance)
        return expand(c.c_skip, x) * x + expand(c.c_out, x) * raw.to(dtype)

    def raw(
        self,
        x: Tensor,
        t: Tensor,
        label: Tensor | None = None,
        *,
        augment: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """The network's own output F for scaled images c_in x_t (B, *) at noise levels t (B,)."""
        given = {"augment": augment, "guidance": guidance}
        told = {key: value for key, value in given.items() if value is not None}
        out: Tensor = self.network(x, self.precond(t).c_noise, label, **told)
        return out

    def _is_double(self) -> bool:
        parameter = next(self.network.parameters(), None)
        return parameter is None or parameter.dtype == torch.float64

    def bind(
        self,
        label: Tensor | None = None,
        *,
        schedule: Schedule | None = None,
        guidance: float | Tensor = 1.0,
        augment: Tensor | None = None,
        clamp: bool = False,
    ) -> Denoise:
        """Closes over everything but (x_t, t), which from here on are in a schedule's own frame.

        Args:
            label: (B,) int64 classes.
            schedule: Whose frame; None takes the model's own. All schedules are one process seen
                from several frames, so a model answers in any of them.
            guidance: Weight w of guidance, one number or (B,); 1 is off. A network that takes it as
                an input is told, any other is asked twice: D(no class) + w (D(label) - D(no
                class)).
            augment: See `forward`.
            clamp: Clamps the result to [-1, 1].

        Source:
            Guidance: Ho & Salimans 2022, arXiv 2207.12598, written for denoisers.
        """
        frame = schedule or self.schedule
        off = not isinstance(guidance, Tensor) and guidance == 1
        as_input = self.guidable is not None and self.guidable.as_input

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            y, sigma = frame.to_edm(x, t)
            w = None if off else torch.as_tensor(guidance, device=x.device).expand(x.shape[0])
            out: Tensor = self(y, sigma, label, augment=augment, guidance=w if as_input else None)
            if w is not None and not as_input:
                plain: Tensor = self(y, sigma, None, augment=augment)
                out = plain + expand(w, x) * (out - plain)
            return out.clamp(-1, 1) if clamp else out

        return denoise

    def for_batch(self, batch: Batch) -> Denoise:
        """`bind` with all that is known of a training batch."""
        guidance = 1.0 if batch.guidance is None else batch.guidance
        return self.bind(batch.label, guidance=guidance, augment=batch.augment)
