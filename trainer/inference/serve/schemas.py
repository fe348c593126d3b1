"""Schemas of requests and responses, for OpenAPI."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pydantic
from pydantic import Field

from trainer import storage
from trainer.data.inputs import InputSignature
from trainer.data.instances import InstanceReader
from trainer.inference.serve.endpoint import MAX_INSTANCES
from trainer.runs import filenames

if TYPE_CHECKING:
    from trainer.runs.finished_run import FinishedRun


class InstancePrediction(pydantic.BaseModel):
    """The prediction for one instance."""

    class_: str = Field(alias="class", description="Class with the highest probability.")
    probability: float = Field(description="Probability of this class, 0 to 1.")
    probabilities: list[float] = Field(
        description="Probability of every class, in the order of `classes` in /v1/model; sum 1."
    )


class PredictResponse(pydantic.BaseModel):
    """One prediction per instance, in the order of the instances."""

    predictions: list[InstancePrediction]


class ErrorResponse(pydantic.BaseModel):
    """The error of a request."""

    error: str = Field(description="What was found and what was expected, in one line.")


class HealthResponse(pydantic.BaseModel):
    """The model is loaded and accepts requests."""

    status: str = Field(examples=["ready"])


class ModelDescription(pydantic.BaseModel):
    """The model that is served."""

    run: str = Field(description="Run directory.")
    model: str = Field(description="Name of the model.")
    data: str = Field(description="Data that the model was trained on.")
    accuracy: float = Field(description="Accuracy on the test split, 0 to 1.")
    accuracy_interval: list[float] = Field(description="95 % interval of the accuracy.")
    classes: list[str] = Field(description="Class names, in the order of the model's outputs.")
    input: dict[str, Any] = Field(
        description="Input of the model: kind, shape, dtype, and range of the training split."
    )
    columns: list[str] = Field(
        description="Columns of the table that the model was trained on: names for an instance."
    )
    expected: str = Field(description="The input in words.")
    predict_route: str = Field(description="Path of the route for predictions.")
    manifest_sha256: str = Field(description="SHA-256 of the run's manifest.json.")

    @classmethod
    def from_run(cls, run: FinishedRun, *, predict_route: str) -> ModelDescription:
        """Returns the description of a run's model, with the digest of its manifest."""
        manifest = storage.read(f"{run.path}/{filenames.MANIFEST}")
        return cls(
            run=run.path,
            model=run.config["model"],
            data=run.config["data"],
            accuracy=run.metrics["test"]["accuracy"],
            accuracy_interval=run.metrics["accuracy_interval"],
            classes=list(run.classes),
            input=dataclasses.asdict(run.input),
            columns=list(InstanceReader.of(run.input, run.source).columns),
            expected=run.input.expected(),
            predict_route=predict_route,
            manifest_sha256=hashlib.sha256(manifest).hexdigest(),
        )


def request_body(reader: InstanceReader) -> dict[str, Any]:
    """Returns OpenAPI's `requestBody` of a request for predictions."""
    content = {
        "schema": _body_schema(reader),
        "example": {"instances": [_example_instance(reader.input)]},
    }
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def _body_schema(reader: InstanceReader) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["instances"],
        "additionalProperties": False,
        "properties": {
            "instances": {
                "type": "array",
                "minItems": 1,
                "maxItems": MAX_INSTANCES,
                "items": _instance_schema(reader),
            },
            "parameters": {"description": "Ignored; Vertex AI may send them."},
        },
    }


def _example_instance(signature: InputSignature) -> Any:
    if signature.kind == "text":
        return "A text."
    if signature.kind == "image" and signature.shape[-1] in (1, 3):
        return {"b64": "iVBORw0KGgo..."}
    return np.zeros(signature.shape, int).tolist()


def _instance_schema(reader: InstanceReader) -> dict[str, Any]:
    """Returns the schema of an instance: a value, a row with it, or an object that names it."""
    value = {"anyOf": _value_schemas(reader.input)}
    names = dict.fromkeys((reader.input.kind, *reader.columns))
    objects = [
        {"type": "object", "required": [name], "properties": {name: value}} for name in names
    ]
    if len(reader.columns) > 1:
        number = {"type": ["number", "string"]}
        objects[1:] = [
            {
                "type": "object",
                "required": list(reader.columns),
                "properties": dict.fromkeys(reader.columns, number),
            }
        ]
    row = {"type": "array", "minItems": 1, "maxItems": 1, "items": value}
    return {"anyOf": [*_value_schemas(reader.input), row, *objects]}


def _value_schemas(signature: InputSignature) -> list[dict[str, Any]]:
    base64 = {"type": "string", "contentEncoding": "base64"}
    if signature.kind == "text":
        return [{"type": "string"}, _file_schema("A UTF-8 text", base64)]
    number: dict[str, Any] = {"type": "number"}
    if signature.dtype == "uint8":
        number = {"type": "integer", "minimum": 0, "maximum": 255}
    array = _array_schema(number, signature.shape)
    if signature.kind == "vector":
        numeric_text = {"type": "string", "description": "A number, as in CSV."}
        return [array, _array_schema(numeric_text, signature.shape)]
    alternatives = [array]
    if signature.shape[-1] == 1:
        alternatives.append(_array_schema(number, signature.shape[:-1]))
    if signature.shape[-1] in (1, 3):
        alternatives.append(_file_schema("An image file (PNG or JPEG) of any size", base64))
    return alternatives


def _file_schema(content: str, base64: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "description": f"{content}, in base64.",
        "required": ["b64"],
        "properties": {"b64": base64},
    }


def _array_schema(number: dict[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """Returns the schema of nested lists of a shape."""
    schema = number
    for size in reversed(shape):
        schema = {"type": "array", "minItems": size, "maxItems": size, "items": schema}
    return schema
