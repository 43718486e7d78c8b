"""A real browser that can reach this machine only, and pages that are watched for every complaint."""

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from tests.browser.guard import find_browser, missing

if TYPE_CHECKING:
    from playwright.async_api import Browser, ConsoleMessage, Page, Request, Route

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
    # No name but this machine's resolves, whatever the page or the browser itself asks for.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]
PATIENCE = 60_000
"""Milliseconds that a page may take for anything."""
LEFT = "net::ERR_ABORTED"
LOOPBACK = {"127.0.0.1", "localhost"}
_REPORT_VIOLATIONS = """
window.__violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.__violations.push(`${event.violatedDirective}: ${event.blockedURI} ${event.sample}`));
"""


@pytest_asyncio.fixture(scope="session")
async def browser() -> AsyncIterator["Browser"]:
    """One Chromium for all tests of a process."""
    if lack := missing():
        pytest.fail(f"REQUIRE_BROWSER is set, but {lack}")
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=find_browser(), args=ARGUMENTS, timeout=120_000)
        yield chromium
        await chromium.close()


@dataclass
class Watched:
    """A page, and all that went wrong on it."""

    page: "Page"
    outside: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    posts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Addresses to open by POST: the options of the request. A browser's address bar can only GET."""

    async def filter(self, route: "Route") -> None:
        """Let a request through if it stays on this machine."""
        url = urlsplit(route.request.url)
        if url.scheme != "file" and url.hostname not in LOOPBACK:
            self.outside.append(route.request.url)
            await route.abort()
        elif route.request.url in self.posts:
            await route.continue_(method="POST", **self.posts[route.request.url])
        else:
            await route.continue_()

    def heard(self, message: "ConsoleMessage") -> None:
        """Keep errors of the console."""
        if message.type == "error":
            self.complaints.append(f"error: {message.text}")

    def failed(self, request: "Request") -> None:
        """Keep requests that got no answer, but not those that the browser gave up itself because the page was left."""
        if request.failure == LEFT:
            return
        self.complaints.append(f"failed: {request.url} {request.failure}")

    async def complained(self, count: int) -> list[str]:
        """What went wrong, which is forgiven with it; so many are waited for, because a browser tells of them late."""
        deadline = time.monotonic() + PATIENCE / 1000
        while len(self.complaints) < count:
            assert time.monotonic() < deadline, self.complaints
            await asyncio.sleep(0.02)
        found = sorted(self.complaints)
        self.complaints.clear()
        return found

    async def check(self) -> None:
        """Nothing was asked of other hosts, blocked, or complained about."""
        violations = await self.page.evaluate("window.__violations")
        assert self.outside == [], "the page asked other hosts"
        assert violations == [], "the page broke its content-security policy"
        assert self.complaints == []


Visit = Callable[..., AbstractAsyncContextManager[Watched]]


@pytest.fixture
def visit(browser: "Browser", request: pytest.FixtureRequest) -> Visit:
    """Opens watched pages: `async with visit(color_scheme="dark") as watched`. Checks them when the block is left.

    With BROWSER_SHOTS=folder a picture of each page is kept there.
    """

    @asynccontextmanager
    async def open_page(**options: Any) -> AsyncIterator[Watched]:
        # A zone that is not India's, so that nothing is right by accident.
        defaults = {"viewport": {"width": 1280, "height": 720}, "timezone_id": "America/New_York"}
        context = await browser.new_context(**(defaults | options))
        try:
            await context.add_init_script(_REPORT_VIOLATIONS)
            page = await context.new_page()
            page.set_default_timeout(PATIENCE)
            watched = Watched(page)
            await context.route("**/*", watched.filter)
            page.on("console", watched.heard)
            page.on("requestfailed", watched.failed)
            page.on("pageerror", lambda error: watched.complaints.append(f"exception: {error}"))
            yield watched
            if shots := os.environ.get("BROWSER_SHOTS"):
                name = re.sub(r"\W+", "-", request.node.name).strip("-")
                await page.screenshot(path=Path(shots) / f"{name}.png")
            await watched.check()
        finally:
            # What is asked for so late, an icon perhaps, finds nobody who lets it through any more.
            await context.unroute_all(behavior="ignoreErrors")
            await context.close()

    return open_page
