"""Debian's prometheus as a child process: scrapes a cluster every second, with our rules."""

import json
import pathlib
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

import yaml
from paths import DEPLOY
from ports import reserve_port

_JOBS = {"lola-gateway": "gateways", "lola-worker": "workers", "lola-memory": "shards",
         "lola-stage": "stages"}


class Prometheus:
    def __init__(self, cluster, folder):
        """Takes the shipped configuration; only targets and intervals are this test's."""
        folder = pathlib.Path(folder)
        shipped = DEPLOY / "prometheus" / "prometheus.yml"
        config = yaml.safe_load(shipped.read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(shipped.parent / name) for name in config["rule_files"]]
        for job in config["scrape_configs"]:
            processes = getattr(cluster, _JOBS[job["job_name"]])
            job.pop("file_sd_configs", None)
            job["static_configs"] = [{"targets": [p.metrics for p in processes]}]
        file = folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        self.url = f"http://127.0.0.1:{reserve_port()}"
        self.log = folder / "prometheus.log"
        with open(self.log, "wb") as log:
            self._child = subprocess.Popen(
                ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder / 'tsdb'}",
                 f"--web.listen-address={self.url.removeprefix('http://')}"],
                stdout=log, stderr=log)

    def stop(self):
        self._child.terminate()
        try:
            self._child.wait(10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def get(self, path, **parameters):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with opener.open(url, timeout=10) as reply:
                return json.load(reply)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def wait_ready(self, seconds=30):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._child.poll() is not None:
                break
            try:
                self.get("query", query="1")
                return
            except (AssertionError, OSError):  # 503, or nobody listens yet
                time.sleep(0.1)
        raise AssertionError("prometheus did not start:\n" + self.log.read_text()[-2000:])

    def numbers(self, expression):
        """The values of an instant query that are numbers (not NaN)."""
        result = self.get("query", query=expression)["result"]
        values = [float(sample["value"][1]) for sample in result]
        return [v for v in values if v == v]
