"""What providers tell of mails after they accepted them, in PostgreSQL: kept, counted, and acted upon."""

import hashlib
import hmac
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import chain, count, permutations
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
import trio
from attrs import evolve, field, frozen

from notifierd.config.settings import Audit
from notifierd.demo.postgres import Cluster
from notifierd.model.counts import Untold
from notifierd.model.delivery import Channel, State, delivery_id
from notifierd.model.errors import LedgerUnavailable
from notifierd.model.feedback import MailStatus, Verdict
from notifierd.rules.due import Rules
from notifierd.store.database import Database, open_database
from notifierd.store.feedback import Asked, Bounces, Feedback, FeedbackDay, Held
from notifierd.store.postgres import PostgresLedger
from tests.support import application
from tests.support.cutting import cut_after, written
from tests.support.memory import Application
from tests.support.samples import DAY, a_device, a_renewal, a_staff, an_id

T = TypeVar("T")

RULES = Rules()
ME, ANOTHER = "me", "another"
OFFICE = an_id("office")
SENT, FAILED, UNKNOWN, PLANNED = State.SENT, State.FAILED, State.UNKNOWN, State.PLANNED
WORST = MailStatus.COMPLAINED
_numbers = count()


@frozen
class Desk:
    """A database with an application, and what is asked of its ledger."""

    db: Database
    feedback: Feedback
    ledger: PostgresLedger
    app: Application = field(factory=Application)

    async def load(self, *staff: str, offices: int = 1, devices: bool = False) -> None:
        """Offices with a renewal that is near, and in each the same *staff*, by name."""
        for number in range(offices):
            office = an_id(f"office {number}") if number else OFFICE
            self.app.offices[office] = f"Office {number}"
            self.app.alerts.append((office, a_renewal(3, f"recipient of {number}")))
            for name in staff:
                someone = a_staff(name, push_enabled=devices)
                self.app.staff.append((office, someone))
                if devices:
                    self.app.devices[a_device(someone).id] = a_device(someone)
        await application.replace(self.db, self.app)

    async def move(self, name: str, address: str) -> None:
        """Give somebody another address."""
        self.app.staff[:] = [
            (office, evolve(staff, email=address) if staff.name == name else staff) for office, staff in self.app.staff
        ]
        await application.replace(self.db, self.app)

    async def run(self, day: date = DAY) -> None:
        """Have a run of *day*, in which the provider accepted every mail."""
        await self.ledger.take_lease(day, ME)
        await self.ledger.plan(day, RULES)
        await self.db.fetch(
            "update notifierd.deliveries set state = 'sent', provider = 'resend', provider_message_id = 're_' || id"
            " where day = $1 and state = 'planned'",
            day,
        )
        counts = await self.ledger.counts(day, RULES)
        await self.ledger.finish(day, ME, "completed", None, counts.untold)

    async def add(self, state: State = SENT, *, provider: str | None = "resend", day: date = DAY) -> UUID:
        """One more delivery, of somebody whom the application does not know."""
        someone = an_id(f"stranger {next(_numbers)}")
        key = delivery_id(day, OFFICE, someone, Channel.EMAIL)
        await self.db.fetch(
            "insert into notifierd.deliveries (id, day, office_id, staff_id, channel, state, provider,"
            " provider_message_id, try) values ($1, $2, $3, $4, 'email', $5, $6, $7, 1)",
            key,
            day,
            OFFICE,
            someone,
            state.value,
            provider,
            f"re_{key}" if state is SENT else None,
        )
        return key

    async def statuses(self) -> dict[UUID, str]:
        return {row["delivery_id"]: row["status"] for row in await self.db.fetch("select * from notifierd.feedback")}

    async def reports(self, status: MailStatus, *names: str, day: date = DAY, **more: Any) -> None:
        """Let the provider say the same of the mails to some of the staff, and look at what follows."""
        keys = [delivery_id(day, OFFICE, an_id(name), Channel.EMAIL) for name in names]
        await self.feedback.keep("resend", [Verdict(key, status, **more) for key in keys])
        await self.feedback.hold_again(day)

    async def held(self, day: date) -> dict[UUID, str]:
        return {held.staff_id: held.reason for held in await self.feedback.held(day)}


@pytest.fixture(scope="module")
def template(cluster: Cluster) -> Iterator[str]:
    """A database with an empty application, to copy."""

    async def create() -> None:
        async with open_database(cluster.dsn("feedback")) as db:
            await application.create(db)

    cluster.create_database("feedback")
    trio.run(create)
    yield "feedback"
    cluster.drop_database("feedback")


