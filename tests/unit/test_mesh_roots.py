"""Whose roots are whose, and what paths in requests mean."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from ragweave.names import document_id_from
from services.jobs.adapters.folders import Folders
from services.jobs.job import DirectoryImport
from services.jobs.settings import Settings
from services.mesh.errors import PathNotAllowed
from services.mesh.roots import Place, Root, Roots, root_from
from services.mesh.settings import MeshSettings

DOCS = Root("acme", Path("/srv/docs"))
TEAM = Root("acme", Path("/srv/team"), "team")
SHARED = Root("*", Path("/srv/shared"), "shared")
OTHERS = Root("globex", Path("/srv/globex"))
ROOTS = Roots([TEAM, DOCS, SHARED, OTHERS])


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAGWEAVE_ROOTS", raising=False)


def roots_of(monkeypatch: pytest.MonkeyPatch, text: str) -> tuple[Root, ...]:
    monkeypatch.setenv("RAGWEAVE_ROOTS", text)
    return MeshSettings(data_dir=Path("/srv/data")).roots


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("guides/a.md", Place(DOCS, "guides/a.md")),
        (".", Place(DOCS, "")),
        ("", Place(DOCS, "")),
        ("team:guides/a.md", Place(TEAM, "guides/a.md")),
        ("team:", Place(TEAM, "")),
        ("team:/guides/", Place(TEAM, "guides")),
        ("shared:a", Place(SHARED, "a")),
        ("./team:a", Place(DOCS, "team:a")),
        ("other:a", Place(DOCS, "other:a")),
        ("a/team:b", Place(DOCS, "a/team:b")),
        ("/srv/docs/a", Place(DOCS, "a")),
        ("/srv//docs/./a/", Place(DOCS, "a")),
        ("/srv/team", Place(TEAM, "")),
    ],
)
def test_a_path_means_one_place_and_the_place_spells_it(path: str, place: Place) -> None:
    assert ROOTS.place("acme", path) == place
    assert ROOTS.place("acme", place.spelt) == place or place.path == "team:a"


@pytest.mark.parametrize(
    "path", ["/srv/globex/a", "/srv/docs2", "/srv", "/", "/etc/passwd", "//srv/globex", "/SRV/docs"]
)
def test_an_absolute_path_under_no_root_of_the_tenant_is_refused_with_one_answer(path: str) -> None:
    with pytest.raises(PathNotAllowed, match="not under a root this tenant may import from"):
        ROOTS.place("acme", path)


@pytest.mark.parametrize("tenant", ["globex", "*", "", "ACME", "acme ", "nobody"])
def test_a_root_of_another_tenant_is_as_good_as_none(tenant: str) -> None:
    for path in ("/srv/docs/a", "/srv/team", "../docs"):
        with pytest.raises(PathNotAllowed):
            ROOTS.place(tenant, path)
    assert DOCS not in ROOTS.of(tenant)
    # The name of another's root is no more than a part of a file's name.
    if tenant == "globex":
        assert ROOTS.place(tenant, "team:a") == Place(OTHERS, "team:a")
    with pytest.raises(PathNotAllowed):
        ROOTS.named(tenant, "team")


def test_a_tenant_without_a_root_of_no_name_is_told_the_names_it_may_use() -> None:
    with pytest.raises(PathNotAllowed, match=r"a path begins with the name of a root: shared:$"):
        ROOTS.place("nobody", "a/b")
    with pytest.raises(PathNotAllowed, match="no folder to import from"):
        Roots([DOCS]).place("nobody", "a/b")


def test_a_root_that_is_a_link_is_known_by_where_it_leads_too(tmp_path: Path) -> None:
    (tmp_path / "release-7").mkdir()
    (tmp_path / "current").symlink_to("release-7")
    root = Root("acme", tmp_path / "current")
    for path in (tmp_path / "current" / "a", tmp_path / "release-7" / "a"):
        assert Roots([root]).place("acme", str(path)) == Place(root, "a")


def test_files_of_two_roots_never_share_an_id_or_a_source() -> None:
    """The same path in both, a folder called as the other root, a file whose name looks like a path in it."""
    documents = [
        DirectoryImport(root, folder).key(path)
        for root, folder, path in [
            ("", "", "a.md"),
            ("team", "", "a.md"),
            ("shared", "", "a.md"),
            ("", "team", "a.md"),
            ("", "", "team:a.md"),
            ("team", "team", "a.md"),
            ("shared", "team", "a.md"),
        ]
    ]
    assert len(set(documents)) == len(documents)
    assert len({document_id_from(key) for key in documents}) == len(documents)


def test_in_the_root_without_a_name_ids_and_sources_are_the_plain_paths() -> None:
    directory = DirectoryImport("", "docs")
    assert (directory.key(), directory.key("a.md"), directory.spelt("a.md")) == ("docs", "docs/a.md", "docs/a.md")
    assert Folders.spec(directory, "a.md").document_id == document_id_from("docs/a.md")
    assert DirectoryImport("team", "docs").spelt("a.md") == "team:docs/a.md"


@pytest.mark.parametrize(
    ("text", "root"),
    [
        ("acme=/srv/docs", DOCS),
        ("acme=team:/srv/team", TEAM),
        ("*=shared:/srv/shared", SHARED),
        ("acme=/srv/x/../docs/", DOCS),
        ("acme=/srv/a=b:c", Root("acme", Path("/srv/a=b:c"))),
    ],
)
def test_a_root_is_written_as_its_tenant_its_name_and_its_path(text: str, root: Root) -> None:
    assert root_from(text) == root
    assert root_from(str(root)) == root


@pytest.mark.parametrize("text", ["/srv/docs", "acme=docs", "acme=", "=/srv", "acme=a b:/srv", "acme=../x", "acme=:/x"])
def test_a_root_that_names_no_tenant_or_no_absolute_path_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="tenant=/path"):
        root_from(text)


def test_the_roots_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    given = "acme=/srv/docs, acme=team:/srv/team ,*=shared:/srv/shared,globex=/srv/globex"
    assert roots_of(monkeypatch, given) == (DOCS, TEAM, SHARED, OTHERS)


@pytest.mark.parametrize("given", [{}, {"RAGWEAVE_ROOTS": ""}])
def test_without_any_only_the_development_tenant_has_one(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert MeshSettings(data_dir=tmp_path).roots == (Root("default", tmp_path / "import"),)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("acme=/srv/a,acme=/srv/b", "both have no name"),
        ("acme=/srv/a,*=/srv/b", "both have no name"),
        ("acme=x:/srv/a,*=x:/srv/b", "both called x"),
        ("acme=/srv/a,globex=/srv/a/b", "through one root only"),
        ("acme=x:/srv/a/b,acme=/srv/a", "through one root only"),
        ("acme=/srv/a,acme=x:/srv/a", "through one root only"),
        ("acme=/srv/a,*=x:/srv/a", "through one root only"),
        ("acme=/", "what the mesh keeps for itself"),
        ("acme=/srv", "what the mesh keeps for itself"),
        ("acme=/srv/data", "what the mesh keeps for itself"),
        ("acme=/srv/data/keys", "what the mesh keeps for itself"),
        ("acme=/srv/data/import/../blobs", "what the mesh keeps for itself"),
    ],
)
def test_roots_that_overlap_or_reach_the_mesh_itself_are_refused_at_start(
    given: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValidationError, match=told):
        roots_of(monkeypatch, given)


@pytest.mark.parametrize(
    "given", ["acme=/srv/a,globex=/srv/a", "acme=/srv/a,globex=/srv/b", "acme=/srv/data/import,*=x:/srv/data2"]
)
def test_tenants_may_share_a_folder_and_have_roots_of_no_name_each(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(roots_of(monkeypatch, given)) == 2


def test_a_link_to_the_data_folder_is_no_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "keys").mkdir(parents=True)
    (tmp_path / "docs").symlink_to("data/keys")
    monkeypatch.setenv("RAGWEAVE_ROOTS", f"acme={tmp_path}/docs")
    with pytest.raises(ValidationError, match="what the mesh keeps for itself"):
        MeshSettings(data_dir=tmp_path / "data")


def test_a_root_that_holds_the_key_of_the_mesh_or_its_blobs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAGWEAVE_ROOTS", f"acme={tmp_path}/docs")
    with pytest.raises(ValidationError, match="what the mesh keeps for itself"):
        MeshSettings(data_dir=tmp_path / "data", mesh_key=tmp_path / "docs" / "deep" / "mesh.pem")
    monkeypatch.setenv("RAGWEAVE_DATA_DIR", str(tmp_path / "data"))
    for blobs in (tmp_path, tmp_path / "docs", tmp_path / "docs" / "blobs"):
        with pytest.raises(ValidationError, match="what the mesh keeps for itself"):
            Settings(blobs=blobs)
