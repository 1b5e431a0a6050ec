"""How near edited pictures are to the clean ones: ours, what one would use without a model, and
deepinv's samplers with the same teacher.

    python benchmarks/editing.py --model runs/cifar10-cd --teacher runs/cifar10-teacher --images 200

Pictures are the first of CIFAR-10's test set. Prints a table in Markdown for each task: means of
PSNR (dB), SSIM and LPIPS, the measurement error of the saved pictures, and seconds a picture.
Needs scikit-image and deepinv (extra `inverse`); LPIPS needs its weights, see docs.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import deepinv
import numpy as np
import torch
from skimage import restoration
from torch import Tensor, nn

import cmtool
from cmtool import registry
from cmtool.data.catalog import open_data
from cmtool.denoiser import Denoiser
from cmtool.editors.base import Edit, Editor
from cmtool.images import from_uint8, to_uint8
from cmtool.metrics import similarity
from cmtool.rng import SeedRng
from cmtool.workflows._edit_job import Wish, make_job
from cmtool.workflows._edit_run import Job, run_job

SIGMA = 0.2
SMALL = 1e-3
"""Noise that DiffPIR is told of where there is none; at zero its steps are not defined."""
TASKS = {
    "inpaint": {},
    "colorize": {},
    "superres": {"factor": 4},
    "denoise": {"sigma": str(SIGMA)},
    "deblur": {"kernel": "gaussian:1"},
    "mri": {},
    "ct": {},
    "compressed": {},
}
PLAIN = {
    "inpaint": "biharmonic inpainting",
    "colorize": "grey repeated",
    "superres": "bicubic",
    "denoise": "non-local means",
    "deblur": "Richardson-Lucy, 30 rounds",
    "mri": "zeros for what is missing",
    "ct": "filtered back projection",
    "compressed": "transposed operator",
}


def each(function: Callable[[np.ndarray], np.ndarray], x: Tensor) -> Tensor:
    """A function of one picture, (H, W, C) in [0, 1], over a batch in [-1, 1]."""
    pictures = [(p.permute(1, 2, 0).double().numpy() + 1) / 2 for p in x]
    done = np.stack([function(p) for p in pictures])
    return torch.from_numpy(2 * done - 1).permute(0, 3, 1, 2)


@dataclass
class Task:
    """One editor on one batch."""

    name: str
    editor: Editor
    given: Tensor
    edit: Edit
    mask: Tensor

    @classmethod
    def of(cls, name: str, clean: Tensor) -> "Task":
        """The measurement is what a file holds: 8-bit, but for the editors that measure."""
        editor = registry.load("editors", name)(**TASKS[name])
        mask = torch.zeros(1, 1, *clean.shape[2:], dtype=clean.dtype)
        height, width = clean.shape[2:]
        mask[..., height // 4 : -height // 4, width // 4 : -width // 4] = 1
        pictures = {"mask": mask} if "mask" in editor.pictures else {}
        given = editor.degrade(clean, SeedRng(1, range(len(clean))), **pictures)
        if not editor.degrades:
            given = from_uint8(to_uint8(given)).to(clean)
        edit = editor.prepare(given, SeedRng(0, [0] * len(clean)), **pictures)
        return cls(name, editor, given, edit, mask)

    def ours(self, job: Job) -> Tensor:
        """What `cmtool edit` does."""
        pictures = {"mask": self.mask} if "mask" in self.editor.pictures else {}
        return run_job(job, self.given, pictures, SeedRng(0, [0] * len(self.given))).result

    def plain(self) -> Tensor:
        """What one would use instead."""
        if self.name == "inpaint":
            hole = self.mask[0, 0].numpy() > 0.5
            return each(
                lambda p: restoration.inpaint_biharmonic(p, hole, channel_axis=-1), self.given
            )
        if self.name == "superres":
            return nn.functional.interpolate(self.given, scale_factor=4, mode="bicubic")
        if self.name == "denoise":
            s = SIGMA / 2
            return each(
                lambda p: restoration.denoise_nl_means(
                    p, patch_size=5, patch_distance=6, h=0.8 * s, sigma=s, channel_axis=-1
                ),
                self.given,
            )
        if self.name == "deblur":
            kernel = np.exp(-np.square(np.arange(-3, 4)) / 2)
            kernel = np.outer(kernel, kernel)[..., None] / kernel.sum() ** 2
            wide = nn.functional.pad(self.given, (6, 6, 6, 6), mode="replicate")
            sharp = each(lambda p: restoration.richardson_lucy(p, kernel, num_iter=30), wide)
            return sharp[:, :, 6:-6, 6:-6]
        return self.edit.shown

    def physics(self) -> tuple[deepinv.physics.LinearPhysics, Tensor, float]:
        """The measurement for deepinv: operator, y of pictures in [-1, 1], noise."""
        measure, y = self.edit.measure, self.edit.y
        if measure is None or y is None:
            physics = deepinv.physics.LinearPhysics(A=lambda x, **_: x, A_adjoint=lambda x, **_: x)
            return physics, self.given, SIGMA

        def adjoint(w: Tensor, **_: object) -> Tensor:
            with torch.enable_grad():
                _, pull = torch.func.vjp(measure, torch.zeros_like(self.edit.shown))
                return pull(w.to(self.edit.shown))[0].to(w)

        def forward(x: Tensor, **_: object) -> Tensor:
            return measure(x.to(self.edit.shown)).to(x)

        return deepinv.physics.LinearPhysics(A=forward, A_adjoint=adjoint), y, 0.0

    def error(self, x: Tensor) -> float:
        """||A x - y|| / ||y||, the mean over pictures; not a number if nothing is measured."""
        found = self.edit.error(x.to(self.edit.shown))
        return float("nan") if found is None else float(found.mean())


class Teacher(nn.Module):
    """Our denoiser as deepinv's samplers call theirs; `half` for pictures in [0, 1]."""

    def __init__(self, model: Denoiser, half: bool) -> None:
        super().__init__()
        self.model, self.half = model, half

    def forward(self, x: Tensor, sigma: Tensor | float, *_: object, **__: object) -> Tensor:
        """Noisy pictures (B, C, H, W) and a noise level to pictures."""
        t = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).reshape(-1).expand(len(x))
        if not self.half:
            return self.model(x.float(), t).to(x)
        return (self.model(2 * x.float() - 1, 2 * t).to(x) + 1) / 2