@pytest.fixture
async def desk(cluster: Cluster, template: str) -> AsyncIterator[Desk]:
    name = f"feedback_{uuid4().hex[:12]}"
    async with open_database(cluster.create_database(name, template=template)) as db:
        yield Desk(db, Feedback(db, chunk=2), PostgresLedger(db))
    cluster.drop_database(name)


# What is kept --------------------------------------------------------------------------------------------------------


async def test_the_worst_status_stays_in_whatever_order_they_come(desk: Desk) -> None:
    """All 720 orders of the six, one after the other, and all at once."""
    orders = list(permutations(MailStatus))
    for at_once in (False, True):
        some = orders[::24] if at_once else orders
        keys = [await desk.add() for _ in some]
        verdicts = [[Verdict(key, status) for status in order] for key, order in zip(keys, some, strict=True)]
        seen = dict.fromkeys(keys, MailStatus.DELAYED)
        for lot in [list(chain(*verdicts))] if at_once else list(map(list, zip(*verdicts, strict=True))):
            await desk.feedback.keep("resend", lot)
            for verdict in lot:
                seen[verdict.delivery_id] = max(seen[verdict.delivery_id], verdict.status, key=lambda s: s.severity)
            found = await desk.statuses()
            assert {key: found[key] for key in keys} == seen
        assert set(seen.values()) == {WORST}


async def test_what_is_said_again_changes_nothing(desk: Desk) -> None:
    """Not even the time at which it was first seen, which decides what a lift is about."""
    verdict = Verdict(await desk.add(), MailStatus.BOUNCED, "5.1.1", "somebody@example.jp")
    await desk.feedback.keep("resend", [verdict, verdict])
    first = await desk.db.fetch("select xmin::text, * from notifierd.feedback")
    await desk.feedback.keep("resend", [verdict])
    await desk.feedback.keep("resend", [evolve(verdict, status=MailStatus.DELIVERED, code="2.0.0")])
    assert await desk.db.fetch("select xmin::text, * from notifierd.feedback") == first


async def test_only_mails_that_this_provider_accepted_are_kept(desk: Desk) -> None:
    await desk.load("anna", devices=True)
    await desk.run()
    mine, unknown = await desk.add(), await desk.add(UNKNOWN, provider="ses")
    others = [await desk.add(SENT, provider="ses"), await desk.add(FAILED), await desk.add(PLANNED), uuid4()]
    push = delivery_id(DAY, OFFICE, an_id("anna"), Channel.PUSH, a_device(a_staff("anna")).id)
    keys = [mine, unknown, *others, push]
    await desk.feedback.keep("resend", [Verdict(key, MailStatus.BOUNCED) for key in keys])
    assert await desk.statuses() == {mine: "bounced", unknown: "bounced"}


async def test_what_a_provider_writes_is_not_kept_but_a_code_of_the_right_form(desk: Desk) -> None:
    keys = [await desk.add(UNKNOWN) for _ in range(4)]
    codes = ["5.1.1", "4.2.2", "5.1.1 anna@example.jp is unknown", "5.1.\x00"]
    ids = ["re_1", "re 2", "x" * 201, "re\x00"]
    await desk.feedback.keep(
        "resend",
        [
            Verdict(key, MailStatus.BOUNCED, code, "a\x00b@example.jp", message_id)
            for key, code, message_id in zip(keys, codes, ids, strict=True)
        ],
    )
    rows = await desk.db.fetch("select delivery_id, code, address_key from notifierd.feedback")
    assert {row["delivery_id"]: row["code"] for row in rows} == dict(zip(keys, ["5.1.1", "4.2.2", "", ""], strict=True))
    rows = await desk.db.fetch("select id, provider_message_id from notifierd.deliveries")
    assert dict(map(tuple, rows)) == dict(zip(keys, ["re_1", None, None, None], strict=True))


async def test_an_address_is_kept_as_its_hmac_alone(desk: Desk) -> None:
    """Of the address that the provider names, or else of the present one; RFC 2104 in SQL is hmac in Python."""
    await desk.load("anna", "berta", "carla")
    await desk.move("berta", "Berta@Example.JP")
    await desk.move("carla", "carla@例え.jp")
    await desk.run()
    (pads,) = await desk.db.fetch("select inner_pad, outer_pad from notifierd.address_pads")
    key = bytes(byte ^ 0x36 for byte in pads["inner_pad"])
    assert key[32:] == bytes(32)
    assert bytes(byte ^ 0x5C for byte in pads["outer_pad"]) == key

    def mac(address: str) -> bytes:
        return hmac.digest(key[:32], address.encode(), hashlib.sha256)[:16]

    await desk.reports(MailStatus.BOUNCED, "anna", address="Former@example.jp")
    await desk.reports(MailStatus.BOUNCED, "berta")
    await desk.reports(MailStatus.BOUNCED, "carla", address="carla@xn--r8jz45g.jp")
    rows = await desk.db.fetch(
        "select d.staff_id, f.address_key from notifierd.feedback f join notifierd.deliveries d on d.id = f.delivery_id"
    )
    assert dict(map(tuple, rows)) == {
        an_id("anna"): mac("former@example.jp"),
        an_id("berta"): mac("berta@example.jp"),
        an_id("carla"): mac("carla@例え.jp"),
    }


