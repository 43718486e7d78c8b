"""The look of charts, the page that shows them, and their images."""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plotly import graph_objects

from app.core.errors import NotAcceptableError, UnavailableError
from app.core.figures import (
    Figure,
    FigureImages,
    ImageFormat,
    LegendPlace,
    Theme,
    amount,
    axis_time,
    base_layout,
    category_axis,
    figure_page,
    number,
    palette_of,
    plain,
    quiet_hours,
    series_style,
    time_axis,
    time_span,
    value_axis,
)

OPENING = datetime(2026, 11, 20, 3, 45, tzinfo=UTC)  # a Friday, 09:15 in India


def figure(text: str = "x") -> Figure:
    layout = base_layout(Theme.LIGHT, plain(text), plain(text), notes=[plain(text)])
    layout["xaxis"] = time_axis(Theme.LIGHT, OPENING, OPENING + timedelta(hours=1))
    layout["yaxis"] = value_axis(Theme.LIGHT, "Price")
    return {"data": [{"type": "scatter", "name": text, "x": [axis_time(OPENING)], "y": [1.5]}], "layout": layout}


def embedded(page: str) -> Any:
    """The figure that a page carries."""
    (data,) = re.findall(r'<script type="application/json" id="figure">(.*?)</script>', page, re.DOTALL)
    return json.loads(data)


@pytest.mark.parametrize("theme", list(Theme))
@pytest.mark.parametrize("place", list(LegendPlace))
def test_layouts_are_valid(theme: Theme, place: LegendPlace):
    layout = base_layout(theme, "Title", "Subtitle", legend=place, notes=["Note", "Note"])
    breaks = quiet_hours([OPENING, OPENING + timedelta(days=4)])
    for axis in (time_axis(theme, OPENING, OPENING, breaks=breaks, period_labels=True), category_axis(theme, ["A"])):
        graph_objects.Figure({"data": [], "layout": layout | {"xaxis": axis, "yaxis": value_axis(theme, "Price")}})


@pytest.mark.parametrize("theme", list(Theme))
def test_colours_stand_out_from_the_background(theme: Theme):
    """WCAG's contrast: 4.5 for text, 3 for lines and markers."""

    def luminance(colour: str) -> float:
        channels = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    colours = palette_of(theme)

    def contrast(colour: str) -> float:
        brighter, darker = sorted((luminance(colour), luminance(colours.background)), reverse=True)
        return (brighter + 0.05) / (darker + 0.05)

    assert min(contrast(colours.text), contrast(colours.muted)) >= 4.5
    assert min(map(contrast, (colours.up, colours.down, colours.neutral, *colours.series))) >= 3


def test_many_series_can_be_told_apart():
    styles = [tuple(series_style(palette_of(Theme.DARK), index).values()) for index in range(32)]

    assert len(set(styles)) == 32


@given(st.text())
def test_plain_text_has_no_markup(text: str):
    label = plain(text)

    assert not re.search(r"[<>$]|%\{|&(?!(amp|lt|gt|#36|#123);)", label)
    assert "\n" not in label


def test_long_text_is_cut():
    assert plain("word " * 100, 20) == "word word word word…"


@pytest.mark.parametrize(
    ("value", "text", "signed"),
    [
        ("0", "0", "0"),
        ("-0.00", "0", "0"),
        ("1234567.500", "1,234,567.5", "+1,234,567.5"),
        ("-75", "−75", "−75"),
        ("100", "100", "+100"),
        ("1E+3", "1,000", "+1,000"),
        ("0.00000001", "0.00000001", "+0.00000001"),
        ("1E+999", "1E+999", "1E+999"),
    ],
)
def test_amounts(value: str, text: str, signed: str):
    assert amount(Decimal(value)) == text
    assert amount(Decimal(value), signed=True) == signed


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_numbers_are_json(value: Decimal):
    nearest = number(value)

    assert nearest is None or (nearest == float(value) and str(nearest) != "-0.0")


