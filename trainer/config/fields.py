"""Types of settings, each with its check, and how a field becomes a command-line option."""

from __future__ import annotations

import codecs
import dataclasses
import os
import re
import typing
from typing import Annotated, Any

import pydantic
from pydantic import AfterValidator, BeforeValidator, Field

from trainer import storage
from trainer.storage import user_paths

FORBID_EXTRA = pydantic.ConfigDict(extra="forbid")

# Headings of `--help`, in this order; options without a group come first.
GROUPS = (
    "Data", "Model", "Training", "Job", "Output", "Machine", "Vertex AI", "Hyperparameter search",
    "Kubernetes",
)  # fmt: skip


def _plain_number(value: object) -> object:
    # pydantic, like Python, reads "1_0" as 10; on a command line that is a typo.
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        raise ValueError("a plain number")
    return value


def _encodable(value: str) -> str:
    # Neither a path nor a line of output can hold these.
    if "\0" in value or any(0xD800 <= ord(character) < 0xE000 for character in value):
        raise ValueError("UTF-8 text without NUL characters")
    return value


def _local(value: str) -> str:
    if storage.is_remote(value):
        raise ValueError("a local folder")
    return value


def _plain_file(value: str) -> str:
    # Writing would replace a device such as /dev/null by a plain file.
    if value.endswith("/") or os.path.exists(value) != os.path.isfile(value):
        raise ValueError("the path of a file")
    return value


def _project(value: str) -> str:
    if not re.fullmatch(r"([a-z0-9.-]+:)?[a-z][a-z0-9-]*", value):
        raise ValueError("the ID of a Google Cloud project, such as my-project")
    return value


def _html(value: str) -> str:
    if not value.endswith(".html"):
        raise ValueError("a name that ends in .html")
    return value


def _codec(value: str) -> str:
    try:
        "a".encode(codecs.lookup(value).name)
    except (LookupError, UnicodeError):
        raise ValueError("the name of an encoding, such as cp1252 or utf-16") from None
    return value


Text = Annotated[str, Field(min_length=1), AfterValidator(_encodable)]
# A file, folder or pattern, local or in a bucket; or the name of a data set.
AnyPath = Annotated[Text, AfterValidator(user_paths.normalise)]
FolderPath = Annotated[AnyPath, AfterValidator(user_paths.without_trailing_slash)]  # A folder.
LocalFolder = Annotated[FolderPath, AfterValidator(_local)]
File = Annotated[AnyPath, AfterValidator(_plain_file)]  # A file to write.
Project = Annotated[Text, AfterValidator(_project)]
Codec = Annotated[Text, AfterValidator(_codec)]
HtmlPath = Annotated[AnyPath, AfterValidator(_html)]
PositiveInt = Annotated[int, BeforeValidator(_plain_number), Field(gt=0)]
NonNegativeInt = Annotated[int, BeforeValidator(_plain_number), Field(ge=0)]
Port = Annotated[int, BeforeValidator(_plain_number), Field(ge=0, le=65535)]
Seed = Annotated[int, BeforeValidator(_plain_number), Field(ge=0, lt=2**31)]
PositiveFloat = Annotated[float, BeforeValidator(_plain_number), Field(gt=0, allow_inf_nan=False)]
Folds = Annotated[int, BeforeValidator(_plain_number), Field(ge=2, le=100)]
Fraction = Annotated[float, BeforeValidator(_plain_number), Field(ge=0, lt=1)]


def option(default: object, help_text: str, *, affects_result: bool = True) -> Any:
    """Describes a field that is a flag of a command.

    Args:
        default: the value if the user gives none.
        help_text: what it does, unit, default; `{models}` and `{datasets}` stand for their names.
        affects_result: whether the trained model can depend on it. A run is resumed, and reported
            as the same, whatever the other settings are.
    """
    return Field(
        default=default,
        description=help_text,
        json_schema_extra={"positional": False, "affects_result": affects_result},
    )


def argument(help_text: str) -> Any:
    """Describes a field that is a positional argument; of type tuple, any number of them."""
    return Field(
        description=help_text, json_schema_extra={"positional": True, "affects_result": True}
    )


@dataclasses.dataclass(frozen=True)
class OptionSpec:
    """One option or positional argument of a command.

    Attributes:
        name: field name, such as `batch_size`.
        kind: Python type of the value.
        values: the allowed values, if there are only a few.
        default: None if the user must give it, or if another stage decides it.
        help: text for `--help`.
        positional: whether it is a positional argument.
        many: whether it takes any number of words.
        affects_result: see `option`.
        group: heading in `--help`, the `GROUP` of the class that defines the field.
    """

    name: str
    kind: type
    values: tuple[str, ...]
    default: Any
    help: str
    positional: bool
    many: bool
    affects_result: bool
    group: str

    @property
    def flag(self) -> str:
        """The name on the command line: `--batch-size`."""
        return flag_name(self.name)


def flag_name(field: str) -> str:
    """Returns the flag of a field: `batch_size` gives `--batch-size`."""
    return "--" + field.replace("_", "-")


def option_specs(kind: type) -> list[OptionSpec]:
    """Returns the options of a class in the order of `--help`: by group, then base classes last."""
    hints = typing.get_type_hints(kind)
    specs = []
    for field in dataclasses.fields(kind):
        info: Any = field.default
        if not isinstance(info, pydantic.fields.FieldInfo):
            continue  # Not for the command line.
        hint = hints[field.name]
        plain = [each for each in typing.get_args(hint) if each is not type(None)]
        first = (plain or [hint])[0]
        # Literal["a", "b"], or Literal["a", "b"] | None.
        literal = hint if typing.get_origin(hint) is typing.Literal else first
        values = typing.get_args(literal) if typing.get_origin(literal) is typing.Literal else ()
        extra: Any = info.json_schema_extra
        specs.append(
            OptionSpec(
                name=field.name,
                kind=first if isinstance(first, type) else str,
                values=values,
                default=info.default,
                help=info.description or "",
                positional=extra["positional"],
                many=typing.get_origin(hint) is tuple,
                affects_result=extra["affects_result"],
                group=vars(_owner(kind, field.name)).get("GROUP", ""),
            )
        )
    order = ("", *GROUPS)
    classes = kind.__mro__
    return sorted(
        specs,
        key=lambda each: (order.index(each.group), classes.index(_owner(kind, each.name))),
    )


def _owner(kind: type, field: str) -> type:
    """Returns the class that defines a field, and not one that narrows its type."""
    owners = (each for each in kind.__mro__ if field in vars(each).get("__annotations__", ()))
    return list(owners)[-1]