async def test_each_database_has_a_key_of_its_own(desk: Desk, database: str) -> None:
    async with open_database(database) as db:
        await application.create(db)
        others = [await each.fetch("select inner_pad from notifierd.address_pads") for each in (desk.db, db)]
    assert others[0] != others[1]


async def test_no_address_is_in_any_table(desk: Desk) -> None:
    await desk.load("marked", "second")
    await desk.run()
    await desk.reports(WORST, "marked", address="marked@example.jp", code="5.1.1", message_id="re_1")
    await desk.reports(MailStatus.SUPPRESSED, "second")
    await desk.feedback.note_look("resend", None, "timeout")
    await desk.feedback.recount(DAY, RULES)
    await desk.feedback.lift(an_id("marked"))
    tables = await desk.db.fetch(
        "select oid::regclass::text as name from pg_class"
        " where relkind = 'r' and relnamespace = 'notifierd'::regnamespace"
    )
    rows = [row[0] for table in tables for row in await desk.db.fetch(f"select t::text from {table['name']} t")]
    assert len(tables) > 8
    assert len(rows) > 8
    assert [row for row in rows if "marked" in row or "example" in row or "@" in row] == []


# A mail whose answer was lost ----------------------------------------------------------------------------------------


async def test_an_unknown_mail_that_the_provider_knows_was_sent(desk: Desk) -> None:
    await desk.load("anna")
    await desk.run()
    key = await desk.add(UNKNOWN, provider="mailgun")
    verdict = Verdict(key, MailStatus.DELIVERED, message_id="re_found")
    for _ in range(2):
        await desk.feedback.keep("resend", [verdict])
    (row,) = await desk.db.fetch("select * from notifierd.deliveries where id = $1", key)
    assert (row["state"], row["provider"], row["provider_message_id"]) == ("sent", "resend", "re_found")
    assert not row["audit_missing"]
    (audit,) = await desk.db.fetch("select * from app.audit_log")
    assert (audit["action"], audit["target_type"]) == ("deadline_notification_sent", "email_notification")
    assert (audit["target_id"], audit["office_id"]) == (row["staff_id"], OFFICE)
    assert audit["details"] == '{"office_name": "Office 0"}'
    assert await desk.feedback.recount(DAY, RULES) == ()
    (run,) = await desk.db.fetch("select counts -> 'states' as states from notifierd.runs")
    assert run["states"] == '[{"n": 2, "state": "sent", "channel": "email"}]'


async def test_it_is_settled_without_its_audit_row_if_the_database_refuses_the_row(desk: Desk) -> None:
    """Its office was just deleted."""
    key, other = await desk.add(UNKNOWN), await desk.add()
    await desk.feedback.keep("resend", [Verdict(one, MailStatus.BOUNCED) for one in (key, other)])
    rows = await desk.db.fetch("select id, state, audit_missing from notifierd.deliveries")
    assert {tuple(row) for row in rows} == {(key, "sent", True), (other, "sent", False)}
    assert await desk.statuses() == dict.fromkeys((key, other), "bounced")
    assert await desk.db.fetch("select from app.audit_log") == []


async def test_no_audit_row_is_written_where_none_is_wanted(desk: Desk) -> None:
    await desk.load("anna")
    key = await desk.add(UNKNOWN)
    await Feedback(desk.db, audit="none").keep("resend", [Verdict(key, MailStatus.BOUNCED)])
    (row,) = await desk.db.fetch("select state, audit_missing from notifierd.deliveries")
    assert tuple(row) == ("sent", False)
    assert await desk.db.fetch("select from app.audit_log") == []


@pytest.mark.parametrize("audit", ["office", "none"])
async def test_without_a_row_for_each_mail_no_privilege_on_the_audit_log_is_needed(
    desk: Desk, audit: Audit, cluster: Cluster
) -> None:
    """With a row for each office, the mail is marked, so that the office's row counts it."""
    await desk.load("anna")
    await desk.run()
    key = await desk.add(UNKNOWN)
    role = f"auditless_{uuid4().hex[:8]}"
    await desk.db.fetch(f"create role {role} login")
    for grant in (
        "usage on schema notifierd",
        "select, insert, update on all tables in schema notifierd",
    ):
        await desk.db.fetch(f"grant {grant} to {role}")
    await desk.db.fetch(f"revoke all on notifierd.audit_log from {role}")
    (name,) = await desk.db.fetch("select current_database()")
    async with open_database(cluster.dsn(name[0], role)) as db:
        await Feedback(db, audit=audit).keep("resend", [Verdict(key, MailStatus.BOUNCED)])
    (row,) = await desk.db.fetch("select state, audit_missing from notifierd.deliveries where id = $1", key)
    assert tuple(row) == ("sent", audit == "office")
    (office,) = await desk.db.fetch("select audit_owed from notifierd.run_offices")
    assert office["audit_owed"] == (audit == "office")
    await desk.db.fetch(f"drop owned by {role}")
    await desk.db.fetch(f"drop role {role}")


