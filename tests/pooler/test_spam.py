"""Debian's SpamAssassin on mails of every kind in both languages, by its local rules: nothing is looked up."""

import mailbox
import re
import subprocess
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime, time
from pathlib import Path

from attrs import evolve

from notifierd.config.settings import ContentSettings, EmailSettings, Language, SafetySettings, Settings
from notifierd.messages.render import Renderer
from notifierd.model.delivery import Channel, Delivery
from notifierd.model.message import Mail
from notifierd.model.office import Notice
from notifierd.send.mail.mime import dated, undated
from tests.support.samples import DAY, a_renewal, a_staff, an_assessment, an_id

MOST = 0.5
"""Points that a mail may get; 5 make it spam."""

SENT_AT = datetime.combine(DAY, time(), UTC)
RECEIVED = (
    b"Received: from mail.keikakun.example.jp (mail.keikakun.example.jp [192.0.2.25])\r\n"
    b" by mx.example.jp (Postfix) with ESMTPS id 4TESTS for <misaki@example.jp>; Tue, 24 Nov 2026 00:00:05 +0000\r\n"
)
"""A mail without it would count as one that was written on the machine itself."""

PLAIN = EmailSettings(sender="no-reply@keikakun.example.jp")
FULL = EmailSettings(
    sender="計画くん <notice@keikakun.example.jp>",
    reply_to="help@keikakun.example.jp",
    list_unsubscribe="https://app.keikakun.example.jp/停止?staff={staff_id}",
)
DASHBOARD = "https://app.keikakun.example.jp/dashboard?office=1&view=due"

STAFF = evolve(a_staff("misaki"), name="田中 美咲")
ALERTS = (
    a_renewal(-13, "高橋 一郎"),
    a_renewal(0, "林 誠"),
    a_renewal(12, "佐々木 さくら"),
    an_assessment("斎藤 翔太"),
)
DELIVERY = Delivery(an_id("mail"), an_id("office"), STAFF.id, Channel.EMAIL)
NOTICE = Notice(DAY, an_id("office"), "ひだまり作業所", STAFF, Channel.EMAIL, ALERTS)
NOTICES = {
    "all tones": NOTICE,
    "one renewal": evolve(NOTICE, alerts=ALERTS[2:3]),
    "one overdue": evolve(NOTICE, alerts=ALERTS[:1]),
    "one assessment": evolve(NOTICE, alerts=ALERTS[3:]),
    "more than are listed": evolve(NOTICE, alerts=tuple(a_renewal(n // 50, f"利用者{n}") for n in range(1000))),
    "news": evolve(NOTICE, news=ALERTS[:2]),
    "no names": evolve(NOTICE, alerts=(a_renewal(3, " "),), office_name="", staff=evolve(STAFF, name="")),
}


def mails(language: Language) -> dict[str, Mail]:
    """The mails in one language, by what is peculiar to each, which their Message-ID says, too."""
    content = ContentSettings(language=language, product="計画くん")
    full = Settings(email=FULL, content=evolve(content, dashboard_url=DASHBOARD))
    redirected = Renderer(evolve(full, safety=SafetySettings(redirect_to="me@example.jp")))
    plain, renderer = Renderer(Settings(email=PLAIN, content=content)), Renderer(full)
    made = {name: renderer.mail(notice, DELIVERY) for name, notice in NOTICES.items()}
    made |= {"plain": plain.mail(NOTICE, DELIVERY), "redirected": redirected.mail(NOTICE, DELIVERY)}
    made |= {"trial": renderer.trial_mail(STAFF, DAY)}
    return {f"{language}: {name}": mail for name, mail in made.items()}


def judged(mails: Mapping[str, Mail], folder: Path) -> dict[str, tuple[float, str]]:
    """The points of each mail, and the rules that gave them."""
    with closing(mailbox.mbox(folder / "mbox")) as box:
        for name, mail in mails.items():
            headers = {**mail.headers, "Message-ID": f"<{an_id(name)}@keikakun.example.jp>"}
            box.add(RECEIVED + dated(undated(evolve(mail, headers=headers)), SENT_AT))
    # It remembers no other mail; and an address of RFC 5737 is no server's.
    own = ("use_bayes 0", "use_auto_welcomelist 0", "fold_headers 0", "score RCVD_ILLEGAL_IP 0")
    options = [f"--cf={line}" for line in own]
    command = ["spamassassin", "--local", *options, "--mbox", str(folder / "mbox")]
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "LC_ALL": "C.UTF-8"}
    with (folder / "judged").open("wb") as out:
        subprocess.run(command, stdout=out, check=True, env=environ, timeout=300)
    with closing(mailbox.mbox(folder / "judged")) as box:
        found = {one["Message-ID"]: str(one["X-Spam-Status"]) for one in box}
    return {name: points(found[f"<{an_id(name)}@keikakun.example.jp>"]) for name in mails}


def points(status: str) -> tuple[float, str]:
    """What an X-Spam-Status says: the points, and the rules."""
    found = re.fullmatch(r"\w+, score=(\S+) required=\S+ tests=(\S*) .*", status)
    assert found, status
    return float(found[1]), found[2]


def test_spamassassin_gives_no_mail_more_than_half_a_point(tmp_path: Path):
    """To one that promises a sum of money, it does."""
    named = mails("ja") | mails("en")
    begging = evolve(named["en: all tones"], text="Dear beneficiary, $9,500,000.00 USD", html="<p>%FIRST_NAME%</p>")
    found = judged({**named, "begging": begging}, tmp_path)
    assert found.pop("begging")[0] > MOST
    assert {name: one for name, one in found.items() if one[0] > MOST} == {}
