#!/usr/bin/python3
"""The deployment files fit each other and the programs: flags, addresses, partitions, deadlines."""

import json
import pathlib
import re
import subprocess
import tempfile
import tomllib
import unittest

import yaml

from paths import BINARIES, DASHBOARD, DEPLOY, ROOT
from cluster import partition_map

KUBERNETES = DEPLOY / "kubernetes"
PIPELINE = DEPLOY / "kubernetes-pipeline"
WORKER_PATCH = PIPELINE / "worker-patch.yaml"


def seconds(text):
    match = re.fullmatch(r"(\d+)(s|m)", str(text))
    return int(match.group(1)) * {"s": 1, "m": 60}[match.group(2)]


def flags_of(arguments):
    """{"bind": "0.0.0.0:1"} of ["--bind=0.0.0.0:1"]; a flag without value is "true"."""
    found = {}
    for argument in arguments:
        assert argument.startswith("--"), argument
        name, equals, value = argument[2:].partition("=")
        found[name] = value if equals else "true"
    return found


def known_flags(program):
    done = subprocess.run([BINARIES / program, "--help"], capture_output=True, text=True,
                          check=True)
    return set(re.findall(r"^\s+--([a-z][a-z-]*)", done.stdout, re.MULTILINE))


def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def compose_commands():
    """service -> (program, flags)"""
    return {name: (s["command"][0], flags_of(s["command"][1:]))
            for name, s in compose()["services"].items() if s.get("image") == "lola"}


def manifests():
    for file in sorted([*KUBERNETES.glob("*.yaml"), *PIPELINE.glob("*.yaml")]):
        if file != WORKER_PATCH:
            yield from yaml.safe_load_all(file.read_text())


def manifest(kind, name):
    return next(m for m in manifests() if m["kind"] == kind and m["metadata"]["name"] == name)


def pipeline_commands():
    """service -> (program, flags) of what compose.pipeline.yaml adds or changes"""
    services = yaml.safe_load((DEPLOY / "compose.pipeline.yaml").read_text())["services"]
    return {name: (s["command"][0], flags_of(s["command"][1:]))
            for name, s in services.items() if "command" in s}


def patched_worker():
    """Container and flags of the worker as kubernetes-pipeline makes it."""
    patch = yaml.safe_load(WORKER_PATCH.read_text())
    container = patch["spec"]["template"]["spec"]["containers"][0]
    return container, flags_of(container["args"])


def model_layers(model):
    return json.loads((ROOT / model.lstrip("/") / "config.json").read_text())["num_hidden_layers"]


def layers_of(text):
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def workloads():
    for item in manifests():
        if item["kind"] in ("Deployment", "StatefulSet"):
            pod = item["spec"]["template"]["spec"]
            container = pod["containers"][0]
            yield item, pod, container, flags_of(container["args"])


