"""`cmtool export`: what leaves comes back the same, what does not fit is refused by name, and
nothing that failed lies under a final name."""

import errno
import json
import os
import re
import resource
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cli_world import cmtool as command
from export_models import DDPM, ddpm_range, probe, write

import cmtool
from cmtool import registry
from cmtool.checkpoint import write_file
from cmtool.errors import CheckpointError, ExportError, RecipeError
from cmtool.formats import _graph
from cmtool.formats.base import DTYPES, Pair, Source
from cmtool.formats.pt import Pt
from cmtool.formats.safetensors import Safetensors
from cmtool.schedules.karras import Karras
from cmtool.schedules.trigflow import TrigFlow
from cmtool.settings import DataSettings, DenoiserSettings, TeacherSettings
from cmtool.tensor_file import read_tensors
from cmtool.workflows import _export_push
from cmtool.workflows import export as workflow
from cmtool.workflows._export_card import UNKNOWN, parents, portable
from cmtool.workflows._export_check import ROUNDING, compare
from cmtool.workflows._export_place import place
from cmtool.workflows._sharded import fingerprint
from cmtool.workflows.export import Report, Request, export
from cmtool.workflows.info import describe
from cmtool.workflows.load import open_model

DOCS = Path(__file__).parents[2] / "docs" / "export.md"
NETWORKS, FORMATS = registry.names("networks"), registry.names("formats")
PUBLISHED = {"image_size": 8, "head_channels": 16, "precond": "consistency"}


def made(model: Path, kind: str, **more: Any) -> tuple[Path, Report]:
    """Exports beside the model."""
    out = model.parent / f"out{registry.load('formats', kind).suffix}"
    report = export(Request(kind, model, out=out, **more))
    assert report.paths[-1] == out
    return out, report


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max()) / max(1.0, float(b.abs().max()))


# Round trips.


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_our_own_files_come_back_the_same(network: str, kind: str, tmp_path: Path) -> None:
    model = write(tmp_path / "model.safetensors", network, times={2: (80.0, 0.8)})
    out, _ = made(model, kind)
    before, after = cmtool.load(model, device="cpu"), cmtool.load(out, device="cpu")
    assert torch.equal(after(*probe()), before(*probe()))
    for fact in ("kind", "image_shape", "classes", "times", "schedule", "precond", "guidable"):
        assert getattr(after, fact) == getattr(before, fact)


