"""What the readers of published U-Nets share: a table of weight names for both directions."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from cmtool.errors import CheckpointError, foreign_name
from cmtool.networks.base import Network


def skeleton(spec: Network, image_size: int, channels: int, num_classes: int) -> dict[str, Tensor]:
    """The state dict of a network, with shapes and types but no numbers and no memory."""
    with torch.device("meta"):
        return spec.build(image_size, channels, num_classes).state_dict()


def key_table(
    keys: Iterable[str],
    modules: Mapping[str, str],
    leaves: Mapping[str, str],
    parameters: Mapping[str, str],
) -> dict[str, str]:
    """Translates our weight names.

    Args:
        keys: Our names.
        modules: Paths of modules, ours to theirs; the longest that fits a name counts.
        leaves: What follows such a path, ours to theirs.
        parameters: Last parts of names, ours to theirs, where they differ.

    Returns:
        Our names to theirs, in the order of `keys`.
    """
    table = {}
    for key in keys:
        path, _, parameter = key.rpartition(".")
        prefix = path
        while prefix not in modules:
            prefix = prefix.rpartition(".")[0]
            if not prefix:
                raise KeyError(key)
        rest = path[len(prefix) + 1 :]
        parts = [modules[prefix]] + ([leaves[rest]] if rest else [])
        table[key] = ".".join([*parts, parameters.get(parameter, parameter)])
    return table


def check_names(state: Iterable[str], expected: Iterable[str]) -> None:
    """Compares the names of weights with what a network needs.

    Raises:
        CheckpointError: Some are missing or unexpected; the hint lists them.
    """
    have, need = set(state), set(expected)
    missing, unexpected = sorted(need - have), sorted(have - need)
    if missing or unexpected:
        raise CheckpointError(
            f"{len(missing)} missing and {len(unexpected)} unexpected weights",
            hint=_list("missing", missing) + _list("unexpected", unexpected),
        )


def check_shapes(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Compares the shapes of weights under our names.

    Raises:
        CheckpointError: One differs.
    """
    for name, tensor in expected.items():
        if state[name].shape != tensor.shape:
            raise CheckpointError(
                f"weight '{name}' has shape {tuple(state[name].shape)}, "
                f"the network needs {tuple(tensor.shape)}"
            )


def _list(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{what}: {', '.join(map(foreign_name, names[:5]))}{more}\n"
