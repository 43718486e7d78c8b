"""A session with Angel One: tokens that hold, profile, candles. The vendor's SDK does the talking, in two threads."""

import asyncio
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, time, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import structlog

from app.core.clock import Clock
from app.integrations.angel_one import sdk
from app.integrations.angel_one.candles import IST, RawBar, pieces, read_rows, words
from app.integrations.angel_one.credentials import Credentials, Tokens, expiry
from app.integrations.angel_one.errors import (
    AngelOneError,
    LoginRefusedError,
    NonsenseError,
    RateLimitedError,
    SessionExpiredError,
    advice,
)
from app.integrations.angel_one.pace import Pace, Rates
from app.integrations.angel_one.refusals import Refusals

log = structlog.get_logger(__name__)


RENEW_BEFORE: Final = timedelta(minutes=10)
"""Before tokens expire."""
CANDLE_RATES: Final[Rates] = ((3, 1.05), (180, 61.0))
"""The vendor's limits (3/s, 180/min), with room for how differently two clocks count."""
_REFRESHED_DEATHS: Final = 2
"""How many early deaths in a row make a refresh useless."""
_T = TypeVar("_T")


class SessionHealth(msgspec.Struct, frozen=True):
    """How a session is doing."""

    state: str
    """`signed out`, `signed in`, `refused`."""
    sign_ins: int
    refreshes: int
    expires_at: datetime | None
    last_error: str | None


