"""A folder of any images is described by its headers, whatever is wrong with it."""

from pathlib import Path

import pytest
from PIL import Image

from cmtool.data.survey import survey
from cmtool.workflows.info import describe


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, size, count in (("cat", (40, 30), 2), ("dog", (64, 48), 1)):
        Path("photos", name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", size, "red").save(f"photos/{name}/{i}.png")
    Path("photos/cat/broken.jpg").write_bytes(b"no image")
    Path("photos/dog/notes.txt").write_text("of the dog")
    return Path("photos")


def test_what_is_there_is_counted(folder: Path):
    found = survey("photos")
    assert found.sizes == {(40, 30): 2, (64, 48): 1}
    assert found.classes == {"cat": 3, "dog": 1}
    assert (found.grey, found.ignored, found.ready) == (False, 1, False)
    assert found.broken == ("'photos/cat/broken.jpg' is not an image that can be read",)


def test_only_whole_squares_of_one_size_are_ready(folder: Path):
    Path("icons").mkdir()
    for i in range(2):
        Image.new("L", (16, 16)).save(f"icons/{i}.png")
    assert survey("icons").ready
    assert survey("icons").grey
    Image.new("L", (16, 18)).save("icons/3.png")
    assert not survey("icons").ready


def test_info_says_what_to_type_next(folder: Path):
    told = describe("photos", {})
    assert told["images"] == "3"
    assert told["sizes"] == "40 .. 64 wide, 30 .. 48 high, 2 of them"
    assert told["classes"] == "cat (3), dog (1)"
    assert told["files that cannot be read"] == "1"
    assert told["to train"] == (
        "cmtool train --data photos --set data.image_size=32 --set data.skip_broken=true --dry-run"
    )


def test_info_of_ready_images_is_that_of_the_data_set(folder: Path):
    Path("icons").mkdir()
    Image.new("L", (16, 16)).save("icons/0.png")
    assert describe("icons", {})["images"] == "1 of 16x16, 1 channel(s)"
