"""What `train` and `distill` share: from a request to a trained model, in one straight line."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin

from cmtool import augment, checkpoint, images, registry
from cmtool import recipe as recipes
from cmtool.checkpoint import Checkpoint, Meta
from cmtool.data.base import ImageSet
from cmtool.data.catalog import open_data
from cmtool.data.loader import Loader
from cmtool.denoiser import Denoiser, LogWeight
from cmtool.errors import RecipeError, Say, silent
from cmtool.losses.base import Roles
from cmtool.recipe import DataSettings, Recipe
from cmtool.rng import mix
from cmtool.solvers.base import Solver
from cmtool.solvers.euler import Euler
from cmtool.teacher import Teacher
from cmtool.training import StepReport, Trainer
from cmtool.workflows import _rundir
from cmtool.workflows._draw import draw, plan_for
from cmtool.workflows._job import Job as Job
from cmtool.workflows._job import load_recipe as load_recipe
from cmtool.workflows._machine import resolve
from cmtool.workflows._preflight import check_scalings, check_tangent, say_known_trouble
from cmtool.workflows._start import copy_weights, follow
from cmtool.workflows.load import Model, pick_device

GRID_SEED, GRID_COLUMNS, GRID_ROWS = 0, 8, 4


@dataclass(frozen=True)
class Prepared:
    """A job with everything resolved, before anything is written."""

    recipe: Recipe
    data: ImageSet
    student: Denoiser
    teacher: Model | None
    out: Path
    device: torch.device
    saved: Checkpoint | None
    overridden: tuple[str, ...]
    origin: dict[str, Any]

    @property
    def parameters(self) -> int:
        """Trained weights."""
        return sum(p.numel() for p in self.student.network.parameters())


@dataclass(frozen=True)
class FitReport:
    """How a run ended."""

    out: Path
    steps: int
    images: int
    loss: float
    seconds: float


@dataclass(frozen=True)
class Listeners:
    """Who hears of a run: one line at a time, and one report a step."""

    say: Say = silent
    progress: Callable[[StepReport, Trainer], None] = field(default=lambda report, trainer: None)


def load_data(recipe: Recipe, job: Job, say: Say) -> ImageSet:
    """The training images.

    Raises:
        RecipeError: No data set is named, or it has no classes where they are asked for.
    """
    settings = recipe.data
    if settings.name is None:
        raise RecipeError("the recipe names no data", "--data NAME|FOLDER|ZIP")
    data = open_data(
        settings.name,
        data_dir=job.data_dir,
        image_size=settings.image_size,
        crop=settings.crop,
        skip_broken=settings.skip_broken,
        say=say,
    )
    if settings.conditional and not data.num_classes and "data.conditional" in job.overridden:
        raise RecipeError(
            f"data.conditional = true, but '{settings.name}' has no classes",
            "--set data.conditional=false, or sort the images into sub-folders",
        )
    return data


def _suit(settings: DataSettings, data: ImageSet, job: Job, say: Say) -> DataSettings:
    """A recipe may serve other data than it was written for: what these do not have, or what would
    spoil them, is left out aloud, unless the user asked for it."""
    if settings.conditional and not data.num_classes:
        say(f"note: '{data.name}' has no classes, so the model gets none")
        settings = replace(settings, conditional=False, label_dropout=0.0)
    if settings.flip and not data.flip_ok:
        if "data.flip" in job.overridden:
            say(f"note: data.flip = true mirrors '{data.name}', which has a right way round")
        else:
            say(f"note: '{data.name}' has a right way round, so its images are not mirrored")
            settings = replace(settings, flip=False)
    return settings


def prepare(
    job: Job, recipe: Recipe, data: ImageSet, teacher: Model | None, init: Model | None, say: Say
) -> Prepared:
    """Checks a job and builds its student.

    Raises:
        CmtoolError: Something does not fit, or the run directory is taken.
    """
    device = pick_device(recipe.train.device)
    suited = _suit(recipe.data, data, job, say)
    recipe = replace(recipe, data=suited, train=resolve(recipe.train, device, say))
    if init is not None:
        distilled = teacher is not None
        recipe = follow(init, recipe, job.overridden, distilled=distilled, say=say)
    _check_sections(recipe, teacher)
    check_scalings(recipe.denoiser, recipe.loss)
    say_known_trouble(recipe, say)
    classes = data.classes if recipe.data.conditional else ()
    meta = Meta(kind=recipe.loss.kind, image_shape=data.image_shape, classes=classes)
    torch.manual_seed(mix(recipe.train.seed))
    student = checkpoint.build(recipe, meta)
    if init is not None:
        copy_weights(init, student, say)
        say(f"student starts from {init.source}")
    if recipe.loss.uses_jvp:
        check_tangent(recipe, student, fresh=init is None, say=say)
    name = Path(data.name).stem or "images"
    method = registry.name_of("losses", type(recipe.loss))
    out = job.out or Path("runs") / f"{name}-{method}"
    if not job.dry_run:
        _rundir.check(out, resume=job.resume, overwrite=job.overwrite)
    for needed in (m for m in (teacher, init) if m is not None and not job.resume):
        if Path(needed.source).resolve().is_relative_to(out.resolve()):
            raise RecipeError(f"'{out}' holds the model to start from", "another --out")
    saved = _rundir.saved_for(out, recipe) if job.resume else None
    if saved is not None:  # `eval search --save` may have found better ones meanwhile.
        student.times |= saved.meta.times
        _say_changed(saved, data, say)
    origin: dict[str, Any] = {"data": {"name": data.name, "size": len(data), **data.facts}}
    if teacher is not None:
        origin["teacher"] = teacher.source
    if command := job.command if saved is None else saved.meta.origin.get("command"):
        origin["command"] = command
    return Prepared(recipe, data, student, teacher, out, device, saved, job.overridden, origin)


def _say_changed(saved: Checkpoint, data: ImageSet, say: Say) -> None:
    """Pictures that came or went meanwhile, such as results of an edit beside them."""
    size = saved.meta.origin.get("data", {}).get("size", len(data))
    if size != len(data):
        say(f"note: '{data.name}' had {size} images when the run began, now it has {len(data)}")


def _check_sections(recipe: Recipe, teacher: Model | None) -> None:
    """What no section can check alone.

    Raises:
        RecipeError: Two sections, or the recipe and the teacher, contradict each other.
    """
    if teacher is None and recipe.teacher.guidance != 1.0:
        raise RecipeError(
            "teacher.guidance needs a teacher model", "--set teacher.guidance=1, or cmtool distill"
        )
    drawn = isinstance(recipe.teacher.guidance, tuple)
    if drawn and not getattr(recipe.network, "guidance_input", False):
        raise RecipeError(
            "teacher.guidance is a range, but the student's network takes no guidance",
            "a network with the key guidance_input, or one number for teacher.guidance",
        )
    if recipe.loss.precond == "edm" and recipe.denoiser.precond != "edm":
        raise RecipeError(
            f"loss '{registry.name_of('losses', type(recipe.loss))}' trains a model that is the "
            f"identity at 0 noise, not one with denoiser.precond '{recipe.denoiser.precond}'",
            "--set denoiser.precond=edm",
        )
    low, _ = recipe.schedule.noise_range
    boundary = recipe.denoiser.boundary
    if recipe.denoiser.precond == "consistency" and boundary > low * (1 + 1e-9):
        raise RecipeError(
            f"denoiser.boundary {boundary} is above schedule.sigma_min {low}",
            f"--set denoiser.boundary={low}",
        )
    told = [("network", recipe.network)]
    if teacher is not None:
        told.append(("the teacher's network", teacher.recipe.network))
    for whose, network in told:
        if recipe.data.augment > 0 and getattr(network, "augment_dim", 0) != augment.LABELS:
            cure = f"network.augment_dim={augment.LABELS}, or " if whose == "network" else ""
            cure = cure if hasattr(network, "augment_dim") else ""
            raise RecipeError(
                f"data.augment = {recipe.data.augment:g}, but {whose} is not told of augmentations "
                f"(augment_dim is not {augment.LABELS})",
                f"--set {cure}data.augment=0",
            )


def fit(prepared: Prepared, listeners: Listeners) -> FitReport:
    """Trains, saving checkpoints, a log and grids of samples on the way.

    Raises:
        CmtoolError: As `Trainer.steps`, or the run cannot be resumed.
    """
    began = time.perf_counter()
    trainer = make_trainer(prepared)
    try:
        if prepared.saved is not None:
            _check_stage(trainer, prepared.saved)
            trainer.resume(prepared.saved)
            listeners.say(f"resuming {prepared.saved.path} at step {trainer.step}")
        main = trainer.accelerator.is_main_process
        with _rundir.locked(prepared.out) if main else nullcontext():
            steps, loss = _train(trainer, prepared, listeners)
    finally:
        trainer.end()
    seen = steps * prepared.recipe.train.batch_size
    return FitReport(prepared.out, steps, seen, loss, time.perf_counter() - began)


def _train(trainer: Trainer, prepared: Prepared, listeners: Listeners) -> tuple[int, float]:
    """All steps that are left; how many there are then, and the last one's loss."""
    recipe, out, accelerator = prepared.recipe, prepared.out, trainer.accelerator
    main = accelerator.is_main_process
    if main:
        _rundir.start(out, recipe, trainer.step)
    if recipe.train.tracker != "none":
        accelerator.init_trackers("cmtool", config={"recipe": recipes.dump(recipe)})
    _say_split(trainer, listeners.say)
    loss, steps = math.nan, trainer.step
    if steps >= recipe.train.steps:
        listeners.say(f"nothing to do: {out} has {steps} steps already")
    for report in trainer.steps():
        loss, steps = report.loss, report.index
        last = steps == recipe.train.steps
        if main and (last or steps % recipe.train.log_every == 0):
            _rundir.log(out, report)
            accelerator.log({"loss": loss, "lr": report.lr, **report.stats}, step=steps)
        if main and (last or steps % recipe.train.sample_every == 0):
            _save_grid(trainer, out / "samples" / f"step-{steps:08d}.png")
        listeners.progress(report, trainer)
    return steps, loss


