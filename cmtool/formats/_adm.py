"""What formats for ADM alone refuse, by name."""

from collections.abc import Iterable

from cmtool.denoiser import Denoiser
from cmtool.formats.base import Source, refuse
from cmtool.networks.adm import Adm
from cmtool.networks.base import Network
from cmtool.schedules.karras import Karras
from cmtool.settings import DenoiserSettings

FOREIGN = {
    "Tiny": "skip connections that add",
    "Ddpmpp": "residual sums scaled by sqrt(1/2)",
    "Ncsnpp": "Fourier features of the noise level and residual input path",
    "Edm2": "magnitude-preserving convolutions",
}
"""What networks other than ADM have that ADM has not."""


def adm(name: str, source: Source) -> Adm:
    """The network, if it is ADM without a layer that is cmtool's own.

    Raises:
        CheckpointError: It is not; names the layer or setting.
    """
    if source.denoiser.grid:
        count = len(source.denoiser.grid) - 1
        raise refuse(name, f"a model made for {count} noise levels of its own", "it knows no such")
    network = source.model.recipe.network
    if not isinstance(network, Adm):
        raise refuse(name, f"network '{_name(network)}'", f"its U-Net has no {_layer(network)}")
    own = (
        ("flavor", network.flavor, "edm", "groups and heads are counted in another way"),
        ("augment_dim", network.augment_dim > 0, True, "there is no layer 'embedding.augment'"),
        ("guidance_input", network.guidance_input, True, "there is no layer 'embedding.guidance'"),
        (
            "normalize_affine",
            network.normalize_affine,
            True,
            "the layers 'affine' are not normalised",
        ),
    )
    for key, value, unknown, why in own:
        if value == unknown:
            raise refuse(name, f"network.{key} = {getattr(network, key)!r}", why)
    return network


def settings(name: str, source: Source, wanted: Iterable[tuple[str, object, object]]) -> None:
    """Refuses settings by name: (key, the model's value, the only one that the format knows).

    Raises:
        CheckpointError: One differs.
    """
    for key, value, only in wanted:
        if value != only:
            raise refuse(name, f"{key} = {_told(value)}", f"it is {_told(only)} there")


def karras(name: str, source: Source) -> tuple[DenoiserSettings, Karras]:
    """How the network is wrapped, if times are noise levels.

    Raises:
        CheckpointError: The model's times are others.
    """
    schedule = source.denoiser.schedule
    if not isinstance(schedule, Karras):
        kind = type(schedule).__name__
        raise refuse(name, f"schedule '{kind}'", "its times are noise levels, Karras")
    return source.model.recipe.denoiser, schedule


def edm_form(name: str, source: Source, sigma_min: float) -> None:
    """Refuses all but the preconditioning of OpenAI's networks."""
    given = source.model.recipe.denoiser
    shifted = given.precond == "consistency"
    settings(
        name,
        source,
        [
            ("denoiser.scalings", given.scalings, "edm"),
            ("denoiser.noise_input", given.noise_input, "log"),
            ("denoiser.noise_scale", given.noise_scale, 250.0),
            ("denoiser.precond", given.precond, precond_of(source.denoiser)),
            ("denoiser.boundary", given.boundary if shifted else sigma_min, sigma_min),
        ],
    )


def precond_of(model: Denoiser) -> str:
    """The preconditioning that goes with a kind of model."""
    return "consistency" if model.kind == "consistency" else "edm"


def _told(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value)


def _name(network: Network | None) -> str:
    return type(network).__name__.lower()


def _layer(network: Network | None) -> str:
    return FOREIGN.get(type(network).__name__, "such layers")
