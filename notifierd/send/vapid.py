"""VAPID (RFC 8292): identify this server to push services."""

from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from py_vapid.jwt import sign
from py_vapid.utils import b64urlencode

from notifierd.config.checks import parse_vapid_key

TOKEN_LIFE = timedelta(hours=12)
"""How long a token is valid. RFC 8292, section 2, allows 24 hours; half of it tolerates a clock that is 12 hours
wrong."""

TOKENS = 1000
"""The most origins whose tokens are kept: origins come from endpoints, and endpoints from browsers."""


class Vapid:
    """The private key, and a signed token for each origin, renewed after half of its life.

    Args:
        private_key: in a form that `parse_vapid_key` reads.
        subject: a contact for push services, a mailto: or https: URL.

    Raises:
        ValueError: it is not a private key.
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
        # More than a whole life is left if the clock was set back; such a token is not valid by the RFC.
        if not TOKEN_LIFE / 2 < expires - now <= TOKEN_LIFE:
            if len(self._tokens) >= TOKENS:
                self._tokens.clear()
            expires = now + TOKEN_LIFE
            token = sign({"aud": origin, "exp": int(expires.timestamp()), "sub": self._subject}, self._key)
            self._tokens[origin] = expires, token
        return f"vapid t={token}, k={self.public_key}"


def make_vapid_key() -> tuple[str, str]:
    """Return a new private key (32 bytes in base64url) for `push.vapid_private_key`, and its public key (65 bytes)."""
    key = ec.generate_private_key(ec.SECP256R1())
    return b64urlencode(key.private_numbers().private_value.to_bytes(32, "big")), _public(key)


def _public(key: ec.EllipticCurvePrivateKey) -> str:
    encoded: str = b64urlencode(key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))
    return encoded
