"""What a student starts from: another model's weights, and what these ask of its recipe."""

from collections.abc import Collection
from dataclasses import fields, replace
from typing import Any, cast

from cmtool import registry
from cmtool.denoiser import Denoiser
from cmtool.errors import CheckpointError, RecipeError, Say
from cmtool.networks.base import Network, shapes_only
from cmtool.recipe import DenoiserSettings, Recipe
from cmtool.workflows.load import Model

_SCALINGS = [f.name for f in fields(DenoiserSettings) if f.name not in ("precond", "boundary")]


def same_weights(network: Network | None, theirs: Network | None) -> bool:
    """Whether two networks differ at most in what holds no weight, or none that `theirs` has."""
    if type(network) is not type(theirs):
        return False
    free = ["dropout"] if hasattr(theirs, "dropout") else []
    free += ["guidance_input"] if getattr(network, "guidance_input", False) else []
    alike = replace(cast(Any, network), **{key: getattr(theirs, key) for key in free})
    return bool(alike == theirs)


def follow(
    init: Model, recipe: Recipe, overridden: Collection[str], *, distilled: bool, say: Say
) -> Recipe:
    """The recipe with the network of the model to start from and the scalings in which its weights
    were trained: they mean nothing in others.

    Args:
        init: The model to start from.
        recipe: The student's.
        overridden: The keys that the command sets, which stay.
        distilled: The student has its teacher's scalings.
        say: Is told what is not the recipe's.

    Raises:
        RecipeError: The command, or the teacher, wants others.
    """
    keys = {key.partition(".")[2] for key in overridden if key.startswith("network.")}
    network = _network(init.recipe.network, recipe.network, keys)
    theirs, ours = init.recipe.denoiser, recipe.denoiser
    differ = {k: getattr(theirs, k) for k in _SCALINGS if getattr(theirs, k) != getattr(ours, k)}
    wrong = {f"denoiser.{k}": v for k, v in differ.items()}
    if not distilled:
        wrong = {key: value for key, value in wrong.items() if key in overridden}
    wrong |= _wrong_network(init.recipe.network, network, keys)
    if wrong:
        words = ", ".join(f"{key} = {value}" for key, value in wrong.items())
        other = "network.name" in wrong
        typed = {
            key for key in overridden if key in wrong or (other and key.startswith("network."))
        }
        drop = " ".join(f"--set {key}" for key in sorted(typed))
        raise RecipeError(
            f"{init.source} was trained with {words}",
            f"drop {drop}" if drop else "another --init: the teacher has other scalings",
        )
    if network != recipe.network:
        say(f"note: [network] is that of {init.source}, not the recipe's")
    if differ:
        words = ", ".join(f"denoiser.{key} = {value}" for key, value in differ.items())
        say(f"note: {words}, as {init.source} has it")
    return replace(recipe, network=network, denoiser=replace(ours, **differ))


def _network(theirs: Any, ours: Any, typed: Collection[str]) -> Any:
    """The network of the model to start from, with the keys that the command sets; the recipe's if
    the same weights serve it."""
    keys = [key for key in typed if key != "name"]
    other = len(keys) < len(typed) and type(ours) is not type(theirs)
    if other or same_weights(ours, theirs) or not all(hasattr(theirs, key) for key in keys):
        return ours
    kept = {key: getattr(ours, key) for key in keys}
    if getattr(ours, "guidance_input", False) and hasattr(theirs, "guidance_input"):
        kept["guidance_input"] = True
    return replace(theirs, **kept)


def _wrong_network(theirs: Any, network: Any, typed: Collection[str]) -> dict[str, object]:
    """Keys that the command sets to what the weights do not serve, with the weights' own values."""
    if same_weights(network, theirs):
        return {}
    if type(network) is not type(theirs):
        return {"network.name": registry.name_of("networks", type(theirs))}
    keys = sorted(key for key in typed if key not in ("name", "dropout"))
    differ = [key for key in keys if getattr(network, key) != getattr(theirs, key)]
    return {f"network.{key}": getattr(theirs, key) for key in differ}


def copy_weights(source: Model, student: Denoiser, say: Say) -> None:
    """Starts a student from another model of the same network; an input for guidance, which does
    nothing at first, may be new, and so may the classes.

    Raises:
        CheckpointError: Their images have other channels.
    """
    channels, size, _ = source.denoiser.image_shape
    if channels != student.image_shape[0]:
        raise CheckpointError(
            f"{source.source} makes images of {channels} channel(s), the data have "
            f"{student.image_shape[0]}",
            "another --init, or none",
        )
    given, wanted = source.denoiser.network.state_dict(), student.network.state_dict()
    if source.denoiser.num_classes != student.num_classes:
        say(f"note: what {source.source} knows of its own classes is left out")
        with shapes_only():
            free = cast(Any, source.recipe.network).build(size, channels, 0).state_dict()
        given = {key: value for key, value in given.items() if key in free}
    student.network.load_state_dict(wanted | given)
