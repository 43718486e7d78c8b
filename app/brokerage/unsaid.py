"""What a broker says of an order, without what opens the account: risk systems name the client in refusals. Pure."""

from typing import Final

import msgspec

from app.brokerage.ports import BrokerAccount
from app.brokerage.words import BookedOrder

_SHORTEST: Final = 4
"""Characters; shorter secrets are found in many a text that does not hold them."""


def unsaid(order: BookedOrder, account: BrokerAccount) -> BookedOrder:
    """The order; in its reason no credential of `account` is left, however it is written."""
    reason = order.reason
    for secret in account.secrets.values():
        text = secret.get_secret_value().strip()
        if reason is None or len(text) < _SHORTEST:
            continue
        while (at := reason.upper().find(text.upper())) >= 0:
            reason = f"{reason[:at]}…{reason[at + len(text) :]}"
    return order if reason == order.reason else msgspec.structs.replace(order, reason=reason)
