"""What happens to one delivery: key, source, rate, size, content, store — and a trace of whatever is refused."""

from dataclasses import dataclass

from app.alerts.ingest import AlertIngest, repeat_digest
from app.alerts.keys import ActiveKey, KeyDirectory
from app.alerts.parse import parse_delivery
from app.alerts.rejected import FIRST_KIB, RejectedDeliveries
from app.core.client_address import network_of, parse_address, within
from app.core.errors import (
    DomainError,
    FieldError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    PayloadTooLargeError,
)
from app.core.metrics import Metrics
from app.core.rate_limit import RateLimiter
from app.core.settings import Settings

MAX_IDEMPOTENCY_KEY = 255


@dataclass(frozen=True, slots=True)
class Delivery:
    """One POST to the webhook; `body` holds at most a little more than the limit, `size` says how much was sent."""

    secret_key: str
    body: bytes
    size: int
    content_type: str | None
    idempotency_key: str | None
    address: str


class Deliveries:
    """Accepts deliveries or refuses them, and never loses one without a trace."""

    def __init__(
        self,
        settings: Settings,
        keys: KeyDirectory,
        ingest: AlertIngest,
        rejected: RejectedDeliveries,
        limiter: RateLimiter,
        metrics: Metrics,
    ) -> None:
        self.max_body_bytes = settings.max_body_bytes
        self._per_key = settings.alert_rate_limit_per_minute
        self._per_address = settings.rate_limit_per_minute
        self._allowed = tuple(settings.webhook_allowed_ips)
        self._keys = keys
        self._ingest = ingest
        self._rejected = rejected
        self._limiter = limiter
        outcomes = metrics.alerts
        self._stored, self._repeats = outcomes.labels("stored").inc, outcomes.labels("repeat").inc
        self._refused = outcomes.labels("rejected").inc

    async def accept(self, delivery: Delivery) -> tuple[bytes, bool]:
        """The stored alert's JSON, and whether it is new.

        Raises `NotFoundError` for an unknown key; `ForbiddenError`, `RateLimitedError`, `PayloadTooLargeError` and
        `InvalidInputError`, each recorded for the strategy's owner; `UnavailableError` when it could not be stored.
        """
        key = await self._keys.resolve(delivery.secret_key)
        if key is None:
            # Only wrong keys count, so TradingView's few addresses never shut out a right one.
            await self._limiter.hit("unknown key", network_of(delivery.address), self._per_address)
            raise NotFoundError("There is no such key.")
        try:
            await self._check(delivery, key)
            fields, raw = parse_delivery(delivery.body)
        except DomainError as error:
            self._refused()
            await self._record(delivery, key, error)
            raise
        except Exception:  # a defect of ours must not swallow what a trader's strategy said
            self._refused()
            await self._record(delivery, key, InvalidInputError("Arrow failed to read this delivery; it was logged."))
            raise
        row = self._ingest.draft(
            fields,
            user_id=key.user_id,
            strategy_id=key.strategy_id,
            strategy_name=key.strategy_name,
            source="webhook",
            raw=raw,
            dedup=repeat_digest(key.digest, delivery.idempotency_key, delivery.body),
        )
        identified = fields.alert_id is not None or delivery.idempotency_key is not None
        content, new = await self._ingest.store(row, identified=identified)
        (self._stored if new else self._repeats)()
        return content, new

    async def _check(self, delivery: Delivery, key: ActiveKey) -> None:
        if self._allowed and not within(parse_address(delivery.address), self._allowed):
            raise ForbiddenError(
                f"{delivery.address} is not in WEBHOOK_ALLOWED_IPS; if that is your proxy, name it in TRUSTED_PROXIES."
            )
        await self._limiter.hit("webhook", key.digest, self._per_key)
        if key.paused:  # after the limit: what is refused here is stored too
            raise ForbiddenError("This strategy is paused: its account is deactivated.")
        if delivery.size > self.max_body_bytes:
            raise PayloadTooLargeError(f"The body may have at most {self.max_body_bytes // 1024} KiB.")
        name = delivery.idempotency_key
        if name is not None and (not name.strip() or len(name) > MAX_IDEMPOTENCY_KEY or not name.isprintable()):
            message = f"Idempotency-Key should be 1 to {MAX_IDEMPOTENCY_KEY} printable characters"
            raise InvalidInputError(message, [FieldError(("header", "Idempotency-Key"), message, "header_invalid")])

    async def _record(self, delivery: Delivery, key: ActiveKey, error: DomainError) -> None:
        whole = isinstance(error, InvalidInputError)
        await self._rejected.record(
            key,
            status=error.status,
            reason=error.detail,
            errors=error.errors if isinstance(error, InvalidInputError) else (),
            body=delivery.body if whole else delivery.body[:FIRST_KIB],
            size=delivery.size,
            content_type=delivery.content_type and delivery.content_type[:200],
            address=delivery.address,
        )