async def test_a_mail_that_was_planned_again_is_left_to_its_new_try(desk: Desk) -> None:
    await desk.load("anna")
    await desk.run()
    key = await desk.add(UNKNOWN)
    await desk.ledger.retry(DAY, [UNKNOWN])
    await desk.feedback.keep("resend", [Verdict(key, MailStatus.DELIVERED)])
    (row,) = await desk.db.fetch("select state from notifierd.deliveries where id = $1", key)
    assert row["state"] == "planned"
    assert await desk.statuses() == {}


# What is asked -------------------------------------------------------------------------------------------------------


async def test_what_is_asked_about_is_read_in_chunks(desk: Desk) -> None:
    """Two mails at a time; unknown ones by the provider that was last tried."""
    yesterday = DAY - timedelta(days=1)
    sent = [await desk.add() for _ in range(5)] + [await desk.add(day=yesterday)]
    ses, unknown = await desk.add(provider="ses"), await desk.add(UNKNOWN)
    for state in (FAILED, PLANNED):
        await desk.add(state)
    await desk.add(PLANNED, provider=None)
    await desk.add(day=DAY - timedelta(days=2))
    found = await desk.feedback.sent([DAY, yesterday])
    assert found.complete
    assert found.by_provider == {
        "resend": Asked({f"re_{key}": key for key in sent}, {unknown}),
        "ses": Asked({f"re_{ses}": ses}, set()),
    }


@pytest.mark.parametrize(("most", "complete"), [(2, False), (3, False), (4, True), (5, True)])
async def test_no_more_is_asked_about_than_the_bound(desk: Desk, most: int, complete: bool) -> None:
    for _ in range(3):
        await desk.add()
    earlier = await desk.add(day=DAY - timedelta(days=1))
    found = await desk.feedback.sent([DAY, DAY - timedelta(days=1)], most)
    keys = [key for asked in found.by_provider.values() for key in asked.sent.values()]
    assert (len(keys), found.complete) == (min(most, 4), complete)
    assert (earlier in keys) == complete


async def test_one_process_asks_at_a_time(desk: Desk) -> None:
    take, renew = desk.feedback.take_look_lease, desk.feedback.renew_look_lease
    assert await take(ME)
    assert await take(ME), "its answer may have been lost"
    assert not await take(ANOTHER)
    assert await renew(ME)
    assert not await renew(ANOTHER)
    await desk.db.fetch("update notifierd.look_lease set lease_until = now() - interval '1 second'")
    assert not await renew(ME), "it expired"
    assert await take(ANOTHER)
    await desk.feedback.release_look_lease(ME)
    assert not await take(ME), "only its holder releases it"
    await desk.feedback.release_look_lease(ANOTHER)
    assert await take(ME)


async def test_how_far_a_provider_was_asked_never_goes_back(desk: Desk) -> None:
    noon = datetime(2026, 11, 24, 12, tzinfo=UTC)
    await desk.feedback.note_look("resend", None, "timeout")
    assert [(look.complete_until, look.result) for look in await desk.feedback.looks()] == [(None, "timeout")]
    for until, result in ((noon, ""), (None, "server_error:500"), (noon - timedelta(hours=1), "")):
        await desk.feedback.note_look("resend", until, result)
        (look,) = await desk.feedback.looks()
        assert (look.provider, look.complete_until, look.result) == ("resend", noon, result)


# Who was not reached -------------------------------------------------------------------------------------------------


async def record(desk: Desk, day: date = DAY) -> list[dict[str, Any]]:
    """What the run's record says of the offices that nobody told."""
    rows = await desk.db.fetch(
        "select o.* from notifierd.runs r, jsonb_to_recordset(r.untold) as o (office_id uuid, alerts int, overdue int,"
        " later bool) where day = $1",
        day,
    )
    return [dict(row) for row in rows]


