"""Image files of every mode, the pixel range, crops, pictures."""

import contextlib
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from cmtool import images
from cmtool.errors import DataError

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (6, 5), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def read(content: bytes) -> np.ndarray:
    return images.read(content, "photo.png")


# The pixel range


def test_every_byte_survives_the_way_to_floats_and_back() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    x = images.from_uint8(every)
    assert x.dtype == torch.float32
    assert (x[0], x[255]) == (-1, 1)
    assert torch.equal(images.to_uint8(x), every)


def test_halves_are_rounded_up() -> None:
    """127.5 (x + 1) = k + 1/2 gives k + 1; x = 0 is such a half, 127.5."""
    x = (torch.arange(255, dtype=torch.float64) + 0.5) / 127.5 - 1
    assert images.to_uint8(torch.zeros(1)).item() == 128
    above, below = images.to_uint8(x + 1e-5), images.to_uint8(x - 1e-5)
    assert torch.equal(above, torch.arange(1, 256, dtype=torch.uint8))
    assert torch.equal(below, torch.arange(0, 255, dtype=torch.uint8))


def test_values_out_of_range_are_clipped() -> None:
    assert images.to_uint8(torch.tensor([-9.0, -1.001, 1.001, 80.0])).tolist() == [0, 0, 255, 255]


# Modes


def test_colour_and_grey_are_read_as_they_are() -> None:
    assert np.array_equal(read(encoded(Image.fromarray(COLOUR))), COLOUR)
    assert np.array_equal(read(encoded(Image.fromarray(GREY))), GREY[:, :, None])


def test_black_and_white_becomes_grey() -> None:
    bits = GREY > 127
    assert np.array_equal(read(encoded(Image.fromarray(bits))), bits[:, :, None] * np.uint8(255))


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "PPM", "WEBP", "PNG"])
def test_lossless_formats_agree(kind: str) -> None:
    if kind == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(read(encoded(Image.fromarray(COLOUR), kind, **options)), COLOUR)


def test_alpha_is_laid_over_white() -> None:
    alpha = RNG.integers(0, 256, (6, 5, 1), dtype=np.uint8)
    rgba = Image.fromarray(np.concatenate([COLOUR, alpha], axis=2))
    share = alpha / 255
    want = np.floor(COLOUR * share + 255 * (1 - share) + 0.5)
    assert np.abs(read(encoded(rgba)) - want).max() == 0


def test_grey_with_alpha_stays_grey() -> None:
    la = Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (5, 6), 0)])
    assert np.array_equal(read(encoded(la)), np.full((6, 5, 1), 255))


def test_a_palette_gives_its_colours() -> None:
    palette = Image.fromarray(COLOUR).quantize(256)
    assert palette.mode == "P"
    assert np.array_equal(read(encoded(palette)), np.asarray(palette.convert("RGB")))
    assert read(encoded(palette, "GIF")).shape == (6, 5, 3)


def test_a_transparent_palette_colour_becomes_white() -> None:
    palette = Image.fromarray(COLOUR).quantize(256)
    index = palette.getpixel((0, 0))
    result = read(encoded(palette, transparency=index))
    assert result[0, 0].tolist() == [255, 255, 255]
    assert np.array_equal(result[5, 4], np.asarray(palette.convert("RGB"))[5, 4])


def test_a_palette_of_greys_is_grey() -> None:
    palette = Image.fromarray(GREY)
    palette.putpalette([level for level in range(256) for _ in range(3)])
    content = encoded(palette)
    assert Image.open(io.BytesIO(content)).mode == "P"
    assert np.array_equal(read(content), GREY[:, :, None])
    assert images.peek(content, "photo.png") == (5, 6, True)


def test_16_bit_grey_is_divided_by_257_and_rounded() -> None:
    deep = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    want = np.floor(deep / 257 + 0.5).astype(np.uint8)[:, :, None]
    assert np.array_equal(read(encoded(Image.fromarray(deep))), want)
    assert np.array_equal(read(encoded(Image.fromarray(deep), "TIFF")), want)


