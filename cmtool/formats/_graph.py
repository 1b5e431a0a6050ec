"""Programs of tensors alone, for any batch: the denoiser, or a consistency model's sampler at fixed
noise levels, which takes all of its noise as an input."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export
from torch.fx import GraphModule

from cmtool.denoiser import Denoiser
from cmtool.formats.base import Pair, Run, Source, refuse
from cmtool.sampling import sample_consistency


class OneLevel(nn.Module):
    """A denoiser whose inputs have the names that files give them."""

    def __init__(self, model: Denoiser) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """Images plus noise (B, C, H, W), its level (B,) and classes (B,) to images, not
        clamped."""
        image: Tensor = self.model(x, sigma, label)
        return image


class Sampler(nn.Module):
    """A consistency model's sampler, one network evaluation for each noise level.

    Args:
        model: The consistency model.
        levels: Decreasing noise levels.
        dtype: Of all but the network: float64 is how `cmtool sample` draws.
    """

    times: Tensor

    def __init__(self, model: Denoiser, levels: Sequence[float], dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        times = model.schedule.from_sigma(torch.tensor(levels, dtype=torch.float64))
        self.register_buffer("times", times.to(dtype), persistent=False)

    def forward(self, noise: Tensor, label: Tensor | None = None) -> Tensor:
        """Standard normal noise (B, levels, C, H, W), that of the start first, and classes (B,) to
        images (B, C, H, W) in [-1, 1]."""
        draws = iter(noise.to(self.times.dtype).unbind(1))
        schedule = self.model.schedule
        x = schedule(self.times[0]).sigma * next(draws)
        denoise = self.model.bind(label, clamp=True)
        return sample_consistency(denoise, schedule, x, self.times, rng=_Given(draws)).float()


class _Given:
    """A random stream that hands out what it is given."""

    def __init__(self, draws: Iterator[Tensor]) -> None:
        self._draws = draws

    def randn(self, shape: Sequence[int]) -> Tensor:
        return next(self._draws)


def check(name: str, source: Source) -> None:
    """Refuses what no program can be made of.

    Raises:
        CheckpointError: Names it.
    """
    if source.times and source.denoiser.kind != "consistency":
        why = "its solver is not a part of it"
        raise refuse(name, "a sampler of a diffusion model", why, "drop --steps and --times")


def names(source: Source) -> list[str]:
    """Names of the program's inputs."""
    inputs = ["noise"] if source.times else ["x", "sigma"]
    return [*inputs, "label"] if source.denoiser.num_classes else inputs


def program(source: Source) -> ExportedProgram:
    """The denoiser, (x (B, C, H, W), sigma (B,), label (B,) int64) -> (B, C, H, W), or, with noise
    levels, the sampler, (noise (B, levels, C, H, W), label) -> (B, C, H, W); float32, and without
    `label` for a model that knows no classes."""
    model = source.denoiser
    shape = model.image_shape
    if source.times:
        made: nn.Module = Sampler(model, source.times, torch.float32)
        inputs = [torch.randn(2, len(source.times), *shape)]
    else:
        made = OneLevel(model)
        inputs = [torch.randn(2, *shape), torch.ones(2)]
    if model.num_classes:
        inputs.append(torch.zeros(2, dtype=torch.int64))
    batch = tuple({0: Dim.DYNAMIC} for _ in inputs)
    made.eval()
    with torch.no_grad():
        made(*inputs)  # What is computed once and kept must be numbers, not symbols of the export.
        exported = export(made, tuple(inputs), dynamic_shapes=batch)
    for part in exported.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, GraphModule) else ():
            node.meta.pop("stack_trace", None)  # Files would name the folders of this machine.
    return exported


def pair(name: str, source: Source, run: Run) -> Pair:
    """What a program in its runtime is compared with: the model, or `cmtool sample`'s sampler.

    Args:
        name: The runtime.
        source: What was exported.
        run: The inputs that `names` lists to the output.
    """

    def given(*inputs: Tensor | None) -> Tensor:
        return run(*(value for value in inputs if value is not None))

    if not source.times:
        return Pair(name, source.denoiser, given)
    ours = Sampler(source.denoiser, source.times, torch.float64)
    return Pair(
        name,
        lambda noise, label: ours(noise.transpose(0, 1), label),
        lambda noise, label: given(noise.transpose(0, 1), label),
        draws=len(source.times),
        tolerance=1e-4,
    )


def inputs(source: Source) -> str:
    """Markdown: what the inputs and the output are."""
    shape = ", ".join(map(str, source.denoiser.image_shape))
    if source.times:
        levels = ", ".join(f"{level:.6g}" for level in source.times)
        told = [
            f"`noise` (B, {len(source.times)}, {shape}) float32: standard normal, for the noise "
            f"levels {levels} in turn"
        ]
    else:
        low, high = source.levels
        told = [
            f"`x` (B, {shape}) float32: images in [-1, 1] plus noise of standard deviation sigma",
            f"`sigma` (B,) float32: {low:g} .. {high:g}",
        ]
    if source.denoiser.num_classes:
        last = source.denoiser.num_classes - 1
        none = ", or -1 for none" if source.denoiser.null_class else ""
        told.append(f"`label` (B,) int64: class 0 .. {last}{none}")
    out = "in [-1, 1]" if source.times else "nominally in [-1, 1], not clamped"
    told.append(f"result (B, {shape}) float32: images {out}")
    guidable = source.denoiser.guidable
    if guidable is not None and guidable.as_input:
        told.append("guidance: the program answers for weight 1, that is without")
    return "\n".join(f"- {line}" for line in told)