async def test_offices_that_feedback_adds_to_the_untold_are_returned_until_the_day_is_forgotten(desk: Desk) -> None:
    """Beside an office that nobody could be told of in the first place."""
    await desk.load("anna", offices=2)
    empty, second = an_id("empty"), an_id("office 1")
    desk.app.offices[empty] = "Nobody there"
    desk.app.alerts += [(empty, a_renewal(-1)), (empty, a_renewal(1))]
    await application.replace(desk.db, desk.app)
    await desk.run()
    assert await desk.feedback.recount(DAY, RULES) == ()
    before = {"office_id": empty, "alerts": 2, "overdue": 1, "later": None}
    assert await record(desk) == [before]
    await desk.reports(MailStatus.REFUSED, "anna")
    for _ in range(2):
        assert await desk.feedback.recount(DAY, RULES) == (Untold(OFFICE, 1, 0),)
        assert await record(desk) == [before, {"office_id": OFFICE, "alerts": 1, "overdue": 0, "later": True}]
    await desk.feedback.keep("resend", [Verdict(delivery_id(DAY, second, an_id("anna"), Channel.EMAIL), WORST)])
    assert len(await desk.feedback.recount(DAY, RULES)) == 1, "who complains was reached"


async def test_an_alert_that_is_new_since_the_run_ended_is_no_fault_of_the_mail(desk: Desk) -> None:
    await desk.load("anna", offices=2)
    await desk.run()
    desk.app.staff = [(office, staff) for office, staff in desk.app.staff if office == OFFICE]
    desk.app.alerts.append((fresh := an_id("fresh"), a_renewal(2)))
    desk.app.offices[fresh] = "New"
    await application.replace(desk.db, desk.app)
    await desk.reports(MailStatus.BOUNCED, "anna")
    assert await desk.feedback.recount(DAY, RULES) == (Untold(OFFICE, 1, 0),)


async def test_offices_that_are_left_out_are_not_counted_again(desk: Desk) -> None:
    await desk.load("anna")
    await desk.run()
    await desk.reports(MailStatus.BOUNCED, "anna")
    assert await desk.feedback.recount(DAY, Rules(only_offices=frozenset({an_id("elsewhere")}))) == ()


async def test_a_run_in_progress_is_not_counted_again(desk: Desk) -> None:
    await desk.load("anna")
    await desk.run()
    await desk.reports(MailStatus.BOUNCED, "anna")
    await desk.ledger.take_lease(DAY, ANOTHER)
    assert await desk.feedback.recount(DAY, RULES) == ()
    assert await desk.db.fetch("select from notifierd.runs where untold is null and counts is null") != []


# Whose mails are held back -------------------------------------------------------------------------------------------


def on(number: int) -> date:
    """The day so many days after DAY."""
    return DAY + timedelta(days=number)


async def test_who_complained_is_held_back_from_the_next_day_for_thirty_days(desk: Desk) -> None:
    await desk.load("anna", "berta")
    await desk.run()
    await desk.reports(WORST, "anna")
    assert await desk.feedback.held(on(1)) == (Held(an_id("anna"), "complained", on(1), on(30)),)
    found = {number: an_id("anna") in await desk.held(on(number)) for number in (0, 1, 30, 31)}
    assert found == {0: False, 1: True, 30: True, 31: False}
    held = Held(an_id("anna"), "complained", on(1), on(30))
    assert await desk.feedback.held_in(on(1), an_id("anna")) == {OFFICE: held}
    assert await desk.feedback.held_in(on(1), an_id("berta")) == {}


async def test_who_was_suppressed_is_held_back_after_the_second_day_in_a_row(desk: Desk) -> None:
    """Of berta's mail between the two nothing is known, so it may have been delivered."""
    await desk.load("anna", "berta")
    suppressed = {0: ["anna", "berta"], 1: ["anna"], 2: ["berta"], 3: ["berta"]}
    held: list[set[UUID]] = []
    for number, names in suppressed.items():
        await desk.run(on(number))
        await desk.reports(MailStatus.SUPPRESSED, *names, day=on(number))
        held.append(set(await desk.held(on(number + 1))))
    anna, berta = an_id("anna"), an_id("berta")
    assert held == [set(), {anna}, {anna}, {anna, berta}]


async def test_the_last_two_days_on_which_somebody_was_mailed_need_not_be_in_a_row(desk: Desk) -> None:
    await desk.load("anna")
    for number in (0, 7):
        assert await desk.held(on(number)) == {}
        await desk.run(on(number))
        await desk.reports(MailStatus.SUPPRESSED, "anna", day=on(number))
    assert await desk.feedback.held(on(8)) == (Held(an_id("anna"), "suppressed", on(8), on(37)),)
    await desk.feedback.hold_again(on(37))
    assert await desk.held(on(37)) != {}
    await desk.run(on(38))
    await desk.reports(MailStatus.SUPPRESSED, "anna", day=on(38))
    assert (await desk.held(on(39))) == {an_id("anna"): "suppressed"}, "one mail after the hold was enough"


