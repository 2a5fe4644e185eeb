"""The settings that every statement of notifierd runs with, directly and behind a pooler."""

from collections.abc import Mapping
from typing import Final

from attrs import frozen

SEARCH_PATH = "pg_catalog"
"""The only schema in which names without a schema are looked up. PostgreSQL could otherwise prefer a function or an
operator that somebody created in another schema, because its argument types match better (CVE-2018-1058). All other
names are qualified with their schema."""
LOCK_TIMEOUT = "2s"
IDLE_TIMEOUT = "10s"
"""How long a transaction may be idle; shorter than a lease. If a process is cut off or stopped inside a transaction,
its locks would otherwise block the day for every process until the server gives up the connection, which takes
hours."""
KEEPALIVE = "60s"
"""How often the server probes an idle connection, so that no firewall or NAT on the way drops it."""

ROLE_DEFAULTS: Final[Mapping[str, str]] = {
    "lock_timeout": LOCK_TIMEOUT,
    "idle_in_transaction_session_timeout": IDLE_TIMEOUT,
    "statement_timeout": "30s",
    "search_path": SEARCH_PATH,
}
"""The defaults of the daemon's role in its database. They are in force where a connection has not set its own limits:
behind a pooler, until a transaction has set them."""


@frozen
class Guards:
    """The settings of every statement: they limit how long it waits and runs, and where it looks up names.

    Attributes:
        statement_timeout: in seconds.
        read_only: whether PostgreSQL refuses every write.
    """

    statement_timeout: float
    read_only: bool = False

    @property
    def settings(self) -> dict[str, str]:
        """The settings of the server by name, except those of `settle`."""
        return {
            "lock_timeout": LOCK_TIMEOUT,
            "idle_in_transaction_session_timeout": IDLE_TIMEOUT,
            "statement_timeout": f"{int(self.statement_timeout * 1000)}ms",
            "timezone": "UTC",
            # Otherwise PostgreSQL plans a statement with arrays anew each time, which takes longer than one
            # reservation runs.
            "plan_cache_mode": "force_generic_plan",
        }

    @property
    def settle(self) -> str:
        """The statement that restricts a connection's search_path to SEARCH_PATH, and makes it read-only if asked to.

        It returns no row, and changes nothing, if the limits of the connection differ from `settings`. The role's own
        search_path stays the default, for ``db init``, and applies until the statement has run: so every name in it is
        qualified. Read-only is not a startup parameter, because target_session_attrs would then find no server that
        takes writes.
        """
        after = {"search_path": SEARCH_PATH} | ({"default_transaction_read_only": "on"} if self.read_only else {})
        sets = ", ".join(f"pg_catalog.set_config('{name}', '{value}', false)" for name, value in after.items())
        # Compared as intervals: PostgreSQL shows 30000ms as 30s.
        same = " and ".join(
            f"pg_catalog.current_setting('{name}')::pg_catalog.interval"
            f" operator(pg_catalog.=) '{value}'::pg_catalog.interval"
            for name, value in self.settings.items()
            if name.endswith("_timeout")
        )
        return f"select {sets} where {same}"

    @property
    def local(self) -> str:
        """The statements that make all these settings for one transaction."""
        settings = {**self.settings, "search_path": SEARCH_PATH}
        return "; ".join(f"set local {name} = '{value}'" for name, value in settings.items())
