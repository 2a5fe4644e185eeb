"""What a key of the configuration may hold: the checks with which config/settings.py declares its tables."""

import difflib
import ipaddress
import json
import re
import string
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit, urlunsplit
from zoneinfo import ZoneInfo, available_timezones

import attrs

from notifierd.config.dsn import BadDsn, read_dsn
from notifierd.model.address import Address, BadAddress, has_unseen, parse_address, parse_mailbox

if TYPE_CHECKING:
    from py_vapid import Vapid02


LONGEST_SHOWN = 60
"""The most characters of a wrong value that an error message repeats."""

LONGEST_HEADER_URL = 800
"""The most characters of a URL in a header: Amazon SES accepts 870
(https://docs.aws.amazon.com/ses/latest/APIReference-V2/ API_MessageHeader.html), and a line that cannot be folded
has at most 998 (RFC 5322, section 2.1.1)."""


@attrs.frozen
class Check:
    """What a key allows, beyond its type."""

    allowed: str
    """A text that follows "is not"; for a range, its two ends."""
    passes: Callable[[Any], bool]
    complaint: str = "is not {allowed}"
    near: Callable[[], Mapping[str, str]] | None = None
    """The known values, by what people may write instead, for a "did you mean"."""
    cutoff: float = 0.6
    """The share of the letters that a near value must have in common; see `did_you_mean`."""
    of_elements: bool = False
    """For a list: whether to check each element."""
    explain: Callable[[Any], str] | None = None
    """Returns the whole complaint, in place of the value and *complaint*; it must not repeat a secret."""

    def problem(self, value: object, *, secret: bool = False) -> str | None:
        """Return what is wrong with *value*, or None; a secret is never repeated."""
        if self.of_elements and isinstance(value, tuple):
            return next(filter(None, map(self.problem, value)), None)
        if self.passes(value):
            return None
        if self.explain:
            return self.explain(value)
        hint = did_you_mean(str(value), self.near(), self.cutoff) if self.near and not secret else ""
        return f"{'the value' if secret else shown(value)} {self.complaint.format(allowed=self.allowed)}{hint}"


def did_you_mean(wrong: str, known: Iterable[str] | Mapping[str, str], cutoff: float = 0.6) -> str:
    """Return a hint in brackets; empty when no known word is close: the share *cutoff* of the letters must agree.

    A mapping gives for each word the value to write.
    """
    names = {name.casefold(): known[name] if isinstance(known, Mapping) else name for name in known}
    near = difflib.get_close_matches(wrong.casefold(), names, n=1, cutoff=cutoff)
    return f" (did you mean {shown(names[near[0]])}?)" if near else ""


def shown(value: object) -> str:
    """Write *value* as TOML would, for an error message: shortened, and without the user and password of a URL."""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str | tuple) else str(value)
    text = re.sub(r"//[^/\s]*@", "//***@", text)
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..."


def within(low: float, high: float) -> Check:
    """Allow numbers from *low* to *high*, both included; NaN is in no range."""
    return Check(f"{low} to {high}", lambda value: low <= value <= high, "is out of range ({allowed})")


def optional(check: Check) -> Check:
    """Allow the empty string too."""
    return attrs.evolve(check, passes=lambda value: not value or check.passes(value))


def _matches(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern)
    return lambda value: compiled.fullmatch(value) is not None


def _is_url(*schemes: str, query: bool) -> Callable[[str], bool]:
    def passes(value: str) -> bool:
        try:
            parts = urlsplit(value)
            return (
                parts.scheme in schemes
                and bool(parts.hostname)
                and (parts.port is None or parts.port > 0)
                and "@" not in parts.netloc
                and (query or not (parts.query or parts.fragment))
                and re.search(r"[\s<>\"]", value) is None
                and not has_unseen(value)
            )
        except ValueError:  # by urlsplit: a broken IPv6 address; by port: not a number up to 65535
            return False

    return passes


def _is_address(value: str) -> bool:
    return _reads(parse_address, value)


def _is_mailto(value: str) -> bool:
    return value.startswith("mailto:") and _is_address(value.removeprefix("mailto:").partition("?")[0])


def ascii_url(url: str) -> str:
    """Return *url* in ASCII for a header, with percent-encoding for the rest (RFC 3987, section 3.1)."""
    return quote(url, safe=string.punctuation)


