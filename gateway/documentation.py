"""The API's documentation as files to serve: the page, what it loads, and the OpenAPI document of this edge."""

import hashlib
import html
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREFIX = "/docs"
DOCUMENT = f"{PREFIX}/openapi.json"
_HERE = Path(__file__).parent
_YEAR_S = 365 * 86400

# The page of Scalar reaches nobody but the edge it came from: no fonts, no proxy, no figures to anyone, no cloud. Its
# own styles are inserted by its script; every other element of the page is a file of this origin.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_CONFIGURATION: Mapping[str, Any] = {
    "url": DOCUMENT,
    "withDefaultFonts": False,
    "telemetry": False,
    "persistAuth": False,
    "hideClientButton": True,
    "showDeveloperTools": "never",
    "agent": {"disabled": True},
    "mcp": {"disabled": True},
    "defaultOpenFirstTag": True,
    "authentication": {"preferredSecurityScheme": "token"},
    "documentDownloadType": "direct",
    "metaData": {"title": "Ragweave API"},
}


@dataclass(frozen=True)
class File:
    """One file of the documentation.

    Attributes:
        content: As it is served; the edge compresses.
        headers: What its answers carry besides the length; names in lower case.
    """

    content: bytes
    headers: Mapping[str, str]

    @property
    def etag(self) -> str:
        return self.headers["etag"]


def files() -> dict[str, File]:
    """Every file by its path. What the page loads bears its hash in its name, so that it is fetched once."""
    script = (_HERE / "scalar" / "standalone.js").read_bytes()
    script_path = f"{PREFIX}/scalar-{hashlib.sha256(script).hexdigest()[:16]}.js"
    page = _page(script_path)
    return {
        PREFIX: _file(page, "text/html; charset=utf-8", **{"content-security-policy": POLICY}),
        DOCUMENT: _file(_document(), "application/json"),
        script_path: _file(
            script, "text/javascript; charset=utf-8", **{"cache-control": f"public, max-age={_YEAR_S}, immutable"}
        ),
    }


def _page(script: str) -> bytes:
    configuration = html.escape(json.dumps(_CONFIGURATION), quote=True)
    return f"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<link rel="icon" href="data:,">
<title>Ragweave API</title>
</head>
<body>
<div id="api-reference" data-configuration="{configuration}"></div>
<noscript>This page needs JavaScript; the contract itself is at <a href="{DOCUMENT}">{DOCUMENT}</a>.</noscript>
<script src="{script}"></script>
</body>
</html>
""".encode()


def _document() -> bytes:
    """The contract's document, to be tried out at the edge that serves it, whichever that is."""
    document = json.loads((_HERE / "openapi.json").read_bytes())
    del document["servers"]  # without any, paths are those of the document's own origin (OpenAPI 3.1, 4.8.1)
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _file(content: bytes, kind: str, **headers: str) -> File:
    # Weak, since the edge answers with the same in fewer bytes.
    etag = f'W/"{hashlib.sha256(content).hexdigest()[:32]}"'
    return File(content, {"content-type": kind, "cache-control": "no-cache", "etag": etag, **headers})
