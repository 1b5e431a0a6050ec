"""The photograph of the first page, see docs/gallery.md."""

from pathlib import Path

from PIL import Image
from skimage import data


def make(folder: Path) -> None:
    """photo.png and small.png."""
    cat = Image.fromarray(data.chelsea())
    cat.save(folder / "photo.png")
    cat.crop((100, 60, 400, 260)).resize((48, 32)).save(folder / "small.png")
