"""What requests and responses look like, for OpenAPI."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pydantic
from pydantic import Field

from trainer import storage
from trainer.inference.serve.predictions import MAX_INSTANCES
from trainer.runs import filenames

if TYPE_CHECKING:
    from trainer.data.inputs import InputSignature
    from trainer.runs.finished_run import FinishedRun


class Prediction(pydantic.BaseModel):
    """What the model says of one instance."""

    class_: str = Field(alias="class", description="The most probable class.")
    probability: float = Field(description="Its probability.")
    probabilities: list[float] = Field(
        description="Of all classes, in the order of `classes` of the model; they sum to 1."
    )


class Predictions(pydantic.BaseModel):
    """One prediction for each instance, in their order."""

    predictions: list[Prediction]


class Failure(pydantic.BaseModel):
    """Why a request was not answered."""

    error: str


class Health(pydantic.BaseModel):
    """The model is loaded, and is being asked."""

    status: str = Field(examples=["ready"])


class Description(pydantic.BaseModel):
    """The model that is served."""

    run: str = Field(description="Its run directory.")
    model: str = Field(description="The model's name.")
    data: str = Field(description="What it was trained on.")
    accuracy: float = Field(description="On the test part.")
    accuracy_interval: list[float] = Field(description="95 % interval of it.")
    classes: list[str]
    input: dict[str, Any] = Field(
        description="What an instance is: kind, shape, dtype, and range of the training part."
    )
    expected: str = Field(description="The same in words.")
    predict_route: str = Field(description="Where to ask it.")
    manifest_sha256: str = Field(description="SHA-256 of the run's manifest.json.")

    @classmethod
    def of(cls, run: FinishedRun, *, predict_route: str) -> Description:
        """Describes the model of a run; its manifest is read again."""
        manifest = storage.read(f"{run.run}/{filenames.MANIFEST}")
        return cls(
            run=run.run,
            model=run.config["model"],
            data=run.config["data"],
            accuracy=run.metrics["test"]["accuracy"],
            accuracy_interval=run.metrics["accuracy_interval"],
            classes=list(run.classes),
            input=dataclasses.asdict(run.input),
            expected=run.input.expected(),
            predict_route=predict_route,
            manifest_sha256=hashlib.sha256(manifest).hexdigest(),
        )


def body(signature: InputSignature) -> dict[str, Any]:
    """Returns what OpenAPI has to say of a request that asks the model."""
    content = {"schema": _asked(signature), "example": {"instances": [_example(signature)]}}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def _asked(signature: InputSignature) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["instances"],
        "additionalProperties": False,
        "properties": {
            "instances": {
                "type": "array",
                "minItems": 1,
                "maxItems": MAX_INSTANCES,
                "items": _instance(signature),
            },
            "parameters": {
                "type": ["object", "null"],
                "maxProperties": 0,
                "description": "There are none.",
            },
        },
    }


def _example(signature: InputSignature) -> Any:
    if signature.kind == "text":
        return "A text."
    if signature.kind == "image" and signature.shape[-1] in (1, 3):
        return {"b64": "iVBORw0KGgo..."}
    return np.zeros(signature.shape, int).tolist()


def _instance(signature: InputSignature) -> dict[str, Any]:
    if signature.kind == "text":
        return {"type": "string"}
    number: dict[str, Any] = {"type": "number"}
    if signature.dtype == "uint8":
        number = {"type": "integer", "minimum": 0, "maximum": 255}
    nested = _nested(number, signature.shape)
    if signature.kind == "vector":
        return nested
    forms = [nested]
    if signature.shape[-1] == 1:
        forms.append(_nested(number, signature.shape[:-1]))
    if signature.shape[-1] in (1, 3):
        coded = {"type": "string", "contentEncoding": "base64"}
        forms.append(
            {
                "type": "object",
                "description": "An image file, PNG or JPEG, of any size.",
                "required": ["b64"],
                "additionalProperties": False,
                "properties": {"b64": coded},
            }
        )
    return {"anyOf": forms}


def _nested(schema: dict[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    for size in reversed(shape):
        schema = {"type": "array", "minItems": size, "maxItems": size, "items": schema}
    return schema
