"""The OpenAPI document: valid, complete, and saying what the contract says."""

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.json_format import MessageToDict
from google.protobuf.message_factory import GetMessageClass
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from ragweave import contract
from ragweave.contract import HttpBinding, Method
from ragweave.third_party.buf.validate.validate_pb2 import FieldRules
from services.mesh.openapi.comments import Comments
from services.mesh.openapi.operations import Operations
from services.mesh.openapi.rules import UnsupportedRule, constrain
from services.mesh.openapi.schemas import Schemas, takes_nothing

DOCUMENT: dict[str, Any] = json.loads((Path(__file__).resolve().parents[2] / "docs" / "openapi.json").read_text())
FORMS = {(verb, path): form for path, forms in DOCUMENT["paths"].items() for verb, form in forms.items()}
BY_ID = {form["operationId"]: form for form in FORMS.values()}
SCHEMAS = DOCUMENT["components"]["schemas"]
PUBLIC = [each for each in contract.methods().values() if not each.internal and each.http]
EMPTY = [each for each in PUBLIC if not each.server_streaming and takes_nothing(each.descriptor.output_type)]


def _parameter(operation: str, name: str) -> dict[str, Any]:
    return next(each for each in BY_ID[operation]["parameters"] if each["name"] == name)


def _problems(schema: dict[str, Any], value: Any) -> list[str]:
    whole = {**schema, "components": DOCUMENT["components"]}
    return [each.message for each in Draft202012Validator(whole).iter_errors(value)]


def test_the_document_is_valid_openapi() -> None:
    assert [each.message for each in OpenAPIV31SpecValidator(DOCUMENT).iter_errors()] == []


def test_every_rest_form_is_an_operation_of_its_own() -> None:
    operations = Operations(Schemas(Comments(FileDescriptorSet()), frozenset()), Comments(FileDescriptorSet()), {})
    declared = [(binding.verb.lower(), operations.path(binding)) for each in PUBLIC for binding in each.http]
    assert len(declared) == len(FORMS) == len(BY_ID)


def test_everything_is_described() -> None:
    silent = [id for id, each in BY_ID.items() if not each["description"] or not each["summary"]]
    silent += [f"{id} {p['name']}" for id, each in BY_ID.items() for p in each["parameters"] if not p["description"]]
    silent += [
        f"{name}.{field}"
        for name, schema in SCHEMAS.items()
        if not name.endswith("Detail")
        for field, of in schema.get("properties", {}).items()
        if "description" not in of
    ]
    google = ("BadRequest", "ErrorInfo", "QuotaFailure", "RetryInfo", "LocalizedMessage", "Status")
    assert [each for each in silent if not each.startswith(google)] == []


def test_policy_is_said_of_every_operation() -> None:
    for method in PUBLIC:
        operation = BY_ID[method.name]
        assert operation["x-grpc-method"] == method.path
        assert operation["x-rate-class"] == method.rate_class
        assert operation["x-timeout-seconds"] == method.timeout_s
        assert operation["x-roles"], "no role may call it"
        assert {"token": [method.scope] if method.scope else []} in operation["security"]
        assert ({} in operation["security"]) is (method.public_collections or method.open)


def test_a_template_becomes_one_parameter_for_each_id() -> None:
    assert ("get", "/api/v1/rag/collections/{collection}/documents/{document}") in FORMS
    assert ("post", "/api/v1/rag/collections/{collection}:search") in FORMS
    assert ("get", "/api/v1/rag/jobs/{job}:watch") in FORMS
    assert _parameter("GetDocument", "document")["schema"]["pattern"] == "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"


