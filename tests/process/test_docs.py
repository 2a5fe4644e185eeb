"""The manual does what it says: its shell lines are run as they stand, and what they print is what it shows."""

import doctest
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from urllib.parse import urlsplit
from uuid import UUID

import attrs
import pytest
from attrs import frozen

from docs import generate
from notifierd.config.dsn import read_dsn
from notifierd.config.load import keys, parse
from notifierd.config.settings import NetworkSettings, PushSettings
from notifierd.demo.application import tables_sql
from notifierd.demo.postgres import Cluster
from notifierd.demo.sample import load, sample
from notifierd.demo.servers.mail_api import AcceptedMail
from notifierd.demo.servers.process import Servers
from notifierd.demo.servers.trouble import MailConfig, ServersConfig
from notifierd.model.reasons import Reason
from notifierd.store.contract import RIGHTS, VIEWS
from tests.rules.test_lifecycle_machine import WAYS
from tests.support.certificates import certificate
from tests.support.daemon_process import OPEN, TODAY
from tests.support.manual import REPOSITORY, SHELL, Block, blocks, pages
from tests.support.processes import VAPID_KEY, Tables, run, write_config

pytestmark = pytest.mark.usefixtures("_forked_commands")  # those of the tests: the pages' own are started by bash

API_KEY = "re_your_key"
SECONDS = 120.0

