"""The settings of a run that no component owns: plain values, checked when they are made.

A field is a recipe key; its default stands here and nowhere else. A value out of its range raises
ValueError with one line for each broken rule.
"""

import math
from dataclasses import dataclass
from typing import Literal


def _require(settings: object, **rules: tuple[bool, str]) -> None:
    """Raises one ValueError with a line for each field whose rule does not hold."""
    broken = [
        f"needs {rule}, got {name}={getattr(settings, name)}"
        for name, (holds, rule) in rules.items()
        if not holds
    ]
    if broken:
        raise ValueError("\n".join(broken))


@dataclass(frozen=True)
class DenoiserSettings:
    """How the network is wrapped.

    Args:
        precond: `edm` is a diffusion model's own form of c_skip and c_out; `consistency` shifts it
            so that the model is the identity at `boundary`.
        scalings: Which form: EDM's, those of the VP and VE models, or that of a DDPM's numbered
            steps.
        sigma_data: Standard deviation of the data, in units of pixel value.
        noise_scale: c_noise = noise_scale * ln(sigma); OpenAI's networks take 250. Only `edm`.
        noise_input: `angle` puts TrigFlow's atan(sigma / sigma_data) in place of ln(sigma). Only
            `edm`.
        boundary: Noise level at which a consistency model is the identity; `edm` has none.
        prediction: What a `ddpm` network returns: the noise, the velocity or the image.
        betas: How a `ddpm`'s noise grows from step to step.
        beta_start: First of the betas; `cosine` has its own.
        beta_end: Last of the betas; `cosine` has its own.
        timesteps: Number of a `ddpm`'s steps.
    """

    precond: Literal["edm", "consistency"] = "edm"
    scalings: Literal["edm", "vp", "ve", "ddpm"] = "edm"
    sigma_data: float = 0.5
    noise_scale: float = 0.25
    noise_input: Literal["log", "angle"] = "log"
    boundary: float = 0.002
    prediction: Literal["epsilon", "v", "sample"] = "epsilon"
    betas: Literal["linear", "scaled_linear", "cosine"] = "linear"
    beta_start: float = 0.0001
    beta_end: float = 0.02
    timesteps: int = 1000

    def __post_init__(self) -> None:
        image = self.scalings == "ddpm" and self.prediction == "sample"
        shiftable = self.precond == "edm" or not image
        _require(
            self,
            sigma_data=(0 < self.sigma_data < math.inf, "0 < sigma_data < inf"),
            noise_scale=(0 < self.noise_scale < math.inf, "0 < noise_scale < inf"),
            boundary=(0 <= self.boundary < math.inf, "0 <= boundary < inf"),
            prediction=(shiftable, "prediction epsilon or v with precond=consistency"),
            beta_start=(0 < self.beta_start <= self.beta_end, "0 < beta_start <= beta_end"),
            beta_end=(self.beta_end < 1, "beta_end < 1"),
            timesteps=(2 <= self.timesteps <= 100_000, "2 <= timesteps <= 100000"),
        )


@dataclass(frozen=True)
class DataSettings:
    """Which images, and what is done to them.

    Args:
        name: Name, folder or archive, as after --data.
        image_size: Height and width in pixels; left out, the data set's own.
        crop: How an image of another shape becomes square.
        flip: Mirror half of the images, drawn anew at each visit.
        augment: Probability of each transform of `cmtool.augment`, which the network is told of; 0
            is off.
        skip_broken: Leave out files that cannot be read instead of stopping.
        conditional: Tell the network the class.
        label_dropout: Share of images whose class is hidden, for guidance.
    """

    name: str | None = None
    image_size: int | None = None
    crop: Literal["none", "center", "dhariwal", "lsun"] | None = None
    flip: bool = False
    augment: float = 0.0
    skip_broken: bool = False
    conditional: bool = False
    label_dropout: float = 0.0

    def __post_init__(self) -> None:
        _require(
            self,
            image_size=(self.image_size is None or self.image_size >= 1, "image_size >= 1"),
            augment=(0 <= self.augment <= 1, "0 <= augment <= 1"),
            label_dropout=(0 <= self.label_dropout <= 1, "0 <= label_dropout <= 1"),
        )


