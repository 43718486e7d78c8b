"""`/docs` and `/redoc` in a real browser that cannot reach the internet."""

import json
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.browser.conftest import PATIENCE, Visit
from tests.support.http import NO_TLS
from tests.support.people import Person
from tests.support.service import ServiceProcess

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

METHODS = {"get", "put", "post", "patch", "delete"}


def operations(service: ServiceProcess) -> int:
    paths = httpx.get(f"{service.url}/openapi.json", timeout=30, verify=NO_TLS).json()["paths"]
    return sum(method in METHODS for path in paths.values() for method in path)


async def has(page: "Page", selector: str, count: int) -> None:
    """Wait until there are so many of these: a page is made in parts."""
    from playwright.async_api import expect

    await expect(page.locator(selector)).to_have_count(count, timeout=PATIENCE)


async def open_swagger_ui(page: "Page", service: ServiceProcess, scheme: str) -> None:
    """Open it, and see that it shows every operation, in the colours of the scheme. To load it costs seconds."""
    await page.goto(f"{service.url}/docs")
    await has(page, ".opblock", operations(service))
    await has(page, ".filter input", 1)
    await has(page, "html.dark-mode", int(scheme == "dark"))


async def test_swagger_ui_in_the_dark_tries_an_operation_out(
    service: ServiceProcess, client: httpx.AsyncClient, visit: Visit
):
    async with visit(color_scheme="dark") as watched:
        page = watched.page
        await open_swagger_ui(page, service, "dark")
        block = page.locator(".opblock", has=page.locator('[data-path="/"]'))
        await block.locator(".opblock-summary-control").click()
        await block.locator("button.execute").click()

        assert await block.locator(".live-responses-table .response-col_status").last.inner_text() == "200"
        body = await block.locator(".live-responses-table .highlight-code code").first.inner_text()
        assert json.loads(body) == (await client.get("/")).json()


async def test_swagger_ui_in_the_light_authorizes_by_password_and_remembers(
    service: ServiceProcess, visit: Visit, user: Person
):
    async with visit(color_scheme="light") as watched:
        page = watched.page
        await open_swagger_ui(page, service, "light")
        await page.locator(".auth-wrapper button.authorize").click()
        form = page.locator(".auth-container", has=page.locator("#oauth_username")).first
        await form.locator("#oauth_username").fill(user.email)
        await form.locator("#oauth_password").fill(user.password)
        await form.locator("button.authorize").click()
        await page.locator(".auth-container button", has_text="Logout").wait_for()
        await page.reload()
        block = page.locator(".opblock", has=page.locator('[data-path="/api/v1/auth/me"]'))
        await block.locator(".opblock-summary-control").click()
        await block.locator("button.execute").click()

        assert await block.locator(".live-responses-table .response-col_status").last.inner_text() == "200"
        body = await block.locator(".live-responses-table .highlight-code code").first.inner_text()
        assert json.loads(body)["email"] == user.email


async def test_redoc_shows_every_operation_and_searches(service: ServiceProcess, visit: Visit):
    async with visit() as watched:
        page = watched.page
        await page.goto(f"{service.url}/redoc")
        await page.wait_for_selector('[data-section-id^="tag/"] [data-section-id*="operation/"], [id*="operation/"]')
        await page.wait_for_function(
            "(count) => new Set([...document.querySelectorAll("
            '\'[data-section-id*="/operation"], [id*="/operation/"]\')]'
            ".map((element) => element.getAttribute('data-section-id') || element.id)).size === count",
            arg=operations(service),
            polling=100,
        )
        await page.locator('input[placeholder="Search..."]').press_sequentially("webhook", delay=20)
        await page.locator('[data-role="search:results"] li').first.wait_for()
