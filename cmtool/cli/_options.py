"""Options that several commands share, each written once."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cmtool.cli import _complete

A_MODEL = "A run's folder, a model's file (.safetensors, .pt, .pkl) or shipped/NAME"
NEWEST = "the newest finished consistency model in runs/, else the shipped one that suits,"

DataOpt = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="NAME|FOLDER|ZIP",
        help="Training images: a data set's name (--list data), a folder or a zip; the recipe's if "
        "left out.",
        rich_help_panel="Data",
        autocompletion=_complete.dataset,
    ),
]
DataDirOpt = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Where data sets lie, looked into before $CMTOOL_DATA and the cache.",
        rich_help_panel="Data",
    ),
]
MethodOpt = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What is learned, see --list losses; the recipe's if left out. With --data alone it "
        "chooses the recipe: dsm after train, cd after distill.",
        rich_help_panel="Training",
        autocompletion=_complete.method,
    ),
]
RecipeArg = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe's name (--list recipes) or its .toml file; chosen by --data, --method and "
        "machine if left out.",
        autocompletion=_complete.recipe,
    ),
]
ModelArg = Annotated[
    Path | None,
    typer.Argument(
        metavar="MODEL",
        help=f"{A_MODEL}; {NEWEST} if left out.",
        autocompletion=_complete.model,
    ),
]
ModelOrDataArg = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL|DATA",
        help="A model or a data set, as after sample and --data; this machine if left out.",
        autocompletion=_complete.model_or_data,
    ),
]
FactsOpt = Annotated[
    list[str],
    typer.Option(
        "--as",
        metavar="KEY=VALUE|PRESET",
        help="What a published file does not tell of itself, again for more: image_size=64, "
        "head_channels, precond, sigma_min, ...; or its name, such as cd_imagenet64_l2.",
        rich_help_panel="Model",
    ),
]
WeightsOpt = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Which weights of a run: ema (the first average), student (the last step's), or a "
        "name that info shows, such as ema-0.999.",
        rich_help_panel="Model",
        autocompletion=_complete.weights,
    ),
]
DeviceOpt = Annotated[
    str | None,
    typer.Option(
        metavar="cpu|cuda|mps",
        help="Where to compute; the best there is if left out.",
        rich_help_panel="Performance",
        autocompletion=_complete.these(*_complete.DEVICES),
    ),
]
StepsOpt = Annotated[
    int | None,
    typer.Option(
        help="Network evaluations for each image; if left out 1, or 35 for a diffusion model."
    ),
]
TimesOpt = Annotated[
    str | None,
    typer.Option(
        metavar="80,0.8",
        help="Decreasing noise levels in place of --steps, one evaluation at each: standard "
        "deviations on the scale [-1, 1], or angles of TrigFlow, trig:1.1.",
    ),
]
CountOpt = Annotated[
    int | None,
    typer.Option("--n", "-n", help="Number of images, 0 .. N-1 of the seed; 64 if left out."),
]
SeedOpt = Annotated[
    int, typer.Option(help="Chooses the noise: image i depends on model, seed and i alone.")
]
GuidanceOpt = Annotated[
    float,
    typer.Option(
        help="Weight of guidance towards the class, 1 is off; for models trained with "
        "data.label_dropout or distilled for it."
    ),
]
SolverOpt = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="How a diffusion model's ODE is solved, see --list solvers, also with its options: "
        "deis:order=2; heun if left out.",
        autocompletion=_complete.solver,
    ),
]
ImagesOutOpt = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="A folder of PNG files with grid.png, one .png grid, or an .npz (arr_0, uint8 "
        "NxHxWxC); a new folder in samples/ if left out.",
        metavar="FOLDER|GRID.png|FILE.npz",
        rich_help_panel="Output",
    ),
]
OverwriteOpt = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace what is there; without it nothing ever is.",
        rich_help_panel="Output",
    ),
]
ResumeOpt = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with the images of --out that a stop cut short.",
        rich_help_panel="Output",
    ),
]
CompareOpt = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL@STEPS,...",
        help="One picture, a row for each of these, from the same seeds; @STEPS alone is MODEL.",
        rich_help_panel="Output",
        autocompletion=_complete.models,
    ),
]
TrajectoryOpt = Annotated[
    bool,
    typer.Option(
        "--trajectory",
        help="The path from noise to images in place of images: an animation for --out FILE.gif, "
        "a strip for FILE.png. Not with --compare.",
        rich_help_panel="Output",
    ),
]
BatchSizeOpt = Annotated[
    int | None,
    typer.Option(
        help="Images at a time, for speed and memory; chosen for the device if left out.",
        rich_help_panel="Performance",
    ),
]
EngineOpt = Annotated[
    str,
    typer.Option(
        metavar="torch|onnx|aoti",
        help="What computes the network on a CPU; onnx and aoti are built once, into the cache.",
        rich_help_panel="Performance",
        autocompletion=_complete.these(*_complete.ENGINES),
    ),
]
DtypeOpt = Annotated[
    str,
    typer.Option(
        metavar="|".join(_complete.DTYPES),
        help="Type of the stored weights; they are computed with in float32 all the same.",
        autocompletion=_complete.these(*_complete.DTYPES),
    ),
]
LabelOpt = Annotated[
    str | None,
    typer.Option(
        metavar="3|cat|cat,dog",
        help="Classes by number or name, drawn among for each image; all of the model's if left "
        "out.",
        autocompletion=_complete.label,
    ),
]
PerLabelOpt = Annotated[
    int | None,
    typer.Option(metavar="N", help="N images of each class in turn, in place of --n."),
]
ScheduleOpt = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Spacing of the noise levels, see --list schedules; the model's if left out.",
        autocompletion=_complete.schedule,
    ),
]
GammaOpt = Annotated[
    float,
    typer.Option(
        help="Share of fresh noise between a consistency model's steps: 1 is all new, 0 none."
    ),
]
TruncationOpt = Annotated[
    float,
    typer.Option(
        help="Factor of the first noise: below 1 images are more typical and less varied."
    ),
]


def _recipe(key: str, text: str, panel: str, *names: str, **more: Any) -> Any:
    """An option that stands for a recipe key, which counts where it is left out."""
    text = f"{text} ({key})."
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False, **more)


@dataclass(frozen=True)
class RunOptions:
    """Options of `train` and `distill`; those in RECIPE_KEYS stand for a recipe key."""

    data: DataOpt = None
    data_dir: DataDirOpt = None
    method: MethodOpt = None
    max_steps: Annotated[
        int | None, _recipe("train.steps", "Number of optimizer updates", "Training")
    ] = None
    batch_size: Annotated[
        int | None,
        _recipe("train.batch_size", "Images for each update, over all processes", "Training"),
    ] = None
    lr: Annotated[
        float | None, _recipe("train.lr", "Learning rate after the warm-up", "Training")
    ] = None
    seed: Annotated[
        int | None,
        _recipe("train.seed", "Seed of weights, noise and the images' order", "Training"),
    ] = None
    set_: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any key of the recipe, such as loss.levels=40, again for more; --dry-run prints "
            "all keys. An option of its own goes before it.",
            rich_help_panel="Training",
            autocompletion=_complete.setting,
        ),
    ] = dataclasses.field(default_factory=list)
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="The run's directory; runs/DATA-METHOD if left out.",
            rich_help_panel="Output",
        ),
    ] = None
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the run from its last checkpoint; the other options as before. Not "
            "with --overwrite.",
            rich_help_panel="Output",
        ),
    ] = False
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Start anew and remove the run that is there.",
            rich_help_panel="Output",
        ),
    ] = False
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            "-n",
            help="Check everything, print the resolved recipe and stop; writes nothing.",
            rich_help_panel="Output",
        ),
    ] = False
    log_every: Annotated[
        int | None, _recipe("train.log_every", "Updates between two lines of the log", "Output")
    ] = None
    sample_every: Annotated[
        int | None,
        _recipe("train.sample_every", "Updates between two grids of samples", "Output"),
    ] = None
    save_every: Annotated[
        int | None, _recipe("train.save_every", "Updates between two checkpoints", "Output")
    ] = None
    keep_last: Annotated[
        int | None, _recipe("train.keep_last", "Checkpoints that are kept", "Output")
    ] = None
    tracker: Annotated[
        Literal["none", "tensorboard", "wandb"] | None,
        _recipe("train.tracker", "Where curves go beside log.jsonl", "Output"),
    ] = None
    device: Annotated[
        str | None,
        _recipe(
            "train.device",
            "Where to compute",
            "Performance",
            metavar="auto|cpu|cuda|mps",
            autocompletion=_complete.these("auto", *_complete.DEVICES),
        ),
    ] = None
    precision: Annotated[
        Literal["auto", "no", "bf16", "fp16"] | None,
        _recipe(
            "train.precision",
            "Type of the matrix products; no is float32, auto asks the device",
            "Performance",
        ),
    ] = None
    compile: Annotated[
        bool | None,
        _recipe(
            "train.compile",
            "Compile the network: the first step takes minutes, the others less",
            "Performance",
            "--compile/--no-compile",
        ),
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
