"""JSON files that others wrote: bounded, and every key is used or refused by name."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmtool.errors import CheckpointError, foreign_name

LARGEST = 2**22
"""Bytes of a JSON file; the largest index of weights of this field has a tenth."""


@dataclass
class Fields:
    """A JSON object that knows which of its keys were used.

    Args:
        path: Where it is from.
        values: Its keys.
        used: Those that were asked for.
    """

    path: Path
    values: dict[str, Any]
    used: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path) -> "Fields":
        """Reads a file.

        Raises:
            CheckpointError: It is missing, too large, or no JSON object.
        """
        try:
            # A link to a device or a pipe has no size and no end.
            if path.exists() and not path.is_file():
                raise CheckpointError(f"'{path}' is no file")
            with path.open("rb") as file:
                content = file.read(LARGEST + 1)
            if len(content) > LARGEST:
                raise CheckpointError(f"'{path}' is too large for what it should be")
            values = json.loads(content.decode())
        except OSError as error:
            raise CheckpointError(f"cannot read '{path}': {error.strerror}") from None
        except (ValueError, RecursionError):
            raise CheckpointError(f"'{path}' is not valid JSON", "fetch it again") from None
        if not isinstance(values, dict):
            raise CheckpointError(f"'{path}' does not hold a JSON object", "fetch it again")
        return cls(path, values)

    def refuse(self, key: str, wanted: str) -> CheckpointError:
        """What to raise for a key with a value that is not expressible here."""
        shown = json.dumps(self.values.get(key))
        shown = shown if len(shown) < 100 else f"{shown[:100]}..."
        return CheckpointError(
            f"'{self.path}': {foreign_name(key)} = {shown} is not supported", f"{wanted} is"
        )

    def flag(self, key: str, default: bool) -> bool:
        """A truth value."""
        value = self._take(key, default)
        if not isinstance(value, bool):
            raise self.refuse(key, "true or false")
        return value

    def whole(self, key: str, default: int, high: int, null: int | None = None) -> int:
        """An integer from 0 to `high`; null is what `null` says."""
        value = self._take(key, default)
        value = null if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= high:
            raise self.refuse(key, f"a whole number up to {high}")
        return value

    def number(self, key: str, default: float) -> float:
        """A finite number."""
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e12:
            raise self.refuse(key, "a number")
        if not math.isfinite(value):
            raise self.refuse(key, "a number")
        return float(value)

    def choice(self, key: str, default: Any, options: tuple[Any, ...]) -> Any:
        """One of a few values."""
        value = self._take(key, default)
        for option in options:
            # True is equal to 1 as well.
            if value == option and isinstance(value, bool) == isinstance(option, bool):
                return option
        raise self.refuse(key, " or ".join(json.dumps(option) for option in options))

    def row(self, key: str, kind: type) -> list[Any]:
        """A list of 1 to 16 values of one type."""
        value = self._take(key, None)
        if not isinstance(value, list) or not 1 <= len(value) <= 16:
            raise self.refuse(key, "a list of 1 to 16")
        if not all(type(item) is kind for item in value):
            raise self.refuse(key, f"a list of {kind.__name__}")
        return list(value)

    def has(self, key: str) -> bool:
        """Whether a key has a value; null is none."""
        return self.values.get(key) is not None

    def close(self) -> None:
        """Refuses keys that nobody asked for.

        Raises:
            CheckpointError: There is one with a value.
        """
        for key in self.values:
            if not key.startswith("_") and key not in self.used and self.has(key):
                raise self.refuse(key, "leaving it out")

    def _take(self, key: str, default: Any) -> Any:
        self.used.add(key)
        return self.values.get(key, default)
