"""NVIDIA's EDM and EDM2 files, and ECT's, which have the same form: pickles of a module.

Their modules are named by resolution, the three projections of attention are interleaved (head, d,
q k v) where ours are in blocks (q k v, head, d), and ADM's classes are a matrix on one-hot vectors.
Not here: the names of EDM2's network (`edm2.py`).
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cmtool.denoiser import Kind
from cmtool.errors import CheckpointError, Say, foreign_name
from cmtool.foreign import edm2
from cmtool.foreign._keymap import check_names, check_shapes, key_table, skeleton
from cmtool.foreign._persistence import Module, module, tensors
from cmtool.foreign.base import Published, numbered
from cmtool.foreign.torch_file import HINT, TorchFile
from cmtool.networks.adm import Adm
from cmtool.networks.ddpmpp import Ddpmpp
from cmtool.networks.edm2 import Edm2
from cmtool.networks.ncsnpp import Ncsnpp
from cmtool.schedules.karras import Karras
from cmtool.settings import DenoiserSettings

Spec = Adm | Ddpmpp | Ncsnpp

_LEAVES = {
    "norm1": "norm0",
    "conv1": "conv0",
    "resample": "conv0",
    "affine": "affine",
    "norm2": "norm1",
    "conv2": "conv1",
    "skip": "skip",
    "attention.norm": "norm2",
    "attention.qkv": "qkv",
    "attention.proj": "proj",
}
_PARAMETERS = {"filter": "resample_filter", "frequencies": "freqs"}
# Where a published module is, by what else the file holds.
_ROOTS = ("ema", "net")
_SONG: dict[tuple[str, str, int, tuple[int, ...]], type[Ddpmpp | Ncsnpp]] = {
    ("positional", "standard", 1, (1, 1)): Ddpmpp,
    ("fourier", "residual", 2, (1, 3, 3, 1)): Ncsnpp,
}
_NETWORKS: dict[str, tuple[str, ...]] = {
    "DhariwalUNet": (
        *("img_resolution", "in_channels", "out_channels", "label_dim", "augment_dim"),
        *("model_channels", "channel_mult", "channel_mult_emb", "num_blocks", "attn_resolutions"),
        *("dropout", "label_dropout"),
    ),
}
_NETWORKS["SongUNet"] = (
    *_NETWORKS["DhariwalUNet"],
    *("embedding_type", "channel_mult_noise", "encoder_type", "decoder_type", "resample_filter"),
)
"""Networks and the arguments that they are made with."""
# ECT's networks are trained without a boundary and used with this one.
_ECT_BOUNDARY = 0.003


def is_nvidia(file: TorchFile) -> bool:
    """Whether a file holds a module as NVIDIA's code pickles them."""
    return _root(file) is not None


def read(file: TorchFile, facts: Mapping[str, Any], say: Say) -> Published:
    """Reads a file for which `is_nvidia` holds.

    Args:
        file: An `ema` of EDM, EDM2 or ECT, or the `net` of a training state.
        facts: What the user knows better: precond, sigma_min, sigma_max.
        say: Is told what is assumed, and what a network is known to be bad at.

    Raises:
        CheckpointError: It is not such a network, or holds other weights than it tells.
    """
    root = _root(file)
    if root is None:
        raise CheckpointError(f"'{file.path}' holds no module of NVIDIA's")
    if isinstance(file.content, dict) and file.content.get("ema") is None:
        say(f"{file.path.name} is a training state: its weights are the last ones, not an average")
    try:
        return _read(file, root, facts, say)
    except CheckpointError as error:
        if str(file.path) in error.message:
            raise
        raise CheckpointError(f"'{file.path}': {error.message}", error.hint or HINT) from None
    except ValueError as error:  # A description that no network has.
        raise CheckpointError(f"'{file.path}': {error}", HINT) from None


