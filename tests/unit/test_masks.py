"""An update changes exactly what its mask names."""

from typing import Any

import pytest

from services.collections.records import Chunking, Source
from services.mesh.errors import InvalidArgument
from services.mesh.masks import Mask

MASK = Mask(
    "collection",
    mutable={"description": "", "labels": {}, "chunking": Chunking(), "source": None},
    unset={"source": Source()},
    fixed=("language",),
    ignored=("name", "uid"),
)
CURRENT: dict[str, Any] = {
    "description": "old",
    "labels": {"a": "1", "b.c": "2"},
    "chunking": Chunking("FIXED", 100, 10),
    "source": None,
    "language": "en",
}


@pytest.mark.parametrize(
    ("given", "paths", "changes"),
    [
        ({"description": "new", "name": "x"}, [], {"description": "new"}),
        ({}, [], {}),
        ({"description": "new"}, ["description", "uid"], {"description": "new"}),
        ({"description": "ignored"}, ["labels"], {"labels": {}}),
        (
            {"description": "new"},
            ["*"],
            {"description": "new", "labels": {}, "chunking": Chunking(), "source": None},
        ),
        ({"labels": {"a": "9", "z": "0"}}, ["labels.a"], {"labels": {"a": "9", "b.c": "2"}}),
        ({}, ["labels.b.c"], {"labels": {"a": "1"}}),
        ({"chunking": Chunking("STRUCTURE", 7)}, ["chunking.max_tokens"], {"chunking": Chunking("FIXED", 7, 10)}),
        ({}, ["chunking.max_tokens"], {"chunking": Chunking("FIXED", 0, 10)}),
        (
            {"chunking": Chunking("STRUCTURE", 7, 3)},
            ["chunking.max_tokens", "chunking.overlap_tokens"],
            {"chunking": Chunking("FIXED", 7, 3)},
        ),
        ({"source": Source("docs")}, ["source.directory"], {"source": Source("docs")}),
        ({"language": "en"}, ["language"], {}),
        ({"language": "en"}, ["*"], {"description": "", "labels": {}, "chunking": Chunking(), "source": None}),
        ({"language": "en", "description": "new"}, [], {"description": "new"}),
    ],
)
def test_a_mask_picks_its_fields(given: dict[str, Any], paths: list[str], changes: dict[str, Any]) -> None:
    assert MASK.changes(CURRENT, given, paths) == changes


@pytest.mark.parametrize(
    ("paths", "field"),
    [
        (["colour"], "update_mask"),
        (["chunking.colour"], "update_mask"),
        (["description.length"], "update_mask"),
        (["*", "labels"], "update_mask"),
        (["language"], "collection.language"),
        (["*"], "collection.language"),
        ([], "collection.language"),
    ],
)
def test_what_cannot_change_is_refused_by_name(paths: list[str], field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        MASK.changes(CURRENT, {"language": "de"}, paths)
    assert refused.value.violations[0].field == field


def test_an_unknown_path_is_told_the_supported_ones() -> None:
    with pytest.raises(InvalidArgument, match=r"'colour'.*description, labels, chunking, source"):
        MASK.changes(CURRENT, {}, ["colour"])
