"""Reads pickles as data: nothing that a pickle names is imported, and nothing is called.

A pickle is a program for a small machine that may call any function it can name. The machine here
only takes notes: a name that the caller allows becomes a `Name`, a call becomes a `Call` that holds
what would have been called and with what, and the reader takes from these what it knows. Every
other name and every instruction that data does not need is refused, and so is a program too long
or too deep to be a model or a data set.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAX_STEPS = 1_000_000
MAX_STACK = 100_000
MAX_NESTING = 1000
MAX_TEXT = 16 * 2**20
MAX_NAME = 200
DICTIONARIES = ("collections.OrderedDict", "dnnlib.util.EasyDict")


class Refused(Exception):
    """What the pickle is refused for, in words, with the place."""


@dataclass(frozen=True, eq=False, slots=True)
class Name:
    """A class or function that the pickle names: "module.name"."""

    path: str


@dataclass(eq=False, slots=True)
class Call:
    """What the pickle would have built: by calling what, with what, and given which state."""

    path: str
    args: tuple[Any, ...]
    state: Any = None


@dataclass(frozen=True, eq=False, slots=True)
class Reference:
    """Something that is kept outside of the pickle."""

    key: Any


def read(
    content: bytes | memoryview,
    allowed: Callable[[str], bool],
    *,
    references: list[Reference] | None = None,
    start: int = 0,
    steps: int = MAX_STEPS,
) -> tuple[Any, int]:
    """Reads one pickle, of protocol 2 to 5.

    Args:
        content: Bytes in which it lies.
        allowed: Which names, "module.name", may occur; they stay words.
        references: Where to note what it refers to outside of itself; None refuses such.
        start: Where it begins.
        steps: How many instructions it may take.

    Returns:
        The value, and where the pickle ends. It is made of None, bool, int, float, str, list,
        tuple, dict, set, `Name`, `Call` and `Reference`; bytes are `bytes` or a `memoryview` of the
        content. Parts may occur several times and contain themselves: walk it with care.

    Raises:
        Refused: It is damaged, or not just data.
    """
    machine = _Machine(memoryview(content), allowed, references, start)
    try:
        return machine.run(steps), machine.at
    except (IndexError, KeyError, struct.error, UnicodeDecodeError):
        raise Refused(f"it is damaged at byte {machine.step}") from None


class _Machine:
    def __init__(
        self,
        content: memoryview,
        allowed: Callable[[str], bool],
        references: list[Reference] | None,
        start: int,
    ) -> None:
        self.content = content
        self.allowed = allowed
        self.references = references
        self.at = self.step = start
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, steps: int) -> Any:
        for _ in range(steps):
            self.step = self.at
            code = self.content[self.at]
            self.at += 1
            if code == ord("."):
                if len(self.stack) != 1 or self.marks:
                    raise Refused(f"it is damaged at byte {self.step}")
                return self.stack.pop()
            operation = _OPERATIONS.get(code)
            if operation is None:
                raise Refused(
                    f"it holds the instruction {code:#04x} at byte {self.step}, which data does "
                    "not need"
                )
            operation(self)
            if len(self.stack) > MAX_STACK or len(self.marks) > MAX_NESTING:
                raise Refused(f"it is nested too deeply at byte {self.step}")
        raise Refused(f"it takes more than {steps:,} instructions")

    # Parts of the content.

    def take(self, size: int) -> memoryview:
        """The next bytes, without a copy."""
        if not 0 <= size <= len(self.content) - self.at:
            raise Refused(f"it claims {size:,} bytes at byte {self.step} and ends before them")
        self.at += size
        return self.content[self.at - size : self.at]

    def number(self, form: str) -> int:
        value: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def line(self) -> str:
        text = bytes(self.content[self.at : self.at + MAX_NAME])
        size = text.index(b"\n") if b"\n" in text else MAX_NAME
        return str(self.take(size + 1)[:size], "utf-8")

    def text(self, size: int) -> None:
        if size > MAX_TEXT:
            raise Refused(f"it claims a text of {size:,} bytes at byte {self.step}")
        self.stack.append(str(self.take(size), "utf-8"))

    def small_bytes(self, size: int) -> None:
        self.stack.append(bytes(self.take(size)))

    def integer(self, size: int) -> None:
        if size > 16:
            raise Refused(f"it claims a number of {size:,} bytes at byte {self.step}")
        self.stack.append(int.from_bytes(self.take(size), "little", signed=True))

    def frame(self) -> None:
        size = self.number("<Q")
        if size > len(self.content) - self.at:
            raise Refused(f"it claims {size:,} bytes at byte {self.step} and ends before them")

    def protocol(self) -> None:
        version = self.number("<B")
        if not 2 <= version <= 5:
            raise Refused(f"it is a pickle of protocol {version}, known are 2 to 5")

    # Containers.

    def since_mark(self) -> list[Any]:
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def tuple_of(self, size: int) -> None:
        if len(self.stack) < size:
            raise IndexError
        parts = tuple(self.stack[-size:])
        del self.stack[-size:]
        self.stack.append(parts)

    def top(self, kind: type) -> Any:
        value = self.stack[-1]
        if type(value) is not kind:
            raise Refused(
                f"it fills what is not a {kind.__name__} at byte {self.step}: {_sort(value)}"
            )
        return value

    def append(self, items: list[Any]) -> None:
        self.top(list).extend(items)

    def add(self, items: list[Any]) -> None:
        self.top(set).update(self.key(item) for item in items)

    def set_items(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise IndexError
        keys = [self.key(key) for key in items[::2]]
        self.top(dict).update(zip(keys, items[1::2], strict=True))

    def set_item(self) -> None:
        value = self.stack.pop()
        self.set_items([self.stack.pop(), value])

    def key(self, key: Any) -> str | bytes | int:
        # Hashing a tuple of tuples of tuples that are all one object takes exponential time.
        if not isinstance(key, str | bytes | int):
            raise Refused(f"it has a key at byte {self.step} that is neither text nor a number")
        return key

    # Names and calls.

    def name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise Refused(f"it asks for a name at byte {self.step} that is no text")
        plain = name.isidentifier() and all(part.isidentifier() for part in module.split("."))
        path = f"{module}.{name}"
        if not plain or len(path) > MAX_NAME or not self.allowed(path):
            shown = ascii(path[:MAX_NAME])[1:-1]
            raise Refused(f"it asks for '{shown}' at byte {self.step}, which data does not need")
        self.stack.append(Name(path))

    def stack_name(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.name(module, name)

    def call(self) -> None:
        args, what = self.stack.pop(), self.stack.pop()
        if not isinstance(what, Name) or not isinstance(args, tuple):
            raise Refused(f"it calls what is not a name at byte {self.step}: {_sort(what)}")
        if what.path not in DICTIONARIES:
            self.stack.append(Call(what.path, args))
        elif args:
            raise Refused(f"it makes a '{what.path}' of something at byte {self.step}")
        else:
            self.stack.append({})

    def build(self) -> None:
        state, value = self.stack.pop(), self.stack[-1]
        if type(value) is dict:  # Attributes of an OrderedDict, such as a state dict's versions.
            return
        if not isinstance(value, Call) or value.state is not None:
            raise Refused(f"it gives a state at byte {self.step} to {_sort(value)}")
        value.state = state

    def refer(self) -> None:
        if self.references is None:
            raise Refused(f"it refers to something outside of itself at byte {self.step}")
        self.references.append(Reference(self.stack.pop()))
        self.stack.append(self.references[-1])


def _sort(value: Any) -> str:
    """What sort of thing a value is, in words; never the value, which may be endless."""
    if isinstance(value, Name | Call):
        return f"'{value.path}'"
    return f"a {type(value).__name__}"


_OPERATIONS: dict[int, Callable[[_Machine], object]] = {
    ord(code): operation
    for code, operation in {
        "\x80": _Machine.protocol,
        "\x95": _Machine.frame,
        # The memory.
        "\x94": lambda m: m.memo.update({len(m.memo): m.stack[-1]}),
        "q": lambda m: m.memo.update({m.number("<B"): m.stack[-1]}),
        "r": lambda m: m.memo.update({m.number("<I"): m.stack[-1]}),
        "h": lambda m: m.stack.append(m.memo[m.number("<B")]),
        "j": lambda m: m.stack.append(m.memo[m.number("<I")]),
        # Plain values.
        "N": lambda m: m.stack.append(None),
        "\x88": lambda m: m.stack.append(True),
        "\x89": lambda m: m.stack.append(False),
        "K": lambda m: m.stack.append(m.number("<B")),
        "M": lambda m: m.stack.append(m.number("<H")),
        "J": lambda m: m.stack.append(m.number("<i")),
        "\x8a": lambda m: m.integer(m.number("<B")),
        "G": lambda m: m.stack.append(struct.unpack(">d", m.take(8))[0]),
        "\x8c": lambda m: m.text(m.number("<B")),
        "X": lambda m: m.text(m.number("<I")),
        "\x8d": lambda m: m.text(m.number("<Q")),
        "C": lambda m: m.small_bytes(m.number("<B")),
        "B": lambda m: m.stack.append(m.take(m.number("<I"))),
        "\x8e": lambda m: m.stack.append(m.take(m.number("<Q"))),
        # Python 2's text, whose encoding nobody knows.
        "U": lambda m: m.small_bytes(m.number("<B")),
        "T": lambda m: m.stack.append(m.take(m.number("<i"))),
        # Containers.
        "(": lambda m: m.marks.append(len(m.stack)),
        "}": lambda m: m.stack.append({}),
        "]": lambda m: m.stack.append([]),
        ")": lambda m: m.stack.append(()),
        "\x8f": lambda m: m.stack.append(set()),
        "t": lambda m: m.stack.append(tuple(m.since_mark())),
        "\x85": lambda m: m.tuple_of(1),
        "\x86": lambda m: m.tuple_of(2),
        "\x87": lambda m: m.tuple_of(3),
        "a": lambda m: m.append([m.stack.pop()]),
        "e": lambda m: m.append(m.since_mark()),
        "s": _Machine.set_item,
        "u": lambda m: m.set_items(m.since_mark()),
        "\x90": lambda m: m.add(m.since_mark()),
        # Names and calls.
        "c": lambda m: m.name(m.line(), m.line()),
        "\x93": _Machine.stack_name,
        "R": _Machine.call,
        "\x81": _Machine.call,
        "b": _Machine.build,
        "Q": _Machine.refer,
    }.items()
}
