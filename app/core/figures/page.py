"""The page that shows a figure: no inline script, nothing from another host, a strict content-security policy."""

import html
import json
import re
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

from app.core.figures.theme import Figure, Theme, palette_of

STATIC_PATH: Final = "/static"
"""Where the service serves the assets that the page loads."""
ICON: Final = Path(__file__).parents[1] / "assets" / "favicon.svg"
"""The service's mark, for the tab of every page."""

# Plotly sets style attributes on what it draws; a policy cannot list those by hash. Styles from elsewhere stay
# forbidden, and so does every script that is not a file of this service.
_POLICY: Final = (
    "default-src 'none'; script-src {source}; style-src 'unsafe-inline'; img-src data: blob: {source}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)

_PLAIN_URL: Final = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~/-]*)?").fullmatch

_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="{scheme}">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<link rel="icon" type="image/svg+xml" href="{icon}">
<style>
html, body {{ margin: 0; height: 100%; background: {background}; color: {text}; }}
body {{ font: 14px system-ui, sans-serif; }}
#chart {{ width: 100%; height: 100%; min-height: 320px; }}
#chart > p {{ margin: 0; padding: 24px; }}
</style>
</head>
<body>
<div id="chart" data-library="plotly.min.js?v={plotly}"><p>{loading}</p></div>
<script type="application/json" id="figure">{figure}</script>
{scripts}
</body>
</html>
"""


def figure_page(figure: Figure, title: str, *, base_url: str = "") -> tuple[str, str]:
    """The page for `figure` and the value of its `Content-Security-Policy` header.

    `base_url` is where the service is reached, e.g. `https://arrow.example/api` (scheme, host, root path). The page
    asks for its scripts at that path of its own origin first. Where that fails, because it was saved and opened
    from disk or from a blob: URL, it asks at `base_url`: it then works while the service runs. So a wrong scheme
    in `base_url` (behind a proxy that ends TLS, say) does no harm to the page as the service answers it.

    Raises ValueError for a figure with a number that JSON does not have (NaN, infinity).
    """
    base_url = base_url.rstrip("/")
    if not _PLAIN_URL(base_url):  # built from a client's Host header, it could say anything
        base_url = ""
    parts = urlsplit(base_url)
    source = f"'self' {parts.scheme}://{parts.netloc}" if parts.netloc else "'self'"
    folders = dict.fromkeys(html.escape(base + STATIC_PATH) for base in (parts.path, base_url))
    theme = Theme(figure["layout"].get("meta", {}).get("theme", Theme.DARK))
    colours = palette_of(theme)
    page = _PAGE.format(
        scheme=theme,
        title=html.escape(title),
        icon=_icon_url(),
        background=colours.background,
        text=colours.muted,
        loading="Loading the chart… If it does not appear, the service that made this page cannot be reached.",
        figure=script_json(figure),
        plotly=plotly_version(),
        scripts="\n".join(f'<script src="{folder}/figure.js"></script>' for folder in folders),
    )
    return page, _POLICY.format(source=source)


def script_json(value: object) -> str:
    """JSON that is safe inside a `<script>` element: no markup can begin or end in it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


@cache
def _icon_url() -> str:
    # In the page itself, so that one saved to disk has it, and asks for no file that is not there.
    return f"data:image/svg+xml,{quote(ICON.read_bytes())}"


@cache
def plotly_version() -> str:
    """The installed plotly package's version: in asset URLs, so that caches may keep them for ever."""
    return version("plotly")
