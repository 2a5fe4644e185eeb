"""``/metrics``: what the daemon did and does, in Prometheus' text format 0.0.4.

Names and units follow https://prometheus.io/docs/practices/naming/. The values of each label are a small fixed set:
channels, states, limiters, senders or what became of mails.
"""

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from platform import python_version

from attrs import frozen
from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from notifierd import __version__
from notifierd.model.delivery import OPEN, Channel, State
from notifierd.model.feedback import MailStatus
from notifierd.run.progress import Histogram, Progress
from notifierd.service.stderr import lines_dropped
from notifierd.store.history import Day
from notifierd.web.daemon import DaemonView
from notifierd.web.feedback import Told

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
ENDED = tuple(state for state in State if state not in OPEN)
RUN_STATES = ("completed", "interrupted", "missed")


def _started() -> float:
    """Return when this process started, by the Unix clock: proc(5), field 22 of /proc/PID/stat, in ticks since boot."""
    ticks = int(Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[19])
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


STARTED = _started()  # once: it would move with a clock that is set


def scrape(daemon: DaemonView, days: Sequence[Day] | None, told: Told | None, streams: int) -> bytes:
    """Return the metrics of *daemon* at this moment.

    Args:
        days: the last days in the ledger, from any process, the newest first; None if it cannot be read.
        told: what providers told of the mails of the last days; None if it cannot be read.
        streams: the number of open live pages.
    """
    return generate_latest(_Daemon(daemon, days, told, streams))