async def test_two_offices_of_one_day_are_one_day(desk: Desk) -> None:
    """And each mail of the two days has to be suppressed: of berta's first day, the other office's is not known."""
    await desk.load("anna", "berta", offices=2)

    async def suppress(day: date, *mails: tuple[str, UUID]) -> dict[UUID, str]:
        keys = [delivery_id(day, office, an_id(name), Channel.EMAIL) for name, office in mails]
        await desk.feedback.keep("resend", [Verdict(key, MailStatus.SUPPRESSED) for key in keys])
        await desk.feedback.hold_again(day)
        return await desk.held(on(5))

    other = an_id("office 1")
    await desk.run()
    assert await suppress(DAY, ("anna", OFFICE), ("anna", other), ("berta", OFFICE)) == {}
    await desk.run(on(1))
    assert await suppress(on(1), ("anna", OFFICE), ("berta", OFFICE)) == {}, "the other mail may have been delivered"
    found = await suppress(on(1), ("anna", other), ("berta", other))
    assert found == {an_id("anna"): "suppressed"}


@pytest.mark.parametrize("code", ["5.7.1", "5.7.26"])
async def test_a_policy_that_speaks_of_us_holds_nobody_back(desk: Desk, code: str) -> None:
    await desk.load("anna", "berta")
    await desk.run()
    await desk.reports(WORST, "anna", code=code)
    await desk.reports(WORST, "berta", code="5.1.1")
    assert await desk.held(on(1)) == {an_id("berta"): "complained"}


@pytest.mark.parametrize(
    ("mails", "refused", "bounced", "held"),
    [(5, 0, 1, True), (5, 1, 0, True), (4, 0, 1, False), (5, 1, 1, False), (10, 1, 1, True), (9, 1, 1, False)],
)
async def test_nobody_is_held_back_while_a_domain_refuses_many(
    desk: Desk, mails: int, refused: int, bounced: int, held: bool
) -> None:
    """One of five mails is no more than a fifth, one of four is. Other domains and suppressed mails do not count."""
    names = [f"staff-{n}" for n in range(mails)]
    await desk.load(*names, "gone", "elsewhere", "nowhere")
    await desk.move("elsewhere", "elsewhere@other.example")
    await desk.move("nowhere", "nowhere@other.example")
    await desk.run()
    await desk.reports(MailStatus.SUPPRESSED, "gone")
    await desk.reports(MailStatus.REFUSED, *names[1 : 1 + refused])
    await desk.reports(MailStatus.BOUNCED, *names[1 + refused : 1 + refused + bounced], "nowhere")
    await desk.reports(WORST, names[0], "elsewhere")
    assert await desk.held(on(1)) == ({an_id(names[0]): "complained"} if held else {})


async def test_another_address_ends_it_and_the_former_one_begins_it_again(desk: Desk) -> None:
    await desk.load("anna")
    await desk.run()
    await desk.reports(WORST, "anna")
    await desk.move("anna", "new@example.jp")
    assert await desk.held(on(1)) == {}
    await desk.move("anna", "ANNA@example.jp")
    assert await desk.held(on(1)) != {}


async def test_a_complaint_of_a_former_address_does_not_concern_the_present_one(desk: Desk) -> None:
    await desk.load("anna")
    await desk.run()
    await desk.move("anna", "new@example.jp")
    await desk.reports(WORST, "anna", address="anna@example.jp")
    assert await desk.held(on(1)) == {}


async def test_a_lift_counts_for_what_was_seen_before_it(desk: Desk) -> None:
    await desk.load("anna")
    await desk.run()
    assert not await desk.feedback.lift(an_id("anna"))
    await desk.reports(WORST, "anna")
    assert await desk.feedback.lift(an_id("anna"))
    assert not await desk.feedback.lift(an_id("anna"))
    assert await desk.held(on(1)) == {}
    await desk.reports(WORST, "anna")
    assert await desk.held(on(1)) == {}, "the same report is read again in the next look"
    await desk.run(on(1))
    await desk.reports(WORST, "anna", day=on(1))
    assert await desk.held(on(2)) != {}


async def test_a_lift_beside_a_look_is_not_lost(desk: Desk) -> None:
    """The look decided on its holds before the lift, and writes them after it."""
    await desk.load("anna")
    await desk.run()
    await desk.reports(WORST, "anna")
    await desk.feedback.lift(an_id("anna"))
    await desk.db.fetch("update notifierd.holds set until = until")
    assert await desk.db.fetch("select from notifierd.holds") != []
    assert await desk.held(on(1)) == {}


