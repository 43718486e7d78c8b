"""Readers of the cryptocurrency listing, as many as you like.

    .venv-dev/bin/locust -f tests/load/locustfile.py --host http://127.0.0.1:8000

opens a page at http://127.0.0.1:8089 to start them and to watch; `--headless -u 100 -r 20 -t 1m` does without. All of
them come from one address: start the service with RATE_LIMIT_PER_MINUTE=100000000 for it, or most answers are 429.
"""

import random
from typing import Any

from locust import HttpUser, between, task
from locust.clients import ResponseContextManager

BASE = "/api/v1/cryptocurrencies"
SORTS = ("market_cap", "price", "volume_24h", "price_change_24h", "rank", "name")
CHANCE = random.Random()  # noqa: S311 (whom to look for, no secret)


class Reader(HttpUser):
    """Somebody with a screen that shows coins: the first page again and again, and now and then something else."""

    wait_time = between(0.05, 0.5)

    def on_start(self) -> None:
        """Look at everything once; from then on at random."""
        self._tag = ""
        self._symbols: list[str] = []
        for look in (self.first_page, self.one_coin, self.top, self.search, self.sorted_page, self.all_pages):
            look()

    @task(10)
    def first_page(self) -> None:
        """As a browser does: with the validator of what it has."""
        headers = {"If-None-Match": self._tag} if self._tag else {}
        self._get("/", "first page", self._remember, headers=headers, limit=50)

    @task(3)
    def sorted_page(self) -> None:
        """Some order, some beginning."""
        query = {"sort_by": CHANCE.choice(SORTS), "order": CHANCE.choice(("asc", "desc"))}
        self._get("/", "sorted page", limit=20, offset=CHANCE.choice((0, 20, 40)), **query)

    @task(2)
    def search(self) -> None:
        """A search as it is typed: hardly ever the same."""
        self._get("/", "search", q=CHANCE.choice("abcdefghijklmnopqrstuvwxyz"), min_price=round(CHANCE.random(), 6))

    @task(4)
    def one_coin(self) -> None:
        """One of those on the first page."""
        if self._symbols:
            self._get(f"/{CHANCE.choice(self._symbols)}", "one coin")

    @task(2)
    def top(self) -> None:
        """What moves."""
        category = CHANCE.choice(("gainers", "losers", "volume", "market_cap"))
        self._get(f"/top/{category}", "top", limit=10, window=CHANCE.choice(("1h", "24h", "7d")))

    @task(1)
    def all_pages(self) -> None:
        """To the end of the list: no coin twice, whatever syncs go on meanwhile."""
        seen: list[str] = []
        link, query = f"{BASE}/", {"limit": 40}
        while link:
            with self.client.get(link, params=query, name="all pages", catch_response=True) as answer:
                if answer.status_code != 200:
                    answer.failure(f"{answer.status_code}: {answer.text[:200]}")
                    return
                seen += [row["slug"] for row in answer.json()]
                if len(set(seen)) != len(seen):
                    answer.failure("a coin came twice")
                link, query = answer.links.get("next", {}).get("url", ""), {}

    def _remember(self, answer: ResponseContextManager) -> None:
        if answer.status_code == 200:
            self._tag = answer.headers["ETag"]
            self._symbols = [row["symbol"] for row in answer.json()]

    def _get(self, path: str, name: str, then: Any = None, headers: dict[str, str] | None = None, **query: Any) -> None:
        with self.client.get(BASE + path, params=query, headers=headers, name=name, catch_response=True) as answer:
            if answer.status_code in (200, 304):
                answer.success()
                if then:
                    then(answer)
            elif answer.status_code == 429:
                answer.failure("429: raise the service's RATE_LIMIT_PER_MINUTE, all users have one address")
            else:
                answer.failure(f"{answer.status_code}: {answer.text[:200]}")