def _read(file: TorchFile, root: Module, facts: Mapping[str, Any], say: Say) -> Published:
    _refuse_latents(file, root)
    size = root.whole("img_resolution", 1, 4096)
    channels = root.whole("img_channels", 1, 16)
    if channels not in (1, 3):
        raise CheckpointError(
            f"a model of {channels} channels: only models of pixels are supported"
        )
    num_classes = root.whole("label_dim", 0, 10**6)
    settings, low, high = _preconditioning(root, facts, say)
    try:
        schedule = Karras(low, high)
    except ValueError as error:
        if not facts:
            raise
        raise CheckpointError(f"--as: {error}", "--as sigma_min=0.002, for example") from None
    found = file.state(tensors(root))
    if found is None:
        raise CheckpointError("it has a parameter that is no tensor")
    kind: Kind = "consistency" if settings.precond == "consistency" else "diffusion"
    network: Spec | Edm2
    label_dropout = 0.0
    if root.kind == "Precond":
        network = _edm2(root.child("unet"), size, channels, num_classes)
        say("EDM2's Fourier features of the noise level are known to train badly as a student")
        if "precond" not in facts and not any(name.startswith("logvar_") for name in found):
            say(
                "no log-variance head: assuming ECT's, a consistency model without a boundary "
                "(--as precond=edm for a diffusion model)"
            )
            kind = "consistency"
        state = edm2.to_ours(found, network, size, channels, num_classes)
    else:
        network = _network(root.child("model"))
        label_dropout = root.child("model").number("label_dropout", 0, 1, 0.0)
        state = to_ours(found, network, size, channels, num_classes)
    return Published(
        network=network,
        state=state,
        denoiser=settings,
        schedule=schedule,
        kind=kind,
        image_shape=(channels, size, size),
        classes=numbered(num_classes),
        origin={"file": file.path.name, "layout": f"nvidia {root.kind}"},
        label_dropout=label_dropout,
    )


def _root(file: TorchFile) -> Module | None:
    content = file.content
    if isinstance(content, dict):
        content = next((content[name] for name in _ROOTS if content.get(name) is not None), None)
    return module(content)


def _refuse_latents(file: TorchFile, root: Module) -> None:
    """EDM2's models of 512x512 pixels denoise what an autoencoder of another tool gives."""
    holder = file.content if isinstance(file.content, dict) else {}
    encoder = module(holder.get("encoder"))
    if encoder is not None and encoder.kind != "StandardRGBEncoder":
        raise CheckpointError(
            f"a model of latents, made by '{encoder.kind}': only models of pixels are supported",
            "use a model of pixels, such as edm2-img64-*.pkl",
        )


def _preconditioning(
    root: Module, facts: Mapping[str, Any], say: Say
) -> tuple[DenoiserSettings, float, float]:
    """Settings, and the range of noise levels: what EDM's sampler would take."""
    other = set(facts) - {"precond", "sigma_min", "sigma_max"}
    if other:
        raise CheckpointError(
            f"it knows its own configuration; --as {', '.join(sorted(other))} would contradict it",
            f"drop --as {sorted(other)[0]}",
        )
    low = max(0.002, root.number("sigma_min", 0, 1e9, 0.0))
    high = min(80.0, root.number("sigma_max", 0, math.inf, math.inf))
    form: dict[str, Any] = {}
    if root.kind in ("EDMPrecond", "Precond", "ECMPrecond"):
        form = {"sigma_data": root.number("sigma_data", 1e-6, 1e6, 0.5)}
    elif root.kind == "VPPrecond":
        _require(root, beta_d=19.9, beta_min=0.1, M=1000)
        form = {"scalings": "vp"}
    elif root.kind == "VEPrecond":
        form = {"scalings": "ve"}
    elif root.kind == "iDDPMPrecond":
        _require(root, C_1=0.001, C_2=0.008)
        steps = root.whole("M", 2, 10**5, 1000)
        form = {"scalings": "ddpm", "betas": "cosine", "timesteps": steps}
    else:
        raise CheckpointError(
            f"an unknown preconditioner '{root.kind}'",
            "known are EDMPrecond, VPPrecond, VEPrecond, iDDPMPrecond, ECMPrecond and Precond",
        )
    precond = "edm"
    if root.kind == "ECMPrecond":
        precond = "consistency"
        if low <= 0.002 and "sigma_min" not in facts:
            low = _ECT_BOUNDARY
            say(f"assuming ECT's boundary at sigma_min={low} (--as sigma_min=... to change)")
    low, high = facts.get("sigma_min", low), facts.get("sigma_max", high)
    precond = facts.get("precond", precond)
    return DenoiserSettings(precond=precond, boundary=low, **form), low, high