def test_cmyk_is_converted() -> None:
    cmyk = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    result = read(encoded(cmyk, "TIFF"))
    assert result.shape == (4, 4, 3)
    assert result[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("turn", range(1, 9))
def test_the_exif_turn_is_applied(turn: int) -> None:
    back = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a[::-1].transpose(1, 0, 2),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: a.transpose(1, 0, 2)[::-1],
    }
    exif = Image.Exif()
    exif[0x0112] = turn
    content = encoded(Image.fromarray(COLOUR), exif=exif)
    assert np.array_equal(read(content), back[turn](COLOUR))


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("L", (4, 4), level) for level in (10, 200)]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.unique(read(content)).tolist() == [10]


def test_a_file_and_its_contents_give_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(COLOUR)))
    assert np.array_equal(images.read(path, "a.png"), COLOUR)
    assert images.peek(path, "a.png") == (5, 6, False)


def test_channels() -> None:
    grey = GREY[:, :, None]
    assert np.array_equal(images.with_channels(grey, 3)[:, :, 1], GREY)
    luma = images.with_channels(COLOUR, 1)[:, :, 0]
    assert np.abs(luma - COLOUR @ np.array([0.299, 0.587, 0.114])).max() < 0.51
    assert images.with_channels(COLOUR, 3) is COLOUR


# Broken files


