"""The training loop: a generator of reports, with nothing hidden in callbacks.

Everything random is addressed by (seed, step), so a run goes on from weights, averages, optimizer
state and a step number alone, and any number of processes or micro-batches gives one process's
gradients.
"""

import copy
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

# Else DDP imports it, when processes have met: the defaults of its functions then hold their group.
import torch.distributed.nn.functional  # noqa: F401
from accelerate import Accelerator
from torch import Tensor, nn

from cmtool import checkpoint
from cmtool.augment import augment
from cmtool.data.loader import Loader
from cmtool.denoiser import Denoiser
from cmtool.ema import Ema
from cmtool.errors import Stopped, TrainingError
from cmtool.losses.base import Loss, LossOutput, Roles, Stage, Step
from cmtool.recipe import Recipe, TrainSettings
from cmtool.rng import StepRng, mix
from cmtool.signals import Signals
from cmtool.tensors import Batch


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step did. `index` counts finished steps, `images` all images so far,
    `seconds` is this step's time."""

    index: int
    images: int
    loss: float
    lr: float
    seconds: float
    stats: dict[str, float]


class Objective(nn.Module):
    """Owns the student and runs the whole loss in its forward.

    This is the module that Accelerate prepares. A loss that reached the student around it would
    lose the synchronisation of gradients without any error.
    """

    def __init__(self, roles: Roles, loss: Loss, recipe: Recipe) -> None:
        super().__init__()
        self.student = roles.student
        # In a tuple, so that target and teacher are not taken for parts of the trained module.
        self._fixed = (roles,)
        self._loss = loss
        self._data = recipe.data
        self._guidance = recipe.teacher.guidance

    def take(self, roles: Roles) -> None:
        """Goes on with another teacher."""
        self._fixed = (roles,)

    def forward(self, batch: Batch, step: Step) -> LossOutput:
        if batch.label is not None and self._data.label_dropout > 0:
            kept = step.rng.rand() >= self._data.label_dropout
            batch = batch._replace(label=torch.where(kept, batch.label, -1))
        if self._data.augment > 0:
            x, told = augment(batch.x, self._data.augment, step.rng)
            batch = batch._replace(x=x, augment=told)
        if isinstance(self._guidance, tuple):
            low, high = self._guidance
            batch = batch._replace(guidance=low + (high - low) * step.rng.rand())
        return self._loss(self._fixed[0], batch, step)


