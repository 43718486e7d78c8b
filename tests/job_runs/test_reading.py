"""Who sees what of runs: lists, single runs, replays, and the numbers."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from beanie import PydanticObjectId
from prometheus_client import generate_latest

from app.core.bus import Bus, NullTransport
from app.core.clock import to_micros
from app.core.errors import NotFoundError
from app.core.events import JobChanged
from app.core.hub import Hub
from app.core.metrics import Metrics
from app.core.outbox import Channel
from app.core.pagination import Cursor, PageRequest
from app.core.scheduler import RunState, RunView
from app.core.security import Principal, Role
from app.job_runs.schemas import JobFilters, JobRun
from app.job_runs.service import JobNews, JobRuns
from app.job_runs.store import MongoRunStore
from tests.support.clocks import StandingClock

pytestmark = pytest.mark.usefixtures("db")

ASHA, BELA = PydanticObjectId("6b0288f1002b26997921d6aa"), PydanticObjectId("6b0288f1002b26997921d6bb")


def caller(user_id: PydanticObjectId, role: Role = Role.USER, *, api_token: bool = False) -> Principal:
    return Principal(user_id, PydanticObjectId(), role, datetime.max.replace(tzinfo=UTC), api_token=api_token)


async def store_runs(clock: StandingClock, count: int = 7) -> list[RunView]:
    """One an hour until now, of two jobs by turns, every third failed."""
    store, made = MongoRunStore(clock), []
    for number in range(count):
        at = clock.now() - timedelta(hours=count - number)
        view = RunView(
            id=store.new_id(),
            job="a.b" if number % 2 else "a.c",
            state=RunState.FAILED if number % 3 == 0 else RunState.SUCCEEDED,
            requested_by=str(ASHA),
            created_at=at,
            finished_at=at,
            duration_ms=5_000_000_000,
            seq=to_micros(at),
        )
        await store.add(view, slot=None, identity=None, alive_until=at)
        made.append(view)
    return made[::-1]


async def ids(runs: JobRuns, page: PageRequest, **filters: object) -> tuple[list[str], Cursor | None]:
    found = await runs.page(caller(BELA), JobFilters.model_validate(filters), page)
    assert isinstance(found.next, Cursor | None)
    return [msgspec.json.decode(row)["id"] for row in found.rows], found.next


async def test_lists_are_newest_first_filtered_and_paged() -> None:
    clock = StandingClock()
    runs, made = JobRuns(clock), await store_runs(clock)
    everything = PageRequest(50)
    assert await ids(runs, everything) == ([view.id for view in made], None)
    some = [view.id for view in made if view.job == "a.b"]
    assert await ids(runs, everything, job="a.b") == (some, None)
    failed = [view.id for view in made if view.state is RunState.FAILED]
    assert await ids(runs, everything, state="failed") == (failed, None)
    assert await ids(runs, everything, state="failed", job="a.b") == ([run for run in failed if run in some], None)
    assert await ids(runs, everything, job="a.unknown") == ([], None)

    first, cursor = await ids(runs, PageRequest(3))
    second, further = await ids(runs, PageRequest(3, cursor))
    third, end = await ids(runs, PageRequest(3, further))
    assert first + second + third == [view.id for view in made]
    assert (cursor is not None, end) == (True, None)


@pytest.mark.parametrize(
    ("reader", "told"),
    [
        (caller(ASHA), True),
        (caller(ASHA, api_token=True), True),
        (caller(BELA), False),
        (caller(BELA, Role.OPERATOR), False),
        (caller(BELA, Role.ADMIN), True),
        (caller(BELA, Role.ADMIN, api_token=True), False),
    ],
)
async def test_who_asked_is_told_to_them_and_to_administrators(reader: Principal, told: bool) -> None:
    clock = StandingClock()
    runs, made = JobRuns(clock), await store_runs(clock, 1)
    one = await runs.get(reader, PydanticObjectId(made[0].id))
    [listed] = (await runs.page(reader, JobFilters(), PageRequest(5))).rows
    assert one == listed
    run = JobRun.model_validate_json(one)
    assert run.requested_by == (str(ASHA) if told else None)
    assert (run.id, run.seq, run.duration_ms) == (made[0].id, made[0].seq, 5_000_000_000)
    assert set(msgspec.json.decode(one)) == set(JobRun.model_fields)
    with pytest.raises(NotFoundError):
        await runs.get(reader, PydanticObjectId())


async def test_what_changed_can_be_heard_again() -> None:
    clock = StandingClock()
    runs, made = JobRuns(clock), await store_runs(clock)
    replayed = await runs.since(str(BELA), made[3].seq, 100)
    assert [seq for seq, _ in replayed] == [view.seq for view in made[3::-1]]
    assert all(b'"requested_by":null' in body for _, body in replayed)
    assert [seq for seq, _ in await runs.since(str(BELA), 0, 2)] == [view.seq for view in made[:-3:-1]]
    clock.move(hours=20.5)
    assert [seq for seq, _ in await runs.since(str(BELA), 0, 100)] == [view.seq for view in made[2::-1]]


async def test_members_hear_every_change_and_the_ends_are_counted() -> None:
    clock, bus, metrics = StandingClock(), Bus(NullTransport()), Metrics()
    hub = Hub(clock)
    JobNews(bus, hub, metrics)
    member = hub.attach(lambda: None)
    hub.identify(member, str(BELA))
    hub.subscribe(member, Channel.JOBS)
    begin = to_micros(clock.now())
    for number, (state, seconds) in enumerate([("queued", None), ("running", None), ("failed", 2.5)], start=1):
        ended = state == "failed"
        bus.announce(JobChanged("r", "a.b", state, ended, seconds, begin + number, b'{"state":"%s"}' % state.encode()))
    heard = [msgspec.json.decode(text) for _ in range(3) for text in member.take()]
    assert [(message["type"], message["data"]["state"]) for message in heard] == [
        ("job", "queued"),
        ("job", "running"),
        ("job", "failed"),
    ]
    assert [message["seq"] - begin for message in heard] == [1, 2, 3]
    text = generate_latest(metrics.registry).decode()
    assert 'arrow_job_runs_total{job="a.b",outcome="failed"} 1.0' in text
    assert 'outcome="running"' not in text
    assert 'arrow_job_run_seconds_sum{job="a.b"} 2.5' in text
