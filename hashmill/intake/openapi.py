"""The OpenAPI 3.1 document, from the table of routes and the pydantic models."""

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

import hashmill
from hashmill.intake.operation import Operation
from hashmill.intake.problem import CONTENT_TYPE, ProblemAnswer

DOCUMENT = web.AppKey("openapi", bytes)
REF = "#/components/schemas/{model}"


async def show(request: web.Request) -> web.Response:
    return web.Response(body=request.app[DOCUMENT], content_type="application/json")


def document(operations: Sequence[Operation], *, with_token: bool) -> dict[str, Any]:
    """Return the document as JSON values; `with_token` says whether callers must send one."""
    names, schemas = _schemas(operations)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(
            operation, names, schemas, with_token=with_token
        )
    queries = {names[operation.query] for operation in operations if operation.query is not None}
    components: dict[str, Any] = {
        "schemas": {name: schema for name, schema in sorted(schemas.items()) if name not in queries}
    }
    told: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Hashmill",
            "version": hashmill.__version__,
            "description": "Events of LABDRIVE triggers in; runs, files, digests and ledger entries out.",
        },
        "paths": paths,
        "components": components,
    }
    if with_token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        told["security"] = [{"token": []}]
    return told


def _schemas(operations: Sequence[Operation]) -> tuple[dict[type[BaseModel], str], dict[str, Any]]:
    models: dict[type[BaseModel], JsonSchemaMode] = {ProblemAnswer: "serialization"}
    for operation in operations:
        models.update({model: "serialization" for model in operation.answers.values() if not isinstance(model, str)})
        models.update({model: "validation" for model in (operation.query, operation.body) if model is not None})
    refs, schema = models_json_schema(list(models.items()), ref_template=REF)
    names = {model: str(ref["$ref"]).rpartition("/")[2] for (model, _), ref in refs.items()}
    return names, schema["$defs"]  # type: ignore[return-value] # pydantic's keys are wider than the models given


def _operation(
    operation: Operation, names: Mapping[type[BaseModel], str], schemas: Mapping[str, Any], *, with_token: bool
) -> dict[str, Any]:
    told: dict[str, Any] = {"operationId": operation.name, "summary": operation.summary}
    if parameters := _parameters(operation, names, schemas):
        told["parameters"] = parameters
    if operation.body is not None:
        told["requestBody"] = {"required": True, "content": {"application/json": _ref(names[operation.body])}}
    responses: dict[str, Any] = {}
    for status, model in operation.answers.items():
        content = {model: {}} if isinstance(model, str) else {"application/json": _ref(names[model])}
        responses[str(status)] = {"description": HTTPStatus(status).phrase, "content": content}
    locked = with_token and not operation.open
    for status in sorted({*operation.problems, *([401] if locked else []), 500}):
        content = {CONTENT_TYPE: _ref(names[ProblemAnswer])}
        responses[str(status)] = {"description": HTTPStatus(status).phrase, "content": content}
    told["responses"] = responses
    if with_token and operation.open:
        told["security"] = []
    return told


def _parameters(
    operation: Operation, names: Mapping[type[BaseModel], str], schemas: Mapping[str, Any]
) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", operation.path)
    ]
    if operation.query is not None:
        for name, schema in schemas[names[operation.query]]["properties"].items():
            plain = {key: value for key, value in schema.items() if key not in {"title", "description"}}
            told = {"name": name, "in": "query", "schema": plain}
            parameters.append({**told, "description": schema["description"]} if "description" in schema else told)
    parameters += [
        {
            "name": name,
            "in": "header",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
            "description": "Names this event; left out, platform, container, job, function and trigger name it.",
        }
        for name in operation.headers
    ]
    return parameters


def _ref(name: str) -> dict[str, Any]:
    return {"schema": {"$ref": REF.format(model=name)}}
