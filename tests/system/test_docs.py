"""The docs pages and the static assets, over real sockets."""

import asyncio
import gzip
import re
from base64 import b64encode
from collections.abc import AsyncIterator
from hashlib import sha256

import httpx
import pytest
import pytest_asyncio
import uvicorn
from fastapi import FastAPI

from app.system.docs import docs_router
from app.system.static import Asset, StaticAssets, packaged_assets
from tests.support.http import NO_TLS
from tests.support.service import free_port

LIBRARIES = ["plotly.min.js", "swagger-ui-bundle.js", "swagger-ui.css", "redoc.standalone.js"]
OWN = ["figure.js", "swagger.js", "redoc.js", "docs.css", "favicon.svg"]


@pytest_asyncio.fixture
async def behind_proxy() -> AsyncIterator[str]:
    """An application of the docs pages alone, told that a proxy serves it under /arrow."""
    app = FastAPI(title="Arrow <&> Co", docs_url=None, redoc_url=None)
    app.include_router(docs_router())
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, root_path="/arrow", log_level="error", lifespan="off"))
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    await running


def policy_of(answer: httpx.Response) -> dict[str, str]:
    return dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))


@pytest.mark.parametrize("page", ["/docs", "/redoc", "/docs/oauth2-redirect"])
async def test_pages_allow_no_script_but_ours(client: httpx.AsyncClient, page: str):
    answer = await client.get(page)

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    directives = policy_of(answer)
    assert directives["default-src"] == "'none'"
    assert directives["frame-ancestors"] == "'none'"
    assert "unsafe" not in directives["script-src"]
    assert "http" not in answer.headers["content-security-policy"]
    inline = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    for script in inline:
        assert f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" in directives["script-src"]
    assert bool(inline) == (page == "/docs/oauth2-redirect")


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_all_that_a_page_names_is_there(client: httpx.AsyncClient, page: str):
    html = (await client.get(page)).text

    for url in re.findall(r'(?:src|href)="([^"]+)"', html):
        assert url.startswith("/")
        assert (await client.get(url)).status_code == 200


async def test_a_proxys_path_stands_before_every_address(behind_proxy: str):
    async with httpx.AsyncClient(base_url=behind_proxy, verify=NO_TLS) as client:
        for page in ("/docs", "/redoc"):
            html = (await client.get(page)).text
            assert '"url":"/arrow/openapi.json"' in html
            assert all(url.startswith("/arrow/") for url in re.findall(r'(?:src|href)="([^"]+)"', html))
            assert "<title>Arrow &lt;&amp;&gt; Co</title>" in html


@pytest.mark.parametrize("name", LIBRARIES)
async def test_a_versioned_asset_is_kept_for_ever(client: httpx.AsyncClient, name: str):
    url = "/static/" + StaticAssets(packaged_assets()).url(name)

    versioned = await client.get(url)
    plain = await client.get(f"/static/{name}")
    other = await client.get(f"/static/{name}?v=0.0.0")

    assert "?v=" in url
    assert versioned.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert plain.headers["cache-control"] == other.headers["cache-control"] == "public, no-cache"
    assert versioned.content == plain.content


@pytest.mark.parametrize("name", [*LIBRARIES, *OWN])
async def test_an_asset_is_compressed_and_sent_once(client: httpx.AsyncClient, name: str):
    url = f"/static/{name}"
    async with client.stream("GET", url, headers={"Accept-Encoding": "br, gzip;q=0.8"}) as packed:
        raw = b"".join([chunk async for chunk in packed.aiter_raw()])
    plain = await client.get(url, headers={"Accept-Encoding": "identity"})
    refused = await client.get(url, headers={"Accept-Encoding": "gzip;q=0, identity"})
    again = await client.get(url, headers={"If-None-Match": packed.headers["etag"], "Accept-Encoding": "gzip"})

    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(raw) == plain.content == refused.content
    assert "content-encoding" not in {*plain.headers, *refused.headers}
    assert packed.headers["etag"] != plain.headers["etag"]
    assert "Accept-Encoding" in packed.headers["vary"]
    assert packed.headers["cross-origin-resource-policy"] == "cross-origin"
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == packed.headers["etag"]


async def test_head_has_no_body(client: httpx.AsyncClient):
    answer = await client.head("/static/figure.js")

    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) > 0


@pytest.mark.parametrize("name", ["none.js", "..%2Fdocs.py", "%2e%2e/docs.py", "__init__.py", "favicon.png"])
async def test_only_listed_assets_are_served(client: httpx.AsyncClient, name: str):
    answer = await client.get(f"/static/{name}")

    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


async def test_browsers_find_an_icon(client: httpx.AsyncClient):
    answer = await client.get("/favicon.ico")

    assert answer.headers["content-type"] == "image/svg+xml"


async def test_the_docs_are_not_part_of_the_api(client: httpx.AsyncClient):
    paths = (await client.get("/openapi.json")).json()["paths"]

    assert not {path for path in paths if path.startswith(("/docs", "/redoc", "/static", "/favicon"))}


async def test_a_failed_read_is_tried_again(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("assets") / "late.js"
    app = FastAPI(docs_url=None, redoc_url=None)
    assets = StaticAssets({"late.js": Asset(path)})
    app.add_api_route("/{name}", assets.answer)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(base_url="http://test", transport=transport) as client:
        before = await client.get("/late.js")
        path.write_text("ready()")
        after = await client.get("/late.js")

    assert (before.status_code, after.status_code, after.text) == (500, 200, "ready()")