MOVED = {dtype: limit for dtype, limit in ROUNDING.items() if limit}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("dtype", MOVED)
def test_half_the_bits_are_half_the_size_and_nearly_the_same(
    network: str, dtype: str, tmp_path: Path
) -> None:
    model = write(tmp_path / "model.safetensors", network)
    out, _ = made(model, "safetensors", dtype=dtype)
    tensors = read_tensors(out)
    assert {t.dtype for t in tensors.values() if t.ndim > 1} == {DTYPES[dtype]}
    assert {t.dtype for t in tensors.values() if t.ndim < 2} <= {torch.float32}
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    whole = sum(4 * t.numel() for t in tensors.values())
    assert 0.5 * whole < size < 0.6 * whole
    before, after = cmtool.load(model, device="cpu"), cmtool.load(out, device="cpu")
    assert 0 < error(after(*probe()), before(*probe())) < MOVED[dtype]
    assert {p.dtype for p in after.network.parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", DTYPES)
def test_pt_holds_plain_tensors_and_a_text(dtype: str, tmp_path: Path) -> None:
    out, _ = made(write(tmp_path / "m.safetensors", "tiny"), "pt", dtype=dtype)
    content = torch.load(out, weights_only=True)
    assert set(content) == {"cmtool", "weights"}
    assert json.loads(content["cmtool"])["kind"] == "consistency"
    assert all(isinstance(tensor, torch.Tensor) for tensor in content["weights"].values())


NEARER = DenoiserSettings("consistency", noise_scale=250.0, boundary=0.01)
ADMS: list[dict[str, Any]] = [
    {},
    {"classes": 0, "scale_shift": False},
    {"resblock_updown": False, "channel_mult": (1, 1, 2), "attention": (8, 2)},
    {"denoiser": DenoiserSettings(noise_scale=250.0), "kind": "diffusion"},
    {"shape": (1, 8, 8), "schedule": Karras(0.01, 20.0), "denoiser": NEARER},
]


@pytest.mark.parametrize("fields", ADMS)
def test_openai_files_come_back_with_their_facts(fields: dict[str, Any], tmp_path: Path) -> None:
    model = write(tmp_path / "model.safetensors", **fields)
    out, _ = made(model, "openai")
    state = torch.load(out, weights_only=True)
    assert {"input_blocks.0.0.weight", "middle_block.1.qkv.weight", "out.2.bias"} < set(state)
    card = out.with_name("out.pt.md").read_text()
    words = re.findall(r"--as (\w+)=(\S+?)[ `]", card)
    before = cmtool.load(model, device="cpu")
    after = cmtool.load(out, device="cpu", **dict(words))
    x, sigma, label = probe(fields.get("shape", (3, 8, 8)))
    label = label if before.num_classes else None
    assert error(after(x, sigma, label), before(x, sigma, label)) < 1e-5
    assert (after.kind, after.schedule) == (before.kind, before.schedule)


def test_half_precision_for_openai(tmp_path: Path) -> None:
    model = write(tmp_path / "model.safetensors")
    out, _ = made(model, "openai", dtype="float16")
    before, after = cmtool.load(model, device="cpu"), cmtool.load(out, device="cpu", **PUBLISHED)
    assert error(after(*probe()), before(*probe())) < MOVED["float16"]


def test_an_export_can_be_exported(tmp_path: Path) -> None:
    first, _ = made(write(tmp_path / "model.safetensors"), "safetensors")
    second = export(Request("pt", first, out=tmp_path / "second.pt")).paths[-1]
    third = export(Request("safetensors", second, out=tmp_path / "third.safetensors")).paths[-1]
    for key, tensor in read_tensors(first).items():
        assert torch.equal(read_tensors(third)[key], tensor)
    exported = open_model(third).meta.origin["exported"]
    depths = [exported, exported["of"], exported["of"]["of"]]
    assert [Path(each["model"]).name for each in depths] == [
        "second.pt",
        first.name,
        "model.safetensors",
    ]


# What is refused.


def table(heading: str) -> dict[tuple[str, str], str]:
    """A table of the docs by (row, column)."""
    section = DOCS.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[c.strip() for c in row.strip("| ").split("|")] for row in rows]
    head = cells[0]
    return {(r[0], c): v for r in cells[2:] for c, v in zip(head[1:], r[1:], strict=True)}


def verdict(model: Path, kind: str) -> str:
    """ "yes", or what is refused."""
    try:
        registry.load("formats", kind)().check(Source(open_model(model)))
    except CheckpointError as refused:
        return refused.message
    return "yes"


def test_the_table_of_networks_is_true(tmp_path: Path) -> None:
    told = table("Which network goes where")
    assert set(told) == {(network, kind) for network in NETWORKS for kind in FORMATS}
    for network in NETWORKS:
        model = write(tmp_path / f"{network}.safetensors", network)
        for kind in FORMATS:
            found = verdict(model, kind)
            if told[network, kind] == "yes":
                assert found == "yes", (network, kind)
            else:
                assert found.startswith(f"network '{network}' cannot be written as '{kind}': ")
                assert found.endswith(told[network, kind]), found


TRIG = TrigFlow(sigma_data=0.5)
SETTINGS: dict[str, dict[str, Any]] = {
    "`network.flavor = 'edm'`": {"flavor": "edm"},
    "`network.flavor = 'ddpm'`": {"flavor": "ddpm", "resblock_updown": False},
    "`network.augment_dim = 9`": {"augment_dim": 9},
    "`network.guidance_input = True`": {"guidance_input": True},
    "`network.normalize_affine = True`": {"normalize_affine": True},
    "`network.norm_groups = 16`": {"norm_groups": 16},
    "`network.head_channels = 0`": {"head_channels": 0},
    "`network.middle_attention = False`": {"middle_attention": False},
    "`denoiser.noise_scale = 0.25`": {"denoiser": DenoiserSettings("consistency")},
    "`denoiser.noise_input = 'angle'`": {
        "denoiser": DenoiserSettings("consistency", noise_scale=250.0, noise_input="angle")
    },
    "`denoiser.scalings = 've'`": {
        "denoiser": DenoiserSettings("consistency", noise_scale=250.0, scalings="ve")
    },
    "`denoiser.precond = 'edm'` of a consistency model": {
        "denoiser": DenoiserSettings(noise_scale=250.0)
    },
    "`denoiser.boundary = 0.01`": {
        "denoiser": DenoiserSettings("consistency", noise_scale=250.0, boundary=0.01)
    },
    "`denoiser.sigma_data = 0.6`": {
        "denoiser": DenoiserSettings("consistency", noise_scale=250.0, sigma_data=0.6)
    },
    "schedule `TrigFlow`": {"schedule": TRIG},
    "`schedule.rho = 5`": {"schedule": Karras(rho=5.0)},
    "a diffusion model in EDM's form": {
        "kind": "diffusion",
        "denoiser": DenoiserSettings(noise_scale=250.0),
    },
    "a diffusion model of numbered steps": {
        "kind": "diffusion",
        "denoiser": DDPM,
        "schedule": ddpm_range(),
    },
    "a model made for noise levels of its own, by progressive distillation": {
        "kind": "diffusion",
        "denoiser": DDPM,
        "schedule": ddpm_range(),
        "grid": (100.0, 1.0, 0.02),
    },
}