@frozen
class _Daemon(Collector):
    """Collects the daemon's state and counters at each scrape; holds no values itself."""

    daemon: DaemonView
    days: Sequence[Day] | None
    told: Told | None
    streams: int

    def collect(self) -> Iterator[Metric]:
        yield from self._process()
        yield from self._configuration()
        yield from self._runs()
        yield from self._ledger()
        yield from self._feedback()
        yield from self._senders()
        yield from self._limiters()

    def _process(self) -> Iterator[Metric]:
        """Yield the metrics of the process itself.

        prometheus_client, which also has them, yields none where /proc/stat is hidden (``ProcSubset=pid``).
        """
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        files = sum(1 for _ in Path("/proc/self/fd").iterdir())
        yield CounterMetricFamily("process_cpu_seconds", "CPU time spent.", time.process_time())
        yield _gauge("process_resident_memory_bytes", "Resident memory.", pages * os.sysconf("SC_PAGE_SIZE"))
        yield _gauge("process_open_fds", "Open file descriptors.", files)
        yield _gauge("process_start_time_seconds", "When the process started, by the Unix clock.", STARTED)

    def _configuration(self) -> Iterator[Metric]:
        daemon = self.daemon
        lost = [((), float(lines_dropped()))]
        yield _counters("notifierd_log_lines_dropped", "Lines of the log that could not be written.", (), lost)
        yield _gauge("notifierd_live_pages", "Pages that are open and live.", self.streams)
        build = [((__version__, python_version()), 1.0)]
        yield _gauges("notifierd_build_info", "1, labelled with what runs.", ("version", "python"), build)
        yield _gauge(
            "notifierd_ready", "Whether it is up, and not stopping.", daemon.status.ready and not daemon.status.stopping
        )
        yield _gauge(
            "notifierd_config_load_timestamp_seconds",
            "When the configuration in force was loaded.",
            daemon.status.loaded_at.timestamp(),
        )
        yield _gauge(
            "notifierd_config_last_reload_successful",
            "Whether the configuration that lies there is the one in force.",
            not daemon.status.refused,
        )
        yield _gauge(
            "notifierd_next_window_timestamp_seconds",
            "When the next window opens; of one that is open and not done, when it opened.",
            daemon.next_window().opens.timestamp(),
        )

    def _runs(self) -> Iterator[Metric]:
        status = self.daemon.status
        metrics, running = status.metrics, status.attempt is not None and status.attempt.progress.has_day
        yield _gauge("notifierd_run_in_progress", "Whether this process runs the day.", running)
        progress = status.attempt.progress if status.attempt and running else Progress()
        yield _gauge("notifierd_members", "Processes that work on the day, this one included.", progress.members)
        yield _gauge("notifierd_leads", "Whether this process leads the day.", progress.leads)
        granted = [((channel,), progress.granted.get(channel, 0)) for channel in Channel]
        text = "Calls at once that this process may make."
        yield _gauges("notifierd_slots_granted", text, ("channel",), granted)
        runs = [((state,), metrics.runs[state]) for state in RUN_STATES]
        yield _counters("notifierd_runs", "Runs that this process ended, or found missed.", ("state",), runs)
        took = [((), metrics.run_seconds)]
        yield _histograms("notifierd_run_duration_seconds", "How long a run took in this process.", (), took)
        ended = [((channel, state), metrics.deliveries[channel, state]) for channel in Channel for state in ENDED]
        text = "Deliveries that this process settled in the ledger, by the state that they ended in."
        yield _counters("notifierd_deliveries", text, ("channel", "state"), ended)

    def _ledger(self) -> Iterator[Metric]:
        """Yield what holds for the day in all processes; nothing while the ledger cannot be read."""
        yield _gauge("notifierd_ledger_readable", "Whether the days could be looked up.", self.days is not None)
        if self.days is None:
            return
        state = next((day.state for day in self.days if day.state != "skipped"), None)
        if state:
            states = [((each,), each == state) for each in ("running", *RUN_STATES)]
            text = "1 for how the run of the last day stands that was not a closed one."
            yield _gauges("notifierd_last_run_state", text, ("state",), states)
        done = next((day.finished_at for day in self.days if day.state == "completed" and day.finished_at), None)
        if done:
            text = "When the last run that was completed ended."
            yield _gauge("notifierd_last_completed_run_timestamp_seconds", text, done.timestamp())
        untold = next((day.untold for day in self.days if day.untold), None)
        if untold:
            alerts = [(("true",), untold.overdue), (("false",), untold.alerts - untold.overdue)]
            text = "Alerts that had reached nobody when the last run ended."
            yield _gauges("notifierd_untold_alerts", text, ("overdue",), alerts)
            yield _gauge("notifierd_untold_offices", "The offices of those.", untold.offices)

    def _feedback(self) -> Iterator[Metric]:
        """Yield what providers told of mails, in all processes; nothing while the ledger cannot be read."""
        if self.told is None:
            return
        mails = Counter[tuple[str, str]]()
        for day in self.told.mails:
            mails.update({(day.provider, status.value): getattr(day, status) for status in MailStatus})
            mails[day.provider, "not_known"] += day.not_known
        text = "Mails of the last 7 days that a provider accepted, by what it told of them since."
        yield _gauges("notifierd_feedback_mails", text, ("provider", "status"), mails.items())
        text = "Until when all that a provider tells of its mails was read."
        until = [((look.provider,), look.complete_until.timestamp()) for look in self.told.looks if look.complete_until]
        yield _gauges("notifierd_feedback_complete_timestamp_seconds", text, ("provider",), until)
        yield _gauge("notifierd_held_addresses", "Staff members whose mails are held back today.", self.told.held)

    def _senders(self) -> Iterator[Metric]:
        metrics, attempt = self.daemon.status.metrics, self.daemon.status.attempt
        took = [((sender,), seconds) for sender, seconds in metrics.call_seconds.items()]
        yield _histograms("notifierd_call_duration_seconds", "How long calls to a provider took.", ("sender",), took)
        trouble = [((sender,), metrics.calls_in_trouble[sender]) for sender in metrics.call_seconds]
        text = "Calls of which something was deferred, refused with us, or lost."
        yield _counters("notifierd_calls_in_trouble", text, ("sender",), trouble)
        transports = attempt.context.transports if attempt and attempt.context else None
        blocked = transports.blocked() if transports else Counter[Channel]()
        refused = [((channel,), blocked[channel]) for channel in Channel]
        yield _gauges("notifierd_blocked_lanes", "Providers and push services that refuse us.", ("channel",), refused)

    def _limiters(self) -> Iterator[Metric]:
        attempt, limits = self.daemon.status.attempt, self.daemon.settings.limits
        limiters = attempt.context.limiters() if attempt and attempt.context else {}
        total, borrowed, waiting = [], [], []
        for name in ("offices", *Channel):
            seen = limiters[name].statistics() if name in limiters else None
            total.append(((name,), getattr(limits, name)))
            borrowed.append(((name,), seen.borrowed_tokens if seen else 0))
            waiting.append(((name,), seen.tasks_waiting if seen else 0))
        yield _gauges("notifierd_limiter_total_tokens", "Slots that there are.", ("limiter",), total)
        yield _gauges("notifierd_limiter_borrowed_tokens", "Slots that are taken.", ("limiter",), borrowed)
        yield _gauges("notifierd_limiter_waiting_tasks", "Tasks that wait for a slot.", ("limiter",), waiting)


Labels = Sequence[str]


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value)


def _gauges(name: str, text: str, labels: Labels, samples: Iterable[tuple[Labels, float]]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _counters(name: str, text: str, labels: Labels, samples: Iterable[tuple[Labels, float]]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _histograms(name: str, text: str, labels: Labels, samples: Iterable[tuple[Labels, Histogram]]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, seen in samples:
        counts = accumulate(seen.counts[index] for index in range(len(seen.bounds) + 1))
        family.add_metric(values, list(zip([*map(str, seen.bounds), "+Inf"], counts, strict=True)), seen.total)
    return family
