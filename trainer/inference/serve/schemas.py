"""Schemas of requests and responses, for OpenAPI."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pydantic
from pydantic import Field

from trainer import storage
from trainer.inference.serve.endpoint import MAX_INSTANCES
from trainer.runs import filenames

if TYPE_CHECKING:
    from trainer.data.inputs import InputSignature
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
            expected=run.input.expected(),
            predict_route=predict_route,
            manifest_sha256=hashlib.sha256(manifest).hexdigest(),
        )


def request_body(signature: InputSignature) -> dict[str, Any]:
    """Returns OpenAPI's `requestBody` of a request for predictions."""
    content = {
        "schema": _body_schema(signature),
        "example": {"instances": [_example_instance(signature)]},
    }
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def _body_schema(signature: InputSignature) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["instances"],
        "additionalProperties": False,
        "properties": {
            "instances": {
                "type": "array",
                "minItems": 1,
                "maxItems": MAX_INSTANCES,
                "items": _instance_schema(signature),
            },
            "parameters": {
                "type": ["object", "null"],
                "maxProperties": 0,
                "description": "Must be empty; there are no parameters.",
            },
        },
    }


def _example_instance(signature: InputSignature) -> Any:
    if signature.kind == "text":
        return "A text."
    if signature.kind == "image" and signature.shape[-1] in (1, 3):
        return {"b64": "iVBORw0KGgo..."}
    return np.zeros(signature.shape, int).tolist()


def _instance_schema(signature: InputSignature) -> dict[str, Any]:
    if signature.kind == "text":
        return {"type": "string"}
    number: dict[str, Any] = {"type": "number"}
    if signature.dtype == "uint8":
        number = {"type": "integer", "minimum": 0, "maximum": 255}
    array = _array_schema(number, signature.shape)
    if signature.kind == "vector":
        return array
    alternatives = [array]
    if signature.shape[-1] == 1:
        alternatives.append(_array_schema(number, signature.shape[:-1]))
    if signature.shape[-1] in (1, 3):
        base64 = {"type": "string", "contentEncoding": "base64"}
        alternatives.append(
            {
                "type": "object",
                "description": "An image file (PNG or JPEG) of any size, in base64.",
                "required": ["b64"],
                "additionalProperties": False,
                "properties": {"b64": base64},
            }
        )
    return {"anyOf": alternatives}


def _array_schema(number: dict[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """Returns the schema of nested lists of a shape."""
    schema = number
    for size in reversed(shape):
        schema = {"type": "array", "minItems": size, "maxItems": size, "items": schema}
    return schema
