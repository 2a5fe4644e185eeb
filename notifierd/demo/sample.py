"""An invented application that contains every case, always the same: offices, their staff, and what is due.

The people, offices and addresses do not exist; all addresses are below example.jp and example.com (RFC 2606).
"""

from datetime import date, timedelta
from random import Random
from typing import Any, Final
from uuid import UUID

from attrs import define, field, frozen
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from py_vapid.utils import b64urlencode

from notifierd.demo.application import Cycle, Device, Link, Office, Recipient, Rows, Staff, rows_sql
from notifierd.demo.expected import Expected, expected
from notifierd.demo.postgres import Cluster
from notifierd.demo.servers.trouble import MailConfig, PushConfig, PushDevice, Rule, ServersConfig

MINIMUM_OFFICES: Final = 5

_TYPES: Final = (
    ("transition_to_employment", "就労移行支援事業所"),
    ("type_A_office", "就労継続支援A型事業所"),
    ("type_B_office", "就労継続支援B型事業所"),
)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_TOWNS: Final = _words("みなと見本 ひがし野 青空町 若葉台 川風 星見ヶ丘 緑ヶ原 花咲 白樺 夕凪 春日坂 月の浦")
_HOUSES: Final = _words(
    "ひだまり そよかぜ あおぞら こもれび つばさ かけはし にじいろ たんぽぽ ほほえみ みらい きずな"
    " ひまわり なごみ しらさぎ あゆみ ゆりかご さくら工房 はばたき 虹の橋 コスモス"
)
_LAST_NAMES: Final = _words(
    "佐藤/sato 鈴木/suzuki 高橋/takahashi 田中/tanaka 伊藤/ito 渡辺/watanabe 山本/yamamoto 中村/nakamura"
    " 小林/kobayashi 加藤/kato 吉田/yoshida 山田/yamada 佐々木/sasaki 山口/yamaguchi 松本/matsumoto 井上/inoue"
    " 木村/kimura 林/hayashi 斎藤/saito 清水/shimizu 山崎/yamazaki 森/mori 池田/ikeda 髙島/takashima 𠮷野/yoshino"
)
_FIRST_NAMES: Final = _words(
    "太郎/taro 花子/hanako 健一/kenichi 美咲/misaki 大輔/daisuke さくら/sakura 翔太/shota 陽子/yoko 直樹/naoki"
    " 恵/megumi 誠/makoto 由美/yumi 拓也/takuya 彩/aya 浩/hiroshi 千夏/chinatsu 亮/ryo 真由美/mayumi 隆/takashi"
)
_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

_DEFAULTS: Final = {
    "in_app_notification": True,
    "email_notification": True,
    "system_notification": False,
    "email_threshold_days": 30,
    "push_threshold_days": 10,
}

_ASSESSED: Final = ("assessment_sheet", "draft_plan_pdf")

# Values that years of an application leave in a jsonb column; each of these means the default.
_ODD_PREFERENCES: Final[tuple[Any, ...]] = (
    None,
    {},
    "off",
    [False, 3],
    {**_DEFAULTS, "email_threshold_days": None, "push_threshold_days": None},
    {**_DEFAULTS, "email_notification": "false", "email_threshold_days": "7"},
    {**_DEFAULTS, "email_threshold_days": 7.5, "push_threshold_days": 2.25, "system_notification": True},
    {**_DEFAULTS, "email_threshold_days": 10**30, "push_threshold_days": 10**18, "system_notification": True},
    {"email_notification": None, "system_notification": True},
)


@frozen
class Sample:
    """The rows, and which of them cause trouble.

    Attributes:
        day: the day that the deadlines are arranged around.
        rejected_address: the mail API rejects every mail to it.
        deferred_address: the first call with a mail to it is answered 429.
        gone_device: has unsubscribed, so its push service answers 410; its owner works for one office.
        poisoned_office: has something due and staff to notify; the caller arranges what fails in it.
        opted_out_office: has something due, but all of its staff opted out.
        unstaffed_office: has something due, but no staff.
        two_office_staff: works for two offices that both have something due.
        twice_linked_staff: is linked to one office twice.
    """

    day: date
    rows: Rows
    rejected_address: str
    deferred_address: str
    gone_device: UUID
    poisoned_office: UUID
    opted_out_office: UUID
    unstaffed_office: UUID
    two_office_staff: UUID
    twice_linked_staff: UUID

    def expected(self) -> Expected:
        """Return what a run on the day must send if nothing fails."""
        return expected(self.rows, self.day)

    def servers(self, *, latency_ms: float = 0.0, keep_eml: bool = True) -> ServersConfig:
        """Return the configuration of servers that know these devices and cause this trouble."""
        tokens = {device.id: device.token for device in self.rows.devices}
        return ServersConfig(
            MailConfig(
                latency_ms=latency_ms,
                rejected=(self.rejected_address,),
                rules=(Rule(to=self.deferred_address, status=429, retry_after=1, times=1),),
                keep_eml=keep_eml,
            ),
            PushConfig(
                latency_ms=latency_ms,
                devices=tuple(PushDevice(str(d.id), d.token, d.private_key, d.auth) for d in self.rows.devices),
                gone=(tokens[self.gone_device],),
            ),
        )