class AngelOneSession:
    """One account's session; signs in when it is first needed."""

    def __init__(
        self,
        credentials: Credentials,
        *,
        clock: Clock,
        base_url: str,
        tls: ssl.SSLContext | None = None,
        timeout: tuple[float, float] = (3.0, 10.0),
        refusals_file: Path | None = None,
        sign_in_at: time = time(8, 0),
        candle_rates: Rates = CANDLE_RATES,
        renew_pause: float = 30.0,
    ) -> None:
        """`tls`: what to trust, the system's authorities by default. `refusals_file` remembers refused sign-ins.

        `sign_in_at`: the time of day (IST) at which tokens of before are replaced. `renew_pause`: seconds that new
        tokens must live before they can be declared dead; doubled each time it happens again.
        """
        self.credentials = credentials
        self._clock, self._base_url, self._tls, self._timeout = clock, base_url, tls, timeout
        self._refusals_file, self._sign_in_at, self._renew_pause = refusals_file, sign_in_at, renew_pause
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="angel-one")
        self._candle_pace = Pace(clock, candle_rates)
        self._sign_in_pace = Pace(clock, ((1, 1.05),))
        self._wire: Any = None
        self._wire_lock = asyncio.Lock()
        self._refusals: Refusals | None = None
        self._tokens: Tokens | None = None
        self._renewing: asyncio.Task[Tokens] | None = None
        self._early_deaths = 0
        self._sign_ins = self._refreshes = 0
        self._last_error: str | None = None
        self._refused = False

    # Tokens

    async def tokens(self) -> Tokens:
        """Tokens that hold, as far as we know. However many ask, one signs in. Raises `AngelOneError`."""
        held = self._tokens
        if held is not None and self._clock.now() < self._good_until(held):
            return held
        return await self._renewed()

    async def renew(self, dead: Tokens) -> Tokens:
        """Other tokens than `dead`, which the vendor has refused: those that somebody else got meanwhile, or new ones.

        Raises `RateLimitedError` when tokens die as soon as they are made: something else is wrong then.
        """
        held = self._tokens
        if held is None or held.jwt != dead.jwt:
            return await self.tokens()
        if self._renewing is None:
            age = (self._clock.now() - held.made_at).total_seconds()
            pause = min(self._renew_pause * 2**self._early_deaths, 1200.0)
            if 0 <= age < pause:
                raise RateLimitedError("new tokens refused", retry_after=pause - age)
            self._early_deaths = min(self._early_deaths + 1, 10) if age < 3600 else 0
        return await self._renewed()

    def _good_until(self, tokens: Tokens) -> datetime:
        """When to replace them: before they expire, and at the daily hour."""
        margin = min(RENEW_BEFORE, (tokens.expires_at - tokens.made_at) / 4)
        return min(tokens.expires_at - margin, self._day_ends(tokens.made_at))

    def _day_ends(self, moment: datetime) -> datetime:
        local = moment.astimezone(IST)
        turn = datetime.combine(local.date(), self._sign_in_at, IST)
        return turn if local < turn else turn + timedelta(days=1)

    async def _renewed(self) -> Tokens:
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._renew(), name="angel-one-sign-in")
            self._renewing.add_done_callback(self._note_end)
        # Shielded: whoever stops waiting must not take the tokens from the others.
        return await asyncio.shield(self._renewing)

    def _note_end(self, task: "asyncio.Task[Tokens]") -> None:
        self._renewing = None
        self._refused = not task.cancelled() and isinstance(task.exception(), LoginRefusedError)

    async def _renew(self) -> Tokens:
        held = self._tokens
        # A refresh does within the day, also for tokens that the vendor has ended early; at the turn all is made anew.
        # Where refreshed tokens die early too, the session behind them is what is dead.
        refreshes = self._early_deaths < _REFRESHED_DEATHS
        if held is not None and refreshes and self._clock.now() < self._day_ends(held.made_at):
            try:
                self._tokens = await self._in_thread(lambda: self._refresh(held))
            except (SessionExpiredError, NonsenseError) as error:
                log.info("angel one did not refresh the session, signing in", reason=error.word)
            else:
                self._refreshes += 1
                return self._tokens
        await self._sign_in_pace.turn()
        self._tokens = await self._in_thread(self._sign_in)
        self._sign_ins += 1
        log.info("signed in to angel one", expires_at=self._tokens.expires_at)
        return self._tokens

    # What needs tokens

    async def profile(self) -> dict[str, Any]:
        """The account's profile, as sent."""
        answer = await self._with_tokens(lambda client: client.getProfile(""))
        with self._noted():
            if not isinstance(answer.get("data"), dict):
                raise NonsenseError("no profile")
        return dict(answer["data"])

    async def candles(self, exchange: str, token: str, interval: str, start: datetime, end: datetime) -> list[RawBar]:
        """Candles that begin from `start` to `end`, oldest first; several requests where the range needs them.

        `exchange` and `interval` are the vendor's words (`NSE`, `ONE_MINUTE`). Raises `AngelOneError`.
        """
        bars: list[RawBar] = []
        for first, last in pieces(interval, start, end):
            asked = words(exchange, token, interval, first, last)
            await self._candle_pace.turn()
            answer = await self._with_tokens(partial(_ask_candles, asked))
            with self._noted():
                bars += read_rows(answer.get("data"))
        unique = {bar.start: bar for bar in bars if start <= bar.start <= end}
        return [unique[moment] for moment in sorted(unique)]

    async def _with_tokens(self, ask: Callable[[Any], Any]) -> dict[str, Any]:
        tokens = await self.tokens()
        try:
            answer = await self._in_thread(lambda: ask(self._client(tokens.jwt)))
        except SessionExpiredError:
            fresh = await self.renew(tokens)
            answer = await self._in_thread(lambda: ask(self._client(fresh.jwt)))
        return answer if isinstance(answer, dict) else {}

    async def close(self) -> None:
        """End its threads and connections. The session at Angel One goes on: other programs may use it."""
        if self._renewing is not None:
            self._renewing.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._wire is not None:
            self._wire.close()

    def health(self) -> SessionHealth:
        """How it is doing; never raises."""
        state = "refused" if self._refused else "signed in" if self._tokens else "signed out"
        expires = self._tokens.expires_at if self._tokens else None
        return SessionHealth(state, self._sign_ins, self._refreshes, expires, self._last_error)

    # In a thread

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        loop = asyncio.get_running_loop()
        async with self._wire_lock:
            if self._wire is None:
                self._wire = await loop.run_in_executor(self._threads, self._prepare)
        with self._noted():
            return await loop.run_in_executor(self._threads, work)

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except AngelOneError as error:
            self._last_error = error.word
            raise

    def _prepare(self) -> Any:
        # Imported here: `requests` and the system's authorities take longer than many a service needs to start.
        from app.integrations.angel_one.wire import Wire

        self._refusals = Refusals(self._clock, file=self._refusals_file, credentials=self.credentials.digest())
        return Wire(self._base_url, tls=self._tls, timeout=self._timeout)

    def _client(self, jwt: str | None = None) -> Any:
        """The SDK's object: one for each call, as it keeps its tokens in itself."""
        return sdk.load()(self._wire, api_key=self.credentials.api_key.get_secret_value(), jwt=jwt)

    def _sign_in(self) -> Tokens:
        assert self._refusals is not None  # noqa: S101 (made by `_prepare`)
        if (wait := self._refusals.wait()) > 0:
            code = self._refusals.code
            raise LoginRefusedError(code, advice(code), retry_after=wait)  # not asked: the account would be locked
        credentials, client = self.credentials, self._client()
        pin = credentials.password.get_secret_value()
        try:
            code = credentials.code(self._clock.now())
            client.generateSession(credentials.client_id.get_secret_value(), pin, code)
        except LoginRefusedError as error:
            if not client.access_token:
                self._refusals.note(error.code)
                error.retry_after = self._refusals.wait()
                raise error from None
        except (AngelOneError, KeyError, TypeError, AttributeError) as error:
            # It reads the profile too, and breaks on what is not there; with the tokens it has done its work.
            if isinstance(error, AngelOneError) and not client.access_token:
                raise
        self._refusals.clear()
        return self._checked(client.access_token, client.refresh_token, client.feed_token)

    def _refresh(self, held: Tokens) -> Tokens:
        client = self._client(held.jwt)
        try:
            data = client.generateToken(held.refresh)["data"]
            refresh = data.get("refreshToken") or held.refresh
        except (KeyError, TypeError, AttributeError):
            raise NonsenseError("no tokens") from None
        return self._checked(client.access_token, refresh, client.feed_token)

    def _checked(self, *tokens: object) -> Tokens:
        """Raises `NonsenseError` unless all three are texts that a header can carry."""
        texts = [token.removeprefix("Bearer ") if isinstance(token, str) else "" for token in tokens]
        if not all(text and text.isascii() and text.isprintable() for text in texts):
            raise NonsenseError("no tokens")
        jwt, refresh, feed = texts
        now = self._clock.now()
        return Tokens(jwt, refresh, feed, made_at=now, expires_at=expiry(jwt) or now + timedelta(days=1))


def _ask_candles(asked: dict[str, str], client: Any) -> Any:
    return client.getCandleData(asked)
