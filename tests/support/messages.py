"""Mails, devices and pushes as tests need them."""

from base64 import urlsafe_b64encode
from typing import Any
from uuid import UUID

from attrs import evolve, field, frozen
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from notifierd.model.address import Address, parse_mailbox
from notifierd.model.message import Mail, Push
from notifierd.model.office import Device

AUTH = b"sixteen bytes ok"
SENDER = parse_mailbox("keikakun <no-reply@example.jp>")


def mail(number: int = 1, **changes: Any) -> Mail:
    """A mail; ``sender`` and ``reply_to`` may be changed to what the configuration would say."""
    made = Mail(
        delivery_id=UUID(int=number),
        sender=SENDER,
        to=Address(f"taro{number}@example.jp"),
        subject="【期限アラート】ひまわり",
        text="本日が期限",
        html="<p>本日が期限</p>",
        headers={"Message-ID": f"<{UUID(int=number)}@example.jp>", "Auto-Submitted": "auto-generated"},
    )
    mailboxes = {name: parse_mailbox(changes[name]) for name in ("sender", "reply_to") if changes.get(name)}
    return evolve(made, **changes | mailboxes)


@frozen
class Browser:
    """The other end of a subscription: what only the browser knows."""

    key: ec.EllipticCurvePrivateKey = field(factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def subscription(self, endpoint: str) -> Device:
        public = self.key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return Device(UUID(int=7), UUID(int=8), endpoint, base64url(public), base64url(AUTH))


def push(device: Device, **changes: Any) -> Push:
    made = Push(UUID(int=9), UUID(int=1), device, '{"title":"期限アラート"}'.encode(), topic="A" * 32, ttl=3600)
    return evolve(made, **changes)


def base64url(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()
