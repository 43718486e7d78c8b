"""`/docs` (Swagger UI), `/redoc` and the static assets: all served by this service, under a strict policy.

Neither page has an inline script: what they show is JSON in the page, and small files of ours start the bundles.
"""

import html
import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from fastapi import APIRouter, Response
from fastapi.openapi.docs import get_swagger_ui_oauth2_redirect_html
from fastapi.responses import HTMLResponse
from starlette.requests import Request

from app.core.figures.page import STATIC_PATH, script_json
from app.system.static import StaticAssets, packaged_assets

_REDIRECT_PATH: Final = "/docs/oauth2-redirect"
# The bundles set styles from scripts, which no list of hashes can name; Redoc searches in a worker that it makes
# from a blob. Scripts are files of this service only.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'{scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" type="image/svg+xml" href="{static}/favicon.svg">
{styles}
</head>
<body>
<header class="brand">
<a href="{root}/"><img src="{static}/favicon.svg" alt="" width="28" height="28"><span>{title}</span></a>
<nav><a href="{root}/{other}">{other}</a><a href="{root}{openapi}">openapi.json</a></nav>
</header>
<div id="docs"></div>
<script type="application/json" id="settings">{settings}</script>
{scripts}
</body>
</html>
"""


def docs_router() -> APIRouter:
    """The routes of the docs pages and their assets. Make the app with `docs_url=None, redoc_url=None`."""
    router = APIRouter(include_in_schema=False)
    assets = StaticAssets(packaged_assets())
    swagger_page = _DocsPage(assets, ("swagger-ui.css", "docs.css"), ("swagger-ui-bundle.js", "swagger.js"), "redoc")
    redoc_page = _DocsPage(assets, ("docs.css",), ("redoc.standalone.js", "redoc.js"), "docs")

    @router.get("/docs")
    async def swagger(request: Request) -> HTMLResponse:
        return swagger_page.answer(
            request,
            oauth2RedirectPath=_root(request) + _REDIRECT_PATH,
            persistAuthorization=True,
            tryItOutEnabled=True,
            filter=True,
            deepLinking=True,
            displayRequestDuration=True,
            defaultModelsExpandDepth=0,
        )

    @router.get(_REDIRECT_PATH)
    async def oauth2_redirect() -> HTMLResponse:
        page = get_swagger_ui_oauth2_redirect_html()
        scripts = re.findall(rb"<script[^>]*>(.*?)</script>", bytes(page.body), re.DOTALL)
        hashes = "".join(f" 'sha256-{b64encode(sha256(script).digest()).decode()}'" for script in scripts)
        page.headers["Content-Security-Policy"] = _POLICY.format(scripts=hashes)
        return page

    @router.get("/redoc")
    async def redoc(request: Request) -> HTMLResponse:
        return redoc_page.answer(request)

    @router.get("/favicon.ico")
    async def favicon(request: Request) -> Response:
        return await assets.answer(request, "favicon.svg")

    @router.api_route(f"{STATIC_PATH}/{{name}}", methods=["GET", "HEAD"])
    async def static(request: Request, name: str) -> Response:
        return await assets.answer(request, name)

    return router


def _root(request: Request) -> str:
    return str(request.scope.get("root_path", "")).rstrip("/")


@dataclass(frozen=True, slots=True)
class _DocsPage:
    """One of the two pages: its assets, and the other page that it links to."""

    assets: StaticAssets
    styles: Sequence[str]
    scripts: Sequence[str]
    other: str

    def answer(self, request: Request, **settings: object) -> HTMLResponse:
        """The page for the app's OpenAPI document; `settings` are for the script that starts it."""
        root = _root(request)
        settings["url"] = f"{root}{request.app.openapi_url}"
        root = html.escape(root)
        static = root + STATIC_PATH
        urls = self.assets.url
        page = _PAGE.format(
            title=html.escape(request.app.title),
            root=root,
            static=static,
            other=self.other,
            openapi=request.app.openapi_url,
            styles="\n".join(f'<link rel="stylesheet" href="{static}/{urls(name)}">' for name in self.styles),
            settings=script_json(settings),
            scripts="\n".join(f'<script src="{static}/{urls(name)}"></script>' for name in self.scripts),
        )
        return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY.format(scripts="")})
