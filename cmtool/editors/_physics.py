"""Linear inverse problems: edits from a measurement operator A and its adjoint.

Operators come from the physics of deepinv, the optional extra `inverse`; the solver is ours.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cmtool.editors.base import Edit, Map, clamp
from cmtool.errors import CmtoolError, DataError
from cmtool.tensors import expand

ITERATIONS = 300
"""Of the conjugate gradients, at most."""

ROUNDS = 30
"""Of alternating projections before saving, at most."""

SETTLED = 1e-3
"""What a measurement may miss when saved, at least; rounding to 8 bits costs several times that."""


class Solution(NamedTuple):
    """What conjugate gradients found: (B, *), and for each image, (B,), how much of the measurement
    is missed, ||A A^T w - r||, and whether that is within the tolerance."""

    w: Tensor
    missed: Tensor
    converged: Tensor


def library() -> Any:
    """deepinv's physics.

    Raises:
        CmtoolError: deepinv is not installed.
    """
    try:
        from deepinv import physics
    except ImportError as error:
        raise CmtoolError(
            f"this editor's operator comes from deepinv, which cannot be imported: {error}",
            "pip install 'cmtool[inverse]'",
        ) from error
    return physics


def conjugate_gradients(
    normal: Map, r: Tensor, limit: Tensor, *, damping: float = 0.0, iterations: int = ITERATIONS
) -> Solution:
    """Solves (A A^T + d^2 I) w = r until ||A A^T w - r|| <= limit, each image by itself.

    An image stops by its own residual, so its answer is the same in every batch. With d > 0 the
    limit may be out of reach; then it stops where the equation holds to rounding.

    Source:
        Hestenes and Stiefel 1952, "Methods of conjugate gradients for solving linear systems".

    Args:
        normal: A A^T, (B, *) -> (B, *).
        r: (B, *) the right-hand side.
        limit: (B,) norms.
        damping: d.
        iterations: The most that are made; each costs one call of `normal`.
    """
    floor = 100 * torch.finfo(r.dtype).eps * _norm(r)
    w, residual, direction = torch.zeros_like(r), r, r
    energy = _dot(r, r)
    for made in range(iterations + 1):
        missed = _norm(residual + damping**2 * w)
        active = (missed > limit) & (energy.sqrt() > floor)
        if made == iterations or not active.any():
            break
        image = normal(direction) + damping**2 * direction
        step = torch.where(active, energy / _dot(direction, image), 0)
        w = w + expand(step, r) * direction
        residual = residual - expand(step, r) * image
        after = _dot(residual, residual)
        turned = residual + expand(torch.where(active, after / energy, 0), r) * direction
        direction = torch.where(expand(active, r), turned, direction)
        energy = torch.where(active, after, energy)
    return Solution(w, missed, missed <= limit.clamp(min=floor))


def exact_edit(measure: Map, adjoint: Map, reference: Tensor) -> Edit:
    """The edit of a picture measured by an A whose A A^T leaves every A x as it is."""
    y = measure(reference)

    def project(x: Tensor) -> Tensor:
        return x + adjoint(y - measure(x))

    def settle(x: Tensor) -> Tensor:
        return alternate(project, measure, y, x, SETTLED)

    return Edit(shown=adjoint(y), measure=measure, y=y, project=project, settle=settle)


def iterative_edit(
    measure: Map, adjoint: Map, y: Tensor, shown: Tensor, *, tol: float, damping: float = 0.0
) -> Edit:
    """The edit whose projection is x + A^T w, (A A^T + d^2 I) w = y - A x, solved until
    ||A P x - y|| <= tol ||y||. `Edit.error` of a result says whether that was reached."""
    limit = tol * _norm(y)

    def project(x: Tensor) -> Tensor:
        solution = conjugate_gradients(
            lambda w: measure(adjoint(w)), y - measure(x), limit, damping=damping
        )
        return x + adjoint(solution.w)

    def settle(x: Tensor) -> Tensor:
        return alternate(project, measure, y, x, max(tol, SETTLED))

    return Edit(shown=shown, measure=measure, y=y, project=project, settle=settle, tol=tol)


def alternate(project: Map, measure: Map, y: Tensor, x: Tensor, tol: float) -> Tensor:
    """Goes to and fro between the measurement and [-1, 1] until an image in [-1, 1] misses no more
    than tol ||y||; at most `ROUNDS` times.

    Source:
        Cheney and Goldstein 1959, "Proximity maps for convex sets".
    """
    x = clamp(x)
    for _ in range(ROUNDS):
        off = _norm(measure(x) - y) > tol * _norm(y)
        if not off.any():
            break
        x = torch.where(expand(off, x), clamp(project(x)), x)
    return x


def from_physics(
    physics: Any, y: Tensor, size: tuple[int, int, int], *, tol: float = 1e-3, damping: float = 0.0
) -> Edit:
    """An edit for any linear physics of deepinv, ready for `run_edit`.

        physics = deepinv.physics.Downsampling(filter="bicubic", factor=2, img_size=(3, 32, 32))
        edit = cmtool.from_physics(physics, physics.A(image), (3, 32, 32))

    The physics computes in its own dtype, which must be y's. Of a physics A and A_adjoint are used,
    its noise model and its solvers are not.

    Args:
        physics: A `deepinv.physics.LinearPhysics`, or anything with `A` and `A_adjoint`.
        y: (B, *) the measurement.
        size: (C, H, W) of the pictures.
        tol: ||A P x - y|| <= tol ||y||; a float32 physics reaches about 1e-5.
        damping: d, the standard deviation of the noise in y that is not to be fitted.

    Raises:
        DataError: The physics is not linear, or its adjoint is not one.
    """

    def measure(x: Tensor) -> Tensor:
        measured: Tensor = physics.A(x.to(y))
        return measured.to(x.dtype)

    def adjoint(w: Tensor) -> Tensor:
        image: Tensor = physics.A_adjoint(w.to(y))
        return image.to(w.dtype)

    with torch.no_grad():
        _check(measure, adjoint, y.new_zeros(len(y), *size), y)
        back = adjoint(y)
        seen = measure(back)
        scale = _dot(seen, y) / _dot(seen, seen).clamp(min=torch.finfo(y.dtype).tiny)
        shown = expand(scale, back) * back
    return iterative_edit(measure, adjoint, y, shown, tol=tol, damping=damping)


def _check(measure: Map, adjoint: Map, like: Tensor, y: Tensor) -> None:
    """<A x, w> = <x, A^T w> for random x and w, and A (2 x - z) = 2 A x - A z."""
    generator = torch.Generator().manual_seed(0)

    def draw(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)

    x, z, w = draw(like), draw(like), draw(y)
    of_x, of_z = measure(x), measure(z)
    if of_x.shape != y.shape:
        raise DataError(
            f"the physics makes {tuple(of_x.shape)} of a picture {tuple(x.shape)}, and the "
            f"measurement is {tuple(y.shape)}",
            "give the size (C, H, W) of the picture that was measured",
        )
    small = 1e4 * torch.finfo(y.dtype).eps
    bent = _norm(measure(2 * x - z) - 2 * of_x + of_z) / (_norm(of_x) + _norm(of_z))
    if bent.max() > small:
        raise DataError(f"the physics is not linear: A(2x - z) is off by {bent.max():.1g}")
    back = adjoint(w)
    gap = (_dot(of_x, w) - _dot(x, back)).abs() / (_norm(of_x) * _norm(w))
    if gap.max() > small:
        raise DataError(
            f"the physics' A_adjoint is not the adjoint of its A: they differ by {gap.max():.1g}",
            "Tomography has adjoint_via_backprop=True; else wrap deepinv's adjoint_function",
        )


def one_by_one(operator: Map) -> Map:
    """Applied to each image by itself: how a fast Fourier transform rounds depends on the batch,
    and an ill-conditioned problem enlarges that."""
    return lambda x: torch.cat([operator(one) for one in torch.split(x, 1)])


def _dot(a: Tensor, b: Tensor) -> Tensor:
    # A sum for each image, for the reason of `one_by_one`.
    return torch.stack([product.sum() for product in a * b])


def _norm(a: Tensor) -> Tensor:
    return _dot(a, a).sqrt()
