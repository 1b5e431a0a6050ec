"""The endless sampler: every image once an epoch, the same images however the work is divided."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cmtool.data import folder
from cmtool.data._stores import Store
from cmtool.data.base import ImageSet
from cmtool.data.catalog import open_data
from cmtool.data.loader import Loader
from cmtool.errors import DataError
from cmtool.images import save_png


def numbered(size: int, labels: bool = True) -> ImageSet:
    """Image i is i at the left and 0 at the right, so index and flip can be read off."""
    pixels = np.zeros((size, 3, 4, 4), dtype=np.uint8)
    pixels[..., :2] = np.arange(size, dtype=np.uint8).reshape(-1, 1, 1, 1)
    classes = np.arange(size, dtype=np.int64) % 10 if labels else None
    names = tuple("0123456789") if labels else ()
    return ImageSet.from_array("numbered", pixels, classes, names, flip_ok=True, facts={})


def shown(x: torch.Tensor) -> list[int]:
    return ((x.amax((1, 2, 3)) + 1) * 127.5).round().int().tolist()


def test_every_image_comes_once_an_epoch_and_in_another_order() -> None:
    loader = Loader(numbered(60), batch_size=12, seed=3, flip=False)
    row = [index for k in range(15) for index in shown(loader.batch(k).x)]
    epochs = [row[:60], row[60:120], row[120:]]
    assert all(sorted(epoch) == list(range(60)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_epochs_follow_each_other_without_a_gap() -> None:
    """25 images, batches of 7: after 25 steps, 7 whole epochs have passed, nothing dropped."""
    loader = Loader(numbered(25), batch_size=7, seed=0, flip=False)
    row = [index for k in range(25) for index in shown(loader.batch(k).x)]
    for e in range(7):
        assert sorted(row[25 * e : 25 * (e + 1)]) == list(range(25))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_set_smaller_than_a_batch(size: int) -> None:
    batch = Loader(numbered(size), batch_size=10, seed=0, flip=False).batch(4)
    assert sorted(shown(batch.x)) == sorted(list(range(size)) * (10 // size))


@pytest.mark.parametrize(("world", "of"), [(2, 1), (1, 3), (2, 3), (4, 3), (12, 1)])
def test_ranks_and_micro_batches_are_slices_of_the_one_process_batch(world: int, of: int) -> None:
    data = numbered(30)
    for step in (0, 2, 7):
        whole = Loader(data, batch_size=24, seed=1, flip=True).batch(step)
        parts = [
            Loader(data, batch_size=24, seed=1, flip=True, rank=rank, world=world).batch(
                step, m, of
            )
            for rank in range(world)
            for m in range(of)
        ]
        assert torch.equal(torch.cat([part.x for part in parts]), whole.x)
        assert torch.equal(torch.cat([part.label for part in parts]), whole.label)


def test_a_step_is_the_same_whatever_came_before() -> None:
    data = numbered(30)
    straight = Loader(data, batch_size=8, seed=5, flip=True)
    for step in range(9):
        batch = straight.batch(step)
    fresh = Loader(data, batch_size=8, seed=5, flip=True).batch(8)
    assert torch.equal(batch.x, fresh.x)
    assert not torch.equal(Loader(data, batch_size=8, seed=6, flip=True).batch(8).x, fresh.x)


def test_labels_belong_to_their_images() -> None:
    batch = Loader(numbered(60), batch_size=50, seed=0, flip=True).batch(3)
    assert batch.label.dtype == torch.int64
    assert batch.label.tolist() == [index % 10 for index in shown(batch.x)]
    assert (
        Loader(numbered(9, labels=False), batch_size=3, seed=0, flip=False).batch(0).label is None
    )


def test_half_of_the_images_are_mirrored_and_only_if_asked() -> None:
    data = numbered(200)
    mirrored = [
        (batch.x[:, 0, 0, 0] < batch.x[:, 0, 0, 3]).float().mean().item()
        for batch in (Loader(data, batch_size=200, seed=0, flip=True).batch(k) for k in range(20))
    ]
    assert abs(np.mean(mirrored) - 0.5) < 4 * 0.5 / np.sqrt(20 * 199)
    straight = Loader(data, batch_size=200, seed=0, flip=False).batch(0).x
    assert torch.all(straight[:, 0, 0, 0] >= straight[:, 0, 0, 3])


def test_the_data_set_itself_is_never_changed() -> None:
    data = numbered(20)
    before = data.images(np.arange(20)).copy()
    loader = Loader(data, batch_size=20, seed=0, flip=True)
    loader.batch(0).x.zero_()
    assert np.array_equal(data.images(np.arange(20)), before)


def test_no_global_random_state_is_touched() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    Loader(numbered(20), batch_size=20, seed=0, flip=True).batch(3)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_the_order_is_part_of_the_format() -> None:
    """Resuming must find the same images in a later version: these numbers may not change."""
    loader = Loader(open_data("digits"), batch_size=6, seed=0, flip=True)
    assert loader.indices(0).tolist() == ORDER_0
    assert loader.indices(1000).tolist() == ORDER_1000
    assert loader.flips(0).astype(int).tolist() == FLIPS_0


ORDER_0 = [416, 996, 1371, 12, 1347, 776]
ORDER_1000 = [567, 778, 667, 139, 466, 130]
FLIPS_0 = [0, 0, 0, 0, 1, 1]


def many_files(tmp_path: Path, count: int = 24) -> Path:
    data = numbered(count).images(np.arange(count)).transpose(0, 2, 3, 1)
    for i, image in enumerate(data):
        save_png(tmp_path / "many" / f"{i:03d}.png", image)
    return tmp_path / "many"


def test_decoding_on_demand_gives_the_same_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = many_files(tmp_path)
    held = open_data(str(path), channels=3)
    monkeypatch.setattr("cmtool.data.base.MEMORY_SHARE", 0.0)
    on_demand = open_data(str(path), channels=3)
    assert (held.in_memory, on_demand.in_memory) == (True, False)
    loaders = [Loader(data, batch_size=8, seed=2, flip=True) for data in (held, on_demand)]
    for step in (0, 1, 2, 9, 10, 4):
        for micro in (0, 1):
            a, b = (loader.batch(step, micro, 2) for loader in loaders)
            assert torch.equal(a.x, b.x)


def test_a_file_that_breaks_while_training_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = many_files(tmp_path, 8)
    monkeypatch.setattr("cmtool.data.base.MEMORY_SHARE", 0.0)
    loader = Loader(open_data(str(path)), batch_size=8, seed=0, flip=False)
    loader.batch(0)
    (path / "005.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"^empty image file '.*many/005\.png'$"):
        [loader.batch(step) for step in range(1, 4)]


def test_the_next_batch_is_decoded_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    whole = np.zeros((4, 4, 3), dtype=np.uint8)
    monkeypatch.setattr("cmtool.data.folder.images.read", lambda content, name: whole)
    monkeypatch.setattr("cmtool.data.base.MEMORY_SHARE", 0.0)
    names = tuple(f"{i}.png" for i in range(8))
    store = Store("many", names, lambda name: asked.append(name) or b"png")
    data = folder.image_set(store, "many", image_size=4, channels=3)
    loader = Loader(data, batch_size=4, seed=0, flip=False)
    loader.batch(0)
    loader._ahead[1].result(timeout=10)
    assert sorted(asked) == sorted(names)
    loader.batch(1)
    loader._ahead[1].result(timeout=10)
    assert len(asked) == 12


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (
            {"batch_size": 1000, "world": 3},
            "batch_size 1000 does not split over 3 processes",
            "nearest: 999, 1002",
        ),
        (
            {"batch_size": 2, "world": 3},
            "batch_size 2 does not split over 3 processes",
            "nearest: 3",
        ),
        ({"batch_size": 0}, "batch_size must be at least 1, got '0'", None),
        ({"batch_size": 4, "seed": -1}, "seed must be 0 or more, got '-1'", None),
    ],
)
def test_bad_options(options: dict[str, int], message: str, hint: str | None) -> None:
    with pytest.raises(DataError) as caught:
        Loader(numbered(9), **{"seed": 0, "flip": False, **options})
    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_micro_batches_must_split_too() -> None:
    loader = Loader(numbered(9), batch_size=8, seed=0, flip=False, world=2)
    with pytest.raises(DataError) as caught:
        loader.batch(0, 0, 3)
    assert caught.value.message == "batch_size 8 does not split over 2 processes x 3 micro-batches"
    assert caught.value.hint == "nearest: 6, 12"


def test_an_empty_data_set() -> None:
    with pytest.raises(DataError, match=r"^data set 'numbered' has no images$"):
        Loader(numbered(0), batch_size=1, seed=0, flip=False)
