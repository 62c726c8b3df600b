"""The parts that all scripts in this directory use: servers, their figures, and the load generator."""

import base64
import collections
import ctypes
import functools
import hashlib
import http.client
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOLS = pathlib.Path(os.environ.get("KMS_TEST_TOOLS", ROOT / "target/test-tools"))
SERVER_CPU, LOAD_CPU = "0", "1"
signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))  # so that what a script has started ends with it
CONTEXT = base64.b64encode(b'{"bucket":"bucket/object"}').decode()  # as MinIO makes it for SSE-S3


def sh(*command):
    """Runs a command and returns what it prints."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def kms_binary():
    return pathlib.Path(os.environ.get("KMS_BIN", ROOT / "target/release/kms")).absolute()


def need_kms():
    if not kms_binary().exists():
        raise SystemExit(f"{kms_binary()} is missing: cargo build --release -p kms-server, or set KMS_BIN")


class Files:
    """A directory with the load generator, and with the certificates of all servers.

    The certificates are of P-256, as in MinIO's documentation, and no CAs: KES refuses clients whose certificate is a CA.
    """

    def __init__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="kms-bench-"))
        self.load = self.dir / "load"
        sh("go", "-C", ROOT / "benches/load", "build", "-o", self.load, ".")
        for name, usage in (("server", "serverAuth"), ("client", "clientAuth")):
            sh("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
               "-subj", f"/CN={name}", "-addext", "basicConstraints=critical,CA:FALSE", "-addext", f"extendedKeyUsage={usage}",
               "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", self.dir / f"{name}.key", "-out", self.dir / f"{name}.crt")
        spki = sh("openssl", "x509", "-in", self.dir / "client.crt", "-noout", "-pubkey")
        self.identity = hashlib.sha256(ssl.PEM_cert_to_DER_cert(  # the helper undoes any PEM, once its label fits
            spki.replace("PUBLIC KEY", "CERTIFICATE"))).hexdigest()
        self.root_key = self.dir / "root.key"
        self.root_key.touch(mode=0o600)
        self.root_key.write_bytes(base64.b64encode(os.urandom(32)))

    def s3_load(self):
        """Builds the load generator for S3 and returns its file."""
        sh("go", "-C", ROOT / "benches/load", "build", "-o", self.dir / "s3-load", "./s3")
        return self.dir / "s3-load"

    def remove(self):
        shutil.rmtree(self.dir, ignore_errors=True)


class Server:
    """A running key server whose memory is not locked, unless it is to be `locked`.

    `program` is "kms", "kes", or "bare" for the bare server, which has no store. `store` is a directory, or for "kms" the section
    of another key store. `binary` is another program than `KMS_BIN`. `stderr` takes the log instead of a file. `extra` is text at
    the end of the config of "kms". `write_config` is a function that writes another config: it takes the port, and returns the
    file. `workers` is the number of threads that serve requests.
    """

    def __init__(self, name, files, store=None, pin=True, program=None, binary=None, stderr=None, extra="", write_config=None,
                 workers=None, locked=False):
        self.program = program = program or name
        binary, environment, threads = binary or kms_binary(), dict(os.environ), ""
        if workers and program == "kes":
            environment["GOMAXPROCS"] = str(workers)
        elif workers and program == "kms" and takes_threads(binary):
            threads = f"threads = {workers}\n"
        elif workers and program == "kms":
            environment["TOKIO_WORKER_THREADS"] = str(workers)
        self.name, self.files, self.port = name, files, free_port()
        self.tls = ssl._create_unverified_context()
        self.tls.load_cert_chain(files.dir / "client.crt", files.dir / "client.key")
        config, self.log = files.dir / f"{name}.config", files.dir / f"{name}.log"
        if write_config:
            command = [binary, "server", "--config", write_config(self.port)]
        elif program == "bare":
            command = [bare_server(), "--listen", f"127.0.0.1:{self.port}", "--workers", str(workers or 1)]
        elif program == "kes":
            config.write_text(
                f"version: v1\naddress: 127.0.0.1:{self.port}\nadmin:\n  identity: {files.identity}\n"
                f"tls:\n  key: {files.dir}/server.key\n  cert: {files.dir}/server.crt\n"
                "cache:\n  expiry:\n    any: 5m0s\n    unused: 5m0s\n"
                f"log:\n  error: off\n  audit: off\nkeystore:\n  fs:\n    path: {store}\n")
            command = [TOOLS / "bin/kes", "server", "--config", config]
        else:
            config = config.with_suffix(".toml")
            if not str(store).startswith("["):
                store = f'[keystore.fs]\npath = "{store}"\nroot_key_file = "{files.root_key}"\ncreate = true\n'
            config.write_text(
                f'address = "127.0.0.1:{self.port}"\n{threads}[admin]\nidentity = "{files.identity}"\n'
                f'[tls]\nkey = "{files.dir}/server.key"\ncert = "{files.dir}/server.crt"\n'
                f'[cache.expiry]\nany = "5m"\nunused = "5m"\n{store}{extra}')
            command = [binary, "server", "--config", config]
        if pin:
            command = ["taskset", "-c", SERVER_CPU, *command]
        with open(self.log, "a", encoding="utf-8") as log:
            began = time.monotonic()
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr or log, env=environment,
                                            preexec_fn=None if locked else unlock_memory)
        try:
            while not self.listens():
                if self.process.poll() is not None or time.monotonic() - began > 60:
                    raise SystemExit(f"{name} does not start: {self.log.read_text()[-2000:]}")
                time.sleep(0.001)
            if program != "bare":
                self.call("GET", "/version")
            self.start_seconds, self.start_cpu_seconds = time.monotonic() - began, self.cpu_seconds()
            if (self.memory_mb("VmLck") > 0) != locked:
                raise SystemExit(f"{name} has locked its memory; figures of its size would mean nothing" if not locked
                                 else f"{name} may not lock its memory: run this as root, or with an unlimited memlock (ulimit -l)")
        except BaseException:
            self.stop()
            raise

    def listens(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def call(self, method, path, body=b""):
        """Sends one request over a new connection and returns the decoded body of the answer, or None."""
        content = self.ask(method, path, body)
        return json.loads(content) if content else None

    def ask(self, method, path, body=b""):
        """Sends one request over a new connection and returns the body of the answer."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=self.tls, timeout=30)
        connection.request(method, path, body)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if answer.status != 200:
            raise SystemExit(f"{self.name}: {method} {path}: {answer.status} {content.decode(errors='replace')}")
        return content

    def requests(self):
        """Returns how many requests the server has answered, but for this one."""
        counted = re.findall(r"^kes_http_request_(?:success|error|failure)(?:{.*})? (\S+)$", self.ask("GET", "/v1/metrics").decode(), re.M)
        self.asked = getattr(self, "asked", -1) + 1
        return sum(map(float, counted)) - self.asked

    def cpu_seconds(self):
        return process_seconds(self.process)

    def memory_mb(self, figure="VmRSS"):
        """Returns a figure of /proc/PID/status in MB: VmRSS is resident memory, VmLck locked memory."""
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(f"{figure}:"):
                return int(line.split()[1]) / 1024
        raise SystemExit(f"{self.name} has ended: {self.log.read_text()[-2000:]}")

    def load(self, path, cpu=LOAD_CPU, **options):
        """Runs the load generator on its CPU and returns its figures, with this server's CPU time a request.

        `cpu` is "" for a generator that may run on any CPU.
        """
        command = [*(("taskset", "-c", cpu) if cpu else ()), self.files.load, "-address", f"127.0.0.1:{self.port}", "-path", path,
                   "-cert", self.files.dir / "client.crt", "-key", self.files.dir / "client.key", "-pid", str(self.process.pid)]
        return json.loads(sh(*command, *(f"-{name.replace('_', '-')}={value}" for name, value in options.items())))

    def stop(self):
        end(self.process)


