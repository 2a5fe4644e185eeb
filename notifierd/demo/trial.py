"""The sample application with one office, for a PostgreSQL of the reader's own: docs/getting-started.md uses it."""

from importlib.resources import files

from notifierd.demo.application import tables_sql
from notifierd.model.address import parse_address


def trial_sql(address: str) -> str:
    """Return the statements that create keikakun's tables and one office, whose only member of staff has *address*.

    Raises:
        BadAddress: no mail can be sent to *address*.
    """
    quoted = parse_address(address).replace("'", "''")
    rows = files("notifierd.demo").joinpath("trial.sql").read_text(encoding="utf-8")
    return f"{tables_sql()}\n{rows.replace('{address}', quoted)}"
