"""The REST surface keeps what its document promises, whatever is sent to it. `make fuzz-api` is the whole run."""

import http.client
import json
import random
import ssl
import urllib.request
from contextlib import closing
from urllib.parse import quote

import pytest

from tests.e2e.fuzz_api import CALLER, DOCUMENT, fuzz
from tests.e2e.stack import PREFIX, Mesh

# Half a minute on an idle machine; a bound, not a wish.
RUN_S = 540.0
# Of the cases that try every bound of every schema, more than 9,000.
ONE_IN = 9
SEED = 20260131
PATHS = json.loads(DOCUMENT.read_text())["paths"]
VERBS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND")


@pytest.mark.timeout(RUN_S + 60)
def test_what_the_document_says_holds_for_whatever_fits_it_and_whatever_does_not(mesh: Mesh) -> None:
    done = fuzz(mesh, "--max-examples", "2", "--seed", str(SEED), "--no-shrink", timeout_s=RUN_S, one_in=ONE_IN)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    assert "Tested: " in done.stdout


def test_unknown_routes_and_parameters_are_refused_and_eject_nobody(mesh: Mesh) -> None:
    draw, before = random.Random(SEED), _ejections(mesh)
    token = mesh.token(**CALLER)
    with closing(_connection(mesh)) as connection:
        for _ in range(300):
            verb, target, expected = _unknown_route(draw) if draw.random() < 0.5 else _unknown_parameter(draw)
            connection.request(verb, target, headers={"authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status in expected, (verb, target, answer.status, body)
            if verb != "HEAD" and answer.status != 200:
                assert set(json.loads(body)) == {"code", "message", "details"}, (verb, target, body)
    assert before
    assert _ejections(mesh) == before
    assert mesh.rest("GET", f"{PREFIX}/collections", token=token).status == 200


def _unknown_route(draw: random.Random) -> tuple[str, str, set[int]]:
    """A path of the contract with a segment, an escape or a verb it does not have, or one of nothing known."""
    segments = draw.choice(list(PATHS)).split("/")[1:] if draw.random() < 0.8 else ["api", "v1"]
    segments.insert(draw.randint(3, len(segments)) if len(segments) > 3 else len(segments), _noise(draw) + "!")
    path = "/" + "/".join(segments).replace("{", "").replace("}", "")
    return draw.choice(VERBS), path + draw.choice(["", ":" + _noise(draw), "?" + _noise(draw)]), {400, 404, 405}


def _unknown_parameter(draw: random.Random) -> tuple[str, str, set[int]]:
    path = draw.choice(list(PATHS))
    verb = draw.choice(list(PATHS[path])).upper()
    names = [f"{_noise(draw)}.{_noise(draw)}" for _ in range(draw.randint(1, 3))]
    query = "&".join(f"x{name}={_noise(draw)}" for name in names)
    return verb, f"{path.replace('{', '').replace('}', '')}?{query}", {400}


def _noise(draw: random.Random) -> str:
    """Text of any characters, escaped for a URL but for what is harmless or odd there."""
    text = "".join(
        chr(draw.choice([draw.randint(1, 127), draw.randint(128, 0xD7FF)])) for _ in range(draw.randint(1, 9))
    )
    return quote(text, safe="!$'()*,;@~-._" if draw.random() < 0.5 else "")


def _connection(mesh: Mesh) -> http.client.HTTPConnection:
    if mesh.layout.https:
        trust = ssl.create_default_context(cafile=mesh.layout.edge_authority)
        return http.client.HTTPSConnection(mesh.edge, timeout=30, context=trust)
    return http.client.HTTPConnection(mesh.edge, timeout=30)


def _ejections(mesh: Mesh) -> dict[str, int]:
    """How often Envoy has left out a process of each cluster."""
    url = f"http://{mesh.layout.address('edge admin')}/stats?format=json&filter=ejections_enforced_total"
    with urllib.request.urlopen(url, timeout=10) as response:
        return {each["name"]: each["value"] for each in json.load(response)["stats"]}