class FilesTest(unittest.TestCase):
    def check_map(self, text, addresses):
        """Every partition once; the shards at `addresses` (id -> address)."""
        parsed = json.loads(text)
        held = []
        for shard in parsed["shards"]:
            for part in shard["partitions"]:
                first, _, last = part.partition("-")
                held += range(int(first), int(last or first) + 1)
        self.assertEqual(sorted(held), list(range(parsed["partitions"])))
        self.assertEqual({s["id"]: s["address"] for s in parsed["shards"]}, addresses)

    def test_every_yaml_and_json_file_parses(self):
        files = [f for f in DEPLOY.rglob("*") if f.suffix in (".yaml", ".yml")]
        self.assertGreater(len(files), 8)
        for file in files:
            self.assertTrue(list(yaml.safe_load_all(file.read_text())), file)
        for file in DEPLOY.rglob("*.json"):
            json.loads(file.read_text())

    def test_programs_know_every_flag_that_is_used(self):
        known = {}

        def check(program, flags, where):
            if program not in known:
                known[program] = known_flags(program)
            self.assertEqual(set(flags) - known[program], set(), f"{where}: {program}")

        for service, (program, flags) in [*compose_commands().items(),
                                          *pipeline_commands().items()]:
            check(program, flags, f"compose {service}")
        check("lola-worker", patched_worker()[1], "kubernetes-pipeline worker")
        for item, _, container, flags in workloads():
            check(container["command"][0], flags, item["metadata"]["name"])
        for file in (DEPLOY / "config").glob("*.toml"):
            check(f"lola-{file.stem}", tomllib.loads(file.read_text()), file.name)
        dockerfile = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
        command = json.loads(re.search(r"^CMD (\[.*\])", dockerfile, re.MULTILINE).group(1))
        check(command[0], [a[2:] for a in command if a.startswith("--")], "Dockerfile")

    def test_binds_beyond_loopback_say_so(self):
        for name, (_, flags) in compose_commands().items():
            self.assertEqual(flags.get("insecure"), "true", name)
        for item, _, _, flags in workloads():
            self.assertTrue("insecure" in flags or "tls-cert" in flags, item["metadata"]["name"])
        for ports in (s.get("ports", ()) for s in compose()["services"].values()):
            for port in ports:
                self.assertTrue(port.startswith("127.0.0.1:"), port)

    def test_compose_names_addresses_and_files_that_exist(self):
        commands = compose_commands()
        shards = {f["shard-id"]: f["advertise"] for p, f in commands.values() if p == "lola-memory"}
        self.check_map((DEPLOY / "map.json").read_text(), shards)
        workers = {f["advertise"] for p, f in commands.values() if p == "lola-worker"}
        self.assertEqual(set(commands["gateway"][1]["workers"].split(",")), workers)
        scrape = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
        wanted = {f"{name}:{f['metrics-bind'].split(':')[1]}" for name, (_, f) in commands.items()}
        targets = {t for job in scrape["scrape_configs"] for c in job.get("static_configs", ())
                   for t in c["targets"]}
        self.assertEqual(targets, wanted)
        for service in compose()["services"].values():
            for volume in service.get("volumes", ()):
                source = volume.split(":")[0]
                if source.startswith("."):
                    self.assertTrue((DEPLOY / source).exists(), source)
                else:
                    self.assertIn(source, compose()["volumes"])

    def test_kubernetes_names_fit_each_other(self):
        memory, worker = manifest("StatefulSet", "lola-memory"), manifest("StatefulSet",
                                                                          "lola-worker")
        names = [f"lola-memory-{i}" for i in range(memory["spec"]["replicas"])]
        self.check_map(manifest("ConfigMap", "lola-map")["data"]["map.json"],
                       {n: f"{n}.lola-memory:50071" for n in names})
        gateway = next(f for i, _, _, f in workloads() if i["metadata"]["name"] == "lola-gateway")
        self.assertEqual(gateway["workers"].split(","),
                         [f"lola-worker-{i}.lola-worker:50061"
                          for i in range(worker["spec"]["replicas"])])
        for item, pod, container, flags in workloads():
            ports = {p["name"]: p["containerPort"] for p in container["ports"]}
            self.assertEqual(flags["bind"], f"0.0.0.0:{ports['grpc']}")
            self.assertEqual(flags["metrics-bind"], f"0.0.0.0:{ports['metrics']}")
            self.assertFalse(pod["enableServiceLinks"], item["metadata"]["name"])
            budget = manifest("PodDisruptionBudget", item["metadata"]["name"])
            self.assertEqual(budget["spec"]["selector"]["matchLabels"],
                             item["spec"]["selector"]["matchLabels"])
        listed = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
        self.assertEqual(set(listed), {f.name for f in KUBERNETES.glob("*.yaml")}
                         - {"kustomization.yaml"})

    def check_cut(self, front, stages):
        """`front` and `stages`: flags. Same model, every layer once, in order."""
        self.assertEqual({s["model"] for s in stages}, {front["model"]})
        held = [n for f in [front, *stages] for n in layers_of(f["layers"])]
        self.assertEqual(held, list(range(model_layers(front["model"]))))

    def test_compose_pipeline_is_whole(self):
        commands, base = pipeline_commands(), compose_commands()
        front = commands["worker-0"][1]
        stages = {n: f for n, (p, f) in commands.items() if p == "lola-stage"}
        addresses = {f"{n}:{f['bind'].split(':')[1]}": f for n, f in stages.items()}
        self.assertEqual(front["stages"].split(","), list(addresses))
        self.check_cut(front, list(addresses.values()))
        kept = {k: v for k, v in front.items() if k not in ("layers", "stages")}
        self.assertEqual(kept, base["worker-0"][1])
        listed = yaml.safe_load((DEPLOY / "prometheus-targets" / "stages.yml").read_text())
        self.assertEqual({t for part in listed for t in part["targets"]},
                         {f"{n}:{f['metrics-bind'].split(':')[1]}" for n, f in stages.items()})
        scrape = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
        job = next(j for j in scrape["scrape_configs"] if j["job_name"] == "lola-stage")
        override = yaml.safe_load((DEPLOY / "compose.pipeline.yaml").read_text())["services"]
        source, place, _ = override["prometheus"]["volumes"][0].split(":")
        self.assertEqual(job["file_sd_configs"][0]["files"], [f"{place}/stages.yml"])
        self.assertTrue((DEPLOY / source / "stages.yml").exists())
        for flags in stages.values():
            self.assertEqual(flags.get("insecure"), "true")

    def test_kubernetes_pipeline_is_whole(self):
        worker, stage = manifest("StatefulSet", "lola-worker"), manifest("StatefulSet",
                                                                         "lola-stage")
        self.assertEqual(stage["spec"]["replicas"], worker["spec"]["replicas"])
        container, front = patched_worker()
        base = next(f for i, _, _, f in workloads() if i["metadata"]["name"] == "lola-worker")
        kept = {k: v for k, v in front.items() if k not in ("layers", "stages", "stage-patience")}
        self.assertEqual(kept, base)
        flags = next(f for i, _, _, f in workloads() if i["metadata"]["name"] == "lola-stage")
        port = flags["bind"].split(":")[1]
        stages = front["stages"].split("#")[0].strip()
        self.assertEqual(stages, f"lola-stage-$(POD_INDEX).lola-stage:{port}")
        self.assertIn("POD_INDEX", [e["name"] for e in container["env"]])
        self.assertEqual(container["name"],
                         worker["spec"]["template"]["spec"]["containers"][0]["name"])
        self.check_cut(front, [flags])
        service = manifest("Service", stage["spec"]["serviceName"])
        self.assertEqual({p["port"] for p in service["spec"]["ports"]},
                         {int(port), int(flags["metrics-bind"].split(":")[1])})
        policy = manifest("NetworkPolicy", "lola-stage")["spec"]
        self.assertEqual(policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"],
                         worker["spec"]["selector"]["matchLabels"])
        self.assertEqual(policy["ingress"][0]["ports"], [{"port": int(port)}])
        overlay = yaml.safe_load((PIPELINE / "kustomization.yaml").read_text())
        self.assertEqual({*overlay["resources"], *(p["path"] for p in overlay["patches"])},
                         {"../kubernetes"} | {f.name for f in PIPELINE.glob("*.yaml")}
                         - {"kustomization.yaml"})

    def test_processes_get_the_time_to_drain(self):
        for item, pod, container, flags in workloads():
            before = container.get("lifecycle", {}).get("preStop", {}).get("exec", {})
            pause = int(before.get("command", ["", "0"])[1])
            self.assertGreater(pod["terminationGracePeriodSeconds"],
                               seconds(flags["drain-deadline"]) + pause, item["metadata"]["name"])
        for name, (_, flags) in compose_commands().items():
            grace = seconds(compose()["services"][name]["stop_grace_period"])
            self.assertGreater(grace, seconds(flags.get("drain-deadline", "10s")), name)

    def test_example_map_is_what_the_quick_start_writes(self):
        example = json.loads((DEPLOY / "config" / "map.json").read_text())
        self.assertEqual(example, partition_map([s["address"] for s in example["shards"]]))

    def test_dashboard_is_whole(self):
        board = json.loads(DASHBOARD.read_text())
        source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml")
                                .read_text())["datasources"][0]["uid"]
        ids = [p["id"] for p in board["panels"]]
        self.assertEqual(len(ids), len(set(ids)))
        taken = set()
        for panel in board["panels"]:
            place = panel["gridPos"]
            cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                     for y in range(place["y"], place["y"] + place["h"])}
            self.assertFalse(cells & taken, f"{panel['title']} covers another panel")
            self.assertLessEqual(place["x"] + place["w"], 24)
            taken |= cells
            if panel["type"] != "row":
                self.assertEqual(panel["datasource"]["uid"], source)
                self.assertTrue(panel["targets"], panel["title"])

    def test_prometheus_accepts_configuration_rules_and_their_tests(self):
        for command in (["check", "config", DEPLOY / "prometheus" / "prometheus.yml"],
                        ["check", "rules", DEPLOY / "prometheus" / "rules.yml"],
                        ["test", "rules", ROOT / "tests" / "deploy" / "rules_test.yml"]):
            done = subprocess.run(["promtool", *command], capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_every_alert_is_tested(self):
        rules = (DEPLOY / "prometheus" / "rules.yml").read_text()
        tests = (ROOT / "tests" / "deploy" / "rules_test.yml").read_text()
        alerts = set(re.findall(r"- alert: (\w+)", rules))
        self.assertEqual(alerts - set(re.findall(r"alertname: (\w+)", tests)), set())

    def test_package_script_names_what_cmake_asks_for(self):
        listed = subprocess.run([DEPLOY / "install_packages.sh", "--list"], capture_output=True,
                                text=True, check=True).stdout
        cmake = (ROOT / "cmake" / "LolaDependencies.cmake").read_text()
        package = {"Protobuf": "libprotobuf-dev", "absl": "libabsl-dev", "gRPC": "libgrpc++-dev",
                   "prometheus-cpp": "prometheus-cpp-dev", "GTest": "libgtest-dev",
                   "benchmark": "libbenchmark-dev", "RocksDB": "librocksdb-dev",
                   "hwy": "libhwy-dev", "nlohmann_json": "nlohmann-json3-dev",
                   "spdlog": "libspdlog-dev", "CLI11": "libcli11-dev", "PkgConfig": "pkg-config",
                   "CURL": "libcurl4-openssl-dev", "Threads": "g++", "Git": "git",
                   "OpenBLAS": "libopenblas-dev", "dnnl": "libdnnl-dev", "zstd": "libzstd-dev",
                   "Boost": "libboost-context-dev"}
        for name in re.findall(r"find_package\((\S+)", cmake):
            self.assertIn(name, package, "name its Debian package here and in the script")
            self.assertRegex(listed, rf"(?m)^{re.escape(package[name])} ")

    def run_package_script(self, installed, user, *arguments):
        """With stand-ins for dpkg-query, apt-get, id: returns (code, output, apt-get's calls)."""
        with tempfile.TemporaryDirectory() as folder:
            calls = pathlib.Path(folder) / "calls"
            lines = "\n".join(f"installed {name}" for name in installed)
            for name, text in (("dpkg-query", f"cat <<'END'\n{lines}\nEND"),
                               ("apt-get", f'echo "$@" >>{calls}'), ("id", f"echo {user}"),
                               ("sudo", "exit 1")):
                program = pathlib.Path(folder) / name
                program.write_text(f"#!/bin/bash\n{text}\n")
                program.chmod(0o755)
            done = subprocess.run(
                [DEPLOY / "install_packages.sh", *arguments], capture_output=True, text=True,
                stdin=subprocess.DEVNULL, env={"PATH": f"{folder}:/usr/bin:/bin"})
            return (done.returncode, done.stdout + done.stderr,
                    calls.read_text().splitlines() if calls.exists() else [])

    def test_package_script_installs_what_is_missing_and_says_so(self):
        listed = subprocess.run([DEPLOY / "install_packages.sh", "--list"], capture_output=True,
                                text=True, check=True).stdout
        names = [line.split()[0] for line in listed.splitlines()]
        self.assertEqual(self.run_package_script(names, 0), (0, "", []))
        code, said, calls = self.run_package_script(names[2:], 0)
        self.assertEqual(code, 0, said)
        self.assertIn(f"Missing Debian packages (2): {names[0]} {names[1]}", said)
        self.assertEqual(calls, [
            "update -q", f"install -y -q --no-install-recommends {names[0]} {names[1]}"])
        code, said, calls = self.run_package_script(names[1:], 1000)
        self.assertEqual((code, calls), (1, []))
        self.assertIn(f"apt-get install -y -q --no-install-recommends {names[0]}", said)
        self.assertEqual(self.run_package_script(names, 0, "--nonsense")[0], 2)


if __name__ == "__main__":
    unittest.main()