def _require(root: Module, **usual: float) -> None:
    for name, value in usual.items():
        found = root.number(name, 0, 1e9, value)
        if found != value:
            raise CheckpointError(f"'{root.kind}' with {name}={found}, known is {value}")


def _network(root: Module) -> Spec:
    """The network that a module of EDM's is."""
    if root.kind not in _NETWORKS:
        raise CheckpointError(
            f"an unknown network '{root.kind}'", "known are SongUNet and DhariwalUNet"
        )
    if other := [name for name in root.arguments if name not in _NETWORKS[root.kind]]:
        raise CheckpointError(f"a {root.kind} with unknown arguments: {foreign_name(str(other))}")
    if root.fields.get("_init_args", ()) not in ((), []):
        raise CheckpointError(f"a {root.kind} with arguments that have no names")
    song = root.kind == "SongUNet"
    fields: dict[str, Any] = {
        "channels": root.whole("model_channels", 1, 8192, 128 if song else 192),
        "channel_mult": root.wholes("channel_mult", 1, 64, (1, 2, 2, 2) if song else (1, 2, 3, 4)),
        "blocks": root.whole("num_blocks", 1, 32, 4 if song else 3),
        "attention": root.wholes("attn_resolutions", 1, 4096, (16,) if song else (32, 16, 8)),
        "augment_dim": root.whole("augment_dim", 0, 1000, 0),
    }
    if root.whole("channel_mult_emb", 1, 64, 4) != 4:
        raise CheckpointError(f"'{root.kind}' with an embedding of another width")
    if not song:
        return Adm(**fields, flavor="edm")
    form = (
        root.arguments.get("embedding_type", "positional"),
        root.arguments.get("encoder_type", "standard"),
        root.whole("channel_mult_noise", 1, 64, 1),
        root.wholes("resample_filter", 1, 64, (1, 1)),
    )
    decoder = root.arguments.get("decoder_type", "standard")
    if not all(isinstance(word, str) for word in (*form[:2], decoder)):
        raise CheckpointError("'SongUNet' with an unknown form")
    if form not in _SONG or decoder != "standard":
        raise CheckpointError(
            f"a SongUNet that is neither DDPM++ nor NCSN++: {form[0][:50]} embedding, "
            f"{form[1][:50]} encoder, {decoder[:50]} decoder, filter {form[3]}"
        )
    return _SONG[form](**fields)


def _edm2(root: Module, size: int, channels: int, num_classes: int) -> Edm2:
    """The network that a module of EDM2's is."""
    root.whole("model_channels", 1, 8192, 192)
    root.whole("num_blocks", 1, 32, 3)
    root.whole("channels_per_head", 1, 8192, 64)
    root.wholes("channel_mult", 1, 64, (1, 2, 3, 4))
    root.wholes("attn_resolutions", 1, 4096, (16, 8))
    geometry = {"img_resolution": size, "img_channels": channels, "label_dim": num_classes}
    network, *told = edm2.infer({**geometry, **root.plain_arguments()})
    if told != list(geometry.values()):
        raise CheckpointError(f"'{root.kind}' is made for {told}, its preconditioner otherwise")
    return network


def key_map(spec: Spec, image_size: int, channels: int, num_classes: int) -> dict[str, str]:
    """Our weight names to NVIDIA's, one to one."""
    keys = skeleton(spec, image_size, channels, num_classes)
    return key_table(keys, _modules(spec, image_size), _LEAVES, _PARAMETERS)


