#!/usr/bin/python3
"""Every query of the dashboard and of the rules returns data from real processes under traffic."""

import json
import re
import tempfile
import threading
import time
import unittest

import yaml

from paths import BINARIES, DASHBOARD, DEPLOY, TINY_MODEL
from prometheus_server import Prometheus
from cluster import Cluster
import lola_client

PATIENCE_SECONDS = 90
_COMPARISON = re.compile(r"\s(?:==|!=|>=|<=|>|<)\s")
_NUMBER = re.compile(r"^-?[\d.]+$")


def dashboard_queries():
    """(panel title, expression) of all panels."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"].replace("$__rate_interval", "30s")


def rule_queries():
    """(rule, expression); of an alert each side of its comparison, false when all is well."""
    for group in yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())["groups"]:
        for rule in group["rules"]:
            if "record" in rule:
                yield rule["record"], rule["expr"]
                yield rule["record"], rule["record"]
                continue
            for side in _COMPARISON.split(rule["expr"]):
                if not _NUMBER.match(side.strip()):
                    yield rule["alert"], side


class Traffic(threading.Thread):
    """A little of everything, over and over: feed, generate, snapshot, migrate, fork, inspect."""

    def __init__(self, client):
        super().__init__(daemon=True)
        self._client, self._end, self.error, self.rounds = client, threading.Event(), None, 0

    def run(self):
        try:
            while not self._end.is_set():
                self._round()
                self.rounds += 1
        except Exception as error:
            self.error = error

    def stop(self):
        self._end.set()
        self.join(60)

    def _round(self):
        name = f"traffic-{self.rounds}"
        with self._client.open(name) as stream:
            stream.append("some words to remember, " * 10)
            stream.complete(max_tokens=40, ignore_eos=True)
            self._client.snapshot(name, "kept")
            self._client.migrate(name)
            stream.complete(max_tokens=40, ignore_eos=True)
        self._client.fork(name, name + "-fork")
        self._client.inspect(name)
        self._client.delete(name + "-fork")
        time.sleep(0.1)


class MetricsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="lola-metrics-test-")
        cls.addClassCleanup(folder.cleanup)
        cls.cluster = Cluster(BINARIES, folder.name, TINY_MODEL,
                              worker_flags=["--checkpoint-interval", "128"])
        cls.cluster.cut(1, "0", ["1"])
        cls.addClassCleanup(cls.cluster.stop)
        try:
            cls.cluster.start()
        except Exception:
            cls.cluster.show_logs()
            raise
        cls.prometheus = Prometheus(cls.cluster, folder.name)
        cls.addClassCleanup(cls.prometheus.stop)
        cls.client = lola_client.Client(cls.cluster.endpoints)
        cls.addClassCleanup(cls.client.close)
        cls.prometheus.wait_ready()
        cls.cluster.wait_healthy(cls.client)

    def test_every_series_is_there_before_any_traffic(self):
        page = "".join(p.metrics_text() for p in self.cluster.processes)
        there = set(re.findall(r"^# TYPE (\S+)", page, re.MULTILINE))
        asked = {name for _, query in [*dashboard_queries(), *rule_queries()]
                 for name in re.findall(r"\blola_\w+", query)}
        missing = {n for n in asked if re.sub(r"_(bucket|sum|count)$", "", n) not in there}
        self.assertEqual(missing, set())
        self.assertTrue(asked)

    def test_every_query_returns_data(self):
        waiting = [*dashboard_queries(), *rule_queries()]
        self.assertGreater(len(waiting), 40)
        traffic = Traffic(self.client)
        traffic.start()
        deadline = time.monotonic() + PATIENCE_SECONDS
        try:
            while waiting and time.monotonic() < deadline and traffic.error is None:
                time.sleep(0.5)
                waiting = [w for w in waiting if not self.prometheus.numbers(w[1])]
        finally:
            traffic.stop()
        if traffic.error is not None:
            self.cluster.show_logs()
            raise traffic.error
        self.assertEqual(waiting, [], f"no data after {traffic.rounds} rounds of traffic")
        self.assertEqual(self.prometheus.numbers("lola_no_such_series"), [])
        self.check_rules_evaluate()

    def check_rules_evaluate(self):
        rules = [r for g in self.prometheus.get("rules")["groups"] for r in g["rules"]]
        self.assertTrue(rules)
        self.assertEqual({r["name"]: r["lastError"] for r in rules if r["health"] == "err"}, {})
        firing = [r["name"] for r in rules if r.get("state") == "firing"
                  and r["labels"].get("severity") == "critical"]
        self.assertEqual(firing, [])


if __name__ == "__main__":
    unittest.main()
