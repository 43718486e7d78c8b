"""Makes of an act what is stored of it, before it has its place in the chain."""

import json
from collections.abc import Mapping
from datetime import datetime

from app.audit.chain import FORMAT, Row, new_id
from app.core.audit import SYSTEM, Act, Actor, Outcome
from app.core.clock import to_micros
from app.core.redaction import scrub, scrub_value
from app.core.request_info import RequestInfo

MAX_TEXT, MAX_USER_AGENT, MAX_DETAILS = 256, 256, 1024
"""Characters of a text and of a user agent, and bytes of all details as JSON."""
_INT64 = range(-(2**63), 2**63)

Detail = str | int | bool | None


def draft(act: Act, request: RequestInfo | None, now: datetime) -> Row:
    """The stored form of `act`, which happened `now` and (perhaps) for `request`.

    Secrets have no place in an act. Should one be there all the same, it is replaced as in a log: what has a name like
    a secret's, and what looks like one.
    """
    row = _frame(act.action, act.outcome, act.actor, now)
    row["details"] = _details(scrub_value(act.details))
    if act.account_id is not None:
        row["account_id"] = act.account_id
    if act.target is not None:
        row["target"] = {"kind": _text(act.target[0]), "id": _text(scrub(act.target[1]))}
    if request is not None:
        row |= {"address": _text(request.address), "request_id": _text(request.request_id)}
        if request.user_agent:
            row["user_agent"] = _text(scrub(request.user_agent[: 2 * MAX_USER_AGENT]), MAX_USER_AGENT)
    return row


def remark(action: str, now: datetime, **details: Detail) -> Row:
    """The stored form of something that the trail itself did. Its details hold hashes, which look like secrets."""
    return _frame(action, Outcome.SUCCESS, SYSTEM, now) | {"details": details}


def _frame(action: str, outcome: Outcome, actor: Actor, now: datetime) -> Row:
    who: Row = {"kind": str(actor.kind)}
    if actor.user_id is not None:
        who["user_id"] = actor.user_id
    if actor.credential_id is not None:
        who["credential_id"] = actor.credential_id
    return {
        "_id": new_id(),
        "schema_version": FORMAT,
        "seq": to_micros(now),
        "at": now,
        "action": action,
        "outcome": str(outcome),
        "actor": who,
    }


def _text(text: str, most: int = MAX_TEXT) -> str:
    """`text` as the database can hold it: bounded, and without halves of surrogate pairs."""
    return text[:most].encode("utf-8", "replace").decode()


def _details(given: Mapping[str, object]) -> dict[str, Detail]:
    """As many of the details as fit, each a JSON scalar; `cut` is true when some do not."""
    kept: dict[str, Detail] = {}
    size = len('{"cut":true}')
    for name, value in given.items():
        name = _text(str(name), 64).replace("\0", "").replace(".", "_").lstrip("$")
        scalar = value if value is None or isinstance(value, bool) else _scalar(value)
        size += len(json.dumps({name: scalar}, ensure_ascii=False).encode())
        if size > MAX_DETAILS:
            return kept | {"cut": True}
        kept[name] = scalar
    return kept


def _scalar(value: object) -> Detail:
    return value if isinstance(value, int) and value in _INT64 else _text(str(value))
