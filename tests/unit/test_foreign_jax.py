"""The JAX code's CIFAR-10 checkpoints, on trees made from our own network: no published file has
been read."""

import base64
from itertools import pairwise
from pathlib import Path

import flax_file
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import cmtool
from cmtool.denoiser import Denoiser
from cmtool.errors import CheckpointError, silent
from cmtool.foreign import jax
from cmtool.foreign._keymap import skeleton
from cmtool.foreign._msgpack import Array, joined, unpack
from cmtool.networks.ncsnpp import Ncsnpp

CIFAR10 = Ncsnpp()
SMALL = Ncsnpp(channels=8, channel_mult=(1, 2), blocks=2, attention=(4,))


def made(spec: Ncsnpp, size: int = 8):
    """A network with weights that are all different."""
    network = spec.build(size, 3, 0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def write(path: Path, spec: Ncsnpp, network: torch.nn.Module, size: int = 8) -> Path:
    flat = jax.to_theirs(network.state_dict(), spec, size, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    tree = flax_file.training_state(flax_file.nested(flat))
    path.write_bytes(flax_file.packed(tree))
    return path


def test_the_published_size():
    """33 residual blocks, 6 attentions, all names one to one; as many parameters as DDPM++, the
    image pyramid, and a first layer on twice the features."""
    table = jax.key_map(CIFAR10, 32, 3)
    ours = skeleton(CIFAR10, 32, 3, 0)
    filters = {key for key in ours if key.endswith(".filter")}
    assert set(table) == set(ours) - filters
    assert len(set(table.values())) == len(table)
    pyramid = sum(256 * (9 * channels + 1) for channels in (3, 256))
    frequencies = 128
    expected = 55_732_739 + pyramid + 128 * 512 + frequencies
    assert sum(t.numel() for k, t in ours.items() if k not in filters) == expected
    theirs = set(table.values())
    for kind, number in (("ResnetBlockBigGANpp", 33), ("AttnBlockpp", 6), ("Downsample", 2)):
        assert {n.split(".")[0] for n in theirs if n.startswith(kind)} == {
            f"{kind}_{i}" for i in range(number)
        }


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("embedding.frequencies", "GaussianFourierProjection_0.weight"),
        ("embedding.linear2", "Dense_1"),
        ("encoder.0.blocks.3", "ResnetBlockBigGANpp_3"),
        ("encoder.1.down", "ResnetBlockBigGANpp_4"),
        ("encoder.1.side.conv", "Downsample_0"),
        ("encoder.1.blocks.0", "ResnetBlockBigGANpp_5"),
        ("encoder.1.blocks.3.attention.norm", "AttnBlockpp_3.GroupNorm_0"),
        ("encoder.2.down", "ResnetBlockBigGANpp_9"),
        ("encoder.2.side.conv", "Downsample_1"),
        ("encoder.2.blocks.3", "ResnetBlockBigGANpp_13"),
        ("middle.0", "ResnetBlockBigGANpp_14"),
        ("middle.0.attention.proj", "AttnBlockpp_4.NIN_3"),
        ("middle.1", "ResnetBlockBigGANpp_15"),
        ("decoder.2.blocks.4", "ResnetBlockBigGANpp_20"),
        ("decoder.1.up", "ResnetBlockBigGANpp_21"),
        ("decoder.1.blocks.4", "ResnetBlockBigGANpp_26"),
        ("decoder.1.blocks.4.attention.qkv", "AttnBlockpp_5.NIN_012"),
        ("decoder.0.up", "ResnetBlockBigGANpp_27"),
        ("decoder.0.blocks.4", "ResnetBlockBigGANpp_32"),
        ("out_norm", "GroupNorm_0"),
        ("out_conv", "Conv_1"),
    ],
)
def test_where_modules_are(ours: str, theirs: str):
    """The order of calls in the JAX code, as read there."""
    table = jax.key_map(CIFAR10, 32, 3)
    inside = {o: t for o, t in table.items() if o == ours or o.startswith(f"{ours}.")}
    found = {t for o, t in inside.items() if ".attention." not in o.removeprefix(ours)}
    assert found
    assert all(t == theirs or t.startswith(f"{theirs}.") for t in found)


@pytest.mark.parametrize(
    "spec",
    [
        SMALL,
        Ncsnpp(channels=8, channel_mult=(1,), blocks=1, attention=()),
        Ncsnpp(channels=8, channel_mult=(1, 2), blocks=3, attention=(8, 4)),
        Ncsnpp(channels=8, channel_mult=(1, 2, 2), blocks=1, attention=(8,)),
    ],
)
def test_a_file_gives_the_network_back(spec: Ncsnpp, tmp_path: Path):
    network = made(spec)
    file = write(tmp_path / "edm_cifar10_ema", spec, network)
    found = jax.read(file, {"image_size": 8}, silent)
    assert found.network == spec
    state = network.state_dict()
    assert list(found.state) == list(state)
    assert all(torch.equal(found.state[key], state[key]) for key in state)