def png_claiming(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


WHOLE = encoded(Image.fromarray(RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty image file 'photo.png'"),
        (b"hello, I am a text", "'photo.png' is not an image that can be read"),
        (WHOLE[: len(WHOLE) // 2], "broken image 'photo.png': image file is truncated"),
        (png_claiming(10_000, 10_000), "image 'photo.png' has more than 89,478,485 pixels"),
        (png_claiming(60_000, 60_000), "image 'photo.png' has more than 89,478,485 pixels"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "'photo.png' is not an image"),
        (
            encoded(Image.fromarray(np.full((3, 3), 70_000, dtype=np.int32)), "TIFF"),
            "broken image 'photo.png': its 32-bit pixels go beyond 0 .. 65535",
        ),
        (
            encoded(Image.fromarray(np.ones((3, 3), dtype=np.float32)), "TIFF"),
            "broken image 'photo.png': it has floating-point pixels, save it with 8 or 16 bits",
        ),
    ],
)
def test_a_bad_file_is_named(content: bytes, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read(content)
    assert caught.value.message.startswith(message)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^no image file 'gone.png'$"):
        images.read(tmp_path / "gone.png", "gone.png")
    with pytest.raises(DataError, match=r"^cannot read image 'folder.png': is a directory$"):
        images.read(tmp_path, "folder.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_damage_is_never_anything_but_a_data_error(kind: str) -> None:
    whole = encoded(Image.fromarray(COLOUR), kind)
    rng = np.random.default_rng(1)
    for _ in range(150):
        damaged = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        for place in rng.integers(0, len(damaged), 3):
            damaged[place] = rng.integers(256)
        with contextlib.suppress(DataError):
            assert read(bytes(damaged)).shape[2] in (1, 3)


# Crops


@pytest.mark.parametrize("crop", images.CROPS)
def test_an_image_of_the_right_size_is_left_alone(crop: str) -> None:
    image = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert np.array_equal(images.CROPS[crop](image, 16), image)


@pytest.mark.parametrize("crop", ["center", "dhariwal", "lsun"])
@pytest.mark.parametrize("shape", [(16, 16), (40, 90), (90, 41), (7, 5)])
def test_a_flat_image_stays_flat_and_gets_the_size(crop: str, shape: tuple[int, int]) -> None:
    image = np.full((*shape, 1), 77, dtype=np.uint8)
    assert np.array_equal(images.CROPS[crop](image, 16), np.full((16, 16, 1), 77))


@pytest.mark.parametrize("crop", ["center", "dhariwal", "lsun"])
def test_crops_are_centred(crop: str) -> None:
    """Only the sides are black, and an even number of columns is cut: what is left is white."""
    image = np.zeros((16, 48, 3), dtype=np.uint8)
    image[:, 16:32] = 255
    assert images.CROPS[crop](image, 16).min() == 255


def test_dhariwal_halves_before_bicubic() -> None:
    """91x80 -> 45x40 -> 22x20 by BOX, 20 < 2 x 16; BICUBIC to 18x16; one column cut each side."""
    image = RNG.integers(0, 256, (80, 91, 3), dtype=np.uint8)
    picture = Image.fromarray(image)
    for size, how in [((45, 40), "BOX"), ((22, 20), "BOX"), ((18, 16), "BICUBIC")]:
        picture = picture.resize(size, Image.Resampling[how])
    assert np.array_equal(images.dhariwal(image, 16), np.asarray(picture)[:, 1:17])


def test_lsun_is_the_mean_of_blocks() -> None:
    image = RNG.integers(0, 256, (48, 48, 1), dtype=np.uint8)
    blocks = image[:, :, 0].reshape(16, 3, 16, 3).mean((1, 3))
    assert np.abs(images.lsun(image, 16)[:, :, 0] - blocks).max() <= 1


def test_center_cuts_before_it_resizes() -> None:
    image = RNG.integers(0, 256, (30, 50, 3), dtype=np.uint8)
    square = Image.fromarray(image[:, 10:40]).resize((16, 16), Image.Resampling.LANCZOS)
    assert np.array_equal(images.center(image, 16), np.asarray(square))


def test_crops_refuse_what_they_cannot_do() -> None:
    with pytest.raises(ValueError, match="is 5x6, not 16x16"):
        images.none(COLOUR, 16)
    with pytest.raises(ValueError, match="is 1000000x1, too thin for a crop of 64x64"):
        images.dhariwal(np.zeros((1, 1_000_000, 1), dtype=np.uint8), 64)
    with pytest.raises(DataError, match=r"^unknown crop 'centre' \(did you mean 'center'\?\)$"):
        images.crop_named("centre")


# Pictures


def test_png_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.png"
    images.save_png(path, COLOUR)
    assert np.array_equal(images.read(path, "a.png"), COLOUR)
    images.save_png(path, GREY[:, :, None])
    assert np.array_equal(images.read(path, "a.png"), GREY[:, :, None])
    assert os.listdir(path.parent) == ["a.png"]


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 3), (8, 8, 1), (5, 9, 3), (300, 40, 3)])
@pytest.mark.parametrize("spread", [1, 256])
def test_a_png_of_ours_is_read_back_by_pillow(shape: tuple[int, int, int], spread: int) -> None:
    batch = RNG.integers(0, spread, (3, *shape), dtype=np.uint8)
    pixels, content = batch[1], images.pngs(batch)[1]
    with Image.open(io.BytesIO(content)) as picture:
        picture.load()  # Checks the sums of all chunks.
        assert picture.mode == {1: "L", 3: "RGB"}[shape[2]]
        assert np.array_equal(np.asarray(picture).reshape(shape), pixels)
    assert content.endswith(b"IEND\xaeB`\x82")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_gif_shows_every_frame_as_long_as_asked(tmp_path: Path, channels: int) -> None:
    # At most 256 colours, so that a palette holds them all.
    frames = RNG.integers(0, 256, (3, 10, 12, channels), dtype=np.uint8)
    images.save_gif(tmp_path / "a.gif", list(frames), [100, 200, 1500])
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.n_frames, gif.info["loop"]) == (3, 0)
        for index, (frame, shown) in enumerate(zip(frames, [100, 200, 1500], strict=True)):
            gif.seek(index)
            assert gif.info["duration"] == shown
            pixels = np.asarray(gif.convert("L" if channels == 1 else "RGB"))
            assert np.array_equal(pixels.reshape(frame.shape), frame)
    assert os.listdir(tmp_path) == ["a.gif"]


def test_a_full_disk_leaves_the_old_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    images.save_png(path, COLOUR)

    def full(self: Path, content: bytes) -> None:
        with self.open("wb") as file:
            file.write(content[:4])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match=r"^cannot write '.*a.png': no space left on device$"):
        images.save_png(path, COLOUR[::-1])
    monkeypatch.undo()
    assert np.array_equal(images.read(path, "a.png"), COLOUR)
    assert os.listdir(tmp_path) == ["a.png"]


