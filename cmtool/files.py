"""Files that appear whole or not at all, and what went wrong where they do not."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def why(problem: OSError) -> str:
    """What the system says is wrong, in lower case."""
    return (problem.strerror or str(problem)).lower()


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A draft beside `path`, which takes its place when the block ends well and is removed
    otherwise; makes the folder. What the system refuses passes as OSError.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "new", "a.txt")
        >>> with whole(path) as draft:
        ...     _ = draft.write_text("all of it")
        >>> path.read_text(), len(list(path.parent.iterdir()))
        ('all of it', 1)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