@dataclass(frozen=True)
class TeacherSettings:
    """How the teacher takes its step.

    Args:
        guidance: Weight of classifier-free guidance; 1 is off. [low, high] draws one for every
            image, and the student takes it as an input.
        substeps: Solver steps between two neighbouring noise levels.
    """

    guidance: float | tuple[float, float] = 1.0
    substeps: int = 1

    def __post_init__(self) -> None:
        guidance = self.guidance
        if isinstance(guidance, tuple):
            rule = (0 <= guidance[0] < guidance[1] < math.inf, "0 <= low < high < inf in guidance")
        else:
            rule = (0 <= guidance < math.inf, "0 <= guidance < inf")
        _require(
            self,
            guidance=rule,
            substeps=(self.substeps >= 1, "substeps >= 1"),
        )


@dataclass(frozen=True)
class SamplingSettings:
    """How a consistency model is drawn from when the user says no more than how many steps.

    Args:
        times: Decreasing noise levels, first to last, for as many steps; other numbers of steps
            take the schedule's spacing.
    """

    times: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        ordered = list(self.times) == sorted(set(self.times), reverse=True)
        positive = all(0 < t < math.inf for t in self.times)
        _require(self, times=(ordered and positive, "decreasing noise levels > 0 in times"))


@dataclass(frozen=True)
class TrainSettings:
    """The loop: how long, how fast, on what, and what is written when.

    Args:
        steps: Optimizer updates.
        batch_size: Images per update, over all processes.
        micro_batch: Most images per forward on one process; left out, all of its share.
        lr: Learning rate after the warm-up.
        scale_lr: Lower it for a batch that the command line makes smaller than the recipe's.
        optimizer: The update rule.
        betas: Decay of its first and second moment.
        weight_decay: Decoupled weight decay.
        lr_warmup: Updates over which the rate rises linearly from zero.
        lr_decay: What the rate does afterwards.
        lr_decay_steps: Updates over which it does so; left out, `steps`.
        grad_clip: Largest gradient norm; left out, no clipping.
        ema: Decay of each average of the weights; the first is the one that is sampled from.
        ema_warmup: Let a young average forget faster.
        seed: Of the weights, the order of the images, the noise and the times.
        precision: Of the forward pass under autocast; `auto` asks the device.
        compile: Compile the network.
        device: Where to train; `auto` takes the best there is.
        log_every: Updates between two lines of the log.
        sample_every: Updates between two grids of samples.
        save_every: Updates between two checkpoints.
        keep_last: Checkpoints to keep.
        tracker: Where the curves go beside the log.
    """

    steps: int = 10_000
    batch_size: int = 64
    micro_batch: int | None = None
    lr: float = 1e-4
    scale_lr: bool = True
    optimizer: Literal["radam", "adam", "adamw"] = "radam"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    lr_warmup: int = 0
    lr_decay: Literal["none", "linear", "cosine", "rsqrt"] = "none"
    lr_decay_steps: int | None = None
    grad_clip: float | None = None
    ema: tuple[float, ...] = (0.9999,)
    ema_warmup: bool = True
    seed: int = 0
    precision: Literal["auto", "no", "bf16", "fp16"] = "no"
    compile: bool = False
    device: str = "auto"
    log_every: int = 50
    sample_every: int = 1000
    save_every: int = 5000
    keep_last: int = 2
    tracker: Literal["none", "tensorboard", "wandb"] = "none"

    def __post_init__(self) -> None:
        counts = {
            name: (getattr(self, name) is None or getattr(self, name) >= 1, f"{name} >= 1")
            for name in (
                *("steps", "batch_size", "micro_batch", "lr_decay_steps"),
                *("log_every", "sample_every", "save_every", "keep_last"),
            )
        }
        _require(
            self,
            **counts,
            lr=(0 < self.lr < math.inf, "0 < lr < inf"),
            betas=(all(0 <= beta < 1 for beta in self.betas), "0 <= betas < 1"),
            weight_decay=(0 <= self.weight_decay < math.inf, "0 <= weight_decay < inf"),
            lr_warmup=(self.lr_warmup >= 0, "lr_warmup >= 0"),
            grad_clip=(self.grad_clip is None or self.grad_clip > 0, "grad_clip > 0"),
            ema=(
                0 < len(self.ema) == len(set(self.ema)) and all(0 <= a < 1 for a in self.ema),
                "one or more different 0 <= ema < 1",
            ),
            seed=(0 <= self.seed < 2**63, "0 <= seed < 2^63"),
        )
