"""`cmtool edit`: pictures of any size and form come back, the saved file keeps the measurement, and
a file gives the same result alone, in a folder and from Python."""

import dataclasses
import os
import re
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_world import cmtool, colours
from PIL import Image

import cmtool as api
from cmtool import checkpoint, registry
from cmtool.checkpoint import Checkpoint
from cmtool.cli._editors import sketches
from cmtool.editors.colorize import LUMA
from cmtool.editors.superres import Superres
from cmtool.errors import CmtoolError
from cmtool.losses.cd import CD
from cmtool.losses.dsm import DSM
from cmtool.pictures import Picture
from cmtool.rng import SeedRng
from cmtool.workflows import _edit_one, interpolate

FEW = ("--steps", "2")


@pytest.fixture
def here(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the models and some pictures."""
    monkeypatch.chdir(tmp_path)
    for name in ("cm", "cc", "dm", "classes"):
        os.symlink(world / name, name)
    for name in ("rgb.png", "grey.png", "mask.png", "black.png"):
        shutil.copy(world / name, name)
    return tmp_path


def edit(*words: str, model: str = "cc", code: int = 0):
    done = cmtool("edit", *words, "--model", model, *FEW)
    assert done.exit_code == code, done.stderr
    return done


def opened(name: str | Path) -> Image.Image:
    return Image.open(BytesIO(Path(name).read_bytes()))


def pixels(name: str | Path) -> np.ndarray:
    return np.asarray(opened(name)).astype(int)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


# The saved file keeps what was measured.


def luma(rgb: np.ndarray) -> np.ndarray:
    return rgb @ np.array(LUMA)


@pytest.mark.parametrize("size", [(8, 8), (20, 20), (31, 9), (5, 5)], ids=str)
def test_colorize_keeps_the_luma(here: Path, size: tuple[int, int]):
    Image.fromarray(noise(*size)).save("in.png")
    assert edit("colorize", "in.png").stdout.splitlines()[-1] == "in.colorize.png"
    result = pixels("in.colorize.png")
    assert result.shape == (*size, 3)
    assert np.abs(luma(result) - pixels("in.png") * sum(LUMA)).max() <= 1
    assert np.ptp(result, axis=2).max() > 10  # It has colours.


@pytest.mark.parametrize(("size", "factor"), [((4, 4), 2), ((10, 7), 3), ((1, 1), 2)], ids=str)
def test_superres_keeps_the_block_means(here: Path, size: tuple[int, int], factor: int):
    Image.fromarray(noise(*size, 3)).save("in.png")
    edit("superres", "in.png", "--factor", str(factor))
    result = pixels("in.superres.png")
    assert result.shape == (size[0] * factor, size[1] * factor, 3)
    blocks = result.reshape(size[0], factor, size[1], factor, 3)
    assert np.abs(blocks.mean((1, 3)) - pixels("in.png")).max() <= 1


@pytest.mark.parametrize("native", [False, True])
def test_inpaint_keeps_the_known_pixels(here: Path, native: bool):
    edit("inpaint", "rgb.png", "--mask", "mask.png", *(["--native"] if native else []))
    result, known = pixels("rgb.inpaint.png"), pixels("mask.png") == 0
    if native:
        assert result.shape == (8, 8, 3)
        return
    assert (result[known] == pixels("rgb.png")[known]).all()
    assert (result[~known] != pixels("rgb.png")[~known]).any()


def test_the_errors_told_are_those_of_the_saved_file(here: Path):
    told = edit("superres", "grey.png", "--factor", "2", model="cm").stdout
    saved = pixels("grey.superres.png").reshape(8, 2, 8, 2).mean((1, 3)) / 127.5 - 1
    y = pixels("grey.png") / 127.5 - 1
    assert f"{np.linalg.norm(saved - y) / np.linalg.norm(y):.2g} once saved" in told


# What is to be repainted.


def test_nothing_to_repaint_copies_the_picture(here: Path):
    done = edit("inpaint", "rgb.png", "--mask", "black.png")
    assert "warning: rgb.png: nothing is to be repainted" in done.stderr
    assert (pixels("rgb.inpaint.png") == pixels("rgb.png")).all()


def test_all_to_repaint_is_a_plain_sample(here: Path):
    done = edit("inpaint", "grey.png", "--box", "0,0,8,8", "--seed", "5", model="cm")
    assert "a plain sample" in done.stderr
    drawn = api.sample("cm", 1, times=[80, 0.8], seed=5)
    assert np.abs(pixels("grey.inpaint.png") / 127.5 - 1 - drawn[0, 0].numpy()).max() < 1 / 255


def test_a_box_a_mask_a_margin_and_transparency(here: Path):
    rgb = pixels("rgb.png")
    edit("inpaint", "rgb.png", "--box", "3,4,9,11", "--out", "box.png")
    changed = (pixels("box.png") != rgb).any(2)
    assert changed[4:11, 3:9].mean() > 0.9
    assert changed.sum() == changed[4:11, 3:9].sum()
    edit("inpaint", "rgb.png", "--pad", "1,2,3,4", "--out", "pad.png")
    padded = pixels("pad.png")
    assert padded.shape == (26, 24, 3)
    assert (padded[2:-4, 1:-3] == rgb).all()
    alpha = np.full((20, 20), 255, dtype=np.uint8)
    alpha[:5] = 0
    rgba = np.dstack([rgb.astype(np.uint8), alpha])
    Image.fromarray(rgba).save("cut-out.png")
    edit("inpaint", "cut-out.png", "--out", "alpha.png")
    assert opened("alpha.png").mode == "RGB"
    assert (pixels("alpha.png")[5:] == rgb[5:]).all()


# Any picture.


def saved(name: str, image: Image.Image, **how: object) -> str:
    image.save(name, **how)
    return name


def odd_pictures() -> dict[str, tuple[str, str]]:
    """File to what is told, "" for nothing, and the result's mode."""
    rgb, grey = Image.fromarray(noise(11, 13, 3)), Image.fromarray(noise(11, 13))
    deep = Image.fromarray((noise(11, 13).astype(np.uint16)) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [Image.fromarray(frame) for frame in noise(3, 11, 13)]
    return {
        saved("cmyk.jpg", rgb.convert("CMYK")): ("CMYK became RGB", "RGB"),
        saved("p.png", rgb.convert("P")): ("", "RGB"),
        saved("la.png", grey.convert("LA")): ("", "RGB"),
        saved("deep.png", deep): ("16 bits a channel became 8", "RGB"),
        saved("one.png", grey.convert("1")): ("", "RGB"),
        saved("rgba.png", Image.fromarray(noise(11, 13, 4))): ("", "RGBA"),
        saved("turned.jpg", rgb, exif=exif): ("", "RGB"),
        saved("frames.gif", frames[0], save_all=True, append_images=frames[1:]): (
            "an animation of 3 frames; the first is used",
            "RGB",
        ),
        saved("ycc.tif", rgb.convert("YCbCr"), format="TIFF"): ("YCbCr became RGB", "RGB"),
        saved("long.png", Image.fromarray(noise(3, 10_000))): ("", "RGB"),
        saved("dot.png", Image.new("L", (1, 1), 77)): ("", "RGB"),
    }


def test_pictures_of_any_mode(here: Path):
    for name, (note, mode) in odd_pictures().items():
        done = edit("colorize", name)
        assert note in done.stderr, done.stderr
        result = opened(f"{Path(name).stem}.colorize.png")
        assert result.mode == mode, name
        size = opened(name).size
        assert result.size == (size[::-1] if name == "turned.jpg" else size)


def test_alpha_and_profile_come_back(here: Path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    rgba = noise(10, 12, 4)
    Image.fromarray(rgba).save("in.png", icc_profile=profile)
    edit("colorize", "in.png")
    result = opened("in.colorize.png")
    assert result.info["icc_profile"] == profile
    assert (np.asarray(result)[:, :, 3] == rgba[:, :, 3]).all()
    edit("superres", "in.png", "--factor", "2")
    assert opened("in.superres.png").mode == "RGBA"
    done = edit("stroke", "in.png", "--native")
    assert "in.png: the result fits into the model's size, 8x8" in done.stderr
    assert opened("in.stroke.png").size == (8, 7)
    assert opened("in.stroke.png").mode == "RGBA"


def test_a_section_keeps_the_profile_and_no_transparency():
    picture = Picture(noise(10, 20, 3), noise(10, 20), icc=b"profile")
    for size, mode in {(5, 10): "RGBA", (3, 7): "RGBA", (8, 8): "RGB"}.items():
        result = picture.with_pixels(noise(*size, 3)).to_pil()
        assert (result.mode, result.info["icc_profile"]) == (mode, b"profile")


def test_how_many_tiles_is_told_before(here: Path):
    Image.fromarray(noise(30, 20)).save("in.png")
    told = edit("superres", "in.png", "--factor", "2", model="cm").stderr
    # 60 and 40 pixels, and tiles of 8 that begin at most 6 apart
    assert "in.png: 70 overlapping tiles of 8x8 at each level\n" in told
    told = edit("superres", "in.png", "--factor", "2", "--native", "--overwrite", model="cm").stderr
    assert "tiles" not in told


def test_a_long_thin_picture_goes_over_tiles(here: Path):
    Image.fromarray(noise(300, 3)).save("in.png")
    edit("denoise", "in.png", "--sigma", "0.2", model="cm")
    assert opened("in.denoise.png").size == (3, 300)


def test_the_noise_is_told(here: Path):
    Image.fromarray(noise(20, 20)).save("in.png")
    done = edit("denoise", "in.png", "--sigma", "5/255", model="cm")
    assert "in.png: noise of 0.0392, that is 5/255" in done.stderr
    assert "in.png: noise of " in edit("denoise", "in.png", "--overwrite", model="cm").stderr


def test_noise_is_not_estimated_from_mirrored_pixels(here: Path):
    Image.fromarray(noise(5, 4)).save("in.png")
    done = edit("denoise", "in.png", model="cm", code=2)
    assert "cannot estimate the noise of a picture of 4x5, it is too small" in done.stderr
    edit("denoise", "in.png", "--sigma", "25/255", model="cm")


def test_a_missed_measurement_is_told(here: Path):
    pytest.importorskip("deepinv", reason="the operators are deepinv's")
    wild = noise(8, 8)
    Image.fromarray(wild).save("in.png")
    words = ("deblur", "in.png", "--overwrite")
    assert "more than the tolerance" not in edit(*words, "--tol", "0.9", model="cm").stderr
    told = edit(*words, "--tol", "1e-5", model="cm").stderr
    assert "more than the tolerance 1e-05; a clean picture takes --simulate\n" in told
    told = edit(*words, "--tol", "1e-5", "--simulate", model="cm").stderr
    assert "more than the tolerance 1e-05\n" in told


def test_grey_pictures_and_coloured_models(here: Path):
    done = edit("inpaint", "grey.png", "--box", "0,0,4,4")
    assert "grey.png: grey, and the model makes coloured pictures" in done.stderr
    result = pixels("grey.inpaint.png")
    assert (result[4:] == pixels("grey.png")[4:, :, None]).all()
    done = edit("colorize", "rgb.png")
    assert "rgb.png: has colours; its luma is used" in done.stderr


@pytest.mark.parametrize("editor", ["mri", "ct", "compressed"])
def test_editors_at_the_models_size_say_so(here: Path, editor: str):
    pytest.importorskip("deepinv", reason="the operators are deepinv's")
    done = edit(editor, "rgb.png", "--compare")
    assert f"rgb.png: {editor} works at the model's size, 8x8" in done.stderr
    assert pixels(f"rgb.{editor}.png").shape == (8, 8, 3)
    assert "PSNR" in done.stdout
    assert "once saved" in done.stdout


# Where the results are.


def test_variants_are_numbered_and_do_not_depend_on_their_number(here: Path):
    done = edit("colorize", "grey.png", "--n", "3")
    names = [f"grey.colorize.{i}.png" for i in (1, 2, 3)]
    assert done.stdout.splitlines()[-3:] == names
    assert done.stdout.startswith("grey.png, first of 3: measurement error")
    edit("colorize", "grey.png", "--n", "1")
    assert np.abs(pixels("grey.colorize.png") - pixels(names[0])).max() <= 1
    assert (pixels(names[0]) != pixels(names[1])).any()


def test_a_file_gives_the_same_alone_in_a_folder_and_from_python(here: Path):
    colours("in", 3, 20)
    done = edit("superres", "in", "--factor", "2", "--out", "out")
    assert done.stdout.splitlines()[-1] == "out"
    assert sorted(os.listdir("out")) == ["0.png", "1.png", "2.png"]
    edit("superres", "in/1.png", "--factor", "2", "--out", "alone.png")
    assert Path("alone.png").read_bytes() == Path("out/1.png").read_bytes()
    image = opened("in/1.png")
    again = api.edit("cc", "superres", image, factor=2, steps=2)
    assert (np.asarray(again) == pixels("out/1.png")).all()


def test_one_bad_file_costs_no_other(here: Path, world: Path):
    shutil.copytree(world / "mixed", "mixed")
    done = edit("colorize", "mixed", code=1)
    assert re.search(r"mixed/1.png: measurement error .* once saved\n", done.stderr)
    assert "passed over, no pictures: a.txt" in done.stderr
    assert done.stderr.endswith(
        "error: 1 of 3 files failed, the others are done:\n"
        "  mixed/cut.png: broken image 'mixed/cut.png': image file is truncated\n"
        "hint: the same command with --resume tries those again\n"
    )
    assert sorted(os.listdir("mixed.colorize")) == ["0.png", "1.png"]
    times = {name: os.stat(f"mixed.colorize/{name}").st_mtime_ns for name in ("0.png", "1.png")}
    edit("colorize", "mixed", code=2)  # They are there already.
    shutil.copy("rgb.png", "mixed/cut.png")
    assert "2 of 3 are there already" in edit("colorize", "mixed", "--resume").stderr
    assert sorted(os.listdir("mixed.colorize")) == ["0.png", "1.png", "cut.png"]
    for name, when in times.items():
        assert os.stat(f"mixed.colorize/{name}").st_mtime_ns == when


def test_a_stop_keeps_what_is_done(here: Path, monkeypatch: pytest.MonkeyPatch):
    colours("in", 3, 8)
    real, calls = _edit_one.run_job, []

    def second_is_stopped(*values: object, **more: object) -> object:
        calls.append(values)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*values, **more)

    monkeypatch.setattr(_edit_one, "run_job", second_is_stopped)
    done = edit("colorize", "in", code=130)
    assert "stopped; 1 of 3 files are done" in done.stderr
    assert os.listdir("in.colorize") == ["0.png"]


def test_all_may_fail(here: Path):
    Path("bad").mkdir()
    for name in ("a.png", "b.png"):
        Path("bad", name).write_bytes(b"no picture")
    assert "2 of 2 files failed, none is done" in edit("colorize", "bad", code=1).stderr


def test_names_that_would_be_the_same(here: Path):
    Path("in").mkdir()
    Image.fromarray(noise(8, 8)).save("in/a.png")
    Image.fromarray(noise(8, 8)).save("in/a.bmp")
    edit("colorize", "in")
    assert sorted(os.listdir("in.colorize")) == ["a.bmp.png", "a.png.png"]


def test_several_files_and_a_folder_for_the_results(here: Path):
    shutil.copy("rgb.png", "two.png")
    done = edit("superres", "rgb.png", "two.png", "--factor", "2", "--out", "o")
    assert done.stdout.splitlines()[-2:] == ["o/rgb.superres.png", "o/two.superres.png"]
    assert "mean of 2: measurement error" in done.stdout


def test_overwrite(here: Path):
    edit("colorize", "grey.png")
    edit("colorize", "grey.png", "--seed", "1", code=2)
    before = Path("grey.colorize.png").read_bytes()
    edit("colorize", "grey.png", "--seed", "1", "--overwrite")
    assert Path("grey.colorize.png").read_bytes() != before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_writable(here: Path):
    Path("locked").mkdir()
    shutil.copy("grey.png", "locked/grey.png")
    os.chmod("locked", 0o500)
    done = edit("colorize", "locked/grey.png", code=2)
    assert "cannot write to the folder 'locked'" in done.stderr


# Figures and explaining pictures.


def test_simulate_measures_the_picture_and_compares_with_it(here: Path):
    done = edit("superres", "rgb.png", "--factor", "2", "--simulate", "--compare", "--trajectory")
    assert done.stdout.splitlines()[-3:] == [
        "rgb.superres.compare.png",
        "rgb.superres.steps.gif",
        "rgb.superres.png",
    ]
    square = ((pixels("rgb.superres.png") - pixels("rgb.png")) ** 2).mean()
    assert f"PSNR {10 * np.log10(255**2 / square):.2f} dB" in done.stdout
    assert opened("rgb.superres.steps.gif").n_frames == 2
    assert opened("rgb.superres.compare.png").width > 3 * 96


def test_the_truth_can_be_a_file_or_a_folder(here: Path):
    shutil.copy("rgb.png", "truth.png")
    done = edit("colorize", "rgb.png", "--truth", "truth.png")
    pytest.importorskip("skimage", reason="SSIM is scikit-image's")
    from skimage.metrics import structural_similarity

    result, truth = (pixels(name) / 127.5 - 1 for name in ("rgb.colorize.png", "rgb.png"))
    value = structural_similarity(result, truth, data_range=2, channel_axis=2)
    assert f"SSIM {value:.3f}" in done.stdout


# Models.


def test_the_newest_model_that_suits_is_taken(here: Path, world: Path):
    Path("runs").mkdir()
    for i, name in enumerate(["cc", "cm", "dm"]):
        shutil.copytree(world / name, f"runs/{name}")
        os.utime(f"runs/{name}/latest", (i, i))
    done = cmtool("edit", "colorize", "grey.png", *FEW)
    assert done.exit_code == 0, done.stderr
    assert done.stderr.splitlines()[:2] == [
        "passed over runs/dm: a diffusion model",
        "passed over runs/cm: its images have 1 channel(s), not 3",
    ]
    assert "consistency model runs/cc" in done.stderr


def test_a_diffusion_model_goes_to_the_end_of_the_trajectory(here: Path):
    done = edit("superres", "grey.png", "--factor", "2", "--inner-steps", "4", model="dm")
    assert "4 evaluations at each" in done.stderr
    first = pixels("grey.superres.png")
    words = ("superres", "grey.png", "--factor", "2", "--inner-steps", "1", "--overwrite")
    assert ", 1 evaluation at each\n" in edit(*words, model="dm").stderr
    assert (pixels("grey.superres.png") != first).any()


def test_a_class_is_asked_for_and_taken(here: Path):
    words = ("inpaint", "grey.png", "--box", "0,0,4,4")
    edit(*words, model="classes", code=2)
    edit(*words, "--label", "3", "--inner-steps", "1", model="classes")


def test_a_model_that_was_also_trained_without_classes_needs_none(here: Path):
    found = Checkpoint.open(Path("classes"))
    data = dataclasses.replace(found.recipe.data, label_dropout=0.1)
    for kind, loss in (("consistency", CD()), ("diffusion", DSM())):
        meta = dataclasses.replace(found.meta, kind=kind)
        recipe = dataclasses.replace(found.recipe, data=data, loss=loss)
        file = f"{kind}.safetensors"
        checkpoint.write_file(Path(file), meta, recipe, found.weights("student"))
        edit("inpaint", "grey.png", "--box", "0,0,4,4", "--out", f"{kind}.png", model=file)
        hole = np.zeros((8, 8), np.uint8)
        hole[:4, :4] = 255
        result = api.edit(file, "inpaint", opened("grey.png"), mask=hole, steps=2)
        assert (np.array(result) == pixels(f"{kind}.png")).all()
    words = ("inpaint", "grey.png", "--box", "0,0,4,4", "--guidance", "2", "--out", "a.png")
    assert "leads to a class" in edit(*words, model=file, code=2).stderr
    edit(*words, "--label", "3", model=file)


# From Python.


def test_the_same_kind_comes_back():
    model = small_model()
    options = {"factor": 2, "steps": 2}
    x = torch.linspace(-1, 1, 2 * 3 * 6 * 5).reshape(2, 3, 6, 5)
    result = api.edit(model, "superres", x, **options)
    assert (result.shape, result.dtype) == ((2, 3, 12, 10), torch.float32)
    assert torch.nn.functional.avg_pool2d(result, 2) == pytest.approx(x, abs=1e-6)
    alone = api.edit(model, "superres", x[0], **options)
    assert alone.shape == (3, 12, 10)
    assert torch.allclose(alone, result[0], atol=1e-6)
    array = np.ascontiguousarray(x.permute(0, 2, 3, 1).numpy()).astype(np.float64)
    found = api.edit(model, "superres", array, **options)
    assert found.dtype == np.float64
    assert np.allclose(found, result.permute(0, 2, 3, 1).numpy(), atol=1e-6)
    bytes_ = api.edit(model, "superres", noise(6, 5), **options)
    assert (bytes_.shape, bytes_.dtype) == ((12, 10, 3), np.uint8)
    some = api.edit(model, "superres", [Image.fromarray(noise(6, 5, 3))] * 2, **options)
    assert [picture.size for picture in some] == [(10, 12)] * 2


def test_repainted_transparency_is_seen():
    rgba = noise(8, 8, 4)
    rgba[..., 3] = 255
    rgba[2:4, 2:4, 3] = 0
    picture = Image.fromarray(rgba)
    for result in (
        api.edit(small_model(), "inpaint", picture, steps=1),
        *api.edit(small_model(), "inpaint", [picture], steps=1),
    ):
        assert result.mode == "RGB"
        hole = rgba[..., 3] == 0
        assert (np.asarray(result)[~hole] == rgba[~hole][:, :3]).all()
    given = api.edit(small_model(), "inpaint", picture, steps=1, mask=np.eye(8, dtype=bool))
    assert given.mode == "RGBA"


def test_a_batch_is_one_batch_of_calls(monkeypatch: pytest.MonkeyPatch):
    model, seen = small_model(), []
    real = model.network.forward
    monkeypatch.setattr(
        model.network, "forward", lambda x, *rest, **more: seen.append(len(x)) or real(x, *rest)
    )
    api.edit(model, "colorize", torch.zeros(5, 1, 8, 8), steps=3)
    assert seen == [5, 5, 5]


def test_what_is_refused():
    model = small_model()
    bad = {
        "not finite": torch.full((3, 8, 8), torch.nan),
        "outside": torch.full((3, 8, 8), 2.0),
        "a picture of 2x8x8": torch.zeros(2, 8, 8),
        "cannot edit a str": "in.png",
        "no picture": torch.zeros(8),
        "is empty": [],
        "differ": [torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)],
        "torch.int64": torch.zeros(3, 8, 8, dtype=torch.int64),
        "pictures of object": np.full((8, 8, 3), None),
    }
    for words, image in bad.items():
        with pytest.raises(CmtoolError, match=words):
            api.edit(model, "colorize", image)
    image = torch.zeros(3, 8, 8)
    with pytest.raises(CmtoolError, match="a mask is needed"):
        api.edit(model, "inpaint", image)
    with pytest.raises(CmtoolError, match="the mask is 5x4, and the picture is 8x8"):
        api.edit(model, "inpaint", image, mask=torch.zeros(4, 5))
    with pytest.raises(CmtoolError, match="mask is a str"):
        api.edit(model, "inpaint", image, mask="mask.png")
    with pytest.raises(CmtoolError, match="mask leaves 0"):
        api.edit(model, "inpaint", image, mask=np.full((8, 8), 7.0))
    with pytest.raises(CmtoolError, match="mask has bytes of 0 and 1"):
        api.edit(model, "inpaint", image, mask=np.eye(8, dtype=np.uint8))
    with pytest.raises(CmtoolError, match="takes no 'mask'"):
        api.edit(model, Superres(factor=2), image, mask=torch.zeros(8, 8))
    with pytest.raises(CmtoolError, match="wrong type: strength='x'"):
        api.edit(model, "stroke", image, strength="x")
    with pytest.raises(CmtoolError, match="variant must be 0 or more"):
        api.edit(model, "colorize", image, variant=-1)
    with pytest.raises(CmtoolError, match="did you mean 'factor'"):
        api.edit(model, "superres", image, faktor=2)
    with pytest.raises(CmtoolError, match="did you mean 'inpaint'"):
        api.edit(model, "inpant", image)


def small_model():
    """A consistency model of 8x8 coloured images whose weights are drawn."""
    from cmtool.denoiser import Consistency, Denoiser
    from cmtool.networks.tiny import Tiny
    from cmtool.schedules.karras import Karras

    network = Tiny(width=8, multipliers=(1,), blocks=1).build(8, 3, 0)
    rng = SeedRng(0, [0])
    for parameter in network.parameters():
        parameter.data += 0.05 * rng.randn(parameter.shape)[0]
    model = Denoiser(network, Consistency(), Karras(), "consistency", (3, 8, 8))
    return model.eval()


# The commands are what the files say.


@pytest.mark.parametrize("sketch", sketches(), ids=lambda sketch: sketch.name)
def test_options_are_the_editors_fields(sketch):
    cls = registry.load("editors", sketch.name)
    fields = dataclasses.fields(cls)
    assert [(o.name, o.default) for o in sketch.options] == [(f.name, f.default) for f in fields]
    assert [o.type for o in sketch.options] == [f.type for f in fields]
    assert all(option.text for option in sketch.options)
    assert sketch.constants["steps"] == cls.steps
    assert sketch.constants.get("pictures", {}) == cls.pictures


# From one picture to another.


def test_interpolate_ends_at_samples_of_the_seeds(here: Path):
    done = edit_plain("interpolate", "--seeds", "3,7", "--frames", "3", "--out", "o", model="cm")
    assert done.stdout == "o\n"
    for name, seed in (("o/000.png", 3), ("o/002.png", 7)):
        drawn = api.sample("cm", 1, seed=seed)[0, 0].numpy()
        assert np.abs(pixels(name) / 127.5 - 1 - drawn).max() < 1 / 255


def test_many_frames_are_drawn_in_batches(here: Path, monkeypatch: pytest.MonkeyPatch):
    words = ("interpolate", "--frames", "5", "--label", "3", "--inner-steps", "2")
    edit_plain(*words, "--out", "whole", model="classes")
    monkeypatch.setattr(interpolate, "default_batch", lambda model: 2)
    edit_plain(*words, "--out", "parts", model="classes")
    for i in range(5):
        assert np.abs(pixels(f"whole/00{i}.png") - pixels(f"parts/00{i}.png")).max() <= 1


def test_interpolate_ends_at_the_pictures(here: Path):
    Image.fromarray(noise(8, 8)).save("last.png")
    words = ("interpolate", "grey.png", "last.png", "--frames", "2")
    edit_plain(*words, "--out", "o", model="dm")
    assert np.abs(pixels("o/000.png") - pixels("grey.png")).mean() < 3
    assert np.abs(pixels("o/001.png") - pixels("last.png")).mean() < 3
    for inner in ("24", "25"):  # The even number ends with Euler's method.
        edit_plain(*words, "--inner-steps", inner, "--out", f"o{inner}", model="dm")
        assert np.abs(pixels(f"o{inner}/000.png") - pixels("grey.png")).mean() < 3
    words = (*words, "--by", "noise", "--strength", "0")
    assert edit_plain(*words, model="cm").stdout == "grey.interpolate.png\n"
    edit_plain(*words, "--out", "p", model="cm")
    assert (pixels("p/000.png") == pixels("grey.png")).all()
    edit_plain(*words, "--out", "o.gif", model="cm")
    assert opened("o.gif").n_frames == 2


def edit_plain(*words: str, model: str):
    done = cmtool("edit", *words, "--model", model)
    assert done.exit_code == 0, done.stderr
    return done