@given(st.datetimes(datetime(1990, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 (the zone is given)
def test_axis_times_are_the_same_instant(moment: datetime):
    shown = axis_time(moment)

    assert shown.endswith("+05:30")
    assert timedelta(0) <= moment - datetime.fromisoformat(shown) < timedelta(milliseconds=1)


def test_spans_of_time():
    assert time_span(OPENING, OPENING) == "20 Nov 2026, 09:15 IST"
    assert time_span(OPENING, OPENING + timedelta(hours=6)) == "20 Nov 2026, 09:15 – 15:15 IST"
    assert time_span(OPENING, OPENING + timedelta(days=1)) == "20 Nov 2026, 09:15 – 21 Nov 2026, 09:15 IST"


def test_sessions_of_an_exchange_stand_side_by_side():
    closing = timedelta(hours=6, minutes=15)

    breaks = quiet_hours(
        [OPENING, OPENING + closing, OPENING + timedelta(days=3), OPENING + timedelta(days=3) + closing]
    )

    assert breaks == [{"bounds": ["sat", "mon"]}, {"bounds": [16.5, 8.5], "pattern": "hour"}]


def test_a_time_axis_says_which_time_and_its_zone():
    titles = [
        axis["title"]["text"]
        for axis in (time_axis(Theme.DARK, OPENING, OPENING), time_axis(Theme.DARK, OPENING, OPENING, title="Expiry"))
    ]

    assert titles == ["Time (IST)", "Expiry (IST)"]


def test_markets_round_the_clock_have_no_breaks():
    assert quiet_hours([OPENING + timedelta(hours=5 * index) for index in range(48)]) == []


def test_one_day_has_no_breaks():
    assert quiet_hours([OPENING, OPENING + timedelta(hours=20)]) == []
    assert quiet_hours([]) == []


@given(st.lists(st.datetimes(datetime(2026, 1, 1), datetime(2026, 3, 1), timezones=st.just(UTC)), min_size=1))  # noqa: DTZ001 (the zone is given)
def test_no_moment_falls_into_a_break(moments: list[datetime]):
    for stretch in quiet_hours(moments):
        for moment in moments:
            local = datetime.fromisoformat(axis_time(moment))
            if "pattern" in stretch:
                closes, opens = stretch["bounds"]
                assert opens <= local.hour + local.minute / 60 < closes
            else:
                assert local.weekday() < 5


@pytest.mark.parametrize(
    "text", ["</script><script>alert(1)</script>", "<!--<script>", "\u2028&quot;", '"};alert(1)//']
)
def test_nothing_breaks_out_of_the_page(text: str):
    page, _ = figure_page(figure(text), text)

    assert embedded(page) == figure(text)
    assert page.count("<script") == page.count("</script>") == 2
    assert "<!--" not in page
    assert text not in re.sub(r'id="figure">.*?</script>', "", page, flags=re.DOTALL) or "<" not in text


def test_the_page_has_no_inline_script_and_asks_nobody_else():
    page, policy = figure_page(figure(), "Chart")

    sources = re.findall(r'<script src="([^"]+)"', page)
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert sources == ["/static/figure.js"]
    assert directives["default-src"] == "'none'"
    assert directives["script-src"] == "'self'"
    assert not re.search(r"""\b(?:src|href)=["'](?:https?:)?//""", page)


def test_a_page_saved_to_disk_finds_its_service():
    page, policy = figure_page(figure(), "Chart", base_url="https://arrow.example:8443/api/")

    assert re.findall(r'<script src="([^"]+)"', page) == [
        "/api/static/figure.js",
        "https://arrow.example:8443/api/static/figure.js",
    ]
    assert "script-src 'self' https://arrow.example:8443;" in policy


@pytest.mark.parametrize("base_url", ["http://a;script-src *", 'http://a"><script>', "javascript:alert(1)", "//evil"])
def test_an_odd_base_url_is_ignored(base_url: str):
    page, policy = figure_page(figure(), "Chart", base_url=base_url)

    assert (page, policy) == figure_page(figure(), "Chart")


def test_a_page_is_made_without_plotly():
    check = """import sys; from app.core.figures import figure_page
figure_page({"data": [], "layout": {}}, "x"); sys.exit("plotly" in sys.modules)"""

    subprocess.run([sys.executable, "-c", check], check=True, cwd=Path(__file__).parents[2])


async def test_an_image_is_made_or_what_is_missing_is_named():
    """Where the image extra is installed it has to work; where it is not, the answer says so."""
    images = FigureImages()
    if find_spec("kaleido") is None:
        with pytest.raises(NotAcceptableError, match=r"pip install kaleido.*format=json and format=html"):
            await images.render(figure(), ImageFormat.PNG)
        return
    assert (await images.render(figure(), ImageFormat.PNG)).startswith(b"\x89PNG\r\n\x1a\n")
    assert b"<svg" in await images.render(figure(), ImageFormat.SVG)


@pytest.fixture
def renderer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes FigureImages with a renderer of another program text; the image extra counts as installed."""
    extra = tmp_path / "site" / "kaleido"
    extra.mkdir(parents=True)
    (extra / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "site")

    def make(program: str, **options: Any) -> FigureImages:
        script = tmp_path / "renderer.py"
        script.write_text(textwrap.dedent(program))
        return FigureImages(renderer=script, **options)

    return make


async def test_the_renderer_gets_the_figure_and_no_secrets(renderer: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET_KEY", "do not tell")
    images = renderer(
        """
        import json, os, sys
        print(json.dumps({"job": json.load(sys.stdin), "environment": dict(os.environ)}))
        """
    )

    told = json.loads(await images.render(figure(), ImageFormat.SVG, width=800, height=400))

    assert told["job"]["figure"] == figure()
    assert told["job"]["options"] == {"format": "svg", "width": 800, "height": 400, "scale": 1}
    assert "SECRET_KEY" not in told["environment"]


async def test_no_browser_is_not_acceptable(renderer: Any):
    with pytest.raises(NotAcceptableError, match=r"no working Chrome.*format=json"):
        await renderer("import sys; sys.stdin.read(); sys.exit(3)").render(figure(), ImageFormat.PNG)


@pytest.mark.parametrize(
    "program", ["import sys; sys.exit(1)", "raise SystemExit", "import os; os.kill(os.getpid(), 9)"]
)
async def test_a_failed_renderer_is_told_as_unavailable(renderer: Any, program: str):
    with pytest.raises(UnavailableError):
        await renderer(program).render(figure(), ImageFormat.PNG)


async def gone(pid: int) -> None:
    """Wait until a killed process has ended: a busy machine takes a moment for it."""
    async with asyncio.timeout(30):
        with contextlib.suppress(psutil.NoSuchProcess):
            while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                await asyncio.sleep(0.02)


async def test_a_hanging_renderer_is_ended_with_its_children(renderer: Any, tmp_path: Path):
    program = f"""
        import pathlib, subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        draft = pathlib.Path({str(tmp_path / "draft")!r})
        draft.write_text(str(child.pid))
        draft.rename({str(tmp_path / "pid")!r})
        time.sleep(600)
        """
    for deadline in (1.5, 6, 24):  # the first time that is enough for it to start its child
        with pytest.raises(UnavailableError, match="too long"):
            await renderer(program, deadline=deadline).render(figure(), ImageFormat.PNG)
        if (tmp_path / "pid").exists():
            break

    await gone(int((tmp_path / "pid").read_text()))


async def test_too_many_images_at_once_are_turned_away(renderer: Any):
    images = renderer("import sys, time; sys.stdin.read(); time.sleep(0.3); print('image')", queue=2)

    results = await asyncio.gather(
        *(images.render(figure(), ImageFormat.PNG) for _ in range(4)), return_exceptions=True
    )

    assert [type(result) for result in results] == [bytes, bytes, UnavailableError, UnavailableError]
    assert (await images.render(figure(), ImageFormat.PNG)).strip() == b"image"