def test_the_table_of_settings_is_true(tmp_path: Path) -> None:
    told = table("Settings that diffusers and openai refuse")
    assert set(told) == {(key, kind) for key in SETTINGS for kind in ("diffusers", "openai")}
    for i, (key, fields) in enumerate(SETTINGS.items()):
        model = write(tmp_path / f"{i}.safetensors", **fields)
        for kind in ("diffusers", "openai"):
            found = verdict(model, kind)
            assert (found == "yes") == (told[key, kind] == "yes"), (key, found)
            if found != "yes":
                named = re.findall("`(.*?)`", key) or [
                    "denoiser.scalings",
                    "precond",
                    "made for 2 noise levels",
                ]
                assert any(name.strip("`") in found.replace("schedule '", "") for name in named), (
                    key,
                    found,
                )


def test_a_package_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="'diffusers' needs diffusers, which is not") as caught:
        export(Request("diffusers", write(tmp_path / "m.safetensors"), out=tmp_path / "out"))
    assert caught.value.hint == "pip install 'cmtool[diffusers]'"


# What the card and the report say.


def test_the_card_and_the_report(tmp_path: Path) -> None:
    model = write(tmp_path / "model.safetensors", "tiny", times={2: (80.0, 0.8)})
    out, report = made(model, "safetensors")
    card, check = (out.with_name(f"out.safetensors.{end}") for end in ("md", "json"))
    assert set(report.paths) == {out, card, check}
    text = card.read_text()
    for part in (
        *("| stored levels | 2: 80, 0.8 |", "class 0, class 1", "data 'digits': CC BY 4.0"),
        *('name = "tiny"', "cmtool sample out.safetensors", '"sha256"'),
    ):
        assert part in text, part
    assert str(tmp_path) not in text + check.read_text()
    content = json.loads(check.read_text())
    assert content["passed"]
    assert len(content["comparisons"]) == 11
    assert report.table.count("\n") == 10
    assert content["sha256"] == {"out.safetensors": workflow._sha256(out)}
    assert f"{content['sha256']['out.safetensors']}  out.safetensors" in text


def test_the_card_has_the_figures_of_these_weights_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = write(tmp_path / "model.safetensors", "tiny")
    weights = fingerprint(cmtool.load(model, device="cpu"))["weights"]
    row = {"weights_sha256": weights, "nfe": 1, "n": 5000, "figures": {"FID": {"value": 3.125}}}
    other = {**row, "weights_sha256": "0", "figures": {"FID": {"value": 9.875}}}
    content = {"reference": {"name": "cifar10"}, "rows": [other, row]}
    for name, text in {"a": json.dumps(content), "b": "[1]", "c": "{", "d": "{}"}.items():
        (tmp_path / "evals").mkdir(exist_ok=True)
        (tmp_path / "evals" / f"{name}.json").write_text(text)
    out, _ = made(model, "pt", dtype="float16")
    card = out.with_name("out.pt.md").read_text()
    assert "| FID | 3.125 | 1 | 5,000 | cifar10 | a.json |" in card
    assert "before the weights were rounded" in card
    assert "9.875" not in card


