"""The guarded web against real servers on this machine, with names that resolve as each test says."""

import asyncio
import gzip
from collections.abc import Callable, Mapping
from contextlib import suppress

import pytest

from services.jobs.adapters.web import HttpWeb
from services.jobs.addresses import Reachable, is_public
from services.mesh.errors import AddressNotAllowed, DocumentTooLarge, Unreachable
from tests.web_site import LOCAL, answer, site


def web(
    port: int, names: Mapping[str, list[str]], *, allowed: Callable[[str, str], bool] | None = None, **more: float
) -> HttpWeb:
    """A web where names stand for these addresses, and where this machine's own counts as public."""

    async def resolve(host: str, _: int) -> list[str]:
        return names.get(host, [host])

    return HttpWeb(
        ports=[port, 80], resolve=resolve, allowed=allowed or (lambda _, each: each == LOCAL or is_public(each)), **more
    )  # type: ignore[arg-type]


async def test_a_page_is_fetched_with_its_type_and_name() -> None:
    served = answer(b"hello", content_type="text/html; charset=utf-8", content_disposition='x; filename="../a b.html"')
    async with site({"/doc?q=1": served}) as there, web(there.port, {"docs.example": [LOCAL]}) as reached:
        page = await reached.fetch(f"http://docs.example:{there.port}/doc?q=1", max_bytes=10)
    assert (page.media_type, page.filename, page.content) == ("text/html", "a b.html", b"hello")
    assert f"host: docs.example:{there.port}".lower() in there.asked[0].lower()


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fe80::1", "64:ff9b::7f00:1", "0.0.0.0"],
)
async def test_a_name_that_resolves_to_a_private_address_is_not_connected_to(address: str) -> None:
    async with site({"/": answer(b"secret")}) as there:
        async with web(there.port, {"evil.example": [address]}, allowed=Reachable().allows) as reached:
            with pytest.raises(AddressNotAllowed):
                await reached.fetch(f"http://evil.example:{there.port}/", max_bytes=100)
        assert there.asked == []


async def test_a_name_with_a_public_and_a_private_address_is_not_connected_to() -> None:
    async with site({"/": answer(b"secret")}) as there:
        async with web(
            there.port, {"evil.example": ["93.184.216.34", "127.0.0.1"]}, allowed=Reachable().allows
        ) as reached:
            with pytest.raises(AddressNotAllowed):
                await reached.fetch(f"http://evil.example:{there.port}/", max_bytes=100)
        assert there.asked == []


async def test_a_name_is_resolved_once_for_a_connection_so_that_rebinding_finds_no_gap() -> None:
    answers = iter([[LOCAL], ["10.0.0.1"]])

    async def resolve(host: str, _: int) -> list[str]:
        return next(answers)

    async with site({"/": answer(b"hello", connection="close")}) as there:
        async with HttpWeb(ports=[there.port], resolve=resolve, allowed=lambda _, each: each == LOCAL) as reached:
            url = f"http://rebound.example:{there.port}/"
            assert (await reached.fetch(url, max_bytes=100)).content == b"hello"
            with pytest.raises(AddressNotAllowed):
                await reached.fetch(url, max_bytes=100)
        assert len(there.asked) == 1


@pytest.mark.parametrize(
    "location",
    [
        "http://10.0.0.1/",
        "http://inner.example/",
        "http://[",
        "http://u:p@docs.example/",
        "//169.254.169.254/latest",
        "file:///etc/passwd",
        "gopher://x/",
    ],
)
async def test_a_redirect_is_checked_as_the_first_url_is(location: str) -> None:
    async with site({"/": answer(b"", "302 Found", location=location)}) as there:
        names = {"docs.example": [LOCAL], "inner.example": ["192.168.0.1"]}
        async with web(there.port, names) as reached:
            with pytest.raises(AddressNotAllowed):
                await reached.fetch(f"http://docs.example:{there.port}/", max_bytes=100)


async def test_a_redirect_is_followed_and_a_circle_is_not() -> None:
    pages = {
        "/a": answer(b"", "301 Moved", location="/b"),
        "/b": answer(b"there"),
        "/c": answer(b"", "302 Found", location="/c"),
    }
    async with site(pages) as there, web(there.port, {"docs.example": [LOCAL]}) as reached:
        page = await reached.fetch(f"http://docs.example:{there.port}/a", max_bytes=100)
        assert (page.content, page.url) == (b"there", f"http://docs.example:{there.port}/b")
        with pytest.raises(Unreachable, match="redirects more than"):
            await reached.fetch(f"http://docs.example:{there.port}/c", max_bytes=100)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://docs.example/",
        "file:///etc/passwd",
        "http:///path",
        "http://user:hunter2@docs.example/",
        "http://docs.example:22/",
        "http://docs.example:99999/",
        "http://docs.example/\r\nx: y",
        "http://[::1",
        "javascript:alert(1)",
        "",
    ],
)
async def test_what_is_no_plain_web_url_is_refused_and_no_password_is_repeated(url: str) -> None:
    async with web(80, {"docs.example": [LOCAL]}) as reached:
        with pytest.raises(AddressNotAllowed) as refused:
            await reached.fetch(url, max_bytes=100)
    assert "hunter2" not in refused.value.message