async def test_the_plan_writes_whose_mails_are_held_back_and_says_why(desk: Desk) -> None:
    await desk.load("anna")
    await desk.run()
    await desk.reports(WORST, "anna")
    due = await desk.ledger.count_due(on(1), RULES)
    assert (due.email.planned, due.email.failed, due.email.open) == (1, 1, 0)
    assert due.untold_offices == (OFFICE,)
    assert await desk.ledger.list_due(on(1), RULES) == {}
    assert (await desk.ledger.plan(on(1), RULES)).held == 1
    assert (await desk.ledger.counts(on(1), RULES)).untold_offices == (OFFICE,), "before anything is sent"


ENCODINGS = {"SQL_ASCII": r"convert_from('\xc7c0'::bytea, 'SQL_ASCII')", "LATIN1": "'é'", "UTF8": "'é'"}


@pytest.mark.parametrize(("encoding", "odd"), ENCODINGS.items(), ids=ENCODINGS)
async def test_no_encoding_ends_the_plan(cluster: Cluster, encoding: str, odd: str) -> None:
    """Whatever bytes an address has, also that of somebody with a hold."""
    name = f"in_{encoding.lower()}"
    cluster.psql(f"create database {name} template template0 encoding '{encoding}' locale_provider libc locale 'C'")
    async with open_database(cluster.dsn(name)) as db:
        await application.create(db)
        desk = Desk(db, Feedback(db), PostgresLedger(db))
        await desk.load("anna", "berta")
        await desk.run()
        await desk.reports(WORST, "anna", "berta")
        await db.fetch(f"update app.staff set email = {odd} || email where name = 'anna'")
        await desk.feedback.hold_again(DAY)
        assert await desk.held(on(1)) == {an_id("berta"): "complained"}
        await desk.ledger.take_lease(on(1), ME)
        assert (await desk.ledger.plan(on(1), RULES)).held == 1
        await desk.ledger.retry(on(1), [FAILED])
    cluster.drop_database(name)


# For people ----------------------------------------------------------------------------------------------------------


async def test_what_became_of_each_days_mails(desk: Desk) -> None:
    await desk.load(*(status.value for status in MailStatus), "nothing", "more")
    await desk.run()
    await desk.run(on(1))
    for status in MailStatus:
        await desk.reports(status, status.value)
    await desk.db.fetch("update notifierd.deliveries set provider = 'ses' where staff_id = $1", an_id("more"))
    one_each = FeedbackDay(DAY, "resend", 1, 1, 1, 1, 1, 1, not_known=1)
    nothing = FeedbackDay(on(1), "resend", 0, 0, 0, 0, 0, 0, not_known=7)
    of_ses = [FeedbackDay(day, "ses", 0, 0, 0, 0, 0, 0, not_known=1) for day in (on(1), DAY)]
    assert await desk.feedback.days(on(1), 30) == (nothing, of_ses[0], one_each, of_ses[1])
    assert await desk.feedback.days(on(1), 1) == (nothing, of_ses[0])
    assert one_each.as_json()["day"] == "2026-11-24"


async def test_how_many_mails_bounced_in_seven_days(desk: Desk) -> None:
    """Of 4 + 4 mails one was suppressed; a week earlier does not count."""
    await desk.load("anna", "berta", "clara", "dora")
    for number in (-7, -6, 0):
        await desk.run(on(number))
        await desk.reports(MailStatus.BOUNCED, "anna", day=on(number))
    await desk.reports(MailStatus.SUPPRESSED, "berta")
    await desk.reports(MailStatus.REFUSED, "clara")
    found = await desk.feedback.bounces(DAY)
    assert found == Bounces(mails=7, bounced=2)
    assert found.ratio == 2 / 7
    assert Bounces(0, 0).ratio == 0.0


async def test_feedback_is_forgotten_with_its_day(desk: Desk) -> None:
    await desk.load("anna")
    for number in (0, 40):
        await desk.run(on(number))
        await desk.reports(WORST, "anna", day=on(number))
    await desk.feedback.lift(an_id("anna"))
    await desk.db.fetch("update notifierd.lifts set lifted_at = $1", datetime(2026, 11, 1, tzinfo=UTC))
    while await desk.ledger.forget(on(40)):
        pass
    assert [row["day"] for row in await desk.db.fetch("select day from notifierd.feedback")] == [on(40)]
    assert await desk.db.fetch("select from notifierd.lifts") == []


# A crash at any statement --------------------------------------------------------------------------------------------


async def a_look(feedback: Feedback, day: date, verdicts: Sequence[Verdict]) -> tuple[Untold, ...]:
    """Ask, keep page by page, and act upon it."""
    await feedback.take_look_lease(ME)
    await feedback.sent([day])
    for start in range(0, len(verdicts), 2):
        await feedback.keep("resend", verdicts[start : start + 2])
    await feedback.note_look("resend", datetime(2026, 11, 24, 12, tzinfo=UTC), "")
    await feedback.hold_again(day)
    untold = await feedback.recount(day, RULES)
    await feedback.release_look_lease(ME)
    return untold


