"""A database with keikakun's views, looked at as the daemon's own role."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

from attrs import define

from notifierd.commands.check import check
from notifierd.commands.finding import Level
from notifierd.config.providers import ResendSettings
from notifierd.config.settings import DatabaseSettings, EmailSettings, HttpSettings, PushSettings, Settings
from notifierd.demo.postgres import Cluster
from notifierd.send.vapid import make_vapid_key
from notifierd.store.database import Database, open_database
from notifierd.store.schema import init
from tests.support.application import OwnPath

PRIVATE_KEY, PUBLIC_KEY = make_vapid_key()
SECRETS = (PRIVATE_KEY, "re_secret", "inbox@keikakun-mihon.jp", "desk@keikakun-mihon.jp", "/secret-path", "user:pass")
ADVISED = "create index on office_staffs (office_id, staff_id); create index on office_staffs (staff_id)"


@define
class Place:
    """A database with keikakun's views, looked at as the daemon's own role."""

    admin: Database
    role: str
    settings: Settings

    async def sql(self, script: str) -> None:
        await OwnPath(self.admin).execute(script)

    async def trouble(self) -> list[tuple[str, str, str]]:
        """Check; return what is not good as (subject, level, text)."""
        findings = await check(self.settings)
        assert not [secret for secret in SECRETS for finding in findings if secret in finding.text]
        return [(f.subject, f.level.value, f.text) for f in findings if f.level is not Level.OK]


def settings_for(dsn: str) -> Settings:
    return Settings(
        database=DatabaseSettings(dsn=dsn),
        email=EmailSettings(sender="keikakun <desk@keikakun-mihon.jp>", resend=ResendSettings(api_key="re_secret")),
        push=PushSettings(vapid_private_key=PRIVATE_KEY),
        http=HttpSettings(bind="127.0.0.1:0"),
    )


@asynccontextmanager
async def open_place(cluster: Cluster, database: str) -> AsyncIterator[Place]:
    """Set *database* up with a role that may log in and has the daemon's rights."""
    role, name = f"clerk_{uuid4().hex[:8]}", database.partition("?")[0].rpartition("/")[2]
    cluster.psql(f"create role {role} login")
    async with open_database(database) as admin:
        await init(admin, "keikakun", role)
        there = Place(admin, role, settings_for(cluster.dsn(name, role)))
        await there.sql(ADVISED)
        yield there
        await there.sql(f"drop owned by {role} cascade; drop role {role}")