def make_trainer(prepared: Prepared) -> Trainer:
    """The trainer of a prepared run, at its first step."""
    return _trainer(prepared, _accelerator(prepared))


def _accelerator(prepared: Prepared) -> Accelerator:
    train = prepared.recipe.train
    trackers = [] if train.tracker == "none" else [train.tracker]
    # Accelerate remembers the first run's device and precision; a notebook may well train twice.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    return Accelerator(
        cpu=prepared.device.type == "cpu",
        mixed_precision=train.precision,
        # Given, lest the launcher's configuration divide gradients or compile beside the recipe.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        dynamo_backend="no",
        log_with=trackers or None,
        project_dir=str(prepared.out),
    )


def _trainer(prepared: Prepared, accelerator: Accelerator) -> Trainer:
    recipe, device = prepared.recipe, accelerator.device
    if recipe.loss.learns_weight:
        prepared.student.log_weight = LogWeight()
    student = prepared.student.to(device)
    target = student
    if recipe.loss.target_decay(0, recipe.train.steps) > 0:
        meta = Meta(student.kind, student.image_shape, student.classes)
        target = checkpoint.build(recipe, meta).to(device)
        target.network.load_state_dict(student.network.state_dict())
    solver: Solver = Euler()
    model = None
    if prepared.teacher is not None:
        solver, model = recipe.solver, prepared.teacher.denoiser.to(device)
    guidance = recipe.teacher.guidance
    fixed = 1.0 if isinstance(guidance, tuple) else guidance
    teacher = Teacher(recipe.schedule, solver, model, fixed, recipe.teacher.substeps)
    if recipe.train.compile:
        for part in {id(d): d for d in (student, target, model) if d is not None}.values():
            part.network.compile()
    loader = Loader(
        prepared.data,
        batch_size=recipe.train.batch_size,
        seed=recipe.train.seed,
        flip=recipe.data.flip,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )
    roles = Roles(student, target, teacher)
    return Trainer(roles, recipe.loss, loader, accelerator, recipe, prepared.origin, prepared.out)