def test_paths_of_this_machine_stay_here() -> None:
    origin = {"teacher": "/home/me/runs/dsm/step-00000002", "data": {"source": "/data/x.zip"}}
    assert portable(origin) == {"teacher": "dsm/step-00000002", "data": {"source": "data/x.zip"}}


def test_the_recipe_in_a_file_names_no_folder_of_this_machine(model: Path) -> None:
    opened = open_model(model)
    recipe = replace(opened.recipe, data=DataSettings(name="/home/me/pictures/cats"))
    write_file(model, opened.meta, recipe, opened.denoiser.network.state_dict())
    out, report = made(model, "safetensors")
    assert open_model(out).recipe.data.name == "pictures/cats"
    assert not any(b"/home/me" in path.read_bytes() for path in report.paths)


def test_licences_of_what_a_model_was_made_of() -> None:
    assert parents({"layout": "openai", "file": "cd_imagenet64_l2.pt"}) == {
        "weights 'cd_imagenet64_l2.pt'": "MIT"
    }
    (unknown,) = parents({"layout": "openai", "file": "my.pt"}).values()
    assert unknown.startswith("not known")
    assert parents({"layout": "nvidia EDMPrecond", "file": "e.pkl"}) == {
        "weights 'e.pkl'": "CC BY-NC-SA 4.0"
    }
    # What a file was written without is told once it is known.
    recorded = {"data 'cifar10'": UNKNOWN, "teacher's data 'mnist'": UNKNOWN, "data 'x'": UNKNOWN}
    told = parents({"licences": recorded | {"data 'digits'": "mine"}})
    assert "none stated by its authors; cite Krizhevsky 2009" in told["data 'cifar10'"]
    assert told["teacher's data 'mnist'"].startswith("CC BY-SA 3.0, as commonly stated")
    assert (told["data 'x'"], told["data 'digits'"]) == (UNKNOWN, "mine")
    assert "Krizhevsky" in describe("shipped/cifar10", {})["origin: licences"]


# Failures leave nothing.


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(tmp_path / "model.safetensors", "tiny")


FAILURES = [
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), CheckpointError),
    (RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file"), CheckpointError),
    (ValueError("a bug"), ValueError),
    (RuntimeError("a bug"), RuntimeError),
    (KeyboardInterrupt(), KeyboardInterrupt),
]


