"""VAPID (RFC 8292): how a push service knows who we are."""

import base64
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from py_vapid.jwt import sign

from notifierd.config.checks import parse_vapid_key

TOKEN_LIFE = timedelta(hours=12)
"""RFC 8292, section 2: at most 24 hours, so that a clock may be wrong by half a day."""

TOKENS = 1000
"""Origins whose tokens are kept: origins come from endpoints, and those from browsers."""


class Vapid:
    """Our key, and a signed token for each origin, made anew when half of its life is over.

    Args:
        private_key: as `parse_vapid_key` reads it.
        subject: whom a push service may turn to, a mailto: or https: URL.

    Raises:
        ValueError: it is no private key.
    """

    def __init__(self, private_key: str, subject: str) -> None:
        self._key: ec.EllipticCurvePrivateKey = parse_vapid_key(private_key).private_key
        self.public_key = _public(self._key)
        """The ``applicationServerKey`` that browsers subscribe with, in base64url."""
        self._subject = subject
        self._tokens: dict[str, tuple[datetime, str]] = {}

    def authorization(self, origin: str, now: datetime) -> str:
        """Return the Authorization header for *origin* (RFC 8292, section 3)."""
        expires, token = self._tokens.get(origin, (now, ""))
        # Beyond a whole life means that the clock was set back, and the token is not yet as the RFC wants it.
        if not TOKEN_LIFE / 2 < expires - now <= TOKEN_LIFE:
            if len(self._tokens) >= TOKENS:
                self._tokens.clear()
            expires = now + TOKEN_LIFE
            token = sign({"aud": origin, "exp": int(expires.timestamp()), "sub": self._subject}, self._key)
            self._tokens[origin] = expires, token
        return f"vapid t={token}, k={self.public_key}"


def make_vapid_key() -> tuple[str, str]:
    """Make a private key (32 bytes in base64url) for `push.vapid_private_key`, and its public key (65) for browsers."""
    key = ec.generate_private_key(ec.SECP256R1())
    return _base64url(key.private_numbers().private_value.to_bytes(32, "big")), _public(key)


def _public(key: ec.EllipticCurvePrivateKey) -> str:
    return _base64url(key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
