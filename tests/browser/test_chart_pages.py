"""Chart pages in a real browser that cannot reach the internet."""

import re
import time
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from tests.browser.conftest import PATIENCE, Visit, Watched
from tests.support.people import Person, alert

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

IST = timezone(timedelta(hours=5, minutes=30))
ALERTS = [
    alert(trade_type="buy", price=24350.5, comment="Breakout <img src=x onerror=alert(1)> & more"),
    alert(trade_type="exit", price=24391),
    alert(trade_type="short_entry", price=24402.35, quantity=150),
    alert(trade_type="short_exit", price=24377.1, quantity=75),
    alert(trade_type="buy", price=182.4, contract="NIFTY24200CE<b>"),
    alert(trade_type="sell", price=190.05, contract="NIFTY24200CE<b>"),
]
# What each chart draws of these: a selector and how many elements of it.
DRAWN = {
    "price": (".scatterlayer .points path.point", len(ALERTS)),
    "volume": (".barlayer .point path", 2),
    "trade_types": (".barlayer .point path", 6),
    "position": (".scatterlayer .trace path.js-line", 2),
    "pnl": (".scatterlayer .trace path.js-line", 4),  # two contracts, the total, the edge of the area below it
}


LINE = ".scatterlayer .trace path.js-line"
FILLS = """([width, height]) => {
  const drawing = document.querySelector(".main-svg").getBoundingClientRect();
  return drawing.width === width && drawing.height === height;
}"""


# Whether the drawing is this wide and no text or legend lies over another or beyond the page.
CLEAR = """(width) => {
  const boxes = [];
  const add = (kind, selector) => document.querySelectorAll(selector).forEach((part) => {
    const box = part.getBoundingClientRect();
    if (box.width && box.height) boxes.push({ kind, box });
  });
  add("legend", ".legend .bg, .legend2 .bg");
  add("title", ".gtitle, .gtitle-subtitle, .xtitle, [class^=y][class$=title]");
  add("tick", ".xtick text, [class^=y][class$=tick] text");
  add("note", ".annotation-text");
  const inside = ({ box }) =>
    box.left >= -1 && box.top >= -1 && box.right <= innerWidth + 1 && box.bottom <= innerHeight + 1;
  const apart = (one, other) =>
    one.kind === other.kind && one.kind === "tick"
    || Math.min(one.box.right, other.box.right) - Math.max(one.box.left, other.box.left) <= 1
    || Math.min(one.box.bottom, other.box.bottom) - Math.max(one.box.top, other.box.top) <= 1;
  return document.querySelector(".main-svg").getBoundingClientRect().width === width
    && boxes.filter(({ kind }) => kind === "legend").length > 0
    && document.querySelector(".nsewdrag").getBoundingClientRect().width >= 240
    && boxes.every(inside)
    && boxes.every((one, index) => boxes.slice(index + 1).every((other) => apart(one, other)));
}"""


# Where those are, for whoever has to find out why they are not clear of one another.
PLACES = """() => ["body", ".main-svg", ".legend .bg, .legend2 .bg", ".gtitle, .gtitle-subtitle", ".nsewdrag",
  ".xtick text, [class^=y][class$=tick] text", ".annotation-text"].map(
  (selector) => [selector, ...[...document.querySelectorAll(selector)].map((part) => {
    const { left, top, right, bottom } = part.getBoundingClientRect();
    return [left, top, right, bottom].map(Math.round);
  })])"""


@pytest_asyncio.fixture
async def trader(user: Person) -> Person:
    """Somebody whose strategy has sent alerts."""
    key = await user.bind("Opening range")
    for body in ALERTS:
        answer = await user.client.post(f"/data/{key}", json=body)
        assert answer.status_code == 201, answer.text
    return user


async def open_chart(
    watched: Watched, person: Person, theme: str = "dark", drawn: str = ".js-plotly-plot .main-svg", **body: Any
) -> None:
    url = str(person.client.base_url.join(f"/data/chart/filters?format=html&theme={theme}"))
    headers = {"Authorization": f"Bearer {person.token}", "Content-Type": "application/json"}
    request = person.client.build_request("POST", url, json=body)
    watched.posts[url] = {"headers": headers, "post_data": request.content}
    answer = await watched.page.goto(url)
    assert answer is not None
    assert answer.status == 200
    assert "content-security-policy" in answer.headers
    await watched.page.wait_for_selector(drawn)


