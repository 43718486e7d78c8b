"""Export and import carry the trail as it is, also when it was exported while entries were written."""

import asyncio
from pathlib import Path

from app.audit.models import DOCUMENTS
from app.audit.retention import AuditRetention
from app.audit.store import ADVANCED
from app.audit.trail import ChainedAuditTrail
from app.audit.verification import Fault, verify
from app.core.clock import SystemClock
from app.core.migrations import check_migrations
from app.core.transfer import Importer, Mode, export_database
from app.core.transfer_file import ExportFile
from tests.audit.conftest import act, entries, head
from tests.core.databases import MakeDatabase, make_database
from tests.support.clocks import StandingClock

__all__ = ["make_database"]

CLOCK = SystemClock()


async def test_a_trail_survives_the_journey(make_database: MakeDatabase, tmp_path: Path) -> None:
    source, target = await make_database(), await make_database()
    await check_migrations(source.db, DOCUMENTS)
    await source.register(DOCUMENTS)
    clock = StandingClock()
    trail = ChainedAuditTrail(source.db, clock)
    for _ in range(6):
        await asyncio.gather(*(trail.record(act()) for _ in range(20)))
        clock.move(days=1)
    await AuditRetention(trail, clock, 3).expire()

    await export_database(source, tmp_path / "x.gz", CLOCK)
    file = ExportFile(tmp_path / "x.gz")
    file.check()
    done = await Importer(target, DOCUMENTS, CLOCK).run(file, Mode.EMPTY)

    assert not done.conflicts
    assert await entries(target.db) == await entries(source.db)
    assert await head(target.db) == await head(source.db)
    report = await verify(target.db)
    assert (report.defects, report.count) == ([], (await verify(source.db)).count)
    further = ChainedAuditTrail(target.db, clock)
    await further.record(act())
    assert not (await verify(target.db)).defects


async def test_a_trail_that_was_exported_at_work_is_whole_after_the_next_start(
    make_database: MakeDatabase, tmp_path: Path
) -> None:
    """An export reads the head first. What is written, and what expires, before it reads the entries is taken up."""
    source, target = await make_database(), await make_database()
    await check_migrations(source.db, DOCUMENTS)
    await source.register(DOCUMENTS)
    clock = StandingClock()
    trail = ChainedAuditTrail(source.db, clock)

    async def days(count: int) -> None:
        for _ in range(count):
            await trail.record(act())
            clock.move(days=1)

    async def part(*collections: str) -> ExportFile:
        path = tmp_path / f"{'-'.join(collections)}.gz"
        await export_database(source, path, CLOCK, collections=collections)
        file = ExportFile(path)
        file.check()
        return file

    await days(6)
    first = await part("audit_chain")
    await AuditRetention(trail, clock, 3).expire()
    await days(2)
    second = await part("audit_entries")
    assert list((await part("audit_entries", "audit_chain")).counts) == ["audit_chain", "audit_entries"]
    for file in (first, second):
        await Importer(target, DOCUMENTS, CLOCK).run(file, Mode.REPLACE)

    assert {defect.fault for defect in (await verify(target.db)).defects} == {Fault.MISSING, Fault.HEAD}
    started = ChainedAuditTrail(target.db, clock)
    await started.complete()
    await started.drain()
    rows = await entries(target.db)
    assert rows[:-1] == await entries(source.db)
    assert (rows[-1]["action"], rows[-1]["details"]) == (ADVANCED, {"head": 6, "number": 9})
    assert not (await verify(target.db)).defects


async def test_two_trails_are_not_merged(make_database: MakeDatabase, tmp_path: Path) -> None:
    source, target, empty = await make_database(), await make_database(), await make_database()
    for database, count in ((source, 9), (target, 4)):
        await check_migrations(database.db, DOCUMENTS)
        await database.register(DOCUMENTS)
        trail = ChainedAuditTrail(database.db, CLOCK)
        for _ in range(count):
            await trail.record(act())
    await export_database(source, tmp_path / "x.gz", CLOCK)
    file = ExportFile(tmp_path / "x.gz")
    file.check()

    before = await entries(target.db)
    done = await Importer(target, DOCUMENTS, CLOCK).run(file, Mode.MERGE)
    assert (done.left_out, sum(done.inserted.values())) == (["audit_entries", "audit_chain"], 0)
    assert await entries(target.db) == before
    assert not (await verify(target.db)).defects

    await check_migrations(empty.db, DOCUMENTS)
    done = await Importer(empty, DOCUMENTS, CLOCK).run(file, Mode.MERGE)
    assert (done.left_out, done.inserted["audit_entries"]) == ([], 9)
    assert not (await verify(empty.db)).defects