def diffpir(task: Task, teacher: Denoiser, nfe: int) -> Tensor:
    """DiffPIR (Zhu et al. 2023) as in deepinv, whose pictures are in [0, 1]."""
    physics, y, sigma = task.physics()
    half = physics.A(torch.ones_like(task.edit.shown))  # A (x + 1) / 2 = (A x + A 1) / 2.
    sampler = deepinv.sampling.DiffPIR(
        Teacher(teacher, half=True),
        deepinv.optim.data_fidelity.L2(),
        sigma=sigma / 2 or SMALL,
        max_iter=nfe,
    )
    start = (task.edit.shown.float() + 1) / 2
    torch.manual_seed(0)
    return 2 * sampler(((y + half) / 2).float(), physics, x_init=start).detach() - 1


def dps(task: Task, teacher: Denoiser, nfe: int, weight: float) -> Tensor:
    """DPS (Chung et al. 2022) as in deepinv, on pictures in [-1, 1].

    Its default guidance, the residual's norm times 1, hardly follows the measurement in 100 steps.
    """
    physics, y, _ = task.physics()
    sampler = deepinv.sampling.DPS(
        Teacher(teacher, half=False),
        num_steps=nfe,
        weight=weight,
        guidance="annealed",
        minus_one_one=False,
    )
    return sampler(y.float(), physics, x_init=tuple(task.edit.shown.shape)).detach()


