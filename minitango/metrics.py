"""What an engine does, for Prometheus: an extra, `pip install 'minitango[metrics]'`.

Counters and histograms are of what this engine does; `minitango_jobs` and `minitango_nodes` are of the whole queue, and
are asked of the store when somebody looks. No name of a student or an assignment is in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from minitango import __version__
from minitango.errors import ConfigError, StoreError
from minitango.job import Outcome, State
from minitango.node import overdue

if TYPE_CHECKING:
    from minitango.engine import Engine
    from minitango.scrape import Scrape
from minitango.events import Event

_WAITS: Final = (0.01, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600)
_RUNS: Final = (0.05, 0.25, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)
_STARTS: Final = (0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Metrics:
    """Hears an engine, and answers who looks by HTTP. `close` it before the engine."""

    def __init__(self, engine: Engine) -> None:
        """ConfigError `metrics_missing`: the package is not installed."""
        try:
            import prometheus_client as prometheus
        except ImportError as error:
            raise ConfigError(
                "metrics need the package prometheus-client, which is not installed",
                hint="pip install 'minitango[metrics]'",
                id="metrics_missing",
            ) from error
        self._engine = engine
        self._registry = registry = prometheus.CollectorRegistry()
        self._served: Scrape | None = None

        def counter(name: str, text: str, *labels: str) -> Any:
            return prometheus.Counter(f"minitango_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Any:
            return prometheus.Histogram(f"minitango_{name}", text, buckets=buckets, registry=registry)

        self._wait = histogram("wait_seconds", "From submission to the start of a job's first attempt.", _WAITS)
        self._run = histogram("run_seconds", "From the start of an attempt to its recorded result.", _RUNS)
        self._box = histogram("sandbox_start_seconds", "Until a step had its sandbox.", _STARTS)
        self._outcomes = counter("outcomes", "Jobs that this engine graded, by what it found.", "outcome")
        self._retries = counter("retries", "Attempts that are made again, by what ended them.", "why")
        self._dead = counter("dead", "Jobs that could not be graded.")
        self._cancelled = counter("cancelled", "Jobs that ended cancelled.")
        self._callbacks = counter("callbacks", "What became of callbacks, as far as it is told.", "became")
        self._trouble = counter("store_troubles", "Times at which the store began to fail.")
        for outcome in Outcome:  # so that each is there from the beginning, as 0
            self._outcomes.labels(outcome.value)
        for became in ("delivered", "failed", "undelivered"):
            self._callbacks.labels(became)
        for why in ("failed", "interrupted", "released"):
            self._retries.labels(why)
        registry.register(_Queue(engine))

    def hear(self, event: Event) -> None:
        """Something happened. For `Engine.subscribe`."""
        job = event.job
        if event.kind.startswith("callback_"):
            self._callbacks.labels(event.kind.removeprefix("callback_")).inc()
            return
        if event.kind == "store_trouble":
            self._trouble.inc()
        if job is None:
            return
        match event.kind:
            case "started" if job.attempt == 1 and job.started is not None:
                self._wait.observe(max(0.0, job.started - job.submitted))
            case "done":
                if job.outcome is not None:
                    self._outcomes.labels(job.outcome.value).inc()
                if job.started is not None and job.ended is not None:
                    self._run.observe(max(0.0, job.ended - job.started))
            case "retried":
                self._retries.labels("failed").inc()
            case "recovered":
                self._retries.labels("interrupted").inc()
            case "released":
                self._retries.labels("released").inc()
            case "dead":
                self._dead.inc()
            case "cancelled":
                self._cancelled.inc()

    def box_opened(self, seconds: float) -> None:
        """A step has its sandbox. For `Engine.on_box`."""
        self._box.observe(seconds)

    def serve(self, host: str, port: int) -> str:
        """Answer at this address from now on, and return it. ConfigError `metrics`: that cannot be."""
        from prometheus_client import make_wsgi_app

        from minitango.scrape import PATH, Scrape

        try:
            self._served = served = Scrape(host, port, make_wsgi_app(self._registry))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"metrics cannot be served at {host}:{port}: {getattr(error, 'strerror', None) or error}",
                hint="name an address of this machine and a port that is free: --metrics 127.0.0.1:9464",
                id="metrics",
            ) from error
        name = f"[{host}]" if ":" in host else host
        return f"http://{name}:{served.port}{PATH}"

    def close(self) -> None:
        """Answer no more. Idempotent."""
        served, self._served = self._served, None
        if served is not None:
            served.close()


class _Queue:
    """The whole queue, as it is when somebody looks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

        store, up = self._engine.store, 1.0
        jobs = GaugeMetricFamily("minitango_jobs", "Jobs of the queue, by state.", labels=["state"])
        nodes = GaugeMetricFamily("minitango_nodes", "Nodes of the queue, by state.", labels=["state"])
        slots = GaugeMetricFamily("minitango_slots", "Jobs that all nodes that are alive can grade at once.")
        try:
            counts = store.counts()
            found, now = store.nodes(), store.now()
        except StoreError:
            up = 0.0
        else:
            for state in State:
                jobs.add_metric([state.value], counts[state])
            alive = [node for node in found if not store.shared or now - node.seen < node.good_for]
            late = [node for node in alive if store.shared and overdue(node, now)]
            heard = [node for node in alive if node not in late]
            by_state = {
                "ready": sum(not node.draining for node in heard),
                "draining": sum(node.draining for node in heard),
                "overdue": len(late),
                "lost": len(found) - len(alive),
            }
            for name, n in by_state.items():
                nodes.add_metric([name], n)
            slots.add_metric([], sum(node.slots for node in alive))
            yield from (jobs, nodes, slots)
        yield GaugeMetricFamily("minitango_store_up", "Whether the store answers.", up)
        sandbox = "" if self._engine.sandbox is None else self._engine.sandbox.name
        about = {"version": __version__, "node": self._engine.node, "sandbox": sandbox}
        yield InfoMetricFamily("minitango_engine", "This engine.", about)