def test_a_file_in_the_way_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(DataError, match=r"^cannot write '.*a.png': (file exists|not a directory)$"):
        images.save_png(tmp_path / "out" / "a.png", COLOUR)


def test_grid_repeats_pixels_and_keeps_the_order() -> None:
    tiles = RNG.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    sheet = images.grid(tiles, 3)
    assert sheet.shape == (2 * 34 - 2, 3 * 34 - 2, 3)
    for i in range(5):
        top, left = i // 3 * 34, i % 3 * 34
        assert np.array_equal(sheet[top : top + 32 : 4, left : left + 32 : 4], tiles[i])
        assert np.array_equal(sheet[top + 3 : top + 32 : 4, left + 3 : left + 32 : 4], tiles[i])
    assert sheet[:, 32:34].min() == 255
    assert sheet[34:, 68:].min() == 255


def test_grid_leaves_large_tiles_as_they_are() -> None:
    tiles = RNG.integers(0, 256, (2, 40, 40, 1), dtype=np.uint8)
    assert np.array_equal(images.grid(tiles, 8)[:, :40], tiles[0])


def test_labelled_grid_shows_every_panel_under_its_title() -> None:
    panels = {
        "1 step": RNG.integers(0, 200, (4, 8, 8, 1), dtype=np.uint8),
        "teacher (NFE 35)": RNG.integers(0, 200, (4, 8, 8, 3), dtype=np.uint8),
    }
    picture = images.labelled_grid(panels, 2, row_labels=["seed 0", "seed 1"])
    for tiles in panels.values():
        sheet = images.with_channels(images.grid(tiles, 2), 3)
        height, width = sheet.shape[:2]
        places = [
            (top, left)
            for top in range(picture.shape[0] - height + 1)
            for left in range(picture.shape[1] - width + 1)
            if np.array_equal(picture[top, left : left + width], sheet[0])
        ]
        top, left = places[0]
        assert np.array_equal(picture[top : top + height, left : left + width], sheet)
        assert picture[:top, left : left + width].min() < 128, "no title above the panel"
        assert picture[top : top + height, : left - 10].min() < 128, "no row label"


def test_columns_are_labelled_and_as_wide_as_their_labels() -> None:
    rows = RNG.integers(0, 200, (6, 8, 8, 1), dtype=np.uint8)
    words = ["a", "a long word", "c"]
    picture = images.labelled_grid(
        {"seed 0": rows}, 3, row_labels=["one", "two"], column_labels=words
    )
    sides = [
        factor
        for factor in range(4, 40)
        if _place(picture, images.grid(rows, 3, tile=8 * factor)) is not None
    ]
    assert len(sides) == 1, "not one size that is a whole multiple"
    sheet = images.grid(rows, 3, tile=8 * sides[0])
    top, left = _place(picture, sheet)
    side = 8 * sides[0] + 2
    for column, word in enumerate(words):
        above = picture[top - 20 : top, left + column * side : left + (column + 1) * side]
        assert (above.min() < 128) == bool(word)
    assert picture[top - 20 : top, left + side - 2 : left + side].min() == 255, "labels touch"


def _place(picture: np.ndarray, sheet: np.ndarray) -> tuple[int, int] | None:
    """Top and left of a sheet in a picture."""
    sheet = images.with_channels(sheet, 3)
    height, width = sheet.shape[:2]
    for top in range(picture.shape[0] - height + 1):
        for left in range(picture.shape[1] - width + 1):
            if np.array_equal(picture[top : top + height, left : left + width], sheet):
                return top, left
    return None