# What differs from run to run, and from machine to machine, and is shown by an example.
_VARIES = (
    (r"\d{4}-\d\d-\d\d", "DATE"),
    (r"\d+\.\d s\b", "SECONDS"),
    (r"PostgreSQL \d+(\.\d+)?( \(.*?\))?", "POSTGRESQL"),
    (r"http://127\.0\.0\.1:\d+", "https://api.resend.com"),
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID"),
)
_NOT_CLONED = shutil.ignore_patterns(".*", "__pycache__", "_build", "build", "dist", "htmlcov", "mutants")
_LOOSELY = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@frozen
class Reader:
    """Somebody with a fresh checkout, a PostgreSQL with keikakun in it, and an account at a mail provider.

    Attributes:
        seen: mails that the provider had accepted before.
    """

    home: Path
    cluster: Cluster
    servers: Servers
    seen: int

    def follow(self, page: str) -> None:
        """Do what *page* says, from the top."""
        todo = [block for block in blocks(page) if block.is_done_here]
        out = self.home / "printed"
        out.mkdir()
        script = ["set -eu -o pipefail", *(_script(block, out / str(number)) for number, block in enumerate(todo))]
        done = subprocess.run(
            ["bash", "-c", "\n".join(script)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.home / "notifierd",
            env=self._environ(),
            timeout=SECONDS,
            check=False,
        )
        if done.returncode != 0:
            last = max(out.iterdir(), key=lambda file: file.stat().st_mtime_ns, default=None)
            pytest.fail(f"{page}: {done.stderr}\n{last.read_text(encoding='utf-8') if last else ''}", pytrace=False)
        for number, block in enumerate(todo):
            for place, (command, shown) in enumerate(() if block.remark else block.commands()):
                printed = (out / f"{number}.{place}").read_text(encoding="utf-8")
                if shown is not None:
                    _compare(f"{block.place}: {command}", shown, printed)

    def mails(self) -> list[AcceptedMail]:
        """The mails that the provider took."""
        return self.servers.mails()[self.seen :]

    def _environ(self) -> dict[str, str]:
        path = (Path(sys.executable).parent, self.cluster.bin_dir, os.environ["PATH"])
        return {
            "PATH": os.pathsep.join(map(str, path)),
            "HOME": str(self.home),
            "TMPDIR": str(self.home / "tmp"),
            "LC_ALL": "C.UTF-8",
            "PGHOST": str(self.cluster.socket_dir),
            "PGUSER": "postgres",
            "ADMIN": self.cluster.dsn("keikakun"),
            # A business day, whichever it is, and about noon: no test meets its end.
            "PGTZ": str(OPEN["timezone"]),
            "NOTIFIERD_WINDOW_TIMEZONE": str(OPEN["timezone"]),
            "NOTIFIERD_WINDOW_HOLIDAYS": "",
            "NOTIFIERD_WINDOW_CLOSED_WEEKDAYS": "[]",
            "NOTIFIERD_EMAIL_RESEND_BASE_URL": self.servers.mail_url,
            "NOTIFIERD_HTTP_BIND": "127.0.0.1:0",
        }


def _script(block: Block, out: Path) -> str:
    """What does as *block* says, and keeps what each of its commands prints."""
    if block.remark:
        command = f"cat >>{quote(block.file)}" if block.file else "git apply"
        return f"{command} <<'END OF THE BLOCK'\n{block.text}END OF THE BLOCK"
    return "\n".join(
        f"{{ echo {quote(f'== {block.place}')} >&2\n{command}\n}} >{quote(f'{out}.{place}')}"
        for place, (command, _) in enumerate(block.commands())
    )


def _compare(what: str, shown: str, printed: str) -> None:
    for pattern, name in _VARIES:
        shown, printed = re.sub(pattern, name, shown), re.sub(pattern, name, printed)
    if not doctest.OutputChecker().check_output(shown, printed, _LOOSELY):
        pytest.fail(f"{what}\nthe page shows:\n{shown}\nit prints:\n{printed}", pytrace=False)


@contextmanager
def restored(cluster: Cluster) -> Iterator[None]:
    """Drop the databases and the roles that the block makes: pages give them names of their own."""

    def names() -> tuple[set[str], set[str]]:
        databases, roles = "select datname from pg_database", "select rolname from pg_roles"
        return set(cluster.psql(databases).splitlines()), set(cluster.psql(roles).splitlines())

    before = names()
    try:
        yield
    finally:
        databases, roles = (now - then for now, then in zip(names(), before, strict=True))
        for database in databases:
            cluster.drop_database(database)
        for role in roles:
            cluster.psql(f'drop role "{role}"')


@pytest.fixture
def reader(cluster: Cluster, servers: Servers, tmp_path: Path) -> Iterator[Reader]:
    shutil.copytree(REPOSITORY, tmp_path / "notifierd", ignore=_NOT_CLONED)
    (tmp_path / "tmp").mkdir()
    with restored(cluster):
        cluster.create_database("keikakun")
        cluster.psql(tables_sql(), "keikakun")
        servers.configure(ServersConfig(MailConfig(api_key=API_KEY)))
        yield Reader(tmp_path, cluster, servers, len(servers.mails()))


def test_getting_started_ends_in_one_mail(reader: Reader):
    reader.follow("docs/getting-started.md")
    assert [mail.to for mail in reader.mails()] == [("you@example.jp",)]


def test_the_lines_for_an_operator_do_what_they_say(reader: Reader):
    """Those for the database; the others are run by tests/system."""
    reader.follow("docs/operations.md")


def test_the_commands_that_look_on_do_so(reader: Reader):
    """Beside an application of five offices, from the plan of a day to the day's run."""
    invented, clone = sample(5, TODAY, reader.servers.push_url), reader.home / "notifierd"
    load(reader.cluster, "keikakun", invented)
    devices = attrs.evolve(invented.servers().push, gone=())
    reader.servers.configure(ServersConfig(MailConfig(api_key=API_KEY), devices))
    dsn = reader.cluster.dsn("keikakun")
    run("db", "init", "--preset", "keikakun", "--dsn", dsn, cwd=clone, code=0)
    tables: Tables = {
        "database": {"dsn": dsn},
        "email": {"sender": "keikakun <notice@example.jp>"},
        "email.resend": {"api_key": API_KEY},
        "push": {"vapid_private_key": VAPID_KEY, "allowed_hosts": ["127.0.0.1"], "allow_private_addresses": True},
    }
    write_config(clone, tables)
    reader.follow("docs/commands.md")
    trials = [mail for mail in reader.mails() if mail.to == ("me@example.jp",)]
    assert (len(trials), len(reader.mails()) - len(trials)) == (1, len(invented.expected().mails))


def test_the_views_are_off_for_a_migration_and_back_after_it(reader: Reader):
    dsn = reader.cluster.dsn("keikakun")
    run("db", "init", "--preset", "keikakun", "--dsn", dsn, cwd=reader.home, code=0)
    reader.follow("docs/databases.md")
    width = (
        "select character_maximum_length from information_schema.columns where table_name = 'staffs' and column_name"
    )
    assert reader.cluster.psql(f"{width} = 'full_name'", "keikakun") == "300\n"
    assert reader.cluster.psql("select count(*) from notifierd.staff", "keikakun") == "0\n"


def test_moving_over_leads_to_a_run_that_reaches_no_staff_and_back(reader: Reader):
    """Every mail of the first run goes to the operator, and afterwards nothing of notifierd is left but audit rows."""
    invented = sample(5, TODAY, reader.servers.push_url)
    load(reader.cluster, "keikakun", invented)
    reader.follow("docs/moving-over.md")
    mails = reader.mails()
    assert {mail.to for mail in mails} == {("you@example.jp",)}
    assert len(mails) == len(invented.expected().mails)
    left = "select count(*) from pg_roles where rolname = 'notifierd' union all select count(*) from audit_logs"
    assert reader.cluster.psql(left, "keikakun") == f"0\n{len(mails)}\n"


def test_upgrading_leads_to_the_newest_schema_and_back(reader: Reader):
    dsn = reader.cluster.dsn("keikakun")
    reader.cluster.psql("create role notifierd login", "keikakun")
    run("db", "init", "--preset", "keikakun", "--dsn", dsn, "--role", "notifierd", cwd=reader.home, code=0)
    reader.follow("docs/upgrading.md")
    run("db", "status", "--dsn", dsn, cwd=reader.home, code=0)


@pytest.mark.parametrize(
    "dsn", re.findall(r"postgresql://[^\s`\"]+", (REPOSITORY / "docs/databases.md").read_text(encoding="utf-8"))
)
def test_an_address_that_the_page_shows_can_be_read(dsn: str):
    assert read_dsn(dsn, {}).user == "notifierd"


def test_the_lines_about_a_proxy_do_what_they_say(reader: Reader):
    dsn = reader.cluster.dsn("keikakun")
    run("db", "init", "--preset", "keikakun", "--dsn", dsn, cwd=reader.home, code=0)
    tables: Tables = {
        "database": {"dsn": dsn},
        "email": {"sender": "keikakun <notice@example.jp>"},
        "email.resend": {"api_key": API_KEY},
        "push": {"vapid_private_key": VAPID_KEY},
    }
    write_config(reader.home / "notifierd", tables)
    reader.follow("docs/networks.md")


@pytest.mark.parametrize("block", [block for block in blocks("docs/networks.md") if block.language == "toml"])
def test_what_the_page_writes_about_networks_is_a_configuration(block: Block, tmp_path: Path):
    certificate(tmp_path / "company-ca.pem")
    text = block.text.replace("/etc/notifierd", str(tmp_path))
    assert parse(tomllib.loads(text), {}).network != NetworkSettings()


def test_every_host_that_is_called_by_default_is_listed():
    page = (REPOSITORY / "docs/networks.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`([^` ]+)`", page.partition("## What must be reachable\n")[2].partition("Another `")[0]))
    urls = [field.default for dotted, field in keys() if dotted.endswith(("base_url", "token_url")) and field.default]
    assert len(urls) >= 6
    assert {urlsplit(url).hostname for url in urls} | {*PushSettings().allowed_hosts} <= listed


