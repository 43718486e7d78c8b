"""What Groww says when it says no: its envelope, its codes and its words. Pure."""

from app.brokerage.adapters.http import Reply, broker_words
from app.brokerage.adapters.values import text
from app.brokerage.ports import BrokerAccount


def is_failure(reply: Reply) -> bool:
    """Whether it is Groww itself that says no, and not somebody before it."""
    return reply.mapping.get("status") == "FAILURE" and isinstance(reply.mapping.get("error"), dict)


def code_of(reply: Reply) -> str | None:
    """Groww's word for it."""
    error = reply.mapping.get("error")
    return text(error.get("code"), 32) if isinstance(error, dict) else None


def reason_of(account: BrokerAccount, reply: Reply, *more: str) -> str:
    """What Groww says, without the account's credentials and without `more`."""
    error = reply.mapping.get("error")
    said = error.get("message") or error.get("displayMessage") if isinstance(error, dict) else None
    shown = broker_words(said, *secrets_of(account), *more).rstrip(". ")
    return shown or f"without words ({code_of(reply) or reply.status})"


def secrets_of(account: BrokerAccount) -> list[str]:
    """All that must never be shown."""
    return [value.get_secret_value() for value in account.secrets.values()]