def figures(clean: Tensor, found: Tensor) -> list[float]:
    """PSNR, SSIM and LPIPS of saved pictures, means."""
    saved = from_uint8(to_uint8(found.float()))
    rows = []
    for a, b in zip(saved, clean.float(), strict=True):
        # A grey picture of CIFAR-10 "coloured" by grey is exact: it counts as 60 dB.
        psnr = min(similarity.psnr(a, b), 60.0)
        values = (psnr, similarity.ssim(a, b), similarity.lpips(a, b))
        rows.append([float("nan") if v is None else v for v in values])
    return np.mean(rows, 0).tolist()


def line(task: Task, clean: Tensor, method: str, run: Callable[[Task], Tensor]) -> None:
    """Runs a method and prints its row."""
    start = time.perf_counter()
    found = run(task).cpu()
    seconds = (time.perf_counter() - start) / len(found)
    psnr, ssim, lpips = figures(clean[: len(found)], found)
    error = task.error(from_uint8(to_uint8(found.float())))
    print(
        f"| {method} | {psnr:.2f} | {ssim:.3f} | {lpips:.3f} | {error:.1e} | {seconds:.3f} "
        f"| {len(found)} |",
        flush=True,
    )


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", help="a consistency model")
    parser.add_argument("--teacher", help="a diffusion model")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--dps-images", type=int, default=50)
    parser.add_argument("--dps-weight", type=float, default=10, help="of its guidance")
    parser.add_argument("--nfe", type=int, default=100, help="for DiffPIR and DPS")
    parser.add_argument("--steps", type=int, help="noise levels of ours; the default if left out")
    parser.add_argument("--inner-steps", type=int, help="the teacher's for each noise level")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--methods", default="plain,ours,teacher,diffpir,dps")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--bf16", action="store_true", help="networks in bfloat16, for every method"
    )
    o = parser.parse_args()
    with torch.autocast(o.device, torch.bfloat16, enabled=o.bf16):
        tables(o)


def tables(o: argparse.Namespace) -> None:
    """One for each task."""
    test = open_data("cifar10", split="test")
    clean = from_uint8(torch.from_numpy(test.images(np.arange(o.images)))).double()
    model, teacher = (
        None if path is None else cmtool.load(path, device=o.device)
        for path in (o.model, o.teacher)
    )
    for name in o.tasks.split(","):
        task, few = Task.of(name, clean), Task.of(name, clean[: o.dps_images])
        print(f"\n### {name} {TASKS[name] or ''}\n")
        print("| method | PSNR | SSIM | LPIPS | error | s/picture | pictures |")
        print("|---|---|---|---|---|---|---|")
        # A teacher's path for every level, and DPS's gradients, are dear: fewer pictures.
        methods: dict[str, tuple[Task, str, Callable[[Task], Tensor]]] = {
            "plain": (task, PLAIN[name], Task.plain)
        }
        if model is not None:
            job = make_job(model, task.editor, Wish(o.steps))
            methods["ours"] = (task, f"ours, {len(job.levels)} steps", partial(Task.ours, job=job))
        if teacher is not None:
            slow = make_job(teacher, task.editor, Wish(o.steps, inner_steps=o.inner_steps))
            methods |= {
                "teacher": (
                    few,
                    f"ours with the teacher, {len(slow.levels)} steps",
                    partial(Task.ours, job=slow),
                ),
                "diffpir": (task, f"DiffPIR, {o.nfe}", lambda t: diffpir(t, teacher, o.nfe)),
                "dps": (few, f"DPS, {o.nfe}", lambda t: dps(t, teacher, o.nfe, o.dps_weight)),
            }
        for wanted in o.methods.split(","):
            if wanted in methods:
                on, label, run = methods[wanted]
                line(on, clean, label, run)


if __name__ == "__main__":
    main()