def mailto(address: Address) -> str:
    """Return *address* as a mailto: URL (RFC 6068)."""
    local, _, domain = address.rpartition("@")
    return f"mailto:{quote(local, safe=_IN_MAILTO)}@{domain}"


def ascii_contact(url: str) -> str:
    """Return a mailto: or https: URL as a URI in ASCII, its domain as A-labels (RFC 5890, section 2.3.2.1).

    Raises:
        BadAddress: it has no such form.
    """
    if url.startswith("mailto:"):
        return mailto(parse_address(url.removeprefix("mailto:")))
    parts = urlsplit(url)
    host, colon, port = parts.netloc.partition(":")
    host = parse_address(f"a@{host}").removeprefix("a@")
    return quote(urlunsplit(parts._replace(netloc=f"{host}{colon}{port}")), safe=_IN_URI)


_IN_MAILTO = "!$'*+"
"""Of the characters that are allowed before an @, those that a mailto: URL need not escape (RFC 6068, section 2)."""

_IN_URI = "!#$%&'()*+,/:;=?@[]"
"""The reserved characters of RFC 3986, section 2.2, and the percent sign."""


def _is_contact(value: str) -> bool:
    if value.startswith("mailto:"):
        fit = _is_mailto(value) and not set(value) & set("?%")
    else:
        fit = (
            re.match(r"https://[^/?#:\[\]]+(:[0-9]+)?([/?#]|$)", value) is not None
            and re.search(r"%(?![0-9A-Fa-f]{2})", value) is None
            and _is_url("https", query=True)(value)
            and _reads(ascii_contact, value)
        )
    return fit and len(ascii_contact(value)) <= LONGEST_HEADER_URL


def _is_header_url(value: str) -> bool:
    if _is_url("https", query=True)(value):
        return urlsplit(value).netloc.isascii()
    return _is_mailto(value) and re.fullmatch(r"[!-;=?-~]*", value.partition("?")[2]) is not None


def _reads(parse: Callable[[str], object], value: str) -> bool:
    try:
        parse(value)
    except BadAddress:
        return False
    return True


def _is_zone(value: str) -> bool:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):  # unknown, a path that leads elsewhere, a folder such as "Asia"
        return False
    return True


def _is_country(value: str) -> bool:
    return value in {"", "JP"} or value in _country_codes()  # the default is checked at each start


def _country_codes() -> set[str]:
    return {code for _class, *codes in _registry().values() for code in codes}


def _registry() -> Mapping[str, tuple[str, ...]]:
    """Return the class and the codes of each country by its module."""
    from holidays.registry import COUNTRIES  # noqa: PLC0415 - takes 60 ms and 5 MB

    return COUNTRIES


def _countries() -> dict[str, str]:
    """Return the codes by themselves, and each country's code of two letters by its name."""
    names = {module.replace("_", " "): codes[0] for module, (_class, *codes) in _registry().items()}
    return {"日本": "JP"} | names | {code: code for code in _country_codes()}


def _zones() -> dict[str, str]:
    """Return the time zones by their names, and by their cities alone."""
    zones = sorted(available_timezones())
    return {zone.rpartition("/")[2].replace("_", " "): zone for zone in zones} | {zone: zone for zone in zones}


def parse_bind(value: str) -> tuple[str, int]:
    """Split ``host:port`` or ``[v6]:port``.

    Raises:
        ValueError: it is neither.
    """
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:\s/@]+)):([0-9]{1,5})", value)
    if not found or int(found[3]) > 65535:  # noqa: PLR2004 - the highest port there is
        raise ValueError("not host:port")
    if found[1]:
        ipaddress.IPv6Address(found[1])
    return found[1] or found[2], int(found[3])


def _is_bind(value: str) -> bool:
    try:
        parse_bind(value)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Return whether *host* is reachable from this machine only; of names, only localhost counts."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def parse_vapid_key(text: str) -> "Vapid02":
    """Parse a VAPID private key: 32 raw bytes or DER in base64url, or PEM.

    Raises:
        ValueError: it is not a private key on P-256, the only curve of RFC 8292, section 2. The error does not quote
            it.
    """
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - not every command needs it
    from py_vapid import Vapid02  # noqa: PLC0415 - likewise

    if not re.fullmatch(r"[A-Za-z0-9+/_=\s-]+", text.replace("-----", "")):  # py_vapid ignores what is not base64
        raise ValueError("not a VAPID private key")
    try:
        vapid = Vapid02.from_pem(text.strip().encode()) if "-----BEGIN" in text else Vapid02.from_string(text.strip())
    except (ValueError, TypeError) as error:  # TypeError: a key with a password
        raise ValueError("not a VAPID private key") from error
    if not isinstance(vapid.private_key, ec.EllipticCurvePrivateKey) or vapid.private_key.curve.name != "secp256r1":
        raise ValueError("not on P-256")
    return vapid


