"""The documentation's page in a browser: it shows the contract, and a search tried out on it works. `make docs-test`.

    python -m tests.e2e.docs_page [--screenshots FOLDER]

A whole mesh behind Envoy, with TLS where RAGWEAVE_TLS is on, and Debian's Chromium, headless. Nothing the page asks for
may leave the origin it came from, and the browser may find nothing to complain of.
"""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from playwright.async_api import Page, Request, async_playwright

from tests.e2e.stack import Mesh

OPERATIONS = json.loads((Path(__file__).resolve().parents[2] / "docs" / "openapi.json").read_bytes())["paths"]
SEARCH = "/api/v1/rag/search"
TEXT = "The cat that lives in the harbour eats fish."
PATIENCE_MS = 60_000
_CLOSED_NETWORK = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Watched:
    """What a page asks for and complains of."""

    def __init__(self, page: Page) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", self._asked)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: said.type == "error" and self.complaints.append(said.text))

    def _asked(self, request: Request) -> None:
        self.requests.append(request.url)

    def elsewhere(self, origin: str) -> list[str]:
        """Requests to another origin; what a page carries in itself is none."""
        return [
            url
            for url in self.requests
            if urlsplit(url).scheme not in ("data", "blob") and not url.startswith(f"{origin}/")
        ]


async def look(mesh: Mesh, browser: str, screenshots: Path) -> None:
    """Opens the page, tries a search out on it, and holds what happens to what was promised."""
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=browser, args=list(_CLOSED_NETWORK))
        context = await started.new_context(viewport={"width": 1500, "height": 1000}, ignore_https_errors=True)
        context.set_default_timeout(PATIENCE_MS)
        page = await context.new_page()
        watched = Watched(page)
        await page.goto(f"{mesh.layout.url}/docs")
        await _shows_every_service(page)
        await page.screenshot(path=screenshots / "docs.png")
        found = await _try_search(page, mesh.token())
        assert TEXT in found, found
        await page.screenshot(path=screenshots / "search.png")
        assert not (left := watched.elsewhere(mesh.layout.url)), f"asked elsewhere: {left}"
        assert not watched.complaints, watched.complaints
        print(f"{len(watched.requests)} requests, all to {mesh.layout.url}; no complaint of the browser")
        await started.close()


async def _shows_every_service(page: Page) -> None:
    services = {form["tags"][0] for forms in OPERATIONS.values() for form in forms.values()}
    for service in sorted(services):
        await page.get_by_text(service, exact=True).first.wait_for()
    for each in OPERATIONS["/api/v1/rag/cache"].values():
        await page.get_by_text(each["summary"]).first.wait_for()
    print(f"the page shows {len(services)} services")


async def _try_search(page: Page, token: str) -> str:
    """Enters a token, writes a search, sends it; returns what the edge answered and the page shows."""
    await page.get_by_placeholder("Token").first.fill(token)
    await page.get_by_text("RetrievalService", exact=True).first.click()
    await page.get_by_role("button", name=f"Test Request (post {SEARCH})", exact=True).click()
    editor = page.locator(".cm-content").first
    await editor.click()
    await page.keyboard.press("ControlOrMeta+A")
    await page.keyboard.insert_text(json.dumps({"query": "who eats fish", "collection": "harbour", "topK": 1}))
    async with page.expect_response(lambda answer: urlsplit(answer.url).path == SEARCH) as answering:
        await page.get_by_role("button", name="Send Request").last.click()
    answer = await answering.value
    assert answer.status == 200, f"{answer.status}: {await answer.text()}"
    await page.get_by_text("200 OK").first.wait_for()
    return await answer.text()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.docs_page", description=__doc__)
    parser.add_argument("--screenshots", type=Path, help="folder to leave them in")
    chosen = parser.parse_args()
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if not browser:
        print("SKIPPED: there is no Chromium; apt-get install chromium")
        return
    with tempfile.TemporaryDirectory() as folder:
        screenshots = (chosen.screenshots or Path(folder)).absolute()
        screenshots.mkdir(parents=True, exist_ok=True)
        mesh = Mesh(Path(folder) / "mesh")
        mesh.start()
        try:
            with mesh.client() as client:
                client.create_collection("harbour")
                client.wait(client.import_texts("harbour", [{"document_id": "cat", "text": TEXT}]).name)
            asyncio.run(look(mesh, browser, screenshots))
        finally:
            mesh.stop()
    print("the documentation works")


if __name__ == "__main__":
    sys.exit(main())