def to_ours(
    state: Mapping[str, Tensor], spec: Spec, image_size: int, channels: int, num_classes: int
) -> dict[str, Tensor]:
    """Renames NVIDIA's weights and brings them into our layout, in float32.

    What a network with another preconditioning has beside it is left out: noise levels (`u`), the
    second half of iDDPM's outputs (its variances), and constant filters that we hold once or
    compute.

    Raises:
        CheckpointError: Names or shapes are not those of `spec`.
    """
    table = key_map(spec, image_size, channels, num_classes)
    needed = set(table.values())
    check_names((k for k in state if k in needed or not _constant(k)), needed)
    found = {ours: state[theirs].float() for ours, theirs in table.items()}
    for name in ("out_conv.weight", "out_conv.bias"):
        found[name] = found[name][:channels]
    expected = skeleton(spec, image_size, channels, num_classes)
    check_shapes(found, {name: _back(name, t, spec) for name, t in expected.items()})
    return {name: _convert(name, t, spec) for name, t in found.items()}


def to_theirs(
    state: Mapping[str, Tensor], spec: Spec, image_size: int, channels: int, num_classes: int
) -> dict[str, Tensor]:
    """Renames our weights and brings them into NVIDIA's layout, without their constant filters.

    Raises:
        CheckpointError: Names are not those of `spec`.
    """
    table = key_map(spec, image_size, channels, num_classes)
    check_names(state, table)
    return {
        theirs: _back(ours, state[ours], spec)
        for ours, theirs in table.items()
        if not _constant(theirs)
    }


def _constant(name: str) -> bool:
    return name == "u" or name.endswith("resample_filter")


def _convert(name: str, tensor: Tensor, spec: Spec) -> Tensor:
    """One tensor of theirs, given its name here, in our layout."""
    if ".attention.qkv." in name:
        heads = _heads(spec, tensor)
        blocks = tensor.reshape(heads, -1, 3, *tensor.shape[1:])
        return blocks.movedim(2, 0).reshape(tensor.shape)
    if name.endswith(".filter"):
        return tensor[0, 0]
    if name == "embedding.label.weight" and isinstance(spec, Adm):
        return tensor.T.contiguous()
    return tensor


def _back(name: str, tensor: Tensor, spec: Spec) -> Tensor:
    """One tensor of ours in their layout."""
    if ".attention.qkv." in name:
        heads = _heads(spec, tensor)
        blocks = tensor.reshape(3, heads, -1, *tensor.shape[1:])
        return blocks.movedim(0, 2).reshape(tensor.shape)
    if name.endswith(".filter"):
        return tensor[None, None]
    if name == "embedding.label.weight" and isinstance(spec, Adm):
        return tensor.T.contiguous()
    return tensor


def _heads(spec: Spec, qkv: Tensor) -> int:
    return spec.heads(qkv.shape[0] // 3) if isinstance(spec, Adm) else 1


def _modules(spec: Spec, image_size: int) -> dict[str, str]:
    """Paths of our modules to NVIDIA's."""
    sizes = [
        f"{image_size >> level}x{image_size >> level}" for level in range(len(spec.channel_mult))
    ]
    out = "model.out" if isinstance(spec, Adm) else f"model.dec.{sizes[0]}_aux"
    names = {
        "embedding": "model.map_noise",
        "embedding.linear1": "model.map_layer0",
        "embedding.linear2": "model.map_layer1",
        "embedding.label": "model.map_label",
        "embedding.augment": "model.map_augment",
        "stem": f"model.enc.{sizes[0]}_conv",
        "middle.0": f"model.dec.{sizes[-1]}_in0",
        "middle.1": f"model.dec.{sizes[-1]}_in1",
        "out_norm": f"{out}_norm",
        "out_conv": f"{out}_conv",
    }
    for level, size in enumerate(sizes):
        names[f"encoder.{level}.down"] = f"model.enc.{size}_down"
        names[f"encoder.{level}.side.conv"] = f"model.enc.{size}_aux_residual"
        names[f"encoder.{level}.side.resample"] = f"model.enc.{size}_aux_residual"
        names[f"decoder.{level}.up"] = f"model.dec.{size}_up"
        for block in range(spec.blocks + 1):
            names[f"encoder.{level}.blocks.{block}"] = f"model.enc.{size}_block{block}"
            names[f"decoder.{level}.blocks.{block}"] = f"model.dec.{size}_block{block}"
    return names
