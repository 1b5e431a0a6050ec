"""What our two single files share: how they are written and opened."""

from pathlib import Path

from cmtool import checkpoint
from cmtool.formats.base import Format, Pair, Source
from cmtool.workflows.load import open_model


class Single(Format):
    """Weights by name and the configuration in one file that every command takes."""

    def write(self, source: Source, path: Path) -> None:
        checkpoint.write_file(path, source.model.meta, source.model.recipe, source.state())

    def pairs(self, source: Source, path: Path) -> list[Pair]:
        return [Pair("cmtool.load", source.denoiser, open_model(path).denoiser)]
