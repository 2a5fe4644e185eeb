"""What a push service sees of a push, and what the browser reads: RFC 8188 and 8291, written here once more."""

import json
from base64 import urlsafe_b64decode
from uuid import UUID

import pytest
from attrs import frozen
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import example, given
from hypothesis import strategies as st

from notifierd.config.settings import ContentSettings, Language, PushSettings, Settings
from notifierd.messages.render import NAME, Renderer
from notifierd.model.delivery import Channel, Delivery
from notifierd.model.message import PUSH_BYTES, PUSH_SIZES
from notifierd.model.office import Device, Notice
from notifierd.send.webpush import encrypt, padded
from tests.messages.test_names import NAMES
from tests.support.messages import AUTH, Browser, base64url
from tests.support.samples import DAY, a_renewal, a_staff, an_assessment, an_id

OVERHEAD = 16 + 4 + 1 + 65 + 1 + 16
"""Salt, record size, length of the key, key (RFC 8188, section 2.1); delimiter and authentication tag (section 2)."""

DELIVERY = Delivery(an_id("push"), an_id("office"), an_id("staff"), Channel.PUSH)
DEVICE = Browser().subscription("https://push.example/secret")
DASHBOARD = "https://app.keikakun.example.jp/dashboard"


@frozen
class Opened:
    """A push as its browser has it.

    Attributes:
        record: the plaintext with its delimiter and the padding after it.
    """

    input_key: bytes
    content_key: bytes
    nonce: bytes
    record: bytes

    @property
    def text(self) -> bytes:
        text, _, padding = self.record.rpartition(b"\2")  # RFC 8188, section 2: 2 ends the last record
        assert not padding.strip(b"\0")
        return text


def opened(body: bytes, key: ec.EllipticCurvePrivateKey, auth: bytes) -> Opened:
    """Decrypt *body*, as RFC 8291, section 3.4, and RFC 8188, section 2, have it."""
    salt, size, length = body[:16], int.from_bytes(body[16:20], "big"), body[20]
    sender, encrypted = body[21 : 21 + length], body[21 + length :]
    assert len(encrypted) <= size, "one record: RFC 8291, section 4"
    secret = key.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), sender))
    receiver = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    input_key = derived(secret, auth, b"WebPush: info\0" + receiver + sender, 32)
    content_key = derived(input_key, salt, b"Content-Encoding: aes128gcm\0", 16)
    nonce = derived(input_key, salt, b"Content-Encoding: nonce\0", 12)
    return Opened(input_key, content_key, nonce, AESGCM(content_key).decrypt(nonce, encrypted, None))


def derived(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(SHA256(), length, salt, info).derive(secret)


# The example of RFC 8291, section 5, with the intermediate values of Appendix A --------------------------------------

PLAINTEXT = b"When I grow up, I want to be a watermelon"
MESSAGE = (
    "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_"
    "yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
)
RECEIVER = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
RECEIVERS_KEY = "q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"
SENDERS_KEY = "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"
SECRET = "BTBZMqHH6r4Tts7J_aSIgg"
SALT = "DGv6ra1nlYgDCS1FRnbzlw"


def test_the_example_of_rfc_8291_is_decrypted() -> None:
    read = opened(decoded(MESSAGE), private(RECEIVERS_KEY), decoded(SECRET))
    assert base64url(read.input_key) == "S4lYMb_L0FxCeq0WhDx813KgSYqU26kOyzWUdsXYyrg"
    assert base64url(read.content_key) == "oIhVW04MRdy2XN9CiKLxTg"
    assert base64url(read.nonce) == "4h_95klXJ5E_qnoN"
    assert (read.record, read.text) == (PLAINTEXT + b"\2", PLAINTEXT)


def test_the_example_of_rfc_8291_is_encrypted_as_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is random is replaced: the salt and the sender's key."""
    senders_key = private(SENDERS_KEY)
    monkeypatch.setattr("pywebpush.ec.generate_private_key", lambda *_: senders_key)
    monkeypatch.setattr("http_ece.os.urandom", lambda _length: decoded(SALT))
    device = Device(UUID(int=1), UUID(int=2), "https://push.example/secret", RECEIVER, SECRET)
    encrypted = encrypt(device, PLAINTEXT)
    monkeypatch.undo()
    assert encrypted == decoded(MESSAGE)


def decoded(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def private(text: str) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(decoded(text), "big"), ec.SECP256R1())


# What a length tells -------------------------------------------------------------------------------------------------


def renderer(language: Language = "ja", *, declarative: bool = False, icon: str = "/icon-192.png") -> Renderer:
    content = ContentSettings(language=language, dashboard_url=DASHBOARD)
    return Renderer(Settings(push=PushSettings(declarative=declarative, icon=icon), content=content))


RENDERERS = [
    renderer(language, declarative=declarative, icon=icon)
    for language in ("ja", "en")
    for declarative in (False, True)
    for icon in ("", "/icon-192.png", "/" * 1000)
]


def payload(made_by: Renderer, office: str, renewals: int = 1, assessments: int = 0) -> bytes:
    alerts = (a_renewal(3),) * renewals + (an_assessment(),) * assessments
    notice = Notice(DAY, an_id("office"), office, a_staff("staff"), Channel.PUSH, alerts)
    return made_by.push(notice, DELIVERY, DEVICE, 60).payload


@given(made_by=st.sampled_from(RENDERERS), office=NAMES, renewals=st.integers(0, 300), assessments=st.integers(0, 300))
@example(RENDERERS[0], "", 1, 0)
@example(RENDERERS[4], "漢" * NAME, 300, 300)
@example(RENDERERS[5], "🌸" * NAME, 300, 300)
def test_every_push_has_one_of_three_lengths_and_reads_the_same(
    made_by: Renderer, office: str, renewals: int, assessments: int
) -> None:
    browser = Browser()
    said = payload(made_by, office, renewals, assessments)
    encrypted = encrypt(browser.subscription("https://push.example/secret"), padded(said))
    assert encrypted is not None
    assert len(encrypted) - OVERHEAD == min(size for size in PUSH_SIZES if size >= len(said))
    read = opened(encrypted, browser.key, AUTH).text
    assert json.loads(read) == json.loads(said)
    assert read.rstrip(b" ") == said


@pytest.mark.parametrize("language", ["ja", "en"])
@pytest.mark.parametrize(("declarative", "shortest", "longest", "size"), [(False, 0, 35, 560), (True, 3, 60, 1280)])
def test_a_length_does_not_tell_how_much_is_due(
    language: Language, declarative: bool, shortest: int, longest: int, size: int
) -> None:
    """Whatever the counts are: for names of up to 35 characters, and with the declaration for all from three on."""
    made_by = renderer(language, declarative=declarative)
    counts = [(1, 0), (0, 1), (1, 1), (99, 99)]
    lengths = {len(padded(payload(made_by, "期" * name, *count))) for name in (shortest, longest) for count in counts}
    assert lengths == {size}


def test_three_lengths_up_to_the_longest_that_every_device_accepts() -> None:
    assert len(PUSH_SIZES) == 3
    assert tuple(sorted(PUSH_SIZES)) == PUSH_SIZES
    assert PUSH_SIZES[-1] == PUSH_BYTES
    assert [len(padded(b"0" * size)) for size in (1, 560, 561, 1280, 1281, PUSH_BYTES)] == [
        *[560] * 2,
        *[1280] * 2,
        *[PUSH_BYTES] * 2,
    ]
    assert padded(b"0" * 3993) == b"0" * 3993, "what is longer is sent as it is"
