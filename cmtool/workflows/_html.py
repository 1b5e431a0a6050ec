"""Pieces of an HTML page. What comes from files goes through `text`, so that none of it acts."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

_PART = re.compile(r"\{\{(\w+)\}\}")
LONGEST = 4000
"""Characters of one text; no page grows without end by a name in a file."""


def text(value: object) -> str:
    """Any value as text in a page, or in an attribute's quotes; what is not printable is written
    out.

    Example:
        >>> text("<script>'&\\x1b")
        '&lt;script&gt;&#x27;&amp;\\\\x1b'
    """
    plain = str(value)
    plain = plain if len(plain) <= LONGEST else f"{plain[:LONGEST]}..."
    return html.escape(
        "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in plain)
    )


def table(head: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """A table; the first cell of a row is its heading."""
    top = "".join(f'<th scope="col">{text(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{text(first)}</th>'
        + "".join(f"<td>{text(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    above = f"<caption>{text(caption)}</caption>" if caption else ""
    return (
        f'<div class="wide" tabindex="0" role="group" aria-label="{text(caption or head[0])}">'
        f"<table>{above}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def pairs(facts: Mapping[str, object]) -> str:
    """Names and values."""
    inside = "".join(f"<dt>{text(k)}</dt><dd>{text(v)}</dd>" for k, v in facts.items())
    return f"<dl>{inside}</dl>"


def data(content: object) -> str:
    """Plain data for a script element of type application/json, which no text in it can close."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def picture(content: bytes) -> str:
    """A PNG as the address of an image."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def page(template: Path, parts: Mapping[str, str]) -> str:
    """Fills a template's {{name}}s.

    Its one script and no other may run: the page's policy names the script's hash, and forbids
    everything that is not in the file.
    """
    source = template.read_text(encoding="utf-8")
    script = source[source.index("<script>") + len("<script>") : source.rindex("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    filled = {"policy": policy, **parts}
    return _PART.sub(lambda match: filled[match[1]], source)