@pytest.mark.parametrize(("raised", "seen"), FAILURES, ids=lambda e: repr(e)[:20])
@pytest.mark.parametrize(("where", "earlier"), [("write", True), ("pairs", False)])
def test_a_failure_leaves_no_half_file(
    raised: BaseException,
    seen: type[BaseException],
    where: str,
    earlier: bool,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = model.parent / "new" / "folder" / "out.pt"
    if earlier:
        export(Request("pt", model, out=out))
    before = {name: (model.parent / name).stat().st_mtime_ns for name in names(model.parent)}
    real = getattr(Pt, where)

    def fails(*values: object) -> None:
        real(*values)
        raise raised

    monkeypatch.setattr(Pt, where, fails)
    with pytest.raises(seen):
        export(Request("pt", model, out=out, overwrite=True))
    after = {name: (model.parent / name).stat().st_mtime_ns for name in names(model.parent)}
    assert after.keys() == before.keys()
    files = [name for name in after if (model.parent / name).is_file()]
    assert [after[name] for name in files] == [before[name] for name in files]


def test_sigterm_leaves_nothing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, before = Pt.write, signal.getsignal(signal.SIGTERM)

    def write_and_be_stopped(self: Pt, source: Source, path: Path) -> None:
        real(self, source, path)
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception as error:  # as torch.onnx.export does
            raise RuntimeError("failed") from error

    monkeypatch.setattr(Pt, "write", write_and_be_stopped)
    done = command("export", "pt", str(model), "--out", str(model.parent / "new/o.pt"))
    assert done.exit_code == 128 + signal.SIGTERM
    assert "stopped; nothing is written" in done.stderr
    assert names(model.parent) == ["model.safetensors"]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("kind", ["safetensors", "pt", "openai"])
@pytest.mark.parametrize("limit", [100, 300_000])
def test_a_full_disk_is_one_message(kind: str, limit: int, tmp_path: Path) -> None:
    model = write(tmp_path / "model.safetensors")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # As a full disk does.
    try:
        suffix = registry.load("formats", kind).suffix
        done = command("export", kind, str(model), "--out", str(tmp_path / f"new/o{suffix}"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done.exit_code == 2
    assert re.search(r"error: cannot write '.*': (file too large|the disk is full)", done.stderr)
    assert names(tmp_path) == ["model.safetensors"]


@pytest.mark.parametrize("wrong", ["values", "nan", "shape"])
def test_a_mismatch_keeps_nothing_under_the_final_name(
    wrong: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = made(model, "safetensors")
    whole = out.read_bytes()

    def pairs(self: Safetensors, source: Source, path: Path) -> list[Pair]:
        answers = {
            "values": lambda y: y + 1e-3,
            "nan": lambda y: y * torch.nan,
            "shape": lambda y: y[:, :1],
        }
        return [
            Pair("broken", source.denoiser, lambda *given: answers[wrong](source.denoiser(*given)))
        ]

    monkeypatch.setattr(Safetensors, "pairs", pairs)
    with pytest.raises(ExportError, match="11 of 11 comparisons") as caught:
        export(Request("safetensors", model, out=out, overwrite=True))
    assert caught.value.exit_code == 1
    assert out.read_bytes() == whole
    kept = model.parent / "out.safetensors.failed"
    assert names(kept) == ["out.safetensors", "out.safetensors.json"]
    assert not json.loads((kept / "out.safetensors.json").read_text())["passed"]
    monkeypatch.undo()
    out.unlink()
    with pytest.raises(CheckpointError, match="is there already"):  # its card
        export(Request("safetensors", model, out=out))
    done = command("export", "safetensors", str(model), "--out", str(out), "--overwrite")
    assert done.exit_code == 0
    assert out.read_bytes() == whole


WRONG = {
    "a little more": lambda model, x, t, label: model(x, t, label) * (1 + 1e-4),
    "another class": lambda model, x, t, label: model(x, t, (label + 1) % 5),
    "no class": lambda model, x, t, label: model(x, t, None),
    "another level": lambda model, x, t, label: model(x, t * 1.001, label),
    "the first level for all": lambda model, x, t, label: model(x, t[:1].expand(len(t)), label),
    "memory as it lies": lambda model, x, t, label: model(
        torch.as_strided(x, x.shape, torch.empty(x.shape).stride()), t, label
    ),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_mistakes_are_seen_however_much_float32_errs(network: str, tmp_path: Path) -> None:
    source = Source(open_model(write(tmp_path / "m.safetensors", network)))
    model = source.denoiser
    for name, wrong in WRONG.items():
        rows = compare(Safetensors(), source, [Pair(name, model, partial(wrong, model))])
        assert not all(row.passed for row in rows), name
    assert all(row.passed for row in compare(Safetensors(), source, [Pair("same", model, model)]))


def test_the_command_exits_1_on_a_mismatch(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = lambda *given: torch.zeros(len(given[0]), 3, 8, 8)  # noqa: E731
    monkeypatch.setattr(Pt, "pairs", lambda self, s, p: [Pair("zeros", s.denoiser, other)])
    done = command("export", "pt", str(model), "--out", str(model.parent / "o.pt"))
    assert done.exit_code == 1
    assert "BAD  zeros" in done.stderr
    assert done.stdout == ""
    assert not (model.parent / "o.pt").exists()


def test_numbers_that_float16_cannot_hold(tmp_path: Path) -> None:
    model = write(tmp_path / "model.safetensors", "tiny")
    from safetensors.torch import load_file, save_file

    from cmtool.tensor_file import read_texts

    weights, texts = load_file(model), read_texts(model)
    key = next(key for key, t in weights.items() if t.ndim > 1)
    weights[key].view(-1)[0] = 1e6
    save_file(weights, model, metadata=texts)
    with pytest.raises(ExportError, match="weights in float16"):
        made(model, "safetensors", dtype="float16")
    made(model, "safetensors", dtype="bfloat16")


def test_a_file_of_somebody_else_is_not_replaced(model: Path) -> None:
    folder = model.parent
    (folder / "out.pt.md").write_text("mine")
    with pytest.raises(CheckpointError, match=r"'.*out.pt.md' is there already"):
        made(model, "pt")
    for target, words in (
        (folder, "holds, the model"),
        (model, "is, or holds"),
        (folder / "d", "d"),
    ):
        (folder / "d").mkdir(exist_ok=True)
        (folder / "d" / "mine.txt").write_text("mine")
        kind = "safetensors" if target == model else "diffusers"
        pytest.importorskip("diffusers")
        with pytest.raises(CheckpointError, match=words):
            export(Request(kind, write(model), out=target, overwrite=True))
    assert (folder / "d" / "mine.txt").read_text() == "mine"


def test_the_card_of_a_program_says_what_it_was_not_trained_for(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", "tiny", guidance_input=True)
    told = _graph.inputs(Source(open_model(path)))
    assert "class 0 .. 4\n" in told
    assert "-1" not in told.partition("label")[2].partition("\n")[0]
    assert "guidance" not in told
    opened = open_model(path)
    trained = replace(
        opened.recipe,
        data=DataSettings(label_dropout=0.1),
        teacher=TeacherSettings(guidance=(1.0, 3.0)),
    )
    write_file(path, opened.meta, trained, opened.denoiser.network.state_dict())
    told = _graph.inputs(Source(open_model(path)))
    assert "class 0 .. 4, or -1 for none\n" in told
    assert "answers for weight 1" in told


def test_weights_of_a_checkpoint_are_not_replaced(model: Path) -> None:
    folder = model.parent / "run/step-00000002"
    folder.mkdir(parents=True)
    (folder / "meta.json").write_text("{}")
    taken = folder / "ema-0.99.safetensors"
    taken.write_text("mine")
    with pytest.raises(CheckpointError, match="is a part of a checkpoint"):
        export(Request("safetensors", model, out=taken, overwrite=True))
    assert taken.read_text() == "mine"


def test_a_folder_that_cannot_be_replaced_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, folder = tmp_path / "out", tmp_path / ".out.export"
    for where, text in ((target, "old"), (folder / "out", "new")):
        where.mkdir(parents=True)
        (where / "check.json").write_text(text)
    real = Path.rename

    def rename(self: Path, to: Path) -> Path:
        if self == folder / "out":
            raise KeyboardInterrupt
        return real(self, to)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        place(folder, target, overwrite=True)
    assert (target / "check.json").read_text() == "old"


# The Hub, in place of which stands an object that writes down what it is asked.


class Hub:
    """`huggingface_hub`, as far as `push` uses it."""

    def __init__(self, fails: bool = False) -> None:
        self.calls: list[Any] = []
        self.fails = fails

    def HfApi(self) -> "Hub":
        return self

    def create_repo(self, name: str, **more: Any) -> None:
        if self.fails:
            raise OSError("401 Unauthorized\nmore")
        self.calls.append(("repo", name, more))

    def CommitOperationAdd(self, there: str, here: str) -> tuple[str, str]:
        assert Path(here).is_file()
        return there, here

    def create_commit(self, name: str, operations: list[Any], commit_message: str) -> str:
        self.calls.append(("commit", [there for there, _ in operations]))
        return "https://hub/commit"

    def upload_folder(self, repo_id: str, folder_path: Path, commit_message: str) -> str:
        self.calls.append(("folder", names(Path(folder_path))))
        return "https://hub/folder"


def with_hub(monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    monkeypatch.setattr(_export_push, "find_spec", lambda name: SimpleNamespace())
    monkeypatch.setattr(_export_push, "offline", lambda: False)
    monkeypatch.setattr(_export_push, "importlib", SimpleNamespace(import_module=lambda name: hub))


def test_push_sends_the_file_with_its_card_as_readme(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub()
    with_hub(monkeypatch, hub)
    _, report = made(model, "pt", push="me/model")
    assert report.address == "https://hub/commit"
    assert hub.calls == [
        ("repo", "me/model", {"repo_type": "model", "exist_ok": True}),
        ("commit", ["check.json", "README.md", "out.pt"]),
    ]


def test_a_hub_that_refuses_leaves_the_export(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_hub(monkeypatch, Hub(fails=True))
    with pytest.raises(CheckpointError, match=r"is written, but .*: 401 Unauthorized$"):
        made(model, "pt", push="me/model")
    assert (model.parent / "out.pt").is_file()


def test_push_needs_the_library(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_hub(monkeypatch, Hub())
    monkeypatch.setattr(_export_push, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="needs huggingface_hub") as caught:
        made(model, "pt", push="me/model")
    assert caught.value.hint == "pip install 'cmtool[hub]'"
    assert not (model.parent / "out.pt").exists()
