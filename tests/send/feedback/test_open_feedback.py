"""Which readers the configuration sets up."""

import importlib

import pytest
from attrs import evolve

from notifierd.config.settings import Settings
from notifierd.model.feedback import MailStatus
from notifierd.send.feedback.open import READERS, open_feedback
from notifierd.send.open import PROVIDERS
from tests.support.feedback import NOW

SET_UP = [
    ("postmark", {"server_token": "t"}),
    ("postmark", {"feedback_key": "t"}),
    ("resend", {"feedback_key": "k"}),
    ("ses", {"feedback_queue": "https://sqs.ap-northeast-1.amazonaws.com/123456789012/feedback"}),
    ("ses", {"feedback_insights": True}),
]
NOT_SET_UP = [
    ("postmark", {}),
    ("resend", {"api_key": "k"}),
    ("ses", {"access_key_id": "A", "secret_access_key": "s"}),
    ("smtp", {"host": "mail.example.jp"}),
]


def settings_of(provider: str, **keys: object) -> Settings:
    email = Settings().email
    return evolve(Settings(), email=evolve(email, **{provider: evolve(getattr(email, provider), **keys)}))


@pytest.mark.parametrize(("provider", "keys"), SET_UP)
async def test_a_provider_that_is_set_up_has_a_reader(provider: str, keys: dict[str, object]) -> None:
    async with open_feedback(provider, settings_of(provider, **keys), now=lambda: NOW) as reader:
        assert reader is not None
        assert reader.name == provider
        assert MailStatus.COMPLAINED in reader.tells


@pytest.mark.parametrize(("provider", "keys"), NOT_SET_UP)
async def test_a_provider_that_is_not_set_up_has_none(provider: str, keys: dict[str, object]) -> None:
    async with open_feedback(provider, settings_of(provider, **keys), now=lambda: NOW) as reader:
        assert reader is None


def test_every_provider_has_a_reader() -> None:
    assert READERS.keys() == PROVIDERS.keys() - {"smtp"}, "a mail server cannot be asked"


@pytest.mark.parametrize("provider", sorted({provider for provider, _ in SET_UP}))
def test_a_reader_has_the_name_of_its_provider(provider: str) -> None:
    module, name, _ = READERS[provider]
    assert getattr(importlib.import_module(module), name).name == provider