def sample(offices: int, day: date, push_url: str, seed: int = 1) -> Sample:
    """Invent *offices* live offices (at least 5), and two that do not count; equal arguments give equal rows.

    The first office has all the cases of people and deadlines; the next four are poisoned, opted out, without staff,
    and the one with the deferred address. The others are ordinary; in every seventh of them, nothing is due.
    """
    if offices < MINIMUM_OFFICES:
        msg = f"a sample needs {MINIMUM_OFFICES} offices at least"
        raise ValueError(msg)
    return _Inventor(day, push_url, Random(seed)).invent(offices)  # noqa: S311 - no secrets are made


def load(cluster: Cluster, database: str, sample: Sample) -> None:
    """Write the sample into *database* (a name or a DSN of *cluster*), which has the application's empty tables."""
    cluster.psql(rows_sql(sample.rows), database)


@define
class _Inventor:
    _day: date
    _push_url: str
    _random: Random
    _offices: list[Office] = field(factory=list)
    _staff: list[Staff] = field(factory=list)
    _links: list[Link] = field(factory=list)
    _recipients: list[Recipient] = field(factory=list)
    _cycles: list[Cycle] = field(factory=list)
    _devices: list[Device] = field(factory=list)

    def invent(self, count: int) -> Sample:
        cases, poisoned, opted_out, unstaffed, deferred, *others = [self.office() for _ in range(count)]
        rejected, gone, twice, both = self.fill_with_cases(cases)
        self.everyday(poisoned)
        self.due(opted_out)
        for _ in range(4):
            self.device(self.staff(opted_out, {**_DEFAULTS, "email_notification": False}))
        self.due(unstaffed)
        patient = self.staff(deferred, _DEFAULTS)
        self.everyday(deferred)
        self._links.append(Link(deferred.id, both.id))
        for number, office in enumerate(others, 1):
            self.everyday(office, quiet=number % 7 == 0)
        self.everyday(self.office(deleted=True))
        self.everyday(self.office(test_data=True))
        return Sample(
            day=self._day,
            rows=Rows(
                tuple(self._offices),
                tuple(self._staff),
                tuple(self._links),
                tuple(self._recipients),
                tuple(self._cycles),
                tuple(self._devices),
            ),
            rejected_address=rejected.email,
            deferred_address=patient.email,
            gone_device=gone.id,
            poisoned_office=poisoned.id,
            opted_out_office=opted_out.id,
            unstaffed_office=unstaffed.id,
            two_office_staff=both.id,
            twice_linked_staff=twice.id,
        )

    def fill_with_cases(self, office: Office) -> tuple[Staff, Device, Staff, Staff]:
        """Give *office* every case.

        Return the rejected staff member, the gone device, the one linked twice, and the one with both channels.
        """
        pushed = {**_DEFAULTS, "system_notification": True}
        self.staff(office, _DEFAULTS)
        rejected = self.staff(office, _DEFAULTS)
        gone = self.device(self.staff(office, pushed))
        twice = self.staff(office, _DEFAULTS)
        self._links.append(Link(office.id, twice.id))
        both = self.staff(office, pushed)
        self.device(both)
        several = self.staff(office, {**pushed, "push_threshold_days": 3})
        for _ in range(3):
            self.device(several)
        self.device(self.staff(office, {**pushed, "email_notification": False}))
        self.device(self.staff(office, {**_DEFAULTS, "email_notification": False}))
        self.staff(office, {**pushed, "email_threshold_days": 0})  # wants push, has no device
        self.staff(office, {**_DEFAULTS, "email_threshold_days": 60})  # beyond the horizon of every run
        for preferences in _ODD_PREFERENCES:
            self.device(self.staff(office, preferences))
        self.staff(office, _DEFAULTS, deleted=True)
        self.staff(office, _DEFAULTS, test_data=True)

        for days in (-45, -1, 0, 1, 3, 10, 11, 29, 30, 31, 170):
            self.recipient(office, days)
        self.recipient(office, 2, name=("山田", "<b>太郎</b> 🌸"))
        self.recipient(office, 120, deliverables=("draft_plan_pdf",))
        self.recipient(office, 8, deliverables=())
        self.recipient(office, None)
        self.recipient(office, None, deliverables=())
        self.recipient(office, -3, test_data=True)
        renewed = self.recipient(office, 150)
        self.cycle(renewed, office, -30, latest=False, deliverables=())
        return rejected, gone, twice, both

    def everyday(self, office: Office, *, quiet: bool = False) -> None:
        """Fill *office* with ordinary data: about ten staff and ten recipients, and something due unless *quiet*."""
        for _ in range(self._random.randint(8, 12)):
            chosen = {
                **_DEFAULTS,
                "email_notification": self.odds(9),
                "system_notification": self.odds(4),
                "email_threshold_days": self._random.choice((30, 30, 14, 7)),
                "push_threshold_days": self._random.choice((10, 10, 5, 3)),
            }
            member = self.staff(office, chosen)
            for _ in range(self._random.choice((0, 1, 1, 2))):
                self.device(member)
        if not quiet:
            self.due(office)
        for _ in range(self._random.randint(6, 10)):
            if quiet:
                self.recipient(office, self._random.randint(31, 180))
            else:
                missing = self.odds(1)
                self.recipient(office, self._random.randint(-5, 180), deliverables=() if missing else _ASSESSED)

    def due(self, office: Office) -> None:
        """Give *office* an overdue recipient, and one near enough for every threshold in use."""
        self.recipient(office, -self._random.randint(1, 20))
        self.recipient(office, self._random.randint(1, 3))

    def office(self, *, deleted: bool = False, test_data: bool = False) -> Office:
        kind, label = self._random.choice(_TYPES)
        name = f"{label} {self._random.choice(_HOUSES)}{self._random.choice(_TOWNS)}"
        namesakes = sum(office.name.startswith(name) for office in self._offices)
        if namesakes:
            name = f"{name} 第{namesakes + 1}"
        if not self._offices:
            name = '多機能型事業所「虹の橋」& <第2> "みほん"'
        made = Office(self.id(), name, kind, deleted, test_data)
        self._offices.append(made)
        return made

    def staff(self, office: Office, preferences: Any, *, deleted: bool = False, test_data: bool = False) -> Staff:  # noqa: ANN401
        last, last_latin = self._random.choice(_LAST_NAMES).split("/")
        first, first_latin = self._random.choice(_FIRST_NAMES).split("/")
        domain = self._random.choice(("example.jp", "example.com"))
        email = f"{first_latin}.{last_latin}.{len(self._staff) + 1}@{domain}"
        made = Staff(self.id(), last, first, email, preferences, deleted, test_data)
        self._staff.append(made)
        self._links.append(Link(office.id, made.id))
        return made

    def recipient(
        self,
        office: Office,
        days: int | None,
        *,
        deliverables: tuple[str, ...] = _ASSESSED,
        name: tuple[str, str] | None = None,
        test_data: bool = False,
    ) -> Recipient:
        """Add a recipient whose plan is due in *days* (None: without a deadline)."""
        last, first = name or tuple(self._random.choice(names).split("/")[0] for names in (_LAST_NAMES, _FIRST_NAMES))
        made = Recipient(self.id(), last, first, test_data)
        self._recipients.append(made)
        self.cycle(made, office, days, deliverables=deliverables)
        return made

    def cycle(
        self,
        recipient: Recipient,
        office: Office,
        days: int | None,
        *,
        deliverables: tuple[str, ...],
        latest: bool = True,
    ) -> None:
        key, number = len(self._cycles) + 1, 2 if latest else 1
        deadline = None if days is None else self._day + timedelta(days=days)
        self._cycles.append(Cycle(key, recipient.id, office.id, deadline, deliverables, latest, number))

    def device(self, owner: Staff) -> Device:
        scalar = self._random.randint(1, _P256_ORDER - 1)
        public = ec.derive_private_key(scalar, ec.SECP256R1()).public_key()
        token = b64urlencode(self._random.randbytes(24))
        made = Device(
            id=self.id(),
            staff_id=owner.id,
            endpoint=f"{self._push_url}/push/{token}",
            p256dh=b64urlencode(public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)),
            auth=b64urlencode(self._random.randbytes(16)),
            token=token,
            private_key=b64urlencode(scalar.to_bytes(32, "big")),
        )
        self._devices.append(made)
        return made

    def odds(self, in_ten: int) -> bool:
        return self._random.randrange(10) < in_ten

    def id(self) -> UUID:
        return UUID(int=self._random.getrandbits(128), version=4)