@dataclass
class Trainer:
    """Trains `roles.student`.

    Args:
        roles: Student, target (the student itself where the loss averages nothing) and teacher, on
            the accelerator's device.
        loss: The objective.
        data: This process's part of every batch.
        accelerator: Processes and precision.
        recipe: The resolved recipe, stored in every checkpoint.
        origin: Facts to store beside the weights: data, teacher.
        out: The run directory.
    """

    roles: Roles
    loss: Loss
    data: Loader
    accelerator: Accelerator
    recipe: Recipe
    origin: dict[str, Any]
    out: Path
    step: int = field(default=0, init=False)
    stage: Stage | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        settings = self.settings
        student = self.roles.student
        self.emas = [Ema(student.state(), rate, settings.ema_warmup) for rate in settings.ema]
        objective = Objective(self.roles, self.loss, self.recipe)
        optimizer = _optimizer(student, settings)
        self._objective, self._optimizer = self.accelerator.prepare(objective, optimizer)
        self._parameters = [p for p in student.parameters() if p.requires_grad]
        if self.roles.target is not self.roles.student:
            self.roles.target.train().requires_grad_(False)

    @property
    def settings(self) -> TrainSettings:
        """The recipe's training section."""
        return self.recipe.train

    @property
    def split(self) -> tuple[int, int, int]:
        """(processes, micro-batches on each, images in each); their product is the global batch."""
        world = self.accelerator.num_processes
        here = self.settings.batch_size // world
        fewest = math.ceil(here / (self.settings.micro_batch or here))
        micros = next(m for m in range(fewest, here + 1) if here % m == 0)
        return world, micros, here // micros

    def steps(self) -> Iterator[StepReport]:
        """Trains to `train.steps`, saving on the way and at the end.

        Every process must consume the generator to its end.

        Raises:
            TrainingError: The loss or the gradient is not finite; nothing broken was saved.
            Stopped: A signal came; the step was finished and saved.
        """
        with Signals() as signals:
            while self.step < self.settings.steps:
                report = self._one_step()
                caught = self._any(signals.caught)
                done = self.step >= self.settings.steps
                if done or caught or self.step % self.settings.save_every == 0:
                    self.save()
                yield report
                if caught and not done:
                    raise Stopped(
                        f"stopped by signal {caught} at step {self.step}, saved in {self.out}",
                        "the same command with --resume goes on",
                        caught,
                    )

    def end(self) -> None:
        """Leaves the other processes and closes the tracker; no step can follow."""
        # Gloo's threads live as long as the processes' group, which DDP holds, itself in cycles of
        # references; a thread that outlives the interpreter may abort the process.
        self._objective = self.accelerator.unwrap_model(self._objective)
        self.accelerator.free_memory()
        self.accelerator.end_training()

    def averaged(self, index: int = 0) -> Denoiser:
        """A copy of the student that carries an average of its weights, in evaluation mode."""
        return self._copy(self.emas[index].weights)

    def save(self) -> None:
        """Writes a checkpoint of this step; all processes must call it."""
        if self.accelerator.is_main_process:
            weights = {"student": self.roles.student.state()}
            if self.roles.target is not self.roles.student:
                weights["target"] = self.roles.target.state()
            if self.stage is not None and self.stage.first > 0 and self.roles.teacher.denoiser:
                weights["teacher"] = self.roles.teacher.denoiser.state()
            weights |= {f"ema-{ema.rate}": ema.weights for ema in self.emas}
            checkpoint.save(
                self.out,
                checkpoint.Meta.of(
                    self.roles.student, self.step, self.settings.batch_size, self.origin
                ),
                self.recipe,
                weights,
                {"optimizer": self._optimizer.state_dict(), "scaler": self._scaler_state()},
                keep_last=self.settings.keep_last,
            )
        self.accelerator.wait_for_everyone()

    def resume(self, saved: checkpoint.Checkpoint) -> None:
        """Goes on from a checkpoint of the same recipe."""
        device = self.accelerator.device
        self.roles.student.load_state(saved.weights("student"))
        if self.roles.target is not self.roles.student:
            self.roles.target.load_state(saved.weights("target"))
        if "teacher" in saved.meta.weights:
            self._teach(saved.weights("teacher"))
        for ema in self.emas:
            ema.load(saved.weights(f"ema-{ema.rate}"))
        state = saved.resume_state(device)
        self._optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = saved.meta.step

    def _one_step(self) -> StepReport:
        began, settings = time.perf_counter(), self.settings
        accelerator, rank = self.accelerator, self.accelerator.process_index
        _, micros, size = self.split
        self._enter(self.loss.stage(self.step, settings.steps))
        first, end = (self.stage.first, self.stage.end) if self.stage else (0, settings.steps)
        lr = learning_rate(settings, self.step - first, end - first)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        torch.manual_seed(mix(settings.seed, self.step, rank, 1))  # Dropout.
        self._objective.train()

        total = torch.zeros((), device=accelerator.device)
        bad_levels: list[float] = []
        for micro in range(micros):
            start = (rank * micros + micro) * size
            batch = self._to_device(self.data.batch(self.step, micro, micros))
            rows = slice(start, start + size)
            rng = StepRng(settings.seed, self.step, settings.batch_size, rows, accelerator.device)
            with _synced(accelerator, self._objective, last=micro == micros - 1):
                out = self._objective(batch, Step(self.step, settings.steps, rng))
                loss = out.loss.mean() / micros
                accelerator.backward(loss)
            total += loss.detach()
            bad_levels += out.sigma[~out.loss.isfinite()].tolist()

        norm = accelerator.clip_grad_norm_(self._parameters, settings.grad_clip or math.inf)
        mean = float(accelerator.reduce(total, "mean"))
        stats = {**out.stats, "grad_norm": float(norm)}
        self._refuse_non_finite(mean, stats["grad_norm"], bad_levels)
        self._optimizer.step()
        self._optimizer.zero_grad()
        if not accelerator.optimizer_step_was_skipped:
            self._average()
        self.step += 1
        seconds = time.perf_counter() - began
        return StepReport(self.step, self.step * settings.batch_size, mean, lr, seconds, stats)

    def _enter(self, stage: Stage | None) -> None:
        """Makes the changes with which a stage starts, once."""
        if stage is None or stage == self.stage:
            return
        student, settings = self.roles.student, self.settings
        levels = student.schedule.grid(stage.intervals + 1)
        student.grid = tuple(student.schedule.sigma(levels).tolist())
        if 0 < stage.first == self.step:
            self._teach(student.state())
            self._optimizer.state.clear()
            self.emas = [Ema(student.state(), rate, settings.ema_warmup) for rate in settings.ema]
        self.stage = stage

    def _teach(self, state: Mapping[str, Tensor]) -> None:
        """Makes a copy of the student with these weights the teacher."""
        model = self._copy(state)
        if self.settings.compile:
            model.network.compile()
        # What guidance did, the student has learned.
        teacher = replace(self.roles.teacher, denoiser=model, guidance=1.0)
        self.roles = self.roles._replace(teacher=teacher)
        self.accelerator.unwrap_model(self._objective).take(self.roles)

    def _copy(self, state: Mapping[str, Tensor]) -> Denoiser:
        model = copy.deepcopy(self.roles.student).eval().requires_grad_(False)
        model.load_state(state)
        return model

    def _average(self) -> None:
        young = self.step - (self.stage.first if self.stage else 0)
        for ema in self.emas:
            ema.update(self.roles.student.state(), young)
        if self.roles.target is not self.roles.student:
            decay = self.loss.target_decay(self.step, self.settings.steps)
            target, student = self.roles.target.network, self.roles.student.network
            with torch.no_grad():
                torch._foreach_lerp_(
                    list(target.parameters()), list(student.parameters()), 1 - decay
                )

    def _refuse_non_finite(self, loss: float, norm: float, sigmas: list[float]) -> None:
        # With fp16 a gradient overflow is normal: the scaler skips that step.
        if math.isfinite(loss) and (math.isfinite(norm) or self.accelerator.scaler is not None):
            return
        what, value = ("loss", loss) if not math.isfinite(loss) else ("gradient norm", norm)
        levels = f" (noise levels {min(sigmas):.4g} to {max(sigmas):.4g})" if sigmas else ""
        last = checkpoint.latest(self.out)
        raise TrainingError(
            f"{what} is {value} at step {self.step}{levels}",
            f"last good checkpoint: {last or 'none yet'}; "
            "start anew with --set train.grad_clip=1.0 or a smaller --lr",
        )

    def _to_device(self, batch: Batch) -> Batch:
        device = self.accelerator.device
        label = batch.label if self.roles.student.num_classes else None
        return Batch(batch.x.to(device), None if label is None else label.to(device))

    def _any(self, signum: int) -> int:
        """The signal that any process caught, so that all of them stop after the same step."""
        if self.accelerator.num_processes == 1:
            return signum
        caught = torch.tensor([signum], device=self.accelerator.device)
        return int(self.accelerator.gather(caught).max())

    def _scaler_state(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return scaler.state_dict() if scaler is not None else {}


def learning_rate(settings: TrainSettings, step: int, steps: int | None = None) -> float:
    """The learning rate at a step (from 0): linear warm-up, then constant or decaying to zero at
    `lr_decay_steps`, else at `steps`, by default all.

    "rsqrt" decays as 1 / sqrt(max(step / lr_decay_steps, 1)), the rule of EDM2.
    """
    warm = min((step + 1) / settings.lr_warmup, 1.0) if settings.lr_warmup else 1.0
    end = settings.lr_decay_steps or steps or settings.steps
    done = min(step / end, 1.0)
    decay = {
        "none": 1.0,
        "linear": 1 - done,
        "cosine": (1 + math.cos(math.pi * done)) / 2,
        "rsqrt": 1 / math.sqrt(max(step / end, 1.0)),
    }[settings.lr_decay]
    return settings.lr * warm * decay


def _optimizer(network: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    weights, lr, betas = network.parameters(), settings.lr, settings.betas
    decay = settings.weight_decay
    if settings.optimizer == "radam":
        return torch.optim.RAdam(
            weights, lr, betas, weight_decay=decay, decoupled_weight_decay=True
        )
    return torch.optim.AdamW(weights, lr, betas, weight_decay=decay)


def _synced(
    accelerator: Accelerator, module: nn.Module, *, last: bool
) -> AbstractContextManager[None]:
    """Gradients are exchanged between processes only on a step's last micro-batch."""
    return nullcontext() if last else accelerator.no_sync(module)