async def becomes_clear(page: "Page", width: int) -> None:
    """Wait for it. By a timer: a browser that has nothing to draw draws no frames, at which it is asked otherwise."""
    from playwright.async_api import TimeoutError as PlaywrightTimeoutError

    try:
        await page.wait_for_function(CLEAR, arg=width, polling=100)
    except PlaywrightTimeoutError:
        raise AssertionError(f"at {width} pixels: {await page.evaluate(PLACES)}") from None


async def shows(page: "Page", selector: str, count: int) -> None:
    """Wait until so many of these can be seen."""
    from playwright.async_api import expect

    await expect(page.locator(selector).and_(page.locator(":visible"))).to_have_count(count, timeout=PATIENCE)


async def open_drawn(watched: Watched, trader: Person, chart_type: str, theme: str = "dark") -> None:
    """Open a chart of `ALERTS`, and see that everything is drawn over the whole width. To load it costs a second."""
    selector, count = DRAWN[chart_type]
    await open_chart(watched, trader, theme, chart_type=chart_type)

    await shows(watched.page, selector, count)
    width = "document.querySelector('.main-svg').getBoundingClientRect().width === 1280"
    await watched.page.wait_for_function(width, polling=100)


async def test_a_chart_fits_a_phone_and_a_turned_one(trader: Person, visit: Visit):
    async with visit(viewport={"width": 390, "height": 844}) as watched:
        await open_chart(watched, trader, chart_type="pnl")
        await watched.page.wait_for_function(FILLS, arg=[390, 844], polling=100)
        await watched.page.set_viewport_size({"width": 844, "height": 390})
        await watched.page.wait_for_function(FILLS, arg=[844, 390], polling=100)


# To load a page costs two seconds of a core: what each must draw is looked at where it has most to draw.
@pytest.mark.parametrize(
    ("chart_type", "contracts", "theme", "count"),
    [
        ("price", 10, "light", 20),
        ("volume", 10, "dark", 10),
        ("trade_types", 10, "dark", 20),
        ("position", 10, "light", 10),
        ("pnl", 40, "dark", 42),  # and the total, and the edge of the area below it
    ],
)
async def test_everything_is_drawn_and_nothing_lies_over_anything_else(
    user: Person, visit: Visit, chart_type: str, contracts: int, theme: str, count: int
):
    key = await user.bind("Opening range")
    for index in range(contracts):
        for trade_type, price in (("buy", 24000 + index), ("exit", 24100.55)):
            body = alert(trade_type=trade_type, price=price, contract=f"NIFTY{24000 + 50 * index}CE")
            answer = await user.client.post(f"/data/{key}", json=body)
            assert answer.status_code == 201, answer.text
    async with visit(viewport={"width": 800, "height": 600}) as watched:
        await open_chart(watched, user, theme, chart_type=chart_type)
        await shows(watched.page, DRAWN[chart_type][0], count)
        for width, height in ((800, 600), (390, 844), (1280, 720)):
            await watched.page.set_viewport_size({"width": width, "height": height})
            await becomes_clear(watched.page, width)


async def test_a_long_headline_goes_on_below(user: Person, visit: Visit):
    key = await user.bind("Opening range")
    for trade_type, price in (("buy", 24350.5), ("sell", 24725.85)):
        body = alert(trade_type=trade_type, price=price, contract="BANKNIFTY26NOV52000CE")
        assert (await user.client.post(f"/data/{key}", json=body)).status_code == 201
    async with visit(viewport={"width": 390, "height": 844}) as watched:
        await open_chart(watched, user, chart_type="pnl")
        await watched.page.locator(".gtitle tspan.line").nth(1).wait_for()
        box = await watched.page.locator(".gtitle").bounding_box()

        assert "+28,151.25" in (await watched.page.locator(".gtitle").text_content() or "")

    assert box is not None
    assert box["x"] + box["width"] <= 390


async def pointed_at(page: "Page") -> str:
    """What the label of the first point says. The pointer may come before the drawing listens, and comes again then."""
    from playwright.async_api import TimeoutError as PlaywrightTimeoutError

    deadline = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < deadline:
        await page.mouse.move(0, 0)
        await page.locator(".points path.point").first.hover(force=True)
        with suppress(PlaywrightTimeoutError):
            return await page.locator(".hovertext").text_content(timeout=2000) or ""
    raise AssertionError("no label came")


