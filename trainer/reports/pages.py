"""Renders self-contained HTML pages with a common style; all text is escaped."""

from __future__ import annotations

import importlib.resources
from typing import Any

from trainer import storage
from trainer.errors import UsageError

# Identifies pages of this program; other files are not replaced.
_MARK = b'<meta name="generator" content="trainer">'


def check_replaceable(path: str) -> None:
    """Raises UsageError if a file, local or gs://, exists that is not a page of this program."""
    folder, name = storage.parent(path)
    content = folder.read(name)
    if content is not None and _MARK not in content:
        raise UsageError(
            f"--out {path}: exists and is not a page of trainer; set --out to another name"
        )


def render(template: str, **values: Any) -> str:
    """Returns an HTML page.

    Args:
        template: file name of a template in this folder, which extends `page.html.jinja`.
        values: variables of the template; text is escaped.
    """
    import jinja2  # Imported late, since it takes a while.

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


def _percent(fraction: float, digits: int = 2) -> str:
    return f"{100 * fraction:.{digits}f}\u202f%"


def _number(value: float, digits: int = 0) -> str:
    return f"{value:,.{digits}f}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f}\u202fs"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}\u202fh {minutes}\u202fmin" if hours else f"{minutes}\u202fmin"
