"""What schemathesis must know of the REST surface that its document cannot say; loaded by fuzz_api.toml."""

import ast
import json
import os
import re
import threading
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import schemathesis
from jsonschema import Draft202012Validator
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation.meta import TestPhase

DOCUMENT: dict[str, Any] = json.loads((Path(__file__).resolve().parents[2] / "docs" / "openapi.json").read_text())
# Ids that exist, by path parameter.
EXISTING: dict[str, str] = json.loads(os.environ.get("FUZZ_EXISTING", "{}"))
SELF = set(os.environ.get("FUZZ_SELF", "").split(","))
# Text that means something only where somebody made it: at random, it ends every call at the same check.
OPAQUE = {"collection", "collections", "consistencyToken", "embeddingModel", "filter", "model", "orderBy", "pageToken"}
OPAQUE |= {"facets", "groupBy", "readMask", "typedFilter", "updateMask", "vector"}
# Lists whose items are answered one by one, each wrong one with an error of its own in an answer with status 200.
ANSWERED_ALONE = {"BatchSearch": "requests"}
# Threads that parse source at once may fail at it up to CPython 3.11.7 (python/cpython#106905); hypothesis does parse.
PARSE, PARSING = ast.parse, threading.Lock()
# Of the cases that try every bound of every schema, one in so many is sent.
ONE_IN = int(os.environ.get("FUZZ_ONE_IN", "1"))
NUMERIC = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?")


def parse_alone(*source: Any, **options: Any) -> Any:
    """ast.parse, by one thread at a time."""
    with PARSING:
        return PARSE(*source, **options)


ast.parse = parse_alone


@schemathesis.hook
def filter_case(context: schemathesis.HookContext, case: schemathesis.Case) -> bool:
    """Leaves out what would end the run, and what breaks its schema only as proto3 JSON allows.

    To that, null is no value, "5" is a number, and a number may stand for a name. A caller who revokes itself, or
    deletes its tenant, is refused for ever after, which no check would notice.
    """
    ended = {**(case.path_parameters or {}), **(case.body if isinstance(case.body, dict) else {})}
    operation = case.operation.definition.raw["operationId"]
    if case.meta and case.meta.phase.name is TestPhase.COVERAGE and _left_out(operation, case):
        return False
    if operation in ("CreateRevocation", "DeleteTenant") and not SELF.isdisjoint(map(str, ended.values())):
        return False
    if case.meta is None or not case.meta.generation.mode.is_negative:
        return True
    if case.meta.is_negative_at(ParameterLocation.QUERY) and _numbers_of_enums(case):
        return False
    if not isinstance(case.body, dict):
        return True
    body = case.operation.definition.raw.get("requestBody", {}).get("content", {}).get("application/json")
    if body is None:
        return True
    read = as_read(case.body, body["schema"])
    items = ANSWERED_ALONE.get(operation)
    if isinstance(read.get(items), list):
        read[items] = [{} if isinstance(each, dict) else each for each in read[items]]
        return not validator(json.dumps(body["schema"])).is_valid(read)
    return read == case.body or not validator(json.dumps(body["schema"])).is_valid(read)


@schemathesis.hook
def map_case(context: schemathesis.HookContext, case: schemathesis.Case) -> schemathesis.Case:
    """Leads most well-formed calls past the first check: to what exists, and without opaque text."""
    endless = case.operation.definition.raw["operationId"] == "WatchEvents"
    meta = case.meta
    # A case about a header stays as it is: one that was touched would be sent with its token after all.
    if endless and (meta is None or not meta.is_negative_at(ParameterLocation.HEADER)):
        case.headers["grpc-timeout"] = "1S"
    if meta is None:
        return case
    draw = zlib.crc32(repr((case.path_parameters, case.query, case.body)).encode())
    if endless and draw % 4 and not meta.is_negative_at(ParameterLocation.QUERY):
        case.query = {**(case.query or {}), "afterSequence": 10**9}  # refused at once: most need not wait
    if draw % 4 and case.method != "DELETE" and not meta.is_negative_at(ParameterLocation.PATH):
        known = {name: EXISTING.get(name, value) for name, value in (case.path_parameters or {}).items()}
        case.path_parameters = {**known}
    if draw // 4 % 4 and not meta.is_negative_at(ParameterLocation.QUERY) and case.query:
        case.query = {name: value for name, value in case.query.items() if name not in OPAQUE}
    if draw // 16 % 4 and not meta.is_negative_at(ParameterLocation.BODY) and isinstance(case.body, dict):
        case.body = {name: value for name, value in case.body.items() if name not in OPAQUE}
        if case.operation.definition.raw["operationId"] == "Search":
            case.body |= {"collection": EXISTING.get("collection", ""), "query": "cats"}
    return case


@schemathesis.deserializer("application/x-ndjson")
def lines(context: schemathesis.DeserializationContext, response: schemathesis.Response) -> Any:
    """The first line of a stream that breaks its schema, else the last: a check sees one value."""
    read = [json.loads(line) for line in response.content.splitlines()]
    kind = context.operation.definition.raw["responses"]["200"]["content"]["application/x-ndjson"]
    fits = validator(json.dumps(kind["schema"])).is_valid
    return next((each for each in read if not fits(each)), read[-1])


def _left_out(operation: str, case: schemathesis.Case) -> bool:
    """Whether a case is none of those that are sent: the same ones in every run."""
    said = (operation, case.method, case.path_parameters, case.query, sorted((case.headers or {}).items()), case.body)
    return zlib.crc32(repr(said).encode()) % ONE_IN != 0


def _numbers_of_enums(case: schemathesis.Case) -> bool:
    """Whether a parameter of the query gives a value of an enum by its number."""
    for each in case.operation.definition.raw["parameters"]:
        numbers = map(str, range(len(_resolved(each["schema"]).get("enum", []))))
        if each["in"] == "query" and str((case.query or {}).get(each["name"])) in numbers:
            return True
    return False


@cache
def validator(schema: str) -> Draft202012Validator:
    """A validator of a schema of the document, given as JSON."""
    return Draft202012Validator({**json.loads(schema), "components": DOCUMENT["components"]})


def as_read(value: Any, schema: dict[str, Any]) -> Any:
    """`value` as a proto3 JSON parser understands it (https://protobuf.dev/programming-guides/json/)."""
    schema = _resolved(schema)
    match value:
        case dict():
            known = schema.get("properties", {})
            return {name: as_read(each, known.get(name, {})) for name, each in value.items() if each is not None}
        case list():
            return [as_read(each, schema.get("items", {})) for each in value]
        case str() if schema.get("type") in ("integer", "number") and NUMERIC.fullmatch(value):
            return as_read(float(value), schema)
        case float() if schema.get("type") == "integer" and value.is_integer():
            return int(value)
        case int() if "enum" in schema and not isinstance(value, bool):
            return schema["enum"][value] if 0 <= value < len(schema["enum"]) else value
    return value


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema
