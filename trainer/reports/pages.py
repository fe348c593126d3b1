"""What the pages have in common: one look, one file that needs no other, all of it escaped."""

from __future__ import annotations

import importlib.resources
from typing import Any

from trainer import storage
from trainer.errors import UsageError

# How a page is told from somebody's file, which is not replaced.
_MARK = b'<meta name="generator" content="trainer">'


def check_replaceable(path: str) -> None:
    """Raises UsageError if there is a file, local or gs://, that is no page of this program."""
    folder, name = storage.parent(path)
    earlier = folder.read(name)
    if earlier is not None and _MARK not in earlier:
        raise UsageError(f"--out {path}: is there, and not a page of trainer")


def render(template: str, **values: Any) -> str:
    """Returns a page.

    Args:
        template: name of a file in this folder; `page.html.jinja` is the frame of all of them.
        values: what the template shows; text in it stays text, whatever it holds.
    """
    # Not before there is something to show: it takes a while.
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "number": _number, "duration": _duration}
    return environment.get_template(template).render(values)


def _source(template: str) -> str:
    return importlib.resources.files(__package__).joinpath(template).read_text("utf-8")


def _percent(part: float, digits: int = 2) -> str:
    return f"{100 * part:.{digits}f}\u202f%"


def _number(value: float, digits: int = 0) -> str:
    return f"{value:,.{digits}f}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f}\u202fs"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}\u202fh {minutes}\u202fmin" if hours else f"{minutes}\u202fmin"