def test_what_the_body_leaves_is_given_by_the_query() -> None:
    given = {each["name"]: each for each in BY_ID["UpdateCollection"]["parameters"]}
    assert given.keys() == {"collection", "updateMask", "requestId", "validateOnly"}
    body = BY_ID["UpdateCollection"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/Collection"}
    assert [each["in"] for each in BY_ID["CreateDocument"]["parameters"]] == ["path"]
    assert "parent" not in SCHEMAS["CreateDocumentRequest"]["properties"]
    assert _parameter("BatchGetDocuments", "names")["required"]


def test_an_additional_form_has_a_body_less_what_its_path_gives() -> None:
    assert "collection" in SCHEMAS["SearchRequest"]["properties"]
    assert "collection" not in SCHEMAS["SearchByCollectionRequest"]["properties"]


def test_a_raw_upload_takes_any_media_type() -> None:
    assert BY_ID["UploadDocument"]["requestBody"]["content"] == {"*/*": {"schema": {}}}


def test_a_stream_answers_in_lines_or_as_events() -> None:
    kinds = ["application/x-ndjson", "text/event-stream"]
    assert list(BY_ID["WatchJob"]["responses"]["200"]["content"]) == kinds


def test_bounds_of_the_contract_are_keywords() -> None:
    top_k = SCHEMAS["SearchRequest"]["properties"]["topK"]
    assert (top_k["type"], top_k["minimum"], top_k["maximum"]) == ("integer", 0, 200)
    texts = SCHEMAS["EmbedRequest"]["properties"]["texts"]
    assert (texts["minItems"], texts["maxItems"], texts["items"]["minLength"]) == (1, 256, 1)
    assert SCHEMAS["Collection"]["properties"]["labels"]["maxProperties"] == 64
    assert "OPERATOR_UNSPECIFIED" not in SCHEMAS["Comparison"]["properties"]["operator"]["enum"]


def test_what_must_be_given_is_required() -> None:
    assert SCHEMAS["EmbedRequest"]["required"] == ["texts"]
    assert SCHEMAS["Comparison"]["required"] == ["field", "operator", "value"]
    assert BY_ID["Embed"]["requestBody"]["required"]
    assert not BY_ID["CreateCollection"]["requestBody"]["required"]


@pytest.mark.parametrize(
    ("body", "fits"),
    [
        ({"text": "a"}, True),
        ({"data": "YQ=="}, True),
        ({"text": "a", "data": "YQ=="}, False),
        ({}, False),
        ({"text": "a", "txt": "b"}, False),
    ],
)
def test_one_of_several_fields_is_one_of_them(body: dict[str, str], fits: bool) -> None:
    assert (not _problems({"$ref": "#/components/schemas/CreateDocumentRequest"}, body)) is fits


def test_what_only_the_mesh_writes_is_read_only() -> None:
    properties = SCHEMAS["Document"]["properties"]
    assert properties["contentHash"]["readOnly"] and "readOnly" not in properties["title"]
    assert SCHEMAS["Collection"]["properties"]["ttl"]["writeOnly"]


def test_requests_are_closed_and_answers_open() -> None:
    assert SCHEMAS["SearchRequest"]["additionalProperties"] is False
    assert "additionalProperties" not in SCHEMAS["SearchResponse"]


@pytest.mark.parametrize("method", EMPTY, ids=lambda each: each.name)
def test_an_empty_answer_fits_its_schema(method: Method) -> None:
    """As the edge prints it: with every field that has no presence of its own."""
    empty = MessageToDict(GetMessageClass(method.descriptor.output_type)(), always_print_fields_with_no_presence=True)
    [content] = BY_ID[method.name]["responses"]["200"]["content"].values()
    assert _problems(content["schema"], empty) == []


def test_refusals_are_told_apart_by_what_a_method_does() -> None:
    assert "409" in BY_ID["CreateCollection"]["responses"] and "409" not in BY_ID["GetCollection"]["responses"]
    assert "404" in BY_ID["GetCollection"]["responses"] and "404" not in BY_ID["ListModels"]["responses"]
    assert "415" in BY_ID["Search"]["responses"] and "415" not in BY_ID["UploadDocument"]["responses"]


def test_a_rule_without_a_keyword_is_not_left_out_in_silence() -> None:
    with pytest.raises(UnsupportedRule, match=r"a\.b: prefix"):
        constrain({"type": "string"}, FieldRules(string={"prefix": "x"}), "a.b")


def test_rules_in_cel_are_told_in_words() -> None:
    schema = constrain({"type": "string"}, FieldRules(cel=[{"message": "must rhyme", "expression": "f(this)"}]), "a")
    assert schema["description"] == "must rhyme"


def test_nested_fields_are_given_with_dots() -> None:
    found = Operations(Schemas(Comments(FileDescriptorSet()), frozenset()), Comments(FileDescriptorSet()), {})
    search = contract.method("/ragweave.v1.RetrievalService/Search")
    names = [each["name"] for each in found.operation(_without_body(search), 0)["parameters"]]
    assert {"query", "mmr.diversity", "fusion.rrf.k", "collections", "readMask"} <= set(names)
    assert not [name for name in names if name.startswith(("typedFilter", "facets"))], "lists of messages fit no query"


def _without_body(method: Method) -> Method:
    return Method(**{**_fields(method), "http": (HttpBinding("GET", "/v1/search"),)})


def _fields(method: Method) -> dict[str, Any]:
    return {name: getattr(method, name) for name in method.__slots__}


def test_comments_flow_and_keep_their_paragraphs() -> None:
    file = FileDescriptorProto(name="a.proto", package="a", message_type=[{"name": "M", "field": [{"name": "f"}]}])
    file.source_code_info.location.add(path=[4, 0], leading_comments=" One\n two.\n\n Three.\n")
    file.source_code_info.location.add(path=[4, 0, 2, 0], leading_comments=" A field.\n")
    comments = Comments(FileDescriptorSet(file=[file]))
    assert comments.of_value(_Named("a"), "M") == "One two.\n\nThree."
    assert comments.of(_Named("a.M.f")) == "A field."
    assert comments.of(_Named("a.M.g")) == ""


class _Named:
    def __init__(self, full_name: str) -> None:
        self.full_name = full_name
