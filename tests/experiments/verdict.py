"""What a round of crashes shows of promises that were not kept: judged by servers, ledger, audit rows and report."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from attrs import field, frozen

from notifierd.rules.report import ALREADY_COMPLETED

LOST = ("failed", "unknown", "expired")


@frozen
class Row:
    """A delivery, as the ledger has it."""

    id: str
    channel: str
    office: str
    staff: str
    device: str | None
    state: str
    try_no: int
    doubts: int
    message_id: str | None
    reason: str | None
    bare: bool


@frozen
class Story:
    """All that is known of a round when it is over. A target is a mail address, or a device's id.

    Attributes:
        wanted: every target that is due, and how its delivery would end if nothing were killed.
        ledger: the deliveries by target.
        accepted: the provider's ids of the messages that it accepted for each target.
        keyed: the channels on which a repeated call is carried out once.
        lost_tries: for each target, the tries that a kill found in flight.
        audit: how many audit rows there are of each kind, office and staff member.
        run: the state and holder of the day's run, and how many late outcomes were kept.
        report: what the last process wrote to stdout.
        code: its exit code.
        took_over: whether a database that lacks the last commits took the place of the first one.
        unsure: whether tries may be in doubt, and outcomes late, of which no kill knows: processes were frozen, or cut
            off from the database.
        forgotten: the targets of which that database did not know how they had ended: those that are "sending" there,
            and those that were accepted though they are "planned" there.
    """

    wanted: Mapping[str, str]
    ledger: Mapping[str, Row]
    accepted: Mapping[str, Sequence[str]]
    keyed: frozenset[str]
    lost_tries: Mapping[str, set[int]]
    audit: Counter[tuple[str, str, str]]
    run: tuple[str, str | None, int]
    report: Mapping[str, Any]
    code: int
    took_over: bool = False
    unsure: bool = False
    forgotten: Mapping[str, str] = field(factory=dict)


def broken(story: Story) -> list[str]:
    """What the round shows of promises that were not kept."""
    return [*badly_done(story), *badly_reported(story)]


def badly_done(story: Story) -> Iterator[str]:
    """Judge all but the report."""
    strangers = (story.accepted.keys() | story.ledger.keys()) - story.wanted.keys()
    yield from (f"told, or planned, though nothing is due: {target}" for target in strangers)
    for target in story.wanted:
        yield from badly_told(story, target)
    yield from badly_audited(story)
    state, holder, late = story.run
    if (state, holder) != ("completed", None) or (late and not (story.took_over or story.unsure)):
        yield f"the run is left behind as {story.run}"


def badly_told(story: Story, target: str) -> Iterator[str]:
    """Judge one delivery: nobody is lost, and nobody told twice.

    A try that was in flight at a kill is open to doubt. Where a key settles that, all ends as if nothing had happened.
    Where none does, the ledger counts the doubt and repeats the message, once: the second doubt makes it `unknown`.
    A process that was frozen or cut off may leave tries in doubt, too: then the ledger's count of doubts is taken for
    granted.
    What a database forgot that took over is repeated once, too, where no key settles it: a delivery that is planned
    there without a doubt, one that is being sent there as one in doubt, unless its process writes its outcome again.
    """
    row, times = story.ledger.get(target), len(story.accepted.get(target, ()))
    if row is None:
        yield f"lost, never planned: {target}"
        return
    keyed = row.channel in story.keyed
    doubts = 0 if keyed else len(story.lost_tries.get(target, ()))
    if story.unsure and not keyed:
        doubts = max(doubts, row.doubts)
    forgotten = None if keyed else story.forgotten.get(target)
    again = min(1, row.doubts) if forgotten == "sending" else min(1, doubts) or int(forgotten == "planned")
    what = f"{target}, accepted {times} times, with {doubts} doubts from strikes, is {row}"
    if row.state != ("unknown" if doubts > 1 else story.wanted[target]):
        yield f"did not end as it should: {what}"
    if row.state != "sent" and not row.reason:
        yield f"no reason: {what}"
    if row.doubts != doubts and (forgotten, row.doubts) != ("sending", 1):
        yield f"the ledger does not say which were in doubt: {what}"
    if times > (1 + again) * (story.wanted[target] == "sent"):
        yield f"told too often: {what}"
    if row.state == "sent" and not times:
        yield f"called sent, and never accepted: {what}"
    if row.state == "sent" and row.channel == "email" and row.message_id not in story.accepted.get(target, ()):
        yield f"called sent under an id that the provider never gave: {what}"


def badly_audited(story: Story) -> Iterator[str]:
    """Judge the audit rows: one for each sent mail; one for each (office, staff) to whom a push was sent."""
    sent = {
        (f"{row.channel}_notification", row.office, row.staff) for row in story.ledger.values() if row.state == "sent"
    }
    if story.audit != Counter(sent):
        yield f"audit rows and ledger differ: {Counter(sent) - story.audit} missing, {story.audit - Counter(sent)} more"
    if any(row.bare for row in story.ledger.values()):
        yield "deliveries are marked as lacking their audit row"


def badly_reported(story: Story) -> Iterator[str]:
    """Judge the last report and exit code by the ledger."""
    rows = story.ledger.values()
    offices = {row.office for row in rows}
    again = story.report.get("reason") == ALREADY_COMPLETED  # the run before it was killed after its end was written
    right: dict[str, object] = {
        "status": "completed",
        "reason": ALREADY_COMPLETED if again else None,
        "offices": {"total": len(offices), "ok": len(offices), "failed": 0},
        "email": counted(row.state for row in rows if row.channel == "email"),
        "push": counted((row.state for row in rows if row.channel == "push"), "gone"),
        "failures_omitted": 0,
    }
    said = {key: story.report.get(key) for key in right}
    if said != right:
        yield f"the report says {said}, the ledger {right}"
    lost = Counter((row.office, row.channel, row.reason) for row in rows if row.state in LOST)
    named = Counter((f["office_id"], f["channel"], f["reason"]) for f in story.report.get("failures", ()))
    if named != lost:
        yield f"the report names failures {named}, the ledger {lost}"
    unreached = len(offices - {row.office for row in rows if row.state == "sent"})
    if story.report.get("untold", {}).get("offices") != unreached:
        yield f"the report has {story.report.get('untold')} untold, the ledger {unreached} offices"
    if story.code != (1 if lost and not again else 0):
        yield f"exit code {story.code}, and {lost.total()} that did not arrive"


def counted(states: Iterable[str], *further: str) -> dict[str, int]:
    """A channel's counts, as the report gives them."""
    found = Counter(states)
    ends = {state: found[state] for state in ("sent", *LOST, *further)}
    return {"planned": found.total(), **ends, "open": found["planned"] + found["sending"]}
