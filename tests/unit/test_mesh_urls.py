"""URLs that hold a password: checked, completed and shown without giving it away."""

import pytest

from services.mesh.urls import check_url, redacted, with_query

SECRET = "sw0rdfish"


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}@store:6379/0",
        f"rediss://ann:{SECRET}%23x@store/0",
        f"postgresql+psycopg://ann:{SECRET}@[::1]:5432/rag?sslmode=require",
        "unix:///tmp/redis.sock",
        "sqlite:///srv/registry.db",
        "http://127.0.0.1:6333",
        "",
    ],
)
def test_a_url_that_can_be_read_is_taken(url: str) -> None:
    assert check_url(url) == url


@pytest.mark.parametrize(
    "password", [f"{SECRET}#1", f"a/{SECRET}", f"a?{SECRET}", f"[{SECRET}", f":{SECRET}/@", f"{SECRET}@b#c"]
)
def test_a_password_that_is_not_encoded_is_refused_without_quoting_it(password: str) -> None:
    with pytest.raises(ValueError, match="percent-encode") as refused:
        check_url(f"redis://:{password}@store:6379/0")
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"redis://ann:{SECRET}@store:6379/0", "redis://***@store:6379/0"),
        (f"https://idp.example/jwks?key={SECRET}&a=1", "https://idp.example/jwks?key=***&a=***"),
        (f"redis://:{SECRET}#x@store", "(not a URL)"),
        ("https://idp.example:8443/jwks", "https://idp.example:8443/jwks"),
        ("/srv/keys/jwks.json", "/srv/keys/jwks.json"),
        ("unix:///tmp/redis.sock", "unix:///tmp/redis.sock"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert redacted(url) == shown


def test_a_query_is_added_to_and_never_changed() -> None:
    assert with_query("rediss://store/0", ssl_ca_certs="/etc/ca file.pem") == (
        "rediss://store/0?ssl_ca_certs=/etc/ca%20file.pem"
    )
    assert (
        with_query("rediss://s/0?db=1&ssl_ca_certs=/mine", ssl_ca_certs="/x") == "rediss://s/0?db=1&ssl_ca_certs=/mine"
    )