def test_every_reason_of_the_network_is_explained_there():
    page = (REPOSITORY / "docs/networks.md").read_text(encoding="utf-8").partition("## When something goes wrong\n")[2]
    named = {code.partition(":")[0] for code in re.findall(r"`([a-z_]+(?::\d+)?)`", page)}
    assert {str(reason) for reason in Reason if reason.startswith(("proxy_", "certificate_"))} <= named


def test_another_application_needs_but_five_views(reader: Reader):
    """They are read, written and deleted through."""
    reader.follow("docs/another-application.md")
    assert [mail.to for mail in reader.mails()] == [("you@example.jp",)]
    row = "(teacher_id, endpoint, p256dh, auth) values (1, 'https://push.example.net', 'p', 'a')"
    reader.cluster.psql(f"insert into browsers {row}", "nurseries")
    gone = "delete from notifierd.devices where endpoint = 'https://push.example.net' returning staff_id"
    assert reader.cluster.psql(gone, reader.cluster.dsn("nurseries", "notifierd")) == f"{UUID(int=1)}\n"
    assert reader.cluster.psql("select count(*) from browsers", "nurseries") == "0\n"


def test_a_provider_that_is_added_keeps_the_contract(reader: Reader):
    """The page's module, diffs and tests, on a copy of everything."""
    (reader.home / "notifierd" / ".venv").symlink_to(sys.prefix)
    reader.follow("docs/adding-a-provider.md")


RUN = {
    "docs/adding-a-provider.md",
    "docs/another-application.md",
    "docs/commands.md",
    "docs/databases.md",
    "docs/feedback.md",
    "docs/getting-started.md",
    "docs/moving-over.md",
    "docs/networks.md",
    "docs/operations.md",
    "docs/upgrading.md",
}
"""The pages that a test above follows, or one of tests/process/test_docs_feedback.py."""


def test_every_shell_line_is_run_or_says_why_not():
    """By a page's test, or as root by tests/system; what neither can run is rare. Japanese pages repeat the lines."""
    english = [page for page in pages() if not page.endswith(".ja.md")]
    shell = [block for page in english for block in blocks(page) if block.language in SHELL]
    assert {block.page for block in shell if not block.remark} == RUN
    left = [block for block in shell if block.remark and not block.remark.startswith("run by tests/system")]
    assert all(block.remark.startswith("not run: ") for block in left)
    assert len(left) <= 8, [block.place for block in left]


def test_no_shell_line_hides_in_an_indented_block():
    for page in pages():
        text = re.sub(r"(?ms)^```.*?^```$", "", (REPOSITORY / page).read_text(encoding="utf-8"))
        assert not re.findall(r"(?m)^\n {4}\S.*", text), page


