"""The page about what became of mails: its commands and its configuration do what they say, and its lists are whole."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from notifierd.config.load import parse
from notifierd.model.feedback import MailStatus
from notifierd.send.feedback.open import READERS
from notifierd.store.sql.feedback import CARRIERS
from tests.support.aws_cli import QUEUE_ARN, QUEUE_URL, TOPIC_ARN
from tests.support.manual import REPOSITORY, blocks

NAME = "docs/feedback.md"
PAGE = (REPOSITORY / NAME).read_text(encoding="utf-8")


def section(title: str) -> str:
    """The part of the page under a heading."""
    _, heading, rest = PAGE.partition(f"\n## {title}\n")
    assert heading
    return rest.partition("\n## ")[0]


@pytest.fixture
def calls(tmp_path: Path) -> list[tuple[str, dict[str, Any]]]:
    """What the page's lines ask AWS for, and the line that they print."""
    (script,) = (block.text for block in blocks(NAME) if block.language == "sh")
    cli = tmp_path / "aws"
    cli.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.support.aws_cli "$@"\n')
    cli.chmod(0o755)
    environ = {
        "PATH": os.pathsep.join((str(tmp_path), os.environ["PATH"])),
        "PYTHONPATH": str(REPOSITORY),
        "AWS_CALLS": str(tmp_path / "calls"),
    }
    command = ["bash", "-eu", "-o", "pipefail", "-c", script]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f'feedback_queue = "{QUEUE_URL}"\n'
    return [json.loads(line) for line in (tmp_path / "calls").read_text(encoding="utf-8").splitlines()]


def test_the_lines_for_aws_make_a_queue_that_only_this_topic_fills(calls: list[tuple[str, dict[str, Any]]]) -> None:
    by_name = dict(calls)
    (topic,) = json.loads(by_name["SetTopicAttributes"]["AttributeValue"])["Statement"]
    assert (topic["Principal"], topic["Action"], topic["Resource"]) == (
        {"Service": "ses.amazonaws.com"},
        "sns:Publish",
        TOPIC_ARN,
    )
    source = topic["Condition"]["StringEquals"]["AWS:SourceArn"]
    assert source == "arn:aws:ses:ap-northeast-1:123456789012:configuration-set/notifierd"
    attributes = by_name["CreateQueue"]["Attributes"]
    (queue,) = json.loads(attributes["Policy"])["Statement"]
    assert (queue["Action"], queue["Resource"]) == ("sqs:SendMessage", QUEUE_ARN)
    assert queue["Condition"] == {"ArnEquals": {"aws:SourceArn": TOPIC_ARN}}
    assert by_name["Subscribe"]["Endpoint"] == QUEUE_ARN
    (read, account) = json.loads(by_name["PutUserPolicy"]["PolicyDocument"])["Statement"]
    assert read["Resource"] == QUEUE_ARN
    configuration = (REPOSITORY / "docs/configuration.md").read_text(encoding="utf-8")
    assert all(action in configuration for action in [*read["Action"], account["Action"]])


def test_what_the_page_writes_for_ses_is_a_configuration() -> None:
    (block,) = (block for block in blocks(NAME) if block.language == "toml")
    ses = parse(tomllib.loads(block.text), {}).email.ses
    assert (ses.configuration_set, ses.feedback_queue) == ("notifierd", QUEUE_URL)


def test_every_provider_that_can_be_asked_is_described_with_its_keys() -> None:
    table = section("Set it up")
    for provider, (_, _, names) in READERS.items():
        for name in names:
            assert f"email.{provider}.{name}" in table or name == "server_token"
    written = {"ses": "Amazon SES", "sendgrid": "SendGrid"}
    for part in ("Set it up", "What the statuses mean, and what to do", "Mails that are held back"):
        for provider in READERS:
            assert f"| {written.get(provider, provider.capitalize())} |" in section(part)


def test_every_status_and_every_carrier_is_described() -> None:
    statuses = section("What the statuses mean, and what to do").partition("### ")[0]
    assert set(re.findall(r"(?m)^\| ([a-z ]+) \|", statuses)) - {"status"} == {*MailStatus, "not known"}
    named = set(re.findall(r"`\*?\.?([a-z.]+\.(?:jp|com))`", section("Japanese mobile carriers")))
    assert named == {re.sub(r"^\w\.(vodafone)", r"\1", domain) for domain in CARRIERS}