def test_the_layouts_of_the_arrays():
    """(H, W, in, out), (in, out), and three matrices for q, k and v."""
    network = made(SMALL)
    state = network.state_dict()
    flat = jax.to_theirs(state, SMALL, 8, 3)
    x = torch.randn(2, 3, 8, 8)
    kernel = flat["Conv_0/kernel"]
    assert kernel.shape == (3, 3, 3, 8)
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1)
    out = torch.einsum("bihwyx,yxio->bohw", padded, kernel) + flat["Conv_0/bias"][:, None, None]
    torch.testing.assert_close(out, network.stem(x))
    h = torch.randn(2, 16)
    out = h @ flat["Dense_0/kernel"] + flat["Dense_0/bias"]
    torch.testing.assert_close(out, network.embedding.linear1(h))
    pixels = torch.randn(2, 16, 4, 4)
    qkv = network.encoder[1].blocks[0].attention.qkv(pixels)
    for i, ours in enumerate(qkv.chunk(3, 1)):
        w, b = flat[f"AttnBlockpp_0/NIN_{i}/W"], flat[f"AttnBlockpp_0/NIN_{i}/b"]
        theirs = torch.einsum("bihw,io->bohw", pixels, w) + b[:, None, None]
        torch.testing.assert_close(theirs, ours)


def test_the_denoiser_is_the_papers(tmp_path: Path):
    """D with c_noise 0.25 ln t, and the boundary at 0.002 for consistency models."""
    network = made(SMALL)
    x, t = torch.randn(3, 3, 8, 8), torch.tensor([0.002, 0.7, 80.0])
    raw = {}
    for name in ("cd-lpips", "edm_cifar10_ema"):
        file = write(tmp_path / name / "checkpoints" / "checkpoint_80", SMALL, network)
        model = cmtool.load(file, device="cpu", image_size=8)
        s = t[:, None, None, None]
        shift = 0.002 if name == "cd-lpips" else 0.0
        c_skip = 0.25 / ((s - shift) ** 2 + 0.25)
        c_out = (s - shift) * 0.5 / (s**2 + 0.25).sqrt()
        with torch.no_grad():
            f = network(x / (s**2 + 0.25).sqrt(), 0.25 * t.log())
            raw[name] = model(x, t)
        torch.testing.assert_close(raw[name], c_skip * x + c_out * f)
        assert model.kind == ("consistency" if shift else "diffusion")
    assert torch.equal(raw["cd-lpips"][0], x[0])


def opened(path: Path, **facts) -> tuple[Denoiser, list[str]]:
    from cmtool.workflows.load import open_model

    told: list[str] = []
    return open_model(path, facts={"image_size": 8, **facts}, say=told.append).denoiser, told


def test_what_tells_the_kind(tmp_path: Path):
    network = made(SMALL)
    bare = write(tmp_path / "checkpoint_80", SMALL, network)
    model, told = opened(bare)
    assert model.kind == "diffusion"
    assert any("assuming edm (--as precond=... to change)" in line for line in told)
    assert opened(bare, precond="consistency")[0].kind == "consistency"
    assert opened(bare, preset="ct-lpips")[0].kind == "consistency"
    named = write(tmp_path / "cd-l2" / "checkpoint_80", SMALL, network)
    model, told = opened(named)
    assert model.kind == "consistency"
    assert not any("precond" in line for line in told)
    assert opened(named, precond="edm")[0].kind == "diffusion"


def test_the_folder_tells_it_from_inside_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "cd-lpips" / "checkpoint_80", SMALL, made(SMALL))
    monkeypatch.chdir(tmp_path / "cd-lpips")
    model, _ = opened(Path("checkpoint_80"))
    assert (model.kind, model.times) == ("consistency", {2: (80.0, 0.5853)})
    assert opened(Path("checkpoint_80"), sigma_max=40)[0].times == {}


def test_what_follows_from_a_loose_name_is_said(tmp_path: Path):
    """A folder of continuous integration holds no consistency model."""
    model, told = opened(write(tmp_path / "continuous" / "c_1", SMALL, made(SMALL)))
    assert model.kind == "consistency"
    assert any("assuming precond=consistency" in line for line in told)
    model, told = opened(tmp_path / "continuous" / "c_1", precond="edm")
    assert model.kind == "diffusion"
    assert not any("precond" in line for line in told)


@pytest.mark.parametrize("folder", ["continuous-cd-l2", "cifar10-continuous-ct", "cifar10-cd-l1"])
def test_a_folder_tells_the_kind(folder: str, tmp_path: Path):
    file = write(tmp_path / folder / "checkpoints" / "checkpoint_40", SMALL, made(SMALL))
    assert opened(file)[0].kind == "consistency"


