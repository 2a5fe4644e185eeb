"""AWS' signature: ours is botocore's, byte for byte."""

from datetime import UTC, datetime, timedelta, timezone
from random import Random

from attrs import evolve

from notifierd.send.mail.sigv4 import Signer
from tests.support.aws import botocore_signs

SIGNER = Signer("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "", "us-east-1", "service")
NOON = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)

SEGMENTS = [
    "v2",
    "email",
    "outbound-emails",
    "",
    ".",
    "..",
    "a b",
    "%20",
    "%E3%81%82",
    "あ",
    "~tilde",
    "a+b",
    "c:d",
    "*",
    "'",
]
PAIRS = ["a=1", "a=", "a", "b=%20", "A=2", "a=0", "ん=x", "x=y=z", "", "e+f=g", "b=~"]
NAMES = ["Content-Type", "Accept", "X-Amz-Target", "x-custom", "X-CUSTOM-2", "Cache-Control", "Range"]
VALUES = ["application/json", "a", "  led and trailed  ", "many   spaces\tand tabs", "", "a,b;c", '"quoted  text"']


def test_the_first_example_of_the_signatures_own_test_suite() -> None:
    """get-vanilla, as botocore keeps it: https://github.com/boto/botocore, tests/unit/auth/aws4_testsuite."""
    signed = SIGNER.sign("GET", "https://example.amazonaws.com/", {"Host": "example.amazonaws.com"}, b"", NOON)
    assert signed == {
        "Host": "example.amazonaws.com",
        "X-Amz-Date": "20150830T123600Z",
        "Authorization": "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        "SignedHeaders=host;x-amz-date, Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
    }


def test_a_thousand_random_requests_are_signed_as_botocore_signs_them() -> None:
    for seed in range(1000):
        signer, method, url, headers, body, now = a_request(Random(seed))
        # botocore takes its clock for UTC.
        expected = botocore_signs(signer, method, url, headers, body, now.astimezone(UTC))
        assert signer.sign(method, url, headers, body, now) == expected, seed


def a_request(chance: Random) -> tuple[Signer, str, str, dict[str, str], bytes, datetime]:
    host = chance.choice(["email.ap-northeast-1.amazonaws.com", "127.0.0.1:8005", "[::1]:1"])
    path = "".join(f"/{segment}" for segment in chance.choices(SEGMENTS, k=chance.randrange(6)))
    query = chance.choice(["", "?" + "&".join(chance.choices(PAIRS, k=chance.randrange(5)))])
    names = chance.sample(NAMES, chance.randrange(len(NAMES)))
    signer = Signer(
        access_key_id=f"AKIA{chance.getrandbits(80):X}",
        secret_access_key=f"{chance.getrandbits(200):x}/+=",
        session_token=chance.choice(["", f"{chance.getrandbits(900):x}//=="]),
        region=chance.choice(["us-east-1", "ap-northeast-1"]),
        service=chance.choice(["ses", "service"]),
    )
    return (
        signer,
        chance.choice(["POST", "GET", "PUT", "DELETE"]),
        f"{chance.choice(['http', 'https'])}://{host}{path}{query}",
        {"Host": host, **{name: chance.choice(VALUES) for name in names}},
        chance.randbytes(chance.choice([0, 1, 5000])),
        datetime.fromtimestamp(chance.randrange(2**32), timezone(timedelta(hours=chance.randrange(-12, 13)))),
    )


def test_a_signer_shows_no_secret() -> None:
    shown = repr(evolve(SIGNER, session_token="a-session-token"))
    assert SIGNER.secret_access_key not in shown
    assert "a-session-token" not in shown
