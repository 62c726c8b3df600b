"""What the scripts in this directory share: servers, their figures, and the load generator."""

import base64
import json
import os
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOLS = pathlib.Path(os.environ.get("KMS_TEST_TOOLS", ROOT / "target/test-tools"))
TICK = os.sysconf("SC_CLK_TCK")
SERVER_CPU, LOAD_CPU = "0", "1"
CONTEXT = base64.b64encode(b'{"bucket":"bucket/path/to/an/object"}').decode()


def sh(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def kms_binary():
    binary = pathlib.Path(os.environ.get("KMS_BIN", ROOT / "target/release/kms"))
    if not binary.exists():
        raise SystemExit(f"{binary} is missing: cargo build --release -p kms-server, or set KMS_BIN")
    return binary


def load_generator():
    binary = TOOLS / "bin/load"
    binary.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["go", "build", "-o", binary, "."], cwd=ROOT / "benches/load", check=True)
    return binary


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Files:
    """A directory with certificates that both servers use, P-256 as MinIO's documentation makes them."""

    def __init__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="kms-bench-"))
        for name, usage in (("server", "serverAuth"), ("client", "clientAuth")):
            sh("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
               "-subj", f"/CN={name}", "-addext", "basicConstraints=critical,CA:FALSE", "-addext", f"extendedKeyUsage={usage}",
               "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", self.dir / f"{name}.key", "-out", self.dir / f"{name}.crt")
        spki = subprocess.run(["openssl", "x509", "-in", self.dir / "client.crt", "-noout", "-pubkey"],
                              check=True, capture_output=True).stdout
        der = subprocess.run(["openssl", "pkey", "-pubin", "-outform", "DER"], input=spki, check=True,
                             capture_output=True).stdout
        import hashlib
        self.identity = hashlib.sha256(der).hexdigest()

    def remove(self):
        shutil.rmtree(self.dir, ignore_errors=True)


class Server:
    """A running key server, pinned to one CPU."""

    def __init__(self, name, files, store, pin=True):
        self.name, self.files, self.port = name, files, free_port()
        config = files.dir / f"{name}.conf"
        tls = {"key": files.dir / "server.key", "cert": files.dir / "server.crt"}
        if name == "kes":
            config.write_text(
                f"version: v1\naddress: 127.0.0.1:{self.port}\nadmin:\n  identity: {files.identity}\n"
                f"tls:\n  key: {tls['key']}\n  cert: {tls['cert']}\ncache:\n  expiry:\n    any: 5m0s\n    unused: 5m0s\n"
                f"log:\n  error: off\n  audit: off\nkeystore:\n  fs:\n    path: {store}\n")
            command = [TOOLS / "bin/kes", "server", "--config", config]
        else:
            root_key = files.dir / "root.key"
            if not root_key.exists():
                root_key.touch(mode=0o600)
                root_key.write_bytes(base64.b64encode(os.urandom(32)))
            config = config.with_suffix(".toml")
            config.write_text(
                f'address = "127.0.0.1:{self.port}"\n[admin]\nidentity = "{files.identity}"\n'
                f'[tls]\nkey = "{tls["key"]}"\ncert = "{tls["cert"]}"\n[cache.expiry]\nany = "5m"\nunused = "5m"\n'
                f'[keystore.fs]\npath = "{store}"\nroot_key_file = "{root_key}"\n')
            command = [kms_binary(), "server", "--config", config]
        if pin:
            command = ["taskset", "-c", SERVER_CPU, *command]
        began = time.monotonic()
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=open(files.dir / f"{name}.log", "a"))
        while True:
            try:
                self.call("GET", "/version")
                break
            except OSError:
                if self.process.poll() is not None or time.monotonic() - began > 60:
                    raise SystemExit(f"{name} does not start: " + (files.dir / f"{name}.log").read_text()[-2000:])
                time.sleep(0.005)
        self.start_seconds = time.monotonic() - began

    def call(self, method, path, body=b""):
        """Sends one request over a connection of its own; returns status and body."""
        import http.client
        context = ssl._create_unverified_context()
        context.load_cert_chain(self.files.dir / "client.crt", self.files.dir / "client.key")
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=30)
        connection.request(method, path, body)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, content

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def resident_mb(self):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return 0.0

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def load(binary, server, path, **options):
    """Runs the load generator on the other CPU; returns its figures and the server's CPU time a request."""
    command = ["taskset", "-c", LOAD_CPU, binary, "-url", f"https://127.0.0.1:{server.port}{path}",
               "-cert", server.files.dir / "client.crt", "-key", server.files.dir / "client.key"]
    for name, value in options.items():
        command.append(f"-{name}={str(value).lower() if isinstance(value, bool) else value}")
    before = server.cpu_seconds()
    figures = json.loads(sh(*command))
    figures["cpu_us"] = (server.cpu_seconds() - before) * 1e6 / figures["requests"]
    return figures