async def test_an_alert_tells_about_itself_in_indian_time_and_as_text(user: Person, visit: Visit):
    key = await user.bind("Opening range")
    stored = (await user.client.post(f"/data/{key}", json=ALERTS[0])).json()
    moment = datetime.fromisoformat(stored["created_at"]).astimezone(IST)
    async with visit() as watched:
        await open_chart(watched, user, chart_type="price", contract="NIFTY")
        label = await pointed_at(watched.page)

    assert "Buy 75 @ 24,350.5" in label
    assert "Opening range" in label
    assert f"{moment:%a %d %b %Y, %H:%M:%S} IST" in label
    assert "Breakout <img src=x onerror=alert(1)> & more" in label


async def test_volumes_are_drawn_and_names_show_as_they_are_written(trader: Person, visit: Visit):
    async with visit() as watched:
        await open_drawn(watched, trader, "volume")
        names = await watched.page.locator(".legendtext").all_text_contents()

    assert names == ["NIFTY", "NIFTY24200CE<b>"]


async def test_a_chart_of_nothing_says_so(user: Person, visit: Visit):
    async with visit() as watched:
        await open_chart(watched, user, chart_type="price")

        assert await watched.page.locator(".annotation-text").text_content() == "No alerts match these filters"


async def test_prices_are_drawn_and_can_be_kept_as_a_picture_and_not_uploaded(
    trader: Person, visit: Visit, tmp_path: Path
):
    async with visit(accept_downloads=True) as watched:
        await open_drawn(watched, trader, "price")
        buttons = watched.page.locator(".modebar-btn")
        titles = [await button.get_attribute("data-title") or "" for button in await buttons.all()]
        async with watched.page.expect_download() as download:
            await buttons.first.click()
        await (await download.value).save_as(tmp_path / "chart.png")

        assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        assert not [title for title in titles if re.search("cloud|share|studio|edit", title, re.IGNORECASE)]


async def test_a_page_saved_to_disk_still_draws(trader: Person, visit: Visit, tmp_path: Path):
    answer = await trader.client.post("/data/chart/filters", params={"format": "html"}, json={"chart_type": "pnl"})
    saved = tmp_path / "chart.html"
    saved.write_text(answer.text)
    async with visit() as watched:
        await watched.page.goto(saved.as_uri())
        await watched.page.wait_for_selector(".js-plotly-plot .main-svg")

        await watched.page.wait_for_selector(LINE, state="attached")
        # The script that the page asks for first is no file of this disk. That, and nothing else, goes wrong.
        not_there = "net::ERR_FILE_NOT_FOUND"
        script = f"failed: file:///static/figure.js {not_there}"
        assert await watched.complained(2) == [f"error: Failed to load resource: {not_there}", script]


async def test_a_wrong_idea_of_the_services_address_does_no_harm(trader: Person, visit: Visit):
    """A proxy that ends TLS makes a service think that it is reached by http, or by another name."""
    answer = await trader.client.post(
        "/data/chart/filters",
        params={"format": "html"},
        json={"chart_type": "pnl"},
        headers={"Host": "arrow.invalid"},
    )
    async with visit() as watched:
        page = watched.page
        url = str(trader.client.base_url.join("/chart"))
        policy = {"Content-Security-Policy": answer.headers["content-security-policy"]}
        await page.route(url, lambda route: route.fulfill(body=answer.text, content_type="text/html", headers=policy))
        await page.goto(url)
        await page.wait_for_selector(".js-plotly-plot .main-svg")

        await page.wait_for_selector(LINE, state="attached")
        assert watched.outside == ["http://arrow.invalid/static/figure.js"]
        watched.outside.clear()
        await watched.complained(2)  # about that


async def test_a_page_without_its_library_says_so(trader: Person, visit: Visit):
    async with visit() as watched:
        await watched.page.route("**/plotly.min.js*", lambda route: route.abort())
        await open_chart(watched, trader, chart_type="pnl", drawn="#chart > p")

        await watched.page.get_by_text("The chart library could not be loaded.").wait_for()
        await watched.complained(2)  # the browser's, about what this test withheld