def test_a_target_network_means_consistency(tmp_path: Path):
    flat = jax.to_theirs(made(SMALL).state_dict(), SMALL, 8, 3)
    tree = flax_file.training_state(flax_file.nested(flat)) | {"target_params": {}}
    file = tmp_path / "checkpoint_74"
    file.write_bytes(flax_file.packed(tree))
    assert opened(file)[0].kind == "consistency"


def test_says_where_it_assumes_attention(tmp_path: Path):
    """Three levels of one width, as in the published network: the arrays leave it open."""
    spec = Ncsnpp(channels=8, channel_mult=(1, 1, 1), blocks=1, attention=(16,))
    file = write(tmp_path / "cd-l1", spec, made(spec, 32), 32)
    told: list[str] = []
    assert jax.read(file, {}, told.append).network == spec
    assert "cd-l1 does not tell where attention is: assuming at 16x16, as published" in told
    other = Ncsnpp(channels=8, channel_mult=(1, 1), blocks=1, attention=(4,))
    file = write(tmp_path / "cd-l2", other, made(other, 8), 8)
    with pytest.raises(CheckpointError, match="2 places where the 1 levels of attention may be"):
        jax.read(file, {"image_size": 8}, silent)


def test_reads_what_flax_wrote():
    """Bytes of flax.serialization.to_bytes, flax 0.12.8; the second with MAX_CHUNK_SIZE = 16."""
    tree = unpack(memoryview(base64.b64decode(BY_FLAX)))
    kernel, bias = tree["params_ema"]["Conv_0"]["kernel"], tree["params_ema"]["Conv_0"]["bias"]
    assert torch.equal(kernel.tensor(), torch.arange(6.0).reshape(1, 2, 3, 1))
    assert torch.equal(bias.tensor(), torch.ones(2, dtype=torch.bfloat16))
    assert (tree["step"], tree["lr"], tree["flag"], tree["none"]) == (7, 0.1, True, None)
    assert tree["z"].tensor() == 2.5
    assert (tree["rng"].dtype, tree["rng"].shape) == ("uint32", (2,))
    tree = unpack(memoryview(base64.b64decode(BY_FLAX_IN_CHUNKS)))
    assert torch.equal(joined(tree["params_ema"]["w"]).tensor(), torch.arange(10.0).reshape(5, 2))


BY_FLAX = (
    "iKRzdGVwB6Jscss/uZmZmZmZmqpwYXJhbXNfZW1hgaZDb252XzCCpmtlcm5lbMcoAZOUAQIDAadmbG9hdDMyxBgAAAAA"
    "AACAPwAAAEAAAEBAAACAQAAAoECkYmlhc8cSAZORAqhiZmxvYXQxNsQEgD+AP6NybmfHFAGTkQKmdWludDMyxAgAAAAA"
    "CQAAAKF62AOTkKdmbG9hdDMyxAQAACBApGZsYWfDpG5vbmXAoWPHEwKSyz/wAAAAAAAAy0AAAAAAAAAA"
)
BY_FLAX_IN_CHUNKS = (
    "gapwYXJhbXNfZW1hgaF3g7lfX21zZ3BhY2tfY2h1bmtlZF9hcnJheV9fw6VzaGFwZYKhMAWhMQKmY2h1bmtzg6Ewxx0B"
    "k5EEp2Zsb2F0MzLEEAAAAAAAAIA/AAAAQAAAQEChMccdAZORBKdmbG9hdDMyxBAAAIBAAACgQAAAwEAAAOBAoTLHFQGT"
    "kQKnZmxvYXQzMsQIAAAAQQAAEEE="
)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(dtype: torch.dtype):
    array = unpack(memoryview(flax_file.packed(torch.tensor([[1.5, -2.0]], dtype=dtype))))
    assert isinstance(array, Array)
    assert torch.equal(array.tensor(), torch.tensor([[1.5, -2.0]], dtype=dtype))


@pytest.mark.parametrize("numbered", [True, False])
def test_an_array_in_chunks(numbered: bool):
    whole = torch.randn(5, 3)
    chunks = [whole.reshape(-1)[a:b] for a, b in pairwise([0, 4, 9, 15])]
    shape = [5, 3]
    tree = {
        "__msgpack_chunked_array__": True,
        "shape": {str(i): n for i, n in enumerate(shape)} if numbered else shape,
        "chunks": {str(i): c for i, c in enumerate(chunks)} if numbered else chunks,
    }
    array = joined(unpack(memoryview(flax_file.packed(tree))))
    assert torch.equal(array.tensor(), whole)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_reads_what_was_written(value: object):
    assert unpack(memoryview(flax_file.packed(value))) == value
