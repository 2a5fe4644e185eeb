"""The image that `make image` builds: built twice by buildah, and run by podman as strictly as clusters run it.

Root only. Without PYTHON_IMAGE, it is built on a Debian with Python that mmdebstrap makes.
"""

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import field, frozen

from tests.support.daemon_process import AHEAD
from tests.support.processes import (
    API_KEY,
    DAY,
    PASSWORD,
    VAPID_KEY,
    Place,
    ended,
    invent,
)

REPOSITORY = Path(__file__).parents[2]
PYTHON = "localhost/python"
SECONDS = 600.0

# A build gets the certificates and the network of this machine, whichever way it has to a package index.
BUILD_ARGS = "--no-cache --isolation chroot --pull=never --network=host --volume /etc/ssl/certs:/etc/ssl/certs:ro"
STRICTLY = (
    *("--rm", "--network=host", "--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--tmpfs=/tmp"),
    *("--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096"),  # without both, nothing runs in a container in CI
)


@frozen
class Engine:
    """Builds and runs images, in a storage of its own."""

    storage: Path

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, "CONTAINERS_STORAGE_CONF": str(self.storage / "storage.conf")}

    def podman(self, *words: str | Path) -> str:
        """Have podman do something; what it printed."""
        return self._run("podman", "--runtime=runc", *words)

    def build(self, name: str) -> None:
        """Build the image as `make image` does."""
        python = os.environ.get("PYTHON_IMAGE", PYTHON)
        more = {"ENGINE": "buildah", "IMAGE": name, "PYTHON_IMAGE": python, "BUILD_ARGS": BUILD_ARGS}
        self._run("make", "image", environ=more)

    def _run(self, *command: str | Path, environ: Mapping[str, str] | None = None) -> str:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env={**self.environ, **(environ or {})},
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout

    @contextmanager
    def running(self, *words: str | Path, options: Sequence[str | Path] = ()) -> "Iterator[subprocess.Popen[str]]":
        """Run notifierd with *words* in a container, which signals to podman reach."""
        command: Sequence[str | Path] = (
            "podman",
            "--runtime=runc",
            "run",
            *STRICTLY,
            *options,
            "notifierd:one",
            *words,
        )
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environ,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Both builds, as notifierd:one and notifierd:two."""
    folder = tmp_path_factory.mktemp("containers")
    lines = ("[storage]", 'driver = "overlay"', f'graphroot = "{folder}/graph"', f'runroot = "{folder}/run"')
    (folder / "storage.conf").write_text("\n".join(lines) + "\n")
    made = Engine(folder)
    if "PYTHON_IMAGE" not in os.environ:
        subprocess.run([REPOSITORY / "release/python-base", folder / "base.tar"], check=True, timeout=SECONDS)
        made.podman("import", folder / "base.tar", PYTHON)
    made.build("notifierd:one")
    made.build("notifierd:two")
    yield made
    made.podman("system", "reset", "--force")


@frozen
class Secrets:
    """A folder with a file for each secret, as an orchestrator mounts it, and all else as variables."""

    place: Place
    folder: Path
    more: Mapping[str, str] = field(factory=dict)

    def options(self) -> list[str | Path]:
        """The mounts and variables, for `podman run`."""
        place = self.place
        dsn = f"postgresql://{place.role}:{PASSWORD}@/{place.database}?host=/run/postgresql"
        secrets = {"database.dsn": dsn, "email.resend.api_key": API_KEY, "push.vapid_private_key": VAPID_KEY}
        for name, secret in secrets.items():
            (self.folder / name).write_text(secret + "\n")
        variables = {
            "NOTIFIERD_EMAIL_SENDER": place.sender,
            "NOTIFIERD_EMAIL_RESEND_BASE_URL": place.servers.mail_url,
            "NOTIFIERD_PUSH_ALLOWED_HOSTS": '["127.0.0.1"]',
            "NOTIFIERD_PUSH_ALLOW_PRIVATE_ADDRESSES": "true",
            "NOTIFIERD_HTTP_BIND": "127.0.0.1:0",
            **self.more,
        }
        socket = f"{place.cluster.socket_dir}/.s.PGSQL.5432:/run/postgresql/.s.PGSQL.5432"
        mounts = (f"--volume={self.folder}:/run/secrets:ro", f"--volume={socket}")
        return [*mounts, *(f"--env={name}={value}" for name, value in variables.items())]


def text(value: object) -> str:
    """A value as a variable has it: a string as it is, all else in TOML's syntax."""
    return value if isinstance(value, str) else json.dumps(value)


def test_two_builds_are_one_image(engine: Engine):
    one, two = (engine.podman("inspect", f"notifierd:{name}", "--format={{.Digest}}") for name in ("one", "two"))
    assert one == two


def test_the_image_is_nobodys_and_says_what_it_runs(engine: Engine):
    [image] = json.loads(engine.podman("inspect", "notifierd:one"))
    config = image["Config"]
    assert (config["User"], config["Entrypoint"], config["Cmd"]) == ("65532:65532", ["notifierd"], ["run"])
    assert (config["StopSignal"], list(config["ExposedPorts"])) == ("SIGTERM", ["9464/tcp"])


def test_it_says_its_commit_and_holds_neither_pip_nor_the_source(engine: Engine):
    with engine.running("--version") as process:
        assert "(commit " in ended(process, 0).out
    look = (
        "import importlib.util as u, os; "
        "print(u.find_spec('pip'), os.path.exists('/src'), os.access('/opt/notifierd', os.W_OK))"
    )
    with engine.running("-c", look, options=["--entrypoint=python"]) as process:
        assert ended(process, 0).out == "None False False\n"


def test_a_days_run_needs_variables_and_mounted_secrets_alone(engine: Engine, place: Place, tmp_path: Path):
    rows = invent(10, push_url=place.servers.push_url)
    place.load(rows)
    (tmp_path / "secrets").mkdir()
    options = Secrets(place, tmp_path / "secrets").options()
    with engine.running("once", "--force", "--day", str(DAY), "--json", options=options) as process:
        assert ended(process, 0).report["status"] == "completed"
    assert place.states() == {"sent": 4 * 10}
    assert sorted(mail.to[0] for mail in place.mails()) == sorted(member.email for member in rows.staff)


def test_the_daemon_is_process_1_and_ends_at_sigterm(engine: Engine, place: Place, tmp_path: Path):
    """Asleep: its window opens in hours."""
    (tmp_path / "secrets").mkdir()
    window = {f"NOTIFIERD_WINDOW_{name.upper()}": text(value) for name, value in AHEAD.items()}
    options = Secrets(place, tmp_path / "secrets", window).options()
    with engine.running(options=[*options, "--name=daemon"]) as process:
        assert process.stderr is not None
        assert any(json.loads(line)["event"] == "ready" for line in process.stderr)
        assert engine.podman("exec", "daemon", "cat", "/proc/1/comm").strip() == "notifierd"
        process.send_signal(signal.SIGTERM)
        ended(process, 0)


def test_a_secret_that_is_mounted_elsewhere_is_named_by_its_variable(engine: Engine, place: Place, tmp_path: Path):
    secret = tmp_path / "key"
    secret.write_text(API_KEY)
    (tmp_path / "secrets").mkdir()
    options = Secrets(place, tmp_path / "secrets", {"NOTIFIERD_EMAIL_RESEND_API_KEY_FILE": "/key"}).options()
    (tmp_path / "secrets/email.resend.api_key").unlink()
    with engine.running("check", options=[*options, f"--volume={secret}:/key:ro"]) as process:
        assert "email.resend.api_key: required" not in ended(process).out
