"""The image that `make image` builds: built twice by buildah, and run by podman as strictly as clusters run it.

Root only. Without PYTHON_IMAGE, it is built on a Debian with Python that mmdebstrap makes.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
import yaml
from attrs import evolve, frozen

from notifierd.demo.sample import load, sample
from notifierd.demo.servers.process import Servers
from notifierd.demo.show import judge
from notifierd.rules.report import RunReport
from tests.process.test_containers_page import BLOCKS, specs
from tests.support.daemon_process import AHEAD
from tests.support.pages import poison
from tests.support.processes import API_KEY, DAY, PASSWORD, VAPID_KEY, Place, ended, until

REPOSITORY = Path(__file__).parents[2]
PYTHON = "localhost/python"
SECONDS = 1200.0

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
        # In its own namespace: what mmdebstrap mounts goes with it, however it ends.
        base: list[str | Path] = ["unshare", "--mount", REPOSITORY / "release/python-base", folder / "base.tar"]
        subprocess.run(base, check=True, timeout=SECONDS)
        made.podman("import", folder / "base.tar", PYTHON)
    with ThreadPoolExecutor() as pool:
        list(pool.map(made.build, ("notifierd:one", "notifierd:two")))
    yield made
    made.podman("system", "reset", "--force")


def secrets_of(place: Place) -> dict[str, str]:
    """The secrets by their keys."""
    dsn = f"postgresql://{place.role}:{PASSWORD}@/{place.database}?host=/run/postgresql"
    return {"database.dsn": dsn, "email.resend.api_key": API_KEY, "push.vapid_private_key": VAPID_KEY}


def options_of(place: Place, variables: Mapping[str, str]) -> list[str | Path]:
    """For `podman run`: *variables*, and the database's socket."""
    socket = f"{place.cluster.socket_dir}/.s.PGSQL.5432:/run/postgresql/.s.PGSQL.5432"
    return [f"--volume={socket}", *(f"--env={name}={value}" for name, value in variables.items())]


def mounted(place: Place, folder: Path, **more: str) -> list[str | Path]:
    """For `podman run`: a file in *folder* for each secret, as an orchestrator mounts it, and all else as variables."""
    folder.mkdir()
    for name, secret in secrets_of(place).items():
        (folder / name).write_text(secret + "\n")
    variables = {
        "NOTIFIERD_EMAIL_SENDER": place.sender,
        "NOTIFIERD_EMAIL_RESEND_BASE_URL": place.servers.mail_url,
        "NOTIFIERD_PUSH_ALLOWED_HOSTS": '["127.0.0.1"]',
        "NOTIFIERD_PUSH_ALLOW_PRIVATE_ADDRESSES": "true",
        "NOTIFIERD_HTTP_BIND": "127.0.0.1:0",
        **more,
    }
    return [f"--volume={folder}:/run/secrets:ro", *options_of(place, variables)]


def on_cloud_run(kind: str, place: Place, **own: str) -> tuple[Sequence[str], list[str | Path]]:
    """What docs/containers.md has Cloud Run start, with the variables that Cloud Run sets: arguments and options."""
    [found] = [yaml.safe_load(block.text) for block in BLOCKS if f"\nkind: {kind}\n" in block.text]
    [spec] = specs(found)
    [container] = spec["containers"]
    secrets = {variable_of(key): secret for key, secret in secrets_of(place).items()}
    secrets[variable_of("http.token")] = "a-token-of-the-tests"
    variables = {one["name"]: one.get("value") or secrets[one["name"]] for one in container["env"]}
    return container.get("args", ()), options_of(place, {**variables, **own})


def variable_of(key: str) -> str:
    """The variable of a configuration key."""
    return f"NOTIFIERD_{key.replace('.', '_').upper()}"


def text(value: object) -> str:
    """A value as a variable has it: a string as it is, all else in TOML's syntax."""
    return value if isinstance(value, str) else json.dumps(value)


def test_hadolint_has_nothing_to_say_against_the_containerfile():
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, REPOSITORY / "Containerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


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


def test_a_days_run_is_what_the_demo_demands(engine: Engine, place: Place, tmp_path: Path):
    """Message for message, with the demo's faults; from variables and mounted files alone."""
    invented = sample(10, DAY, place.servers.push_url)
    load(place.cluster, place.database, invented)
    servers = invented.servers()
    place.servers.configure(evolve(servers, mail=evolve(servers.mail, api_key=API_KEY)))
    poison(place, invented)
    options = mounted(place, tmp_path / "secrets", NOTIFIERD_CONTENT_TEMPLATES="/etc/notifierd/templates")
    templates = f"--volume={place.folder}/templates:/etc/notifierd/templates:ro"
    with engine.running("once", "--force", "--day", str(DAY), "--json", options=[*options, templates]) as process:
        report = ended(process, 1).report  # as one mail was rejected, and one office failed
    verdict = judge(invented, cast("Servers", place), cast("RunReport", SimpleNamespace(as_json=lambda: report)))
    assert verdict.surprises == ()
    assert verdict.mails > 50


def test_the_daemon_is_process_1_and_ends_at_sigterm(engine: Engine, place: Place, tmp_path: Path):
    """Asleep: its window opens in hours."""
    window = {variable_of(f"window.{name}"): text(value) for name, value in AHEAD.items()}
    options = mounted(place, tmp_path / "secrets", **window)
    with engine.running(options=[*options, "--name=daemon"]) as process:
        await_event(process, "ready")
        assert engine.podman("exec", "daemon", "cat", "/proc/1/comm").strip() == "notifierd"
        process.send_signal(signal.SIGTERM)
        ended(process, 0)


def test_the_service_that_the_page_shows_for_cloud_run_is_ready_and_ends(engine: Engine, place: Place):
    own = {"K_SERVICE": "notifierd", "PORT": "9464"}
    arguments, options = on_cloud_run("Service", place, **own, NOTIFIERD_HTTP_BIND="0.0.0.0:0")
    with engine.running(*arguments, options=options) as process:
        [address] = await_event(process, "listening")["addresses"]
        port = address.rpartition(":")[2]
        until(lambda: httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200, "readiness")
        process.send_signal(signal.SIGTERM)
        ended(process, 0)


def test_the_job_that_the_page_shows_for_cloud_run_ends_by_itself(engine: Engine, place: Place):
    arguments, options = on_cloud_run("Job", place, CLOUD_RUN_JOB="notifierd", CLOUD_RUN_TASK_ATTEMPT="0")
    with engine.running(*arguments, options=options) as process:
        assert ended(process, 0).report["status"] in {"completed", "skipped"}


def test_a_secret_that_is_mounted_elsewhere_is_named_by_its_variable(engine: Engine, place: Place, tmp_path: Path):
    secret = tmp_path / "key"
    secret.write_text(API_KEY)
    options = mounted(place, tmp_path / "secrets", NOTIFIERD_EMAIL_RESEND_API_KEY_FILE="/key")
    (tmp_path / "secrets/email.resend.api_key").unlink()
    with engine.running("check", options=[*options, f"--volume={secret}:/key:ro"]) as process:
        assert "email.resend.api_key: required" not in ended(process).out


def await_event(process: "subprocess.Popen[str]", event: str) -> dict[str, Any]:
    """The first line of the log with this *event*."""
    assert process.stderr is not None
    lines: Iterator[dict[str, Any]] = map(json.loads, process.stderr)
    return next(line for line in lines if line["event"] == event)
