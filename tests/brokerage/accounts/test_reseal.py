"""A change of ENCRYPTION_KEYS: everything is sealed with the newest, beside a running service or by the program."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.auth.models import SecondFactorDocument
from app.brokerage.accounts.models import BrokerAccountDocument
from app.brokerage.accounts.reseal import BrokerReseal, Resealed
from app.core.encryption import Vault
from app.core.encryption_keys import new_key
from app.core.errors import UnavailableError
from tests.brokerage.accounts.kit import Desk
from tests.support.mongodb import empty_database
from tests.support.service import ROOT

pytestmark = pytest.mark.timeout(180)
"""Services or programs are started here, for which a busy machine needs its time."""


async def test_all_of_an_account_is_sealed_anew_and_opens_with_the_newest_alone(desk: Desk) -> None:
    zerodha, angel = await desk.zerodha(), await desk.angelone()
    _, before = await desk.here.sessions.open(zerodha["id"])
    old, new = desk.settings.encryption_keys[0].get_secret_value(), new_key()
    reseal = BrokerReseal(Vault([new, old]))
    assert await reseal.reseal_all(dry=True) == Resealed(resealed=2)
    assert (await desk.row(zerodha))["secrets"] == (await desk.row(zerodha))["secrets"]
    revisions = [(await desk.row(account))["revision"] for account in (zerodha, angel)]
    assert await reseal.reseal_all() == Resealed(resealed=2)
    assert await reseal.reseal_all() == Resealed(in_order=2)
    assert [(await desk.row(account))["revision"] for account in (zerodha, angel)] == [n + 1 for n in revisions]
    only = desk.process()
    only.store._vault = Vault([new])
    account, session = await only.sessions.open(zerodha["id"])
    assert session.access_token == before.access_token
    assert account.secrets["api_secret"].get_secret_value() == desk.kite.account.api_secret
    lost = desk.process()
    lost.store._vault = Vault([old])
    with pytest.raises(UnavailableError, match="cannot be opened"):
        await lost.sessions.open(zerodha["id"])


async def test_what_no_key_opens_is_counted_and_left(desk: Desk) -> None:
    made = await desk.zerodha()
    stored = (await desk.row(made))["secrets"]
    reseal = BrokerReseal(Vault([new_key()]))
    assert await reseal.reseal_all() == Resealed(unreadable=1)
    assert (await desk.row(made))["secrets"] == stored
    await reseal.run()
    await BrokerReseal(Vault([])).run()


async def test_the_program_beside_the_service(mongodb_url: str, tmp_path: Path) -> None:
    old, new = new_key(), new_key()
    documents = [BrokerAccountDocument, SecondFactorDocument]
    async with empty_database(mongodb_url, documents) as db:
        vault = Vault([old])
        sealed = {"api_key": vault.encrypt("secret one", context="brokerage:a:api_key")}
        session = vault.encrypt("{}", context="brokerage:a:session")
        row = {"_id": "a", "user_id": "u", "broker": "zerodha", "secrets": sealed, "session": session, "revision": 3}
        await db["broker_accounts"].insert_one(row)
        await db["second_factors"].insert_one({"_id": "u", "secret": vault.encrypt("two", context="totp:u")})
        environment = {
            "PATH": os.environ["PATH"],
            "MONGODB_URL": mongodb_url,
            "DATABASE_NAME": db.name,
            "DATA_DIR": str(tmp_path),
            "ENVIRONMENT": "test",
            "ENCRYPTION_KEYS": f"{new},{old}",
        }

        def run(*options: str, **more: str) -> tuple[int, str]:
            command = [sys.executable, str(ROOT / "scripts/rotate_encryption_key.py"), *options]
            done = subprocess.run(
                command, env=environment | more, capture_output=True, text=True, timeout=80, check=False
            )
            return done.returncode, done.stdout + done.stderr

        status, said = run("--check")
        assert (status, "credentials for brokers: 0 in order, 1 need an older key" in said) == (1, True), said
        assert (await db["broker_accounts"].find_one({"_id": "a"})) == row
        status, said = run()
        assert status == 0, said
        assert "second factors: 0 in order, 1 sealed with the newest key" in said
        assert "the others can be taken out" in said
        stored = await db["broker_accounts"].find_one({"_id": "a"}) or {}
        fresh = Vault([new])
        assert fresh.decrypt(stored["secrets"]["api_key"], context="brokerage:a:api_key") == "secret one"
        assert fresh.decrypt(stored["session"], context="brokerage:a:session") == "{}"
        factor = await db["second_factors"].find_one({"_id": "u"}) or {}
        assert fresh.decrypt(factor["secret"], context="totp:u") == "two"
        status, said = run(ENCRYPTION_KEYS=new_key())
        assert status == 1
        assert "1 that none of the ENCRYPTION_KEYS opens" in said
        for secret in (old, new, "secret one"):
            assert secret not in said
