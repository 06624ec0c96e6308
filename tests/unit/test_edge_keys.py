"""What the request check learns of the contract."""

import pytest

from ragweave import contract
from services.mesh.edge_keys import UnsupportedTemplate, keys_of, pattern_of, segments_of

KEYS = keys_of(
    [each for each in contract.methods().values() if not each.internal],
    ["grpc.health.v1.Health"],
    max_json_bytes=1000,
    max_upload_bytes=2000,
)


@pytest.mark.parametrize(
    ("template", "segments", "custom"),
    [
        ("/api/v1/rag/search", ["api", "v1", "rag", "search"], ""),
        ("/v1/{name=jobs/*}:watch", ["v1", "jobs", "*"], "watch"),
        ("/v1/{parent=collections/*}/documents:import", ["v1", "collections", "*", "documents"], "import"),
        ("/v1/{collection.name=collections/*/documents/*}", ["v1", "collections", "*", "documents", "*"], ""),
        ("/v1/{id}/stats", ["v1", "*", "stats"], ""),
    ],
)
def test_templates_become_segments(template: str, segments: list[str], custom: str) -> None:
    assert segments_of(template) == (segments, custom)


@pytest.mark.parametrize("template", ["/v1/{name=**}", "/v1/{name=a/{b}}", "/v1//x"])
def test_a_template_the_check_does_not_know_is_refused(template: str) -> None:
    with pytest.raises(UnsupportedTemplate):
        segments_of(template)


def test_every_template_of_the_contract_is_known() -> None:
    for method in contract.methods().values():
        for binding in method.http:
            assert segments_of(binding.template)


def test_patterns_match_one_segment_for_each_variable() -> None:
    assert pattern_of("/v1/{name=jobs/*}:watch") == "/v1/jobs/[^/]+:watch"


def test_both_spellings_of_a_field_lead_to_one_table() -> None:
    lines = KEYS.splitlines()
    at = lines.index('MESSAGES["ragweave.v1.SearchRequest"]["topK"] = f')
    assert 'MESSAGES["ragweave.v1.SearchRequest"]["top_k"] = f' in lines[at - 1 : at + 2]
    assert '["kind"] = "int", ["of"] = "int32"' in next(line for line in reversed(lines[:at]) if line.startswith("f ="))


def test_free_json_stays_free_and_messages_may_nest_in_themselves() -> None:
    assert 'f = {["name"] = "metadata", ["kind"] = "free"}' in KEYS
    assert '["list"] = true, ["kind"] = "message", ["of"] = "ragweave.v1.TypedFilter"' in KEYS
    assert '["map"] = true, ["kind"] = "string"' in KEYS
    assert '["oneof"] = "content"' in KEYS


def test_a_raw_body_is_not_described_and_its_other_fields_are_query_parameters() -> None:
    [upload] = [line for line in KEYS.split('{["verb"]') if '["custom"] = "upload"' in line and '"POST"' in line]
    assert '["raw"] = true, ["query"] = "ragweave.v1.UploadDocumentRequest"' in upload
    assert '["taken"] = {["parent"] = "path", ["file"] = "body"}' in upload
    assert '["body"]' not in upload


def test_limits_are_the_ones_given() -> None:
    assert '{["json"] = 1000, ["upload"] = 2000}' in KEYS