@pytest.mark.parametrize(
    "url", ["http://127.1/", "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/", "http://localhost/"]
)
async def test_the_systems_own_ways_to_write_loopback_are_refused(url: str) -> None:
    async with HttpWeb() as reached:
        with pytest.raises((AddressNotAllowed, Unreachable)):
            await reached.fetch(url, max_bytes=100)


async def test_more_than_may_be_read_is_refused_whatever_the_server_says_of_its_length() -> None:
    endless = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"400\r\n" + b"x" * 1024 + b"\r\n" + b"400\r\n"
    packed = answer(gzip.compress(b"x" * 10_000), content_encoding="gzip")
    pages = {"/long": answer(b"x" * 101), "/endless": endless, "/packed": packed}
    async with site(pages) as there, web(there.port, {"docs.example": [LOCAL]}) as reached:
        for path in ("/long", "/endless"):
            with pytest.raises(DocumentTooLarge):
                await reached.fetch(f"http://docs.example:{there.port}{path}", max_bytes=100)
        with pytest.raises(Unreachable, match="packed"):
            await reached.fetch(f"http://docs.example:{there.port}/packed", max_bytes=100)


async def test_a_server_that_says_nothing_is_given_up() -> None:
    ended = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        ended.set()

    server = await asyncio.start_server(silent, LOCAL, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with web(port, {"slow.example": [LOCAL]}, timeout_s=0.2) as reached:
            with pytest.raises(Unreachable, match="did not answer within"):
                await reached.fetch(f"http://slow.example:{port}/", max_bytes=100)
        await ended.wait()


async def test_errors_and_nonsense_are_unreachable() -> None:
    pages = {"/gone": answer(b"", "410 Gone"), "/noise": b"\0\0\0not http\r\n\r\n"}
    async with site(pages) as there, web(there.port, {"docs.example": [LOCAL]}) as reached:
        with pytest.raises(Unreachable, match="410"):
            await reached.fetch(f"http://docs.example:{there.port}/gone", max_bytes=100)
        with pytest.raises(Unreachable):
            await reached.fetch(f"http://docs.example:{there.port}/noise", max_bytes=100)
    async with web(there.port, {"docs.example": [LOCAL]}) as reached:
        with pytest.raises(Unreachable, match="cannot be connected to"):
            await reached.fetch(f"http://docs.example:{there.port}/", max_bytes=100)


@pytest.mark.parametrize(("status", "passing"), [(429, True), (500, True), (503, True), (404, False), (410, False)])
async def test_only_an_answer_that_may_change_is_worth_asking_for_again(status: int, passing: bool) -> None:
    async with site({"/": answer(b"", f"{status} X")}) as there, web(there.port, {}) as reached:
        with pytest.raises(Unreachable) as failed:
            await reached.fetch(f"http://{LOCAL}:{there.port}/", max_bytes=100)
    assert (failed.value.passing, failed.value.metadata) == (passing, {"status": str(status)})


@pytest.mark.parametrize(
    ("told", "charset"),
    [("iso-8859-1", "iso8859-1"), ('"utf-8"', "utf-8"), ("base64", ""), ("nonsense", ""), ("", "")],
)
async def test_a_charset_that_is_none_is_not_told(told: str, charset: str) -> None:
    served = answer(b"x", content_type=f"text/plain; charset={told}")
    async with site({"/": served}) as there, web(there.port, {}) as reached:
        assert (await reached.fetch(f"http://{LOCAL}:{there.port}/", max_bytes=100)).charset == charset


async def test_content_is_posted_with_its_headers_and_a_redirect_is_not_followed() -> None:
    pages = {"/hook": answer(b"", "204 No Content"), "/moved": answer(b"", "307 Moved", location="/hook")}
    async with site(pages) as there, web(there.port, {"hooks.example": [LOCAL]}) as reached:
        assert await reached.post(f"http://hooks.example:{there.port}/hook", b"{}", {"webhook-id": "1"}) == 204
        assert await reached.post(f"http://hooks.example:{there.port}/moved", b"{}", {}) == 307
    assert there.bodies == [b"{}", b"{}"]
    assert "webhook-id: 1" in there.asked[0]
