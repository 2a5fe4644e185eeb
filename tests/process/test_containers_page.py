"""The YAML of docs/containers.md: each container has a configuration that can be loaded, and time to end."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from notifierd.cli.main import cli
from notifierd.config.load import missing_for_sending, parse
from notifierd.config.settings import Settings
from tests.support.manual import Block, blocks
from tests.support.processes import VAPID_KEY

BLOCKS = [block for block in blocks("docs/containers.md") if block.language == "yaml"]
CLOUD_RUN_GRACE = 10
SECRETS = {
    "database.dsn": "postgresql://notifierd@database/keikakun",
    "email.resend.api_key": "re_of_the_tests",
    "push.vapid_private_key": VAPID_KEY,
    "http.token": "token-of-the-tests",
}


def specs(found: object) -> Iterator[Mapping[str, Any]]:
    """Every part that has containers, however deep."""
    if isinstance(found, dict):
        if "containers" in found:
            yield found
        for inner in found.values():
            yield from specs(inner)


def settings_of(variables: Mapping[str, str], folder: Path) -> Settings:
    """What notifierd makes of them, if every secret is mounted."""
    for name, secret in SECRETS.items():
        (folder / name).write_text(secret)
    return parse({}, {**variables, "CREDENTIALS_DIRECTORY": str(folder)})


def test_the_page_has_both_ways_on_both_platforms_and_a_compose_file():
    kinds = [yaml.safe_load(block.text).get("kind", "compose") for block in BLOCKS]
    assert kinds == ["Deployment", "CronJob", "Service", "Job", "compose"]


@pytest.mark.parametrize("block", BLOCKS[:4], ids=lambda block: block.place)
def test_a_manifest_has_a_configuration_that_can_send(block: Block, tmp_path: Path):
    [spec] = specs(yaml.safe_load(block.text))
    [container] = spec["containers"]
    given = {entry["name"]: entry.get("value") for entry in container["env"]}
    by_reference = {name for name, value in given.items() if value is None}
    secrets = {f"NOTIFIERD_{name.replace('.', '_').upper()}": secret for name, secret in SECRETS.items()}
    settings = settings_of(
        {name: secrets[name] if name in by_reference else value for name, value in given.items()}, tmp_path
    )
    assert missing_for_sending(settings) == []
    assert settings.limits.shutdown_grace < spec.get("terminationGracePeriodSeconds", CLOUD_RUN_GRACE)
    assert by_reference or container["volumeMounts"][0]["mountPath"] == "/run/secrets"
    if words := container.get("args"):
        assert cli.commands[words[0]].make_context("notifierd", words[1:]).params["seconds"] == 3600
    for probe in ("livenessProbe", "readinessProbe"):
        assert container.get(probe, {"httpGet": {"port": "http"}})["httpGet"]["port"] == "http"


def test_the_compose_file_has_a_configuration_that_can_send(tmp_path: Path):
    services = yaml.safe_load(BLOCKS[4].text)["services"]
    settings = settings_of(services["notifierd"]["environment"], tmp_path)
    assert missing_for_sending(settings) == []
    assert settings.limits.shutdown_grace < int(services["notifierd"]["stop_grace_period"].removesuffix("s"))
    assert "./secrets:/run/secrets:ro" in services["notifierd"]["volumes"]
