"""The configurations of a diffusers folder for a model of ours; `foreign.diffusers` reads them."""

from typing import Any

from cmtool.denoiser import Denoiser
from cmtool.formats.base import Source
from cmtool.networks.adm import Adm
from cmtool.schedules.karras import Karras

CLOSE = 1e-4
"""Relative distance within which a level lies on the grid: published ones have five digits."""
_BETAS = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
_PREDICTIONS = {"epsilon": "epsilon", "sample": "sample", "v": "v_prediction"}


def network(spec: Adm, model: Denoiser) -> dict[str, Any]:
    """unet/config.json."""
    channels, size, _ = model.image_shape
    attention = [size >> level in spec.attention for level in range(len(spec.channel_mult))]
    plain = ("Resnet{}sample" if spec.resblock_updown else "{}") + "Block2D"
    down = ["AttnDownBlock2D" if here else plain.format("Down") for here in attention]
    up = ["AttnUpBlock2D" if here else plain.format("Up") for here in attention]
    way = "resnet" if spec.resblock_updown else "conv"
    ddpm = spec.flavor == "ddpm"
    return {
        "_class_name": "UNet2DModel",
        "sample_size": size,
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": [spec.channels * factor for factor in spec.channel_mult],
        "layers_per_block": spec.blocks,
        "down_block_types": down,
        "up_block_types": up[::-1],
        "downsample_type": way,
        "upsample_type": way,
        "downsample_padding": 0 if ddpm else 1,
        "attention_head_dim": spec.head_channels or None,
        "norm_num_groups": spec.norm_groups,
        "attn_norm_num_groups": spec.norm_groups if spec.scale_shift else None,
        "norm_eps": 1e-6 if ddpm else 1e-5,
        "freq_shift": 1 if ddpm else 0,
        "flip_sin_to_cos": not ddpm,
        "resnet_time_scale_shift": "scale_shift" if spec.scale_shift else "default",
        "add_attention": spec.middle_attention,
        "dropout": spec.dropout,
        "num_class_embeds": model.num_classes or None,
    }


def scheduler(source: Source) -> dict[str, Any]:
    """scheduler/scheduler_config.json."""
    given, schedule = source.model.recipe.denoiser, source.denoiser.schedule
    assert isinstance(schedule, Karras)
    if source.denoiser.kind == "consistency":
        return {
            "_class_name": "CMStochasticIterativeScheduler",
            "num_train_timesteps": grid_length(source),
            "sigma_min": schedule.sigma_min,
            "sigma_max": schedule.sigma_max,
            "sigma_data": given.sigma_data,
            "rho": schedule.rho,
            "clip_denoised": True,
        }
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": given.timesteps,
        "beta_schedule": _BETAS[given.betas],
        "beta_start": given.beta_start,
        "beta_end": given.beta_end,
        "prediction_type": _PREDICTIONS[given.prediction],
        "clip_sample": False,
    }


def index(model: Denoiser, scheduler: dict[str, Any]) -> dict[str, Any]:
    """model_index.json."""
    consistency = model.kind == "consistency"
    return {
        "_class_name": "ConsistencyModelPipeline" if consistency else "DDIMPipeline",
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "unet": ["diffusers", "UNet2DModel"],
    }


def grid_length(source: Source) -> int:
    """Noise levels of the scheduler's grid: those that the model was trained on, else 40."""
    trained = getattr(source.model.recipe.loss, "levels", None)  # Where it grows, a function.
    told = source.model.meta.origin.get("levels", trained)
    return max(2, int(told)) if isinstance(told, int | str) else 40


def on_grid(source: Source, levels: tuple[float, ...]) -> list[int] | None:
    """The numbers on the grid of noise levels, or None if one does not lie on it.

    The first must be the largest: a pipeline always begins there.
    """
    grid = source.denoiser.schedule.grid(grid_length(source)).tolist()
    found = []
    for level in levels:
        number = min(range(len(grid)), key=lambda i: abs(grid[i] - level))
        if abs(grid[number] - level) > CLOSE * level:
            return None
        found.append(number)
    return found if found[0] == 0 else None


def usage(source: Source, name: str) -> str:
    """For the model card."""
    model = source.denoiser
    back = (
        f"cmtool takes the folder too: `cmtool sample {name}`. Names of classes, stored noise "
        f"levels and guidance without a class are not in it."
    )
    if model.kind == "diffusion":
        classes = "\n\nDDIMPipeline knows no classes: call `unet` with `class_labels` yourself."
        return (
            f"```python\nfrom diffusers import DDIMPipeline\n\n"
            f'pipe = DDIMPipeline.from_pretrained("{name}")\n'
            f"images = pipe(batch_size=4, num_inference_steps=50).images\n```"
            f"{classes if model.num_classes else ''}\n\n{back}"
        )
    label = ", class_labels=0" if model.num_classes else ""
    calls, notes = [f"images = pipe(batch_size=1{label}).images  # one step"], []
    more = {use: t for use, t in model.times.items() if isinstance(use, int) and use > 1}
    for steps, levels in more.items():
        told = ", ".join(f"{level:g}" for level in levels)
        numbers = on_grid(source, levels)
        if numbers is None:
            notes.append(
                f"The {steps} steps at {told} do not lie on the scheduler's grid of "
                f"{grid_length(source)} levels: in diffusers the model takes one step."
            )
        else:
            # A pipeline wants numbers that fall and takes them from the end.
            chosen = f"num_inference_steps=None, timesteps={numbers[::-1]}"
            calls.append(f"images = pipe(batch_size=1{label}, {chosen}).images  # at {told}")
    if not more:
        notes.append("No noise levels for more steps are stored: in diffusers it takes one step.")
    code = "\n".join(calls)
    return (
        f"```python\nfrom diffusers import ConsistencyModelPipeline\n\n"
        f'pipe = ConsistencyModelPipeline.from_pretrained("{name}")\n{code}\n```\n\n'
        + "".join(f"{note}\n\n" for note in notes)
        + back
    )
