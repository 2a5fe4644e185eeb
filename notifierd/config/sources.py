"""Where the configuration comes from: which file is read, and which environment variables are notifierd's own."""

import re
from collections.abc import Mapping
from pathlib import Path

from notifierd.model.counts import counted
from notifierd.model.errors import ConfigError

PREFIX = "NOTIFIERD_"
SYSTEM_CONFIG = Path("/etc/notifierd/config.toml")

_INJECTED = re.compile(
    rf"{PREFIX}(\w+_)?"
    r"(SERVICE_HOST=.*"
    r"|SERVICE_PORT(_\w+)?=[0-9]+"
    r"|PORT=(tcp|udp|sctp)://.*"
    r"|PORT_[0-9]+_(TCP|UDP|SCTP)(_\w+)?=.*"
    r"|NAME=/.*"
    r"|ENV_\w+=.*)",
    re.ASCII | re.DOTALL,
)
"""The variables, with their values, of a Kubernetes Service or a Docker link whose name begins with "notifierd".

Kubernetes sets those of every Service of a pod's namespace
(https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables), Docker those of linked
containers (https://docs.docker.com/engine/network/links/#environment-variables), which include NAME and ENV_*.
"""


def own_variables(environ: Mapping[str, str]) -> list[str]:
    """Return the names of the variables in *environ* that are meant for notifierd, known or misspelt."""
    return [name for name in environ if name.startswith(PREFIX) and not _INJECTED.fullmatch(f"{name}={environ[name]}")]


def find_config(path: Path | None, cwd: Path, environ: Mapping[str, str], system: Path = SYSTEM_CONFIG) -> Path | None:
    """Return *path* if given, else ``config.toml`` in *cwd*, else *system*.

    Return None if neither file exists and *environ* has variables of notifierd: they are the configuration.

    Raises:
        ConfigError: there is no configuration.
    """
    places = [path] if path else [cwd / "config.toml", system]
    for place in places:
        if place == path or is_there(place):
            return place
    if own_variables(environ):
        return None
    looked = " and ".join(map(str, places))
    advice = (
        "name one with --config FILE, copy notifierd's annotated config.toml to one of these places, or set "
        f"environment variables, {PREFIX}EMAIL_SENDER and so on"
    )
    raise ConfigError((f"no configuration file: looked for {looked} ({advice})",))


def origin(place: Path | None, environ: Mapping[str, str]) -> str:
    """Return in words where the configuration comes from; *place* is what `find_config` returned."""
    variables = counted(len(own_variables(environ)), "environment variable")
    if place is None:
        return f"comes from {variables} alone: there is no configuration file"
    return f"comes from {place}" + (f" and {variables}" if own_variables(environ) else "")


def is_there(path: Path) -> bool:
    """Return whether *path* exists, readable or not: reading it then reports the problem."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True
