"""Charts of a user's alerts, as figure, page or picture."""

import asyncio
import json
from enum import StrEnum

from beanie import PydanticObjectId
from starlette.responses import Response

from app.alerts.charts import ChartPoint, build_chart
from app.alerts.ingest import Row
from app.alerts.schemas import AlertFilters, ChartRequest
from app.alerts.service import AlertService
from app.core.bus import Bus
from app.core.cache import Cache
from app.core.events import AlertChanged, AlertStored, PeersChanged
from app.core.figures import FigureImages, ImageFormat, Theme, figure_page
from app.core.pagination import PageRequest

MAX_POINTS = 5000
"""Alerts that one chart draws: the newest ones."""
CACHE_SECONDS = 30
_DRAWN = dict.fromkeys(
    ("seq", "created_at", "contract", "trade_type", "quantity", "price", "strategy_name", "comment"), 1
)


class ChartFormat(StrEnum):
    """What a chart comes as."""

    JSON = "json"
    HTML = "html"
    PNG = "png"
    SVG = "svg"


class AlertCharts:
    """Draws charts; the figure is cached until one of the user's alerts changes, `CACHE_SECONDS` at most."""

    def __init__(self, alerts: AlertService, cache: Cache, images: FigureImages, bus: Bus) -> None:
        self._alerts = alerts
        self._cache = cache
        self._images = images
        bus.subscribe(AlertStored, lambda event: cache.invalidate(_group(event.user_id), event.alert_id))
        bus.subscribe(AlertChanged, lambda event: cache.invalidate(_group(event.user_id), event.change_id))
        bus.subscribe(PeersChanged, lambda _: cache.clear())
        self._bus = bus

    async def render(
        self, user_id: PydanticObjectId, request: ChartRequest, format_: ChartFormat, theme: Theme, base_url: str
    ) -> Response:
        """The chart as `format_`; `base_url` is where the page finds its script when it is saved to disk.

        Raises `NotAcceptableError` for a picture where the image extra is missing.
        """
        encoded = await self._figure(user_id, request, theme)
        if format_ is ChartFormat.JSON:
            return Response(encoded, media_type="application/json")
        figure = await asyncio.to_thread(json.loads, encoded)
        if format_ is ChartFormat.HTML:
            title = f"Alerts: {request.chart_type}"
            page, policy = await asyncio.to_thread(figure_page, figure, title, base_url=base_url)
            return Response(page, media_type="text/html", headers={"Content-Security-Policy": policy})
        image = ImageFormat(format_)
        return Response(await self._images.render(figure, image), media_type=image.media_type)

    async def _figure(self, user_id: PydanticObjectId, request: ChartRequest, theme: Theme) -> bytes:
        async def make() -> bytes:
            points, truncated = await self._points(user_id, request)
            return await asyncio.to_thread(_encode, points, request, theme, truncated)

        if not self._bus.connected:
            return await make()
        key = f"{theme}:{request.model_dump_json()}"
        return await self._cache.get_or_make(_group(str(user_id)), key, CACHE_SECONDS, make)

    async def _points(self, user_id: PydanticObjectId, filters: AlertFilters) -> tuple[list[ChartPoint], bool]:
        newest: list[ChartPoint] = []
        async for row in self._alerts.rows(user_id, filters, PageRequest(1000), _DRAWN):
            if len(newest) == MAX_POINTS:
                return newest[::-1], True
            newest.append(_point(row))
        return newest[::-1], False


def _group(user_id: str) -> str:
    return f"alert-charts:{user_id}"


def _point(row: Row) -> ChartPoint:
    return ChartPoint(
        row["created_at"],
        row["contract"],
        row["trade_type"],
        row["quantity"],
        row["price"],
        row["strategy_name"],
        row.get("comment"),
    )


def _encode(points: list[ChartPoint], request: ChartRequest, theme: Theme, truncated: bool) -> bytes:
    figure = build_chart(points, request.chart_type, theme=theme, truncated=truncated)
    return json.dumps(figure, separators=(",", ":"), allow_nan=False).encode()