def _check_stage(trainer: Trainer, saved: Checkpoint) -> None:
    """Refuses another `train.steps` if the next step then belongs to another stage."""
    step, steps = saved.meta.step, (saved.recipe.train.steps, trainer.settings.steps)
    old, new = (trainer.loss.stage(min(step, total - 1), total) for total in steps)
    if old and new and (old.first, old.intervals) != (new.first, new.intervals):
        raise RecipeError(
            f"with train.steps = {steps[1]} the stage of step {step} would begin at step "
            f"{new.first}, not {old.first}: {steps[0]} steps were planned",
            f"--set train.steps={steps[0]}",
        )


def _say_split(trainer: Trainer, say: Say) -> None:
    world, micros, micro = trainer.split
    total = trainer.settings.batch_size
    say(f"batch {total} = {world} process(es) x {micros} micro-batch(es) of up to {micro} images")


def _save_grid(trainer: Trainer, path: Path) -> None:
    """The averaged model's samples: one and two steps side by side, or the ODE's."""
    model = trainer.averaged()
    numbers = range(GRID_ROWS * GRID_COLUMNS)
    plans = {"1 step": plan_for(model, 1), "2 steps": plan_for(model, 2)}
    if model.kind == "diffusion":
        # A student that was made for a few steps is shown in just these.
        plan = plan_for(model, None if 0 < len(model.grid) <= 18 else 17)
        plans = {f"NFE {plan.nfe}": plan}
    panels = {
        title: images.to_uint8(draw(model, plan, numbers, GRID_SEED)[0]).permute(0, 2, 3, 1).numpy()
        for title, plan in plans.items()
    }
    images.save_png(path, images.labelled_grid(panels, GRID_COLUMNS))