def _is_vapid_key(value: str) -> bool:
    if _RAW_VAPID_KEY.fullmatch(value):  # as `notifierd vapid` prints it: cryptography, which takes 8 MB, is not needed
        return 0 < int.from_bytes(urlsafe_b64decode(f"{value}=")) < _P256_ORDER
    try:
        parse_vapid_key(value)
    except ValueError:
        return False
    return True


_RAW_VAPID_KEY = re.compile(r"[A-Za-z0-9_-]{43}")
"""32 bytes in base64url, without padding."""

_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""A private key is below the order of the curve: FIPS 186-4, section B.4 and D.1.2.3."""


def _is_service_account(value: str) -> bool:
    try:
        account = json.loads(value)
    except ValueError:
        return False
    return isinstance(account, Mapping) and all(
        isinstance(account.get(name), str) and account[name] for name in ("client_email", "private_key")
    )


def _dsn_problem(value: str) -> str:
    try:
        read_dsn(value, {})
    except BadDsn as error:
        return str(error)
    return ""


ANYTHING = Check("", lambda _value: True)
ONE_LINE = Check(
    "one line of text, free of control characters", _matches(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]*")
)
LABEL = Check(
    "one line of text, free of control characters, of 1 to 60 characters",
    _matches(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{1,60}"),
)
TOKEN = Check("made of visible ASCII characters without spaces", _matches(r"[!-~]*"))
ADDRESS = Check("an address (name@example.jp, in ASCII before the @)", _is_address)
MAILBOX = Check(
    "an address (name@example.jp, or Name <name@example.jp>, in ASCII before the @)",
    lambda value: _reads(parse_mailbox, value),
)
CONTACT = Check(
    "mailto: with an address, or an https:// URL with a domain, of at most 800 characters, none of them unseen",
    _is_contact,
)
UNSUBSCRIBE = Check(
    "mailto: with an address (and a subject, if you like), or an https:// URL, that fits a header",
    lambda value: _is_header_url(value) and len(ascii_url(value)) <= LONGEST_HEADER_URL,
)
HTTP_URL = Check("an http:// or https:// URL", _is_url("http", "https", query=True))
BASE_URL = Check("an http:// or https:// URL without query", _is_url("http", "https", query=False))
BASE_URL_OR_NONE = optional(BASE_URL)
DOMAIN = Check("a domain such as mg.example.jp", _matches(r"([A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+)?"))
HOST = Check(
    "a host name or an address, without a port",
    _matches(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?|[0-9A-Fa-f]*:[0-9A-Fa-f:.]+"),
)
REGION = Check("a region such as ap-northeast-1", _matches(r"[a-z0-9-]+"))
ZONE = Check("a time zone such as Asia/Tokyo", _is_zone, near=_zones, cutoff=0.8)
COUNTRY = Check(
    'a country code such as JP ("" for no public holidays)',
    _is_country,
    near=_countries,
    cutoff=0.8,
)
DSN = Check(
    "of the form postgresql://user:password@host:5432/database",
    lambda value: not _dsn_problem(value),
    explain=_dsn_problem,
)
BIND = Check("host:port, such as 127.0.0.1:9464 or [::1]:9464", _is_bind)
RENEWAL_DAYS = attrs.evolve(within(1, 366), of_elements=True)
DIGITS = Check("the digits of a PostgreSQL system identifier", _matches(r"[0-9]*"))
FOLDER = Check("an existing folder", lambda value: Path(value).is_dir())
HOSTS = Check(
    "a host in lower case, or *. and a domain",
    _matches(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]"),
    of_elements=True,
)
NAMES = Check("a host name in lower case, without port", _matches(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*"), of_elements=True)
VAPID_KEY = Check("a VAPID private key (base64url or PEM, as `notifierd vapid` prints it)", _is_vapid_key)
SERVICE_ACCOUNT = Check("the JSON key of a Google service account", _is_service_account)