def test_the_readmes_in_both_languages_have_the_same_blocks_and_links():
    both = [(REPOSITORY / page).read_text(encoding="utf-8") for page in ("README.md", "README.ja.md")]
    english, japanese = ([block.text for block in blocks(page)] for page in ("README.md", "README.ja.md"))
    assert english == japanese
    here, there = (re.findall(r"\]\((.*?)\)", text) for text in both)
    assert (here[0], there[0]) == ("README.ja.md", "README.md")
    linked = [link.replace("docs/operations.ja.md", "").replace(".ja.md", ".md") for link in there[1:]]
    assert here[1:] == [*filter(None, linked)], "and a Japanese page where there is one"
    assert [link for link in here + there if not (REPOSITORY / link).exists()] == []


def test_the_links_of_the_pages_at_the_root_lead_somewhere():
    pages = {page.name: page.read_text(encoding="utf-8") for page in REPOSITORY.glob("*.md")}
    assert {"CHANGELOG.md", "CONTRIBUTING.md", "README.ja.md", "README.md", "SECURITY.md"} <= pages.keys()
    for page, text in pages.items():
        links = [link for link in re.findall(r"\]\(([^)#]*)", text) if not re.match(r"https?:|$", link)]
        assert [link for link in links if not (REPOSITORY / link).exists()] == [], page


def test_a_source_distribution_has_every_page_at_the_root():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    pages = {f"/{page.name}" for page in REPOSITORY.glob("*.md")}
    assert pages - {*included, f"/{project['project']['readme']}"} == set()


@pytest.mark.parametrize("page", generate.PAGES)
def test_a_page_that_is_generated_is_up_to_date(page: str):
    assert (REPOSITORY / "docs" / page).read_text(encoding="utf-8") == generate.PAGES[page](), "run `make docs`"


# What the log can say at these levels: by name, by Status.enter, or as one of two.
ERRORS = re.compile(r'log\.error\(\s*"(\w+)"|\.critical\("(\w+)"|"(\w+)", error=True|log\.error if \w+ == "(\w+)"')
WARNINGS = re.compile(r'\.warning\(\s*"(\w+)"')


def test_every_alarm_and_warning_of_the_log_has_its_entry_and_no_other():
    code = "".join(file.read_text(encoding="utf-8") for file in REPOSITORY.glob("notifierd/**/*.py"))
    errors = {next(filter(None, found)) for found in ERRORS.findall(code)}
    unread = re.findall(r"log\.error(?!\(\s*\"\w+\"| if \w+ ==).*", code)
    assert unread == ["log.error if error else log.info)(event, **labels)"]  # Status.enter's own

    page = (REPOSITORY / "docs/operations.md").read_text(encoding="utf-8")
    alarms, _, warnings = page.partition("## When an alarm rings\n")[2].partition("### Warnings\n")
    assert set(re.findall(r"(?m)^### (\w+)$", alarms)) == errors
    named = re.findall(r"(?m)^\| (`.*?`) \|", warnings)
    assert set(re.findall(r"`(\w+)`", " ".join(named))) == set(WARNINGS.findall(code))


def test_every_table_of_the_ledger_is_worth_a_word_on_backups():
    page = (REPOSITORY / "docs/operations.md").read_text(encoding="utf-8")
    section = page.partition("## Backup\n")[2].partition("```")[0]
    rows = re.findall(r"(?m)^\| (`.*?) \|", section)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == RIGHTS.keys() - VIEWS.keys()


def test_every_metric_has_its_line_and_no_other():
    code = (REPOSITORY / "notifierd/web/metrics.py").read_text(encoding="utf-8")
    made = re.findall(r'_(gauges?|counters|histograms)\(\s*"(notifierd_\w+)"', code)
    assert len(made) == code.count('"notifierd_')
    page = (REPOSITORY / "docs/operations.md").read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\| (`notifierd_.*?) \|", page)
    assert sorted(re.findall(r"`(notifierd_\w+)", " ".join(rows))) == sorted(
        name + "_total" * (kind == "counters") for kind, name in made
    )


def test_every_cause_that_the_webhook_hears_of_has_its_line():
    code = (REPOSITORY / "notifierd/rules/alarms.py").read_text(encoding="utf-8")
    causes = set(re.findall(r'Alarm\(\s*[\w.]+,\s*f?"(\w+)', code))
    page = (REPOSITORY / "docs/operations.md").read_text(encoding="utf-8")
    listed = page.partition("## Who is told\n")[2].partition("A post that")[0]
    assert set(re.findall(r"(?m)^\| `(\w+)", listed)) == causes


def test_the_drawing_of_a_deliverys_life_has_every_way_and_no_other():
    drawing = (REPOSITORY / "docs/images/life.svg").read_text(encoding="utf-8")
    drawn = re.findall(r'data-from="(\w+)" data-to="(\w+)"', drawing)
    assert sorted(drawn) == sorted((start.value, end.value) for start, ends in WAYS.items() for end in ends)