class Storage:
    """A running MinIO with one drive.

    `drive` is the directory for its data. `encryption` is a key server, "static" for a key that MinIO has itself, or None.
    """

    USER, PASSWORD = "minio-user", "minio-password"

    def __init__(self, name, files, drive, encryption=None):
        self.name, self.port, self.log = name, free_port(), files.dir / f"{name}-minio.log"
        environment = {
            "HOME": str(files.dir), "PATH": "/usr/bin:/bin", "MINIO_ROOT_USER": self.USER, "MINIO_ROOT_PASSWORD": self.PASSWORD,
            "MINIO_BROWSER": "off", "MINIO_UPDATE": "off"}
        if encryption == "static":
            environment["MINIO_KMS_SECRET_KEY"] = "my-key:" + base64.b64encode(os.urandom(32)).decode()
        elif encryption:
            environment |= {
                "MINIO_KMS_KES_ENDPOINT": f"https://127.0.0.1:{encryption.port}", "MINIO_KMS_KES_KEY_NAME": "my-key",
                "MINIO_KMS_KES_CERT_FILE": str(files.dir / "client.crt"), "MINIO_KMS_KES_KEY_FILE": str(files.dir / "client.key"),
                "MINIO_KMS_KES_CAPATH": str(files.dir / "server.crt")}
        command = [TOOLS / "bin/minio", "server", "--quiet", "--address", f"127.0.0.1:{self.port}", drive]
        with open(self.log, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            self.wait()
        except BaseException:
            self.stop()
            raise

    def wait(self):
        """Waits until MinIO answers that it is ready, as it says of itself."""
        began = time.monotonic()
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/minio/health/ready")
                if connection.getresponse().status == 200:
                    return
            except (OSError, http.client.HTTPException):
                pass
            if self.process.poll() is not None or time.monotonic() - began > 60:
                raise SystemExit(f"MinIO does not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.1)

    def make_bucket(self, load):
        """Makes the bucket that load generators use. A MinIO that has just started may need some tries."""
        began = time.monotonic()
        while True:
            try:
                return self.load(load, operation="bucket")
            except SystemExit:
                if time.monotonic() - began > 30:
                    raise
                time.sleep(0.2)

    def load(self, load, **options):
        """Runs the load generator of benches/load/s3, and returns its figures, if it has any."""
        command = [load, "-address", f"127.0.0.1:{self.port}", "-user", self.USER, "-password", self.PASSWORD]
        said = sh(*command, *(f"-{name.replace('_', '-')}={value}" for name, value in options.items()))
        return json.loads(said) if said else None

    def cpu_seconds(self):
        return process_seconds(self.process)

    def stop(self):
        end(self.process)


class LocalStack:
    """A running emulator of AWS with AWS KMS. It logs a line for each call, and `calls` counts these lines."""

    def __init__(self, files):
        self.port, self.log = free_port(), files.dir / "localstack.log"
        address = f"127.0.0.1:{self.port}"
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(files.dir), "TMPDIR": str(files.dir), "SERVICES": "kms,sts",
            "STRICT_SERVICE_LOADING": "1", "EAGER_SERVICE_LOADING": "1", "DISABLE_EVENTS": "1", "SKIP_SSL_CERT_DOWNLOAD": "1",
            "DNS_ADDRESS": "0", "GATEWAY_SERVER": "hypercorn", "LOCALSTACK_HOST": address, "GATEWAY_LISTEN": address}
        with open(self.log, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(["taskset", "-c", LOAD_CPU, TOOLS / "bin/localstack"], cwd=files.dir, env=environment,
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        began = time.monotonic()
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() - began > 60:
                raise SystemExit(f"LocalStack does not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.05)

    def is_ready(self):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            connection.request("GET", "/_localstack/health")
            return json.loads(connection.getresponse().read()).get("services", {}).get("kms") == "running"
        except (OSError, http.client.HTTPException, ValueError):
            return False

    def key_store(self):
        """Returns the section of a server's config that uses this emulator."""
        return (f'[keystore.aws.kms]\nendpoint = "http://127.0.0.1:{self.port}"\nregion = "eu-central-1"\n'
                '[keystore.aws.kms.credentials]\naccesskey = "000000000001"\nsecretkey = "secret-access-key"\n')

    def calls(self):
        """Counts the calls by their names."""
        words = self.log.read_text(errors="replace").replace("\n", " ").split()
        return collections.Counter(word.removeprefix("kms.") for word in words if word.startswith("kms."))

    def stop(self):
        self.process.kill()
        self.process.wait()


def end(process):
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def process_seconds(process):
    """Returns the CPU time of a process, by the clock that clock_getcpuclockid(3) names."""
    return time.clock_gettime(~process.pid << 3 | 2)


@functools.cache
def bare_server():
    """Returns the program of the bare server, which it builds: the yardstick, on the same crates."""
    same_crates(ROOT / "Cargo.lock", ROOT / "benches/bare-server/Cargo.lock")
    target = ROOT / "target/bare-server"
    sh("cargo", "build", "--release", "--locked", "--manifest-path", ROOT / "benches/bare-server/Cargo.toml", "--target-dir", target)
    return target / "release/bare-server"


def same_crates(product, bare):
    """Fails if the bare server has another version of a crate than the product."""
    theirs, ours = crates(bare), crates(product)
    other = {f"{name} {', '.join(versions - ours[name])}" for name, versions in theirs.items() if name in ours and versions - ours[name]}
    if other:
        raise SystemExit(f"{bare} has other versions than {product}: {', '.join(sorted(other))}\n"
                         f"copy {product} to {bare} and run `cargo metadata --format-version 1` there, which leaves out what is not used")


def crates(lock):
    """Returns the versions of each crate that a Cargo.lock names."""
    versions = {}
    for package in tomllib.loads(lock.read_text())["package"]:
        versions.setdefault(package["name"], set()).add(package["version"])
    return versions


@functools.cache
def takes_threads(binary):
    """Returns whether a build of the server has the setting `threads`; a former one names what it has instead."""
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as config:
        config.write("threads = 1\n")
        config.flush()
        said = subprocess.run([binary, "check", "--config", config.name], capture_output=True, text=True)
    return "unknown key" not in said.stdout + said.stderr


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def unlock_memory():
    """Takes the right to lock memory from this process.

    KES locks all of its memory, present and future, whenever it can, and no switch prevents it. Its whole heap arena is then
    resident, and the figure says nothing about the memory that KES uses.
    """
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
    if os.geteuid() == 0:
        pr_capbset_drop, cap_ipc_lock = 24, 14
        ctypes.CDLL(None, use_errno=True).prctl(pr_capbset_drop, cap_ipc_lock, 0, 0, 0)


class OtherWork:
    """Measures how much of the machine other work took: such work spoils the figures."""

    def __init__(self):
        self.busy, self.stolen = machine_seconds()
        self.began = time.monotonic()

    def shares(self, own):
        """Returns the shares of a CPU that other processes and the machine's host took.

        `own` is the CPU time of servers, load generator and script.
        """
        busy, stolen = machine_seconds()
        elapsed = time.monotonic() - self.began
        return max(0.0, busy - self.busy - own) / elapsed, (stolen - self.stolen) / elapsed

    def warning(self, own):
        processes, host = self.shares(own)
        advice = ": latencies and requests/s are bounds only" if processes + host > 0.1 else ""
        return (f"took {time.monotonic() - self.began:.0f} s; meanwhile other processes took {100 * processes:.0f}% of a CPU "
                f"and the machine's host {100 * host:.0f}%{advice}")


def machine_seconds():
    """Returns the CPU time of all processes, and the time that a host took from this machine, without interrupts."""
    with open("/proc/stat", encoding="ascii") as stat:
        user, nice, system, _idle, _wait, _irq, _softirq, stolen = map(int, stat.readline().split()[1:9])
    tick = os.sysconf("SC_CLK_TCK")
    return (user + nice + system) / tick, stolen / tick


def own_seconds(*servers):
    """Returns the CPU time of this script, of its ended children, and of the running servers."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(server.cpu_seconds() for server in servers) + sum(use.ru_utime + use.ru_stime for use in spent)


def prepare(server):
    """Creates the key and returns the body of a request for each operation."""
    request = {"context": CONTEXT}
    if server.program != "bare":
        server.call("POST", "/v1/key/create/my-key")
    generated = server.call("POST", "/v1/key/generate/my-key", json.dumps(request))
    return {"generate": json.dumps(request), "decrypt": json.dumps({"ciphertext": generated["ciphertext"], **request})}
