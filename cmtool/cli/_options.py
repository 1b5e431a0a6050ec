"""Options that several commands share, each written once."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

DataOpt = Annotated[
    str | None,
    typer.Option(
        "--data", metavar="NAME|FOLDER|ZIP", help="Training images.", rich_help_panel="Data"
    ),
]
MethodOpt = Annotated[
    str | None, typer.Option(help="Objective, see --list losses.", rich_help_panel="Training")
]
RecipeArg = Annotated[
    str | None,
    typer.Argument(metavar="RECIPE", help="A recipe's name or file, see --list recipes."),
]
ModelArg = Annotated[
    Path | None,
    typer.Argument(
        metavar="MODEL",
        help="A run, or published weights; the newest one-step model in runs/ if left out.",
    ),
]
FactsOpt = Annotated[
    list[str],
    typer.Option(
        "--as",
        metavar="KEY=VALUE|PRESET",
        help="What a model's file does not tell: image_size, head_channels, precond, "
        "sigma_min, ..., or a published file's name, such as cd_imagenet64_l2.",
        rich_help_panel="Model",
    ),
]
WeightsOpt = Annotated[
    str, typer.Option(help="Which weights: ema, student, ...", rich_help_panel="Model")
]
DeviceOpt = Annotated[
    str | None, typer.Option(help="cpu, cuda, mps.", rich_help_panel="Performance")
]
StepsOpt = Annotated[
    int | None,
    typer.Option(help="Network evaluations an image; else 1, or 35 for a diffusion model."),
]
TimesOpt = Annotated[
    str | None, typer.Option(metavar="80,0.8", help="Noise levels instead; trig:1.1 is converted.")
]
CountOpt = Annotated[
    int | None, typer.Option("--n", help="Images 0 .. N-1 of the seed; 64 if left out.")
]
SeedOpt = Annotated[int, typer.Option(help="Image i depends on model, seed and i alone.")]
GuidanceOpt = Annotated[float, typer.Option(help="Towards the class; 1 is off.")]
SolverOpt = Annotated[
    str | None, typer.Option(help="A diffusion model's, --list solvers; or deis:order=2.")
]
ImagesOutOpt = Annotated[
    Path | None,
    typer.Option(
        "--out", help="Where to.", metavar="FOLDER|GRID.png|FILE.npz", rich_help_panel="Output"
    ),
]
OverwriteOpt = Annotated[
    bool, typer.Option("--overwrite", help="Replace what is there.", rich_help_panel="Output")
]
ResumeOpt = Annotated[
    bool,
    typer.Option("--resume", help="Go on where it was stopped.", rich_help_panel="Output"),
]
CompareOpt = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL@STEPS,...",
        help="One picture, a row for each of these; MODEL itself if only @STEPS.",
        rich_help_panel="Output",
    ),
]
TrajectoryOpt = Annotated[
    bool,
    typer.Option(
        "--trajectory",
        help="The path from noise to images: --out FILE.gif or a strip, FILE.png.",
        rich_help_panel="Output",
    ),
]
BatchSizeOpt = Annotated[
    int | None,
    typer.Option(help="Images at a time; changes no image.", rich_help_panel="Performance"),
]
EngineOpt = Annotated[
    str,
    typer.Option(
        metavar="torch|onnx|aoti",
        help="What computes the network on a CPU; onnx and aoti are built once, into the cache.",
        rich_help_panel="Performance",
    ),
]
LabelOpt = Annotated[
    str | None,
    typer.Option(
        metavar="3|cat|cat,dog", help="Classes by number or name; drawn from the seed if left out."
    ),
]
PerLabelOpt = Annotated[
    int | None, typer.Option(metavar="N", help="N images of each class in place of --n.")
]
ScheduleOpt = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Spacing of the noise levels, --list schedules; else the model's."
    ),
]
GammaOpt = Annotated[
    float,
    typer.Option(help="Fresh noise between a consistency model's steps: 1 all new, 0 none."),
]
TruncationOpt = Annotated[
    float, typer.Option(help="Factor of the first noise: less is typical, less varied; 1 is off.")
]


def _recipe(key: str, text: str, panel: str, *names: str) -> Any:
    """An option that stands for a recipe key."""
    return typer.Option(*names, help=f"{text} ({key})", rich_help_panel=panel, show_default=False)


@dataclass(frozen=True)
class RunOptions:
    """Options of `train` and `distill`; those in RECIPE_KEYS stand for a recipe key."""

    data: DataOpt = None
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Where data sets lie, before $CMTOOL_DATA.", rich_help_panel="Data"),
    ] = None
    method: MethodOpt = None
    max_steps: Annotated[int | None, _recipe("train.steps", "Optimizer updates", "Training")] = None
    batch_size: Annotated[
        int | None, _recipe("train.batch_size", "Images an update, over all processes", "Training")
    ] = None
    lr: Annotated[float | None, _recipe("train.lr", "Learning rate", "Training")] = None
    seed: Annotated[int | None, _recipe("train.seed", "Seed of everything", "Training")] = None
    set_: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any recipe key, such as loss.levels=40.",
            rich_help_panel="Training",
        ),
    ] = dataclasses.field(default_factory=list)
    out: Annotated[
        Path | None,
        typer.Option(help="Run directory; runs/DATA-METHOD if left out.", rich_help_panel="Output"),
    ] = None
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run.", rich_help_panel="Output")
    ] = False
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run.", rich_help_panel="Output")
    ] = False
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", "-n", help="Print the resolved recipe and stop.", rich_help_panel="Output"
        ),
    ] = False
    log_every: Annotated[int | None, _recipe("train.log_every", "Steps", "Output")] = None
    sample_every: Annotated[int | None, _recipe("train.sample_every", "Steps", "Output")] = None
    save_every: Annotated[int | None, _recipe("train.save_every", "Steps", "Output")] = None
    keep_last: Annotated[int | None, _recipe("train.keep_last", "Checkpoints", "Output")] = None
    tracker: Annotated[
        Literal["none", "tensorboard", "wandb"] | None,
        _recipe("train.tracker", "Curves beside log.jsonl", "Output"),
    ] = None
    device: Annotated[
        str | None, _recipe("train.device", "auto, cpu, cuda, mps", "Performance")
    ] = None
    precision: Annotated[
        Literal["auto", "no", "bf16", "fp16"] | None,
        _recipe("train.precision", "Of the networks' matrix products", "Performance"),
    ] = None
    compile: Annotated[
        bool | None,
        _recipe("train.compile", "torch.compile", "Performance", "--compile/--no-compile"),
    ] = None

    def overrides(self) -> tuple[str | tuple[str, object], ...]:
        """The options that were given, as changes to the recipe; `--set` comes first, so the
        shorter option wins."""
        keys = {"max_steps": "steps"}
        settings = (
            *("max_steps", "batch_size", "lr", "seed", "log_every", "sample_every", "save_every"),
            *("keep_last", "tracker", "device", "precision", "compile"),
        )
        given = [
            (f"train.{keys.get(name, name)}", getattr(self, name))
            for name in settings
            if getattr(self, name) is not None
        ]
        return (*self.set_, *given)


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command, in place of its parameter `options`, the fields of that one's dataclass."""
    own = list(inspect.signature(command).parameters.values())
    options_class = next(p.annotation for p in own if p.name == "options")
    shared = [
        inspect.Parameter(
            f.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=f.default if f.default is not dataclasses.MISSING else [],
            annotation=f.type,
        )
        for f in dataclasses.fields(options_class)
    ]

    @functools.wraps(command)
    def wrapped(**values: Any) -> None:
        options = options_class(**{p.name: values.pop(p.name) for p in shared})
        command(**values, options=options)

    parameters = [
        p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own if p.name != "options"
    ]
    wrapped.__signature__ = inspect.Signature([*parameters, *shared])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in [*parameters, *shared]}
    return wrapped
