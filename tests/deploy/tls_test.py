#!/usr/bin/python3
"""Mutual TLS between all processes and with clients, with certificates made here by openssl: a
stream runs through gateway, worker and shard; whoever has no certificate, a stranger's, or speaks
plain text is refused with an error that says so."""

import pathlib
import re
import subprocess
import tempfile
import time
import unittest

import paths
import grpc

from cluster import Cluster, Process
from ports import reserve_port
import lola_client

HOSTS = "subjectAltName=IP:127.0.0.1,DNS:localhost"


class Authority:
    """A certificate authority in `folder`."""

    def __init__(self, folder, name):
        self.folder, self.name = pathlib.Path(folder), name
        self.ca = self.folder / f"{name}-ca.pem"
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                      "-nodes", "-days", "2", "-subj", f"/CN={name}", "-keyout",
                      self.folder / f"{name}-ca.key", "-out", self.ca)

    @staticmethod
    def _openssl(*arguments):
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)

    def certificate(self, owner):
        """Paths of a certificate for loopback and its key."""
        base = self.folder / f"{self.name}-{owner}"
        cert, key, request = (base.with_suffix(end) for end in (".pem", ".key", ".csr"))
        extensions = base.with_suffix(".ext")
        extensions.write_text(HOSTS + "\n")
        self._openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                      "-nodes", "-subj", f"/CN={owner}", "-keyout", key, "-out", request)
        self._openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey",
                      self.folder / f"{self.name}-ca.key", "-CAcreateserial", "-days", "2",
                      "-extfile", extensions, "-out", cert)
        return cert, key


def credentials(ca, cert=None, key=None):
    read = lambda path: None if path is None else pathlib.Path(path).read_bytes()  # noqa: E731
    return grpc.ssl_channel_credentials(read(ca), read(key), read(cert))


class TlsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.ours = Authority(cls.folder.name, "ours")
        cls.strangers = Authority(cls.folder.name, "strangers")
        cls.cluster = Cluster(paths.BINARIES, cls.folder.name, paths.TINY_MODEL, shards=2,
                              workers=2)
        cls.cluster.cut(1, "0", ["1"])  # a channel of its own: front to stage
        for process in cls.cluster.processes:
            process.arguments = [*process.arguments, *cls.server_flags(process.name)]
        for process in cls.cluster.workers + cls.cluster.gateways:
            process.arguments += cls.peer_flags(process.name)
        cls.cluster.start()
        cls.client_files = cls.ours.certificate("client")
        cls.endpoint = cls.cluster.endpoints[0]
        cls.client = lola_client.Client(cls.endpoint,
                                        credentials=credentials(cls.ours.ca, *cls.client_files))
        cls.cluster.wait_healthy(cls.client)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.cluster.stop()
        cls.folder.cleanup()

    @classmethod
    def server_flags(cls, name):
        cert, key = cls.ours.certificate(name)
        return ["--tls-cert", str(cert), "--tls-key", str(key), "--tls-client-ca",
                str(cls.ours.ca)]

    @classmethod
    def peer_flags(cls, name, authority=None):
        cert, key = (authority or cls.ours).certificate(name + "-peer")
        return ["--peer-tls-ca", str(cls.ours.ca), "--peer-tls-cert", str(cert),
                "--peer-tls-key", str(key)]

    def lola(self, *arguments):
        done = subprocess.run([str(paths.BINARIES / "lola"), *map(str, arguments), "--endpoint",
                               self.endpoint], capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr

    def program_fails(self, name, *arguments):
        done = subprocess.run([str(paths.BINARIES / name), *map(str, arguments)],
                              capture_output=True, text=True, timeout=30)
        self.assertNotEqual(done.returncode, 0)
        return done.stderr

    def test_stream_runs_and_survives_its_worker(self):
        with self.client.open("tls") as stream:
            stream.append("encrypted from end to end. " * 20)
            first = list(stream.generate(50, ignore_eos=True))
            self.assertEqual(sum(len(token.ids) for token in first), 50)
            owner = self.cluster.worker_at(self.client.describe("tls").owner)
            self.client.fork("tls", "tls-fork")
            owner.kill()
            more = list(stream.generate(50, ignore_eos=True))
            self.assertEqual(more[-1].position + len(more[-1].ids), stream.position)
            self.assertEqual(sum(len(token.ids) for token in more), 50)
            self.assertNotEqual(self.client.describe("tls").owner, owner.address)
            owner.start()
            owner.wait_listening()
        self.assertEqual(self.client.describe("tls-fork").parent, "tls")
        self.cluster.wait_healthy(self.client)

    def test_a_pipeline_runs_its_steps_and_loads_over_tls(self):
        front, stage = self.cluster.workers[1], self.cluster.stages[0]
        with self.client.open("cut") as stream:
            stream.append("layers apart, and nobody listens. " * 20)
            for address in (self.cluster.workers[0].address, front.address):  # a load at the end
                if self.client.describe("cut").owner != address:
                    self.client.migrate("cut", address)
            there = list(stream.generate(40, ignore_eos=True))
            self.assertEqual(sum(len(token.ids) for token in there), 40)
            self.assertEqual(self.client.describe("cut").owner, front.address)
            self.client.snapshot("cut", "over-tls")  # sections come back from the stage
        steps = re.search(r"^lola_stage_steps_total(?:{.*})? (\S+)", stage.metrics_text(), re.M)
        self.assertGreater(float(steps.group(1)), 0)
        pages = stage.metrics_text()
        self.assertRegex(pages, r"(?m)^lola_stage_loads_total(?:{.*})? [1-9]")
        self.assertRegex(pages, r"(?m)^lola_stage_copies_total(?:{.*})? [1-9]")

    def front_fails(self, name, *peers):
        """What a pipeline worker says that cannot reach the stage with these peer flags."""
        return self.program_fails(
            "lola-worker", "--bind", f"127.0.0.1:{reserve_port()}", "--metrics-bind", "",
            "--map", self.folder.name + "/map.json", "--model", paths.TINY_MODEL, "--layers", "0",
            "--stages", self.cluster.stages[0].address, "--stage-patience", "2s", *peers)

    def test_fronts_without_our_certificate_get_no_stage(self):
        address = self.cluster.stages[0].address
        for said in (self.front_fails("bare", "--peer-tls-ca", self.ours.ca),
                     self.front_fails("eve", *self.peer_flags("eve-front", self.strangers)),
                     self.front_fails("plain")):
            self.assertIn(address, said)
        self.assertRegex(self.front_fails("bare", "--peer-tls-ca", self.ours.ca),
                         "(?i)certificate")
        self.assertIn("--peer-tls-ca", self.front_fails("plain"))

    def test_a_stage_that_is_not_ours_gets_no_front(self):
        stage = Process("stage-eve", paths.BINARIES / "lola-stage", self.folder.name)
        cert, key = self.strangers.certificate("stage-eve")
        stage.arguments = ["--model", str(paths.TINY_MODEL), "--layers", "1", "--tls-cert",
                           str(cert), "--tls-key", str(key)]
        stage.start()
        self.addCleanup(stage.stop)
        stage.wait_listening()
        said = self.program_fails(
            "lola-worker", "--bind", f"127.0.0.1:{reserve_port()}", "--metrics-bind", "",
            "--map", self.folder.name + "/map.json", "--model", paths.TINY_MODEL, "--layers", "0",
            "--stages", stage.address, "--stage-patience", "2s", *self.peer_flags("ours"))
        self.assertIn(stage.address, said)
        self.assertRegex(said, "(?i)certificate")

    def test_command_line_with_certificate(self):
        cert, key = self.client_files
        code, text = self.lola("workers", "--peer-tls-ca", self.ours.ca, "--peer-tls-cert", cert,
                               "--peer-tls-key", key)
        self.assertEqual(code, 0, text)
        self.assertEqual(text.count("127.0.0.1:"), 3, text)  # two workers and a stage

    def test_client_without_certificate_is_refused_everywhere(self):
        refused = credentials(self.ours.ca)
        for process in self.cluster.processes:
            with grpc.secure_channel(process.address, refused) as channel:
                call = channel.unary_unary("/lola.v1.Cluster/GetMap")
                with self.assertRaises(grpc.RpcError) as caught:
                    call(b"", timeout=5)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE, process.name)
        code, text = self.lola("ls", "--peer-tls-ca", self.ours.ca)
        self.assertEqual(code, 3, text)
        self.assertIn(self.endpoint, text)
        self.assertRegex(text, "(?i)certificate")

    def test_strangers_certificate_is_refused(self):
        cert, key = self.strangers.certificate("eve")
        code, text = self.lola("ls", "--peer-tls-ca", self.ours.ca, "--peer-tls-cert", cert,
                               "--peer-tls-key", key)
        self.assertEqual(code, 3, text)
        self.assertRegex(text, "(?i)certificate")

    def test_server_that_is_not_ours_is_refused_by_the_client(self):
        cert, key = self.client_files
        code, text = self.lola("ls", "--peer-tls-ca", self.strangers.ca, "--peer-tls-cert", cert,
                               "--peer-tls-key", key)
        self.assertEqual(code, 3, text)
        self.assertRegex(text, "(?i)certificate")

    def test_plain_text_is_refused_and_the_hint_says_tls(self):
        code, text = self.lola("ls")
        self.assertEqual(code, 3, text)
        self.assertIn("--peer-tls-ca", text)

    def test_gateway_without_certificate_reaches_no_worker_and_says_why(self):
        gateway = Process("gateway-alone", paths.BINARIES / "lola-gateway", self.folder.name)
        gateway.arguments = ["--map", self.folder.name + "/map.json", "--workers",
                             self.cluster.workers[0].address, "--peer-tls-ca", str(self.ours.ca)]
        gateway.start()
        self.addCleanup(gateway.stop)
        gateway.wait_listening()
        with lola_client.Client(gateway.address) as client:
            deadline = time.monotonic() + 20
            while client.workers()[0].problem == "not asked yet" and time.monotonic() < deadline:
                time.sleep(0.05)
            worker = client.workers()[0]
            self.assertFalse(worker.healthy)
            self.assertIn("without a certificate of ours", worker.problem)
            with self.assertRaisesRegex(lola_client.Unavailable, "shard-"):
                client.describe("tls")
        self.assertIn("without a certificate of ours", gateway.log.read_text())

    def test_half_given_flags_are_errors_that_name_them(self):
        cert, key = self.client_files
        memory = ["--data", self.folder.name + "/unused", "--bind", f"127.0.0.1:{reserve_port()}"]
        text = self.program_fails("lola-memory", *memory, "--tls-client-ca", self.ours.ca)
        self.assertIn("--tls-client-ca", text)
        self.assertIn("--tls-cert", text)
        text = self.program_fails("lola-memory", *memory, "--tls-cert", cert)
        self.assertIn("--tls-key", text)
        for flags in (["--peer-tls-cert", cert, "--peer-tls-key", key],
                      ["--peer-tls-ca", self.ours.ca, "--peer-tls-cert", cert]):
            code, text = self.lola("ls", *flags)
            self.assertEqual(code, 2, text)
            self.assertIn("--peer-tls", text)
        broken = pathlib.Path(self.folder.name, "broken.pem")
        broken.write_text("no certificate\n")
        code, text = self.lola("ls", "--peer-tls-ca", broken)
        self.assertEqual(code, 2, text)
        self.assertIn(str(broken), text)


if __name__ == "__main__":
    unittest.main()