async def test_a_look_that_is_cut_off_after_any_statement_is_made_up_for_by_the_next(desk: Desk) -> None:
    await desk.load("anna", "berta", "clara", "dora", *(f"staff-{n}" for n in range(6)), offices=2)
    alone = an_id("alone")
    desk.app.offices[alone] = "Berta's own"
    desk.app.staff.append((alone, a_staff("berta")))
    desk.app.alerts.append((alone, a_renewal(5)))
    await application.replace(desk.db, desk.app)
    await desk.run()
    await desk.db.fetch("update notifierd.deliveries set state = 'unknown' where staff_id = $1", an_id("dora"))
    told = (WORST, MailStatus.SUPPRESSED, MailStatus.BOUNCED, MailStatus.DELIVERED)
    statuses = dict(zip(("anna", "berta", "clara", "dora"), told, strict=True))
    verdicts = [
        Verdict(delivery_id(DAY, office, an_id(name), Channel.EMAIL), status, "5.1.1")
        for office in desk.app.offices
        for name, status in statuses.items()
        if office != alone or name == "berta"
    ]
    fresh = await desk.db.fetch("select * from notifierd.deliveries")
    runs = await desk.db.fetch("select counts, untold from notifierd.runs")
    assert await a_look(desk.feedback, DAY, verdicts) == (Untold(alone, 1, 0),)
    expected, cuts, db = await written(desk.db), 0, desk.db
    assert {name for name, *_ in expected} >= {"holds", "audit"}
    while True:
        for table in ("notifierd.feedback", "notifierd.holds", "notifierd.feedback_looks", "app.audit_log"):
            await db.fetch(f"delete from {table}")
        await desk.db.fetch("update notifierd.runs set counts = $1, untold = $2", *runs[0])
        for row in fresh:
            await desk.db.fetch(
                "update notifierd.deliveries set state = $2, provider_message_id = $3 where id = $1",
                row["id"],
                row["state"],
                row["provider_message_id"],
            )
        try:
            await a_look(Feedback(cut_after(db, cuts + 1)), DAY, verdicts)
        except LedgerUnavailable:
            cuts += 1
        else:
            break
        await desk.db.fetch("update notifierd.look_lease set holder = null")
        await a_look(desk.feedback, DAY, verdicts)
        assert await written(desk.db) == expected, f"cut after statement {cuts}"
    assert cuts > 8


# For the page --------------------------------------------------------------------------------------------------------


async def test_a_lost_mail_is_listed_with_what_is_known_of_its_address(desk: Desk) -> None:
    """Berta has a carrier's address; so had Carla, who has another one now. Dora is not in the application any more."""
    await desk.load("anna", "berta", "carla", "dora", "emil")
    await desk.move("berta", "Berta@DOCOMO.ne.jp")
    await desk.move("carla", "carla@docomo.ne.jp")
    await desk.run()
    await desk.reports(MailStatus.BOUNCED, "anna", "berta", "carla", "dora", code="5.1.1")
    await desk.reports(MailStatus.DELIVERED, "emil")
    await desk.move("carla", "carla@ezweb.ne.jp")
    desk.app.staff[:] = [(office, staff) for office, staff in desk.app.staff if staff.name != "dora"]
    await application.replace(desk.db, desk.app)
    found = {loss.staff_id: (loss.changed, loss.carrier) for loss in await desk.feedback.losses(DAY)}
    assert found == {
        an_id("anna"): (False, False),
        an_id("berta"): (False, True),
        an_id("carla"): (True, False),
        an_id("dora"): (False, False),
    }


async def test_the_lost_mails_of_an_office_and_a_day_are_those_that_somebody_has_to_look_after(desk: Desk) -> None:
    await desk.load(*MailStatus, offices=2)
    await desk.run()
    for status in MailStatus:
        await desk.reports(status, status.value, code="5.2.2")
    lost = {MailStatus.REFUSED, MailStatus.BOUNCED, MailStatus.SUPPRESSED, MailStatus.COMPLAINED}
    for losses in (await desk.feedback.losses(DAY), await desk.feedback.losses(DAY, OFFICE)):
        assert {loss.status for loss in losses} == lost
        assert {(loss.office_id, loss.office_name, loss.code) for loss in losses} == {(OFFICE, "Office 0", "5.2.2")}
    assert len(await desk.feedback.losses(DAY, limit=3)) == 3
    assert await desk.feedback.losses(DAY, an_id("office 1")) == ()
    assert await desk.feedback.losses(DAY + timedelta(days=1)) == ()
