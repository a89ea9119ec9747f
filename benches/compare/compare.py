#!/usr/bin/env python3
"""Compares nuncio with nginx and HAProxy, end to end, in CPU time per request.

Every proxy gets one core to itself; the load generator and the endpoint share another. The proxies run side by side and
are measured in turn (A B C A B C ...), so that a slow minute of the machine hits all of them. README.md next to this
file says how to read the result.
"""

import argparse
import ctypes
import datetime
import glob
import http.client
import json
import os
import platform
import pwd
import random
import re
import resource
import select
import shlex
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time

EXAMPLES = """\
examples:
  compare.py                                    every scenario, nginx, haproxy and nuncio
  compare.py --only h1,tls-h1 --rounds 5        two scenarios, more rounds
  compare.py --only h1 --extra old=/tmp/nuncio  two builds of nuncio against each other and the peers
  compare.py --check --json bench.json          exit status 1 over budget or on errors; raw figures to a file
  compare.py --markdown                         also a Markdown table for the README
  compare.py --proxies nginx,haproxy            without nuncio
"""

HOST = "bench.test"
SMALL = "/bench/small"
LARGE = "/bench/64k"
INSPECT = "/bench/inspect"
STREAM = "/bench/stream"
SMALL_BYTES = 128
LARGE_BYTES = 64 * 1024
STREAM_MIB = 1024
OTHER_ROUTES = 20  # beside the measured one, so that routing is really on
CONNECTIONS = 64
H2_CONNECTIONS = 32
H2_STREAMS = 10
UDP_BYTES = 64
TLS_CLIENTS = 16  # processes that each open one TLS connection after another
STREAM_CLIENTS = 4  # processes that each download one response after another
ENDPOINT_ADDRESSES = 2  # of one endpoint server, so that balancing is really on

# How much dearer than the cheaper peer a request may be.
BUDGET = {"h1": 1.05, "tls-h1": 1.05, "tls-h2": 1.15, "tcp": 1.0, "tcp-stream": 1.0, "udp": 1.0, "udp-session": 1.0}

# Who is compared with, where that is not the cheaper one.
PEER = {"tcp": "haproxy", "tcp-stream": "haproxy"}

# The most bytes of memory per idle connection.
MEMORY_BUDGET = {"idle-memory": 4096, "idle-memory-tcp": 4096, "idle-memory-tls": 12288}

# From this share of the proxy's core used by others on, figures are called imprecise.
NOISY = 0.1


class Scenario:
    def __init__(self, name, title, listener, path=SMALL, fresh=False, alpn=None, note=None):
        self.name, self.title, self.listener, self.path = name, title, listener, path
        self.fresh, self.alpn, self.note = fresh, alpn, note
        self.tls = listener == "secure"
        self.udp = listener.startswith("udp")
        self.memory = name.startswith("idle-memory")
        self.body = {LARGE: LARGE_BYTES, STREAM: STREAM_MIB << 20}.get(path, SMALL_BYTES)


SCENARIOS = [
    Scenario("h1", f"HTTP/1.1 keep-alive, {SMALL_BYTES}-byte responses, {CONNECTIONS} connections", "web"),
    Scenario("tls-h1", f"TLS 1.3 + HTTP/1.1 keep-alive, {SMALL_BYTES}-byte responses, {CONNECTIONS} connections", "secure", alpn="http/1.1"),
    Scenario("tls-h2", f"TLS 1.3 + HTTP/2, {H2_CONNECTIONS} connections of {H2_STREAMS} streams", "secure", alpn="h2"),
    Scenario("fresh", f"a fresh plain connection per request, {CONNECTIONS} at once", "web", fresh=True),
    Scenario("fresh-tls", f"a fresh TLS 1.3 connection with a full handshake per request, {TLS_CLIENTS} at once", "secure", fresh=True,
             alpn="http/1.1", note="p99 includes connecting and the handshake"),
    Scenario("resume-tls", f"a fresh TLS 1.3 connection per request from returning clients (wrk resumes if offered), {CONNECTIONS} at once",
             "secure", fresh=True, alpn="http/1.1"),
    Scenario("body64k", f"HTTP/1.1 keep-alive, 64 KiB responses, {CONNECTIONS} connections", "web", path=LARGE),
    Scenario("tcp", f"TCP mode, HTTP/1.1 keep-alive inside, {CONNECTIONS} connections", "tcp"),
    Scenario("tcp-stream", f"TCP mode, downloads of {STREAM_MIB} MiB, 4 at once, per MiB", "tcp", path=STREAM),
    Scenario("udp", f"UDP, {UDP_BYTES} bytes and one reply each (as DNS), {CONNECTIONS} clients: a session per datagram", "udp",
             note="a request is a datagram and its reply"),
    Scenario("udp-session", f"UDP, {UDP_BYTES} bytes and one reply each, {CONNECTIONS} clients that keep their sessions", "udp-session",
             note="a request is a datagram and its reply"),
    Scenario("idle-memory", "memory per idle keep-alive connection that made one request", "web"),
    Scenario("idle-memory-tcp", "the same in TCP mode, both of its connections counted", "tcp"),
    Scenario("idle-memory-tls", "the same under TLS 1.3", "secure", alpn="http/1.1"),
]

PACKAGES = {"nginx": "nginx", "haproxy": "haproxy", "wrk": "wrk", "h2load": "nghttp2-client", "nghttp": "nghttp2-client", "openssl": "openssl"}


class Setup(Exception):
    """The comparison as a whole cannot be made."""


class Refused(Exception):
    """One proxy cannot be measured in one scenario; the others can."""


# ---------------------------------------------------------------------------------------------------------- processes

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1
CHILDREN = []  # every child we started and have not reaped


def spawn(command, core, log, cwd):
    """Starts a child on one core, which ends with us even if we are killed."""

    def prepare():
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        os.sched_setaffinity(0, {core})

    environment = dict(os.environ, RUST_LOG="warn", LC_ALL="C")
    # In a session of its own: Ctrl-C reaches us alone, and we end the children in order.
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=cwd, env=environment,
                             preexec_fn=prepare, start_new_session=True)
    CHILDREN.append(child)
    return child


def end(child):
    """Ends a child and what it started: asks, asks again, then kills."""
    processes = [(pid, start_time(pid)) for pid in tree(child.pid)]
    for patience in (2, 3):
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(patience)
            except subprocess.TimeoutExpired:
                pass
    if child.poll() is None:
        child.kill()
        child.wait()
    for pid, started in processes[1:]:  # a worker that outlived its master; never a stranger that got its number
        if started and start_time(pid) == started:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    if child in CHILDREN:
        CHILDREN.remove(child)


def read(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def tail(path, lines=8):
    return "\n".join("    " + line for line in read(path).splitlines()[-lines:])


def stat_fields(pid):
    return read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def start_time(pid):
    fields = stat_fields(pid)
    return fields[19] if fields else None


def tree(pid):
    """A process and its descendants."""
    found = [pid]
    for each in found:
        for task in glob.glob(f"/proc/{each}/task/*/children"):
            found += [int(child) for child in read(task).split()]
    return found


TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Cpu:
    """CPU time of a process tree and of the core it runs on, at one moment."""

    def __init__(self, pid, core):
        self.ticks, self.threads = {}, {}
        for each in tree(pid):
            fields = stat_fields(each)
            if not fields:
                continue
            self.ticks[each] = (int(fields[11]) + int(fields[12])) / TICK
            self.threads[each] = {}
            for path in glob.glob(f"/proc/{each}/task/*/schedstat"):
                text = read(path).split()
                if text:
                    self.threads[each][path] = int(text[0]) / 1e9
        times = next(line for line in read("/proc/stat").splitlines() if line.startswith(f"cpu{core} ")).split()[1:]
        user, nice, system, _, _, irq, softirq, steal = (int(value) for value in times[:8])
        self.core = (user + nice + system + irq + softirq) / TICK
        self.steal = steal / TICK
        self.at = time.monotonic()

    def since(self, before):
        """Seconds of CPU that the tree used since `before`."""
        used = 0.0
        for pid, threads in self.threads.items():
            earlier = before.threads.get(pid, {})
            # A thread that ended took its nanoseconds along; the process's own counters (10 ms ticks) still have them.
            exact = threads and any(threads.values()) and earlier.keys() <= threads.keys()
            if exact:
                used += sum(value - earlier.get(path, 0.0) for path, value in threads.items())
            else:
                used += self.ticks[pid] - before.ticks.get(pid, 0.0)
        return used


def resident(pid):
    """Bytes of resident memory of a process tree."""
    return sum(int(fields[1]) * PAGE for fields in (read(f"/proc/{each}/statm").split() for each in tree(pid)) if fields)


PORTS = set()


def free_port():
    """A free loopback port outside the range that outgoing connections take theirs from."""
    low, high = (int(value) for value in read("/proc/sys/net/ipv4/ip_local_port_range").split() or (32768, 60999))
    candidates = [port for port in range(10240, 65536) if not low <= port <= high] or list(range(10240, 65536))
    for _ in range(1000):
        port = random.choice(candidates)
        if port in PORTS:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        PORTS.add(port)
        return port
    raise Setup("no free loopback port found")


# ------------------------------------------------------------------------------------------------------- configurations


def nginx_head(work, name, limit):
    user = f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""
    return f"""\
{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile {limit};
pid {work}/{name}.pid;
error_log {work}/{name}.error.log warn;
events {{ worker_connections {limit}; }}
"""


def nginx_http(work, name):
    temporary = "".join(f"    {kind}_temp_path {work}/{name}.{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    return f"""\
    access_log off;
    server_tokens off;
    sendfile on;
    keepalive_requests 1000000000;
    keepalive_time 24h;
{temporary}"""


def endpoint_config(work, ports, limit):
    listen = "\n".join(f"        listen 127.0.0.1:{port} backlog=4096;" for port in ports)
    return f"""\
{nginx_head(work, "endpoint", limit)}
http {{
{nginx_http(work, "endpoint")}
    keepalive_timeout 1h;
    open_file_cache max=16 inactive=1h;
    open_file_cache_valid 1h;
    default_type text/plain;
    server {{
{listen}
        location = {SMALL} {{ return 200 "{"n" * SMALL_BYTES}"; }}
        location = {LARGE} {{ root {work}/www; }}
        location = {STREAM} {{ root {work}/www; }}
        location = {INSPECT} {{
            return 200 "forwarded=$http_x_forwarded_for host=$host protocol=$server_protocol upstream=$server_port/$connection\\n";
        }}
        location / {{ return 404 "not here\\n"; }}
    }}
}}
"""


def nginx_config(work, name, ports, endpoints, udp_endpoints, limit, module):
    udp = "\n".join(f"        server 127.0.0.1:{port};" for port in udp_endpoints)
    upstream = "\n".join(f"        server 127.0.0.1:{port};" for port in endpoints)
    location = """\
            proxy_pass http://endpoints;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"""
    listen = f"listen 127.0.0.1:{ports['web']}{{0}} backlog=4096;" , f"listen 127.0.0.1:{ports['secure']} ssl http2{{0}} backlog=4096;"
    first = "\n        ".join(line.format(" default_server") for line in listen)
    plain = f"listen 127.0.0.1:{ports['web']}; listen 127.0.0.1:{ports['secure']} ssl http2;"
    others = "\n".join(f"    server {{ {plain} server_name other{i:02}.test; location /app{i:02}/ {{ proxy_pass http://endpoints; }} }}"
                       for i in range(OTHER_ROUTES))
    stream = f"""\
stream {{
    upstream endpoints {{
{upstream}
    }}
    server {{ listen 127.0.0.1:{ports['tcp']} backlog=4096; proxy_pass endpoints; }}
    upstream udp {{
{udp}
    }}
    server {{ listen 127.0.0.1:{ports['udp']} udp; proxy_pass udp; proxy_timeout 60s; proxy_responses 1; }}
    server {{ listen 127.0.0.1:{ports['udp-session']} udp; proxy_pass udp; proxy_timeout 60s; }}
}}
""" if module is not None else ""
    load = f"load_module {module};\n" if module else ""
    return f"""\
{load}{nginx_head(work, name, limit)}
http {{
{nginx_http(work, name)}
    keepalive_timeout 75s;
    # 64 KiB responses stay in memory, as they do in the others.
    proxy_buffers 32 8k;
    proxy_max_temp_file_size 0;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_ecdh_curve X25519:prime256v1;
    ssl_certificate {work}/certificate.pem;
    ssl_certificate_key {work}/key.pem;
    upstream endpoints {{
{upstream}
        keepalive 128;
        keepalive_requests 1000000000;
        keepalive_time 24h;
    }}
    server {{
        {first}
        return 404;
    }}
    server {{
        {plain}
        server_name {HOST};
        location / {{
{location}
        }}
    }}
{others}
}}
{stream}"""


def haproxy_config(work, name, ports, endpoints, limit):
    servers = "\n".join(f"    server endpoint{i} 127.0.0.1:{port}" for i, port in enumerate(endpoints))
    with open(f"{work}/{name}.map", "w") as routes:
        routes.write(f"{HOST}/ bench\n" + "".join(f"other{i:02}.test/app{i:02}/ other{i:02}\n" for i in range(OTHER_ROUTES)))
    with open(f"{work}/{name}.pem", "w") as both:
        both.write(read(f"{work}/certificate.pem") + read(f"{work}/key.pem"))
    others = "\n".join(f"backend other{i:02}\n    option forwardfor\n{servers}" for i in range(OTHER_ROUTES))
    # Each connection through it takes two descriptors, and one in four of them a pipe of two more.
    return f"""\
global
    nbthread 1
    maxconn {limit * 2 // 5 - 64}
    ssl-default-bind-options ssl-min-ver TLSv1.2
    ssl-default-bind-curves X25519:P-256
defaults
    mode http
    http-reuse always
    timeout connect 5s
    timeout client 75s
    timeout server 75s
    timeout http-keep-alive 75s
frontend web
    bind 127.0.0.1:{ports['web']} backlog 4096
    use_backend %[base,map_beg({work}/{name}.map,none)]
frontend secure
    bind 127.0.0.1:{ports['secure']} backlog 4096 ssl crt {work}/{name}.pem alpn h2,http/1.1
    use_backend %[base,map_beg({work}/{name}.map,none)]
backend bench
    option forwardfor
{servers}
{others}
backend none
    http-request deny deny_status 404
frontend tcp
    mode tcp
    option splice-auto
    bind 127.0.0.1:{ports['tcp']} backlog 4096
    default_backend tcp
backend tcp
    mode tcp
    option splice-auto
{servers}
"""


def nuncio_config(work, ports, endpoints, udp_endpoints):
    others = "\n".join(f"""\
[routes.other{i:02}]
match = 'Host("other{i:02}.test") && PathPrefix("/app{i:02}")'
upstream = "endpoints"
""" for i in range(OTHER_ROUTES))
    return f"""\
[listeners.web]
address = "127.0.0.1:{ports['web']}"

[listeners.secure]
address = "127.0.0.1:{ports['secure']}"
tls = {{ certificates = ["bench"] }}

[listeners.tcp]
address = "127.0.0.1:{ports['tcp']}"
protocol = "tcp"

[certificates.bench]
cert = "{work}/certificate.pem"
key = "{work}/key.pem"

[routes.bench]
match = 'Host("{HOST}") && PathPrefix("/")'
upstream = "endpoints"

{others}
[tcp_routes.bench]
listener = "tcp"
upstream = "endpoints"

[upstreams.endpoints]
endpoints = [{", ".join(f'"127.0.0.1:{port}"' for port in endpoints)}]

[listeners.udp]
address = "127.0.0.1:{ports['udp']}"
protocol = "udp"

[udp_routes.udp]
listener = "udp"
upstream = "udp"
responses = 1
affinity = "none"

[listeners.udp-session]
address = "127.0.0.1:{ports['udp-session']}"
protocol = "udp"

[udp_routes.udp-session]
listener = "udp-session"
upstream = "udp"
affinity = "none"

[upstreams.udp]
endpoints = [{", ".join(f'"127.0.0.1:{port}"' for port in udp_endpoints)}]
"""


def stream_module(given):
    """nginx's stream module: a path to load, "" when it is built in, None when there is none."""
    if given:
        return os.path.abspath(given)
    arguments = subprocess.run(["nginx", "-V"], capture_output=True, text=True).stderr
    if re.search(r"--with-stream(\s|$)", arguments):
        return ""
    folder = re.search(r"--modules-path=(\S+)", arguments)
    path = os.path.join(folder.group(1) if folder else "/usr/lib/nginx/modules", "ngx_stream_module.so")
    return path if os.path.exists(path) else None


class Proxy:
    """One contender: how it is started, and where it listens once it runs."""

    def __init__(self, name, binary, bench):
        self.name, self.binary, self.bench = name, binary, bench
        self.child, self.ports = None, {}

    @property
    def ours(self):
        return self.name not in ("nginx", "haproxy")

    def lacks(self, scenario):
        if self.name == "haproxy" and scenario.udp:
            return "HAProxy does not forward UDP"
        if self.name == "nginx" and (scenario.listener == "tcp" or scenario.udp) and self.bench.module is None:
            return "nginx has no stream module here (Debian package libnginx-mod-stream)"
        return None

    def start(self):
        for attempt in range(3):  # another program may take a port between our look and its bind
            try:
                return self.start_once()
            except Refused:
                self.stop()
                if attempt == 2 or "in use" not in read(self.log).lower():
                    raise

    def start_once(self):
        work, bench = self.bench.work, self.bench
        self.ports = {listener: free_port() for listener in ("web", "secure", "tcp", "udp", "udp-session", "admin")}
        path = f"{work}/{self.name}.conf"
        if self.name == "nginx":
            text = nginx_config(work, self.name, self.ports, bench.endpoint_ports, bench.udp_ports, bench.limit, bench.module)
            command = [self.binary, "-c", path, "-e", f"{work}/nginx.error.log"]
        elif self.name == "haproxy":
            text = haproxy_config(work, self.name, self.ports, bench.endpoint_ports, bench.limit)
            command = [self.binary, "-db", "-f", path]
        else:
            path = f"{work}/{self.name}.toml"
            text = nuncio_config(work, self.ports, bench.endpoint_ports, bench.udp_ports)
            command = [self.binary, "run", path, "--workers", "1", "--admin", f"127.0.0.1:{self.ports['admin']}"]
        with open(path, "w") as file:
            file.write(text)
        self.log = f"{work}/{self.name}.log"
        with open(self.log, "w") as log:
            self.child = spawn(command, bench.options.proxy_core, log, work)
        waited = [listener for listener in ("web", "secure", "tcp") if listener != "tcp" or self.name != "nginx" or bench.module is not None]
        await_ports(self.name, self.child, [self.ports[listener] for listener in waited], self.log)

    def stop(self):
        if self.child:
            end(self.child)
            self.child = None

    def url(self, scenario, host=None):
        scheme = "https" if scenario.tls else "http"
        return f"{scheme}://{host or self.bench.client_host}:{self.ports[scenario.listener]}{scenario.path}"


def await_ports(name, child, ports, log):
    deadline = time.monotonic() + 10
    for port in ports:
        while True:
            if child.poll() is not None:
                raise Refused(f"{name} ended with status {child.returncode} while starting:\n{tail(log)}")
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise Refused(f"{name} does not listen on 127.0.0.1:{port} after 10 s:\n{tail(log)}") from None
                time.sleep(0.02)


# -------------------------------------------------------------------------------------------------------- verification


def tls_context(alpn):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols([alpn])
    return context


def connect(port, context):
    stream = socket.create_connection(("127.0.0.1", port), 10)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not context:
        return stream
    # A close without close_notify is an error: it looks like a cut.
    return context.wrap_socket(stream, server_hostname=HOST, suppress_ragged_eofs=False)


def fetch(port, context, path, host=HOST, close=False):
    """One request on a connection of its own. Returns status, headers, body and what was negotiated."""
    stream = connect(port, context)
    client = http.client.HTTPConnection(host)
    client.sock = stream
    try:
        client.request("GET", path, headers={"Host": host, **({"Connection": "close"} if close else {})})
        response = client.getresponse()
        body = response.read()
        negotiated = (stream.version(), stream.cipher()[0], stream.selected_alpn_protocol()) if context else None
        return response.status, response.headers, body, negotiated
    finally:
        client.close()
        stream.close()


def expect(condition, message):
    if not condition:
        raise Refused(message)


def verify(proxy, scenario):
    """Refuses a proxy that does not do what the scenario asks for. Returns remarks."""
    port = proxy.ports[scenario.listener]
    if scenario.udp:
        return verify_udp(port)
    remarks = []
    context = tls_context("http/1.1") if scenario.tls else None
    try:
        status, _, body, negotiated = fetch(port, context, scenario.path)
        expect(status == 200, f"answers {status} instead of 200")
        expect(len(body) == scenario.body, f"body of {len(body)} bytes instead of {scenario.body}")
        if context:
            expect(negotiated[0] == "TLSv1.3", f"negotiates {negotiated[0]} instead of TLSv1.3")
            expect(negotiated[2] == "http/1.1", f"ALPN chose {negotiated[2]} instead of http/1.1")
            remarks.append(negotiated[1])
        if scenario.listener != "tcp":
            status, _, _, _ = fetch(port, context, scenario.path, host="nobody.test")
            expect(status >= 400, f"answers {status} for a host that no route has")
            seen = [fetch(port, context, INSPECT)[2].decode() for _ in range(12)]
            check_inspected(seen[0])
            reused = len({text.rpartition("upstream=")[2] for text in seen})
            expect(reused <= 6, f"opens upstream connections instead of keeping them: {reused} for 12 requests")
        if scenario.fresh:
            remarks += verify_close(port, context, scenario)
        if scenario.name == "resume-tls":
            remarks.append("resumes" if resumes(port, context) else "does not resume: full handshakes")
        if scenario.alpn == "h2":
            remarks += verify_h2(proxy, scenario)
    except (OSError, http.client.HTTPException, subprocess.SubprocessError) as error:
        raise Refused(f"{type(error).__name__}: {error}") from error
    return remarks


def check_inspected(text):
    fields = dict(part.partition("=")[::2] for part in text.split())
    expect(fields.get("forwarded") == "127.0.0.1", f"X-Forwarded-For at the endpoint is {fields.get('forwarded')!r}, not '127.0.0.1'")
    expect(fields.get("host") == HOST, f"Host at the endpoint is {fields.get('host')!r}, not {HOST!r}")
    expect(fields.get("protocol") == "HTTP/1.1", f"speaks {fields.get('protocol')!r} to the endpoint")


def verify_close(port, context, scenario):
    """`Connection: close` must be echoed, or a client may send its next request into a closing connection."""
    stream = connect(port, context)
    try:
        stream.sendall(f"GET {scenario.path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        data = b""
        try:
            while chunk := stream.recv(65536):
                data += chunk
        except ssl.SSLEOFError:
            return ["closes without close_notify"]
    finally:
        stream.close()
    if not re.search(rb"(?i)^connection:\s*close\s*$", data.partition(b"\r\n\r\n")[0].replace(b"\r", b""), re.MULTILINE):
        return ["does not answer `Connection: close` with `Connection: close` (expect read errors)"]
    return []


def resumes(port, context):
    session = None
    for _ in range(2):
        plain = socket.create_connection(("127.0.0.1", port), 10)
        stream = context.wrap_socket(plain, server_hostname=HOST, session=session)
        try:
            stream.sendall(f"GET {SMALL} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
            while stream.recv(65536):
                pass
            session, reused = stream.session, stream.session_reused
        finally:
            stream.close()
    return reused


def verify_udp(port):
    """Each of several clients gets its own datagrams back, from the address that it sent them to."""
    clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(8)]
    try:
        for number, client in enumerate(clients):
            client.settimeout(2)
            client.connect(("127.0.0.1", port))
            client.send(b"%d" % number)
        for number, client in enumerate(clients):
            expect(client.recv(65536) == b"%d" % number, "gives a client what another one asked for")
    except OSError as error:
        raise Refused(f"no reply by UDP: {error}") from error
    finally:
        for client in clients:
            client.close()
    return []


def verify_h2(proxy, scenario):
    authority = f":authority: {HOST}"
    url = f"https://{proxy.bench.client_host}:{proxy.ports['secure']}"
    seen = subprocess.run(["nghttp", "--no-verify-peer", "-H", authority, url + INSPECT], capture_output=True, text=True, timeout=20)
    expect("forwarded=" in seen.stdout, f"HTTP/2 request failed: {(seen.stdout + seen.stderr).strip()[:300]!r}")
    check_inspected(seen.stdout)
    out = subprocess.run(["h2load", "-n10", "-c1", "-m1", "-H", authority, url + scenario.path], capture_output=True, text=True, timeout=20).stdout
    expect("Application protocol: h2" in out, "ALPN did not choose h2")
    expect("TLS Protocol: TLSv1.3" in out, "h2load did not get TLS 1.3")
    expect(re.search(r"status codes: 10 2xx", out), f"HTTP/2 answers are not all 2xx: {out[-600:]}")
    expect(f"({scenario.body * 10}) data" in out, f"HTTP/2 bodies are not {scenario.body} bytes each")
    group = re.search(r"Server Temp Key: (\S+)", out)
    return ["h2", group.group(1) if group else "group unknown"]


# ----------------------------------------------------------------------------------------------------- load generators

WRK_REPORT = """\
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format("\\n@@ %.0f %.0f %.0f %d %d %d %d %d\\n", summary.requests, summary.duration,
    latency:percentile(99), e.connect, e.read, e.write, e.status, e.timeout))
end
"""


def generate(bench, command, seconds):
    path = f"{bench.work}/load.log"
    with open(path, "w") as log:
        child = spawn(command, bench.options.load_core, log, bench.work)
        try:
            status = child.wait(seconds + 30)
        except subprocess.TimeoutExpired:
            raise Refused(f"{command[0]} did not end") from None
        finally:
            end(child)
    if status != 0:
        raise Refused(f"{command[0]} failed with status {status}:\n{tail(path)}")
    return read(path)


def run_wrk(bench, proxy, scenario, seconds):
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "10s", "-s", f"{bench.work}/report.lua", "-H", f"Host: {HOST}"]
    if scenario.fresh:
        command += ["-H", "Connection: close"]
    out = generate(bench, command + [proxy.url(scenario)], seconds)
    report = re.search(r"^@@ (.*)$", out, re.MULTILINE)
    if not report:
        raise Refused(f"wrk reported nothing: {out[-300:]!r}")
    requests, duration, p99, *errors = (float(value) for value in report.group(1).split())
    kinds = dict(zip(("connect", "read", "write", "status", "timeout"), (int(value) for value in errors)))
    return requests, duration / 1e6, p99 / 1e3, {kind: count for kind, count in kinds.items() if count}


def run_stream(bench, proxy, scenario, seconds):
    """Downloads until time is up, with reads of our own: curl's and wrk's are of a few KiB. What is counted is MiB."""
    command = [sys.executable, os.path.abspath(__file__), "--stream-clients", str(proxy.ports[scenario.listener]), str(seconds)]
    out = json.loads(generate(bench, command, seconds))
    if not out["bytes"]:
        raise Refused(f"nothing was downloaded: {out['errors']}")
    return out["bytes"] >> 20, out["seconds"], 0.0, out["errors"]


def run_h2load(bench, proxy, scenario, seconds):
    log = f"{bench.work}/h2load.log"
    if os.path.exists(log):
        os.unlink(log)
    command = ["h2load", "-t1", f"-c{H2_CONNECTIONS}", f"-m{H2_STREAMS}", f"-D{seconds}", f"--log-file={log}", "-H", f":authority: {HOST}"]
    out = generate(bench, command + [proxy.url(scenario)], seconds)
    latencies, failures = [], []
    first = None
    with open(log, "rb") as lines:
        for line in lines:
            start, status, took = line.split(b"\t")[:3]
            start, took = int(start), int(took)
            first = start if first is None else min(first, start)
            if status == b"200":
                latencies.append(took)
            else:
                failures.append((start + took, status.decode()))
    if not latencies:
        raise Refused(f"h2load got no answer: {out[-300:]!r}")
    # h2load also counts what was in flight when time was up as failed; those end last.
    over = first + (seconds - 0.1) * 1e6
    errors = {}
    for at, status in failures:
        if status != "-1" or at < over:
            kind = "stream" if status == "-1" else "status"
            errors[kind] = errors.get(kind, 0) + 1
    if "Application protocol: h2" not in out:
        errors["protocol"] = 1
    latencies.sort()
    return len(latencies), float(seconds), latencies[int(len(latencies) * 0.99)] / 1e3, errors


def run_fresh_tls(bench, proxy, scenario, seconds):
    """Our own clients, because wrk resumes its sessions and h2load does not reconnect."""
    command = [sys.executable, os.path.abspath(__file__), "--fresh-tls-clients", str(proxy.ports["secure"]), str(seconds)]
    out = json.loads(generate(bench, command, seconds))
    latencies = sorted(out["latencies"])
    if not latencies:
        raise Refused(f"no request succeeded: {out['errors']}")
    return len(latencies), out["seconds"], latencies[int(len(latencies) * 0.99)] * 1e3, out["errors"]


def run_udp(bench, proxy, scenario, seconds):
    command = [f"{bench.work}/udp", "load", f"127.0.0.1:{proxy.ports[scenario.listener]}", str(seconds), str(CONNECTIONS), str(UDP_BYTES)]
    report = re.search(r"^@@ (.*)$", generate(bench, command, seconds), re.MULTILINE)
    requests, duration, p99, lost, wrong = (int(value) for value in report.group(1).split())
    return requests, duration / 1e6, p99 / 1e3, {kind: count for kind, count in (("lost", lost), ("wrong", wrong)) if count}


def fresh_tls_clients(port, seconds):
    """The process behind `run_fresh_tls`: forks clients, each opening one connection after another; none resumes."""
    request = f"GET {SMALL} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode()

    def client():
        context = tls_context("http/1.1")
        latencies, errors = [], {}
        until = time.monotonic() + seconds
        while (start := time.monotonic()) < until:
            try:
                stream = connect(port, context)
                try:
                    stream.sendall(request)
                    data = b""
                    while chunk := stream.recv(16384):
                        data += chunk
                    if not (data.startswith(b"HTTP/1.1 200") and len(data.partition(b"\r\n\r\n")[2]) == SMALL_BYTES):
                        raise ValueError("bad answer")
                    if stream.session_reused or stream.version() != "TLSv1.3":
                        raise ValueError("not a full TLS 1.3 handshake")
                finally:
                    stream.close()
                latencies.append(time.monotonic() - start)
            except (OSError, ValueError) as error:
                kind = f"{type(error).__name__}: {error}"
                errors[kind] = errors.get(kind, 0) + 1
                time.sleep(0.001)
        return latencies, errors

    start = time.monotonic()
    results, errors = in_forks(TLS_CLIENTS, client)
    latencies = [latency for some in results for latency in some]
    json.dump({"latencies": latencies, "errors": errors, "seconds": time.monotonic() - start}, sys.stdout)


def stream_clients(port, seconds):
    """The process behind `run_stream`: forks clients, each downloading one response after another."""
    request = f"GET {STREAM} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()

    def client():
        buffer, received, errors = bytearray(1 << 20), 0, {}
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            left = None
            try:
                with connect(port, None) as stream:
                    stream.sendall(request)
                    while left != 0 and time.monotonic() < until:
                        count = stream.recv_into(buffer)
                        if count == 0:
                            raise ValueError("the response ended early")
                        received += count
                        if left is None:
                            head, end, _ = bytes(buffer[:count]).partition(b"\r\n\r\n")
                            if not (head.startswith(b"HTTP/1.1 200") and end):
                                raise ValueError("bad answer")
                            left = len(head) + len(end) + (STREAM_MIB << 20)
                        left -= count
            except (OSError, ValueError) as error:
                kind = f"{type(error).__name__}: {error}"
                errors[kind] = errors.get(kind, 0) + 1
                time.sleep(0.001)
        return received, errors

    start = time.monotonic()
    results, errors = in_forks(STREAM_CLIENTS, client)
    json.dump({"bytes": sum(results), "errors": errors, "seconds": time.monotonic() - start}, sys.stdout)


def in_forks(count, work):
    """What `work` returns in each of `count` processes at once: their results, and how often each error was, over all of them."""
    parent = os.getpid()
    pipes = []
    for _ in range(count):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
            os.close(reader)
            with os.fdopen(writer, "w") as out:
                json.dump(work(), out)
            os._exit(0)
        os.close(writer)
        pipes.append(reader)
    results, errors = [], {}
    for reader in pipes:
        with os.fdopen(reader) as pipe:
            result, failed = json.load(pipe)
        results.append(result)
        for kind, count in failed.items():
            errors[kind] = errors.get(kind, 0) + count
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return results, errors


def measure_load(bench, proxy, scenario, seconds):
    generators = {"tls-h2": run_h2load, "fresh-tls": run_fresh_tls, "tcp-stream": run_stream, "udp": run_udp, "udp-session": run_udp}
    generator = generators.get(scenario.name, run_wrk)
    core, logged = bench.options.proxy_core, os.path.getsize(proxy.log)
    before = Cpu(proxy.child.pid, core)
    requests, duration, p99, errors = generator(bench, proxy, scenario, seconds)
    after = Cpu(proxy.child.pid, core)
    if proxy.child.poll() is not None:
        raise Refused(f"ended with status {proxy.child.returncode} under load:\n{tail(proxy.log)}")
    if not requests:
        raise Refused(f"no request succeeded; errors: {errors}")
    used, wall = after.since(before), after.at - before.at
    return {
        "requests": int(requests),
        "requests_per_second": requests / duration,
        "cpu_us": used / requests * 1e6,
        "p99_ms": p99,
        "rss": resident(proxy.child.pid),
        "errors": errors,
        "core_share": used / wall,
        "others_share": max(0.0, after.core - before.core - used) / wall,
        "steal_share": (after.steal - before.steal) / wall,
        "log_bytes": os.path.getsize(proxy.log) - logged,
    }


def measure_memory(bench, proxy, scenario):
    """Opens many connections, one request each, and watches the proxy's memory while they sit idle."""
    port, wanted = proxy.ports[scenario.listener], bench.idle_connections
    context = tls_context("http/1.1") if scenario.tls else None
    request = f"GET {SMALL} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()

    def exchange(stream):
        stream.sendall(request)
        data = b""
        while True:
            chunk = stream.recv(4096)
            if not chunk:
                raise OSError("closed before its answer")
            data += chunk
            head, end_of_head, body = data.partition(b"\r\n\r\n")
            if end_of_head and len(body) >= SMALL_BYTES:
                if not head.startswith(b"HTTP/1.1 200"):
                    raise OSError(head.split(b"\r\n")[0].decode("latin-1"))
                return

    with connect(port, context) as warm:
        for _ in range(500):
            exchange(warm)
    time.sleep(0.3)
    errors, open_ones = {}, []
    before = resident(proxy.child.pid)
    try:
        for _ in range(wanted):
            try:
                stream = connect(port, context)
                open_ones.append(stream)
                exchange(stream)
            except OSError as error:
                errors[str(error)] = errors.get(str(error), 0) + 1
                if sum(errors.values()) > 50:
                    raise Refused(f"too many errors while opening connections: {errors}") from error
        time.sleep(0.3)
        at_once = resident(proxy.child.pid)
        time.sleep(bench.options.idle_wait)
        settled = resident(proxy.child.pid)
        # A keep-alive connection that was closed meanwhile is readable. TLS session tickets were read with the answer.
        poll = select.poll()
        for stream in open_ones:
            poll.register(stream, select.POLLIN)
        closed = len(poll.poll(0))
        if closed:
            errors["closed while idle"] = closed
    finally:
        for stream in open_ones:
            stream.close()
    if proxy.child.poll() is not None:
        raise Refused(f"ended with status {proxy.child.returncode}:\n{tail(proxy.log)}")
    return {
        "connections": wanted,
        "rss_before": before,
        "rss": settled,
        "bytes_at_once": (at_once - before) / wanted,
        "bytes_settled": (settled - before) / wanted,
        "errors": errors,
    }


# ----------------------------------------------------------------------------------------------------------- the bench


class Bench:
    def __init__(self, options):
        self.options = options
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        hard = 1 << 20 if hard == resource.RLIM_INFINITY else hard
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.limit = min(32768, hard - 256)
        self.idle_connections = min(options.idle_connections, self.limit * 2 // 5 - 256)
        if self.idle_connections < options.idle_connections:
            print(f"note: {hard} open files are allowed (ulimit -Hn): {self.idle_connections} idle connections instead of {options.idle_connections}")
        os.sched_setaffinity(0, {options.load_core})
        # wrk and h2load send the host of the URL as SNI, and an IP address is not allowed there.
        addresses = {info[4][0] for info in socket.getaddrinfo("localhost", 0, socket.AF_INET, socket.SOCK_STREAM)} if has_localhost() else set()
        self.client_host = "localhost" if "127.0.0.1" in addresses else "127.0.0.1"
        self.module = stream_module(options.nginx_stream_module)
        self.proxies = [Proxy(name, binary, self) for name, binary in options.contenders]
        self.results = {}
        self.failures = []
        self.started = datetime.datetime.now().astimezone()

    def prepare(self):
        self.work = tempfile.mkdtemp(prefix="nuncio-compare-")
        os.chmod(self.work, 0o755)  # nginx's worker may be another user
        with open(f"{self.work}/report.lua", "w") as file:
            file.write(WRK_REPORT)
        os.makedirs(f"{self.work}/www/bench")
        with open(f"{self.work}/www{LARGE}", "w") as file:
            file.write("n" * LARGE_BYTES)
        with open(f"{self.work}/www{STREAM}", "wb") as file:
            file.truncate(STREAM_MIB << 20)
        made = subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
             "-keyout", f"{self.work}/key.pem", "-out", f"{self.work}/certificate.pem", "-subj", f"/CN={HOST}",
             "-addext", f"subjectAltName=DNS:{HOST},DNS:localhost,IP:127.0.0.1"], capture_output=True, text=True)
        if made.returncode:
            raise Setup(f"openssl could not make a certificate: {made.stderr.strip()}")
        self.endpoint_ports = [free_port() for _ in range(ENDPOINT_ADDRESSES)]
        with open(f"{self.work}/endpoint.conf", "w") as file:
            file.write(endpoint_config(self.work, self.endpoint_ports, self.limit))
        log = f"{self.work}/endpoint.log"
        with open(log, "w") as out:
            child = spawn(["nginx", "-c", f"{self.work}/endpoint.conf", "-e", f"{self.work}/endpoint.error.log"], self.options.load_core, out, self.work)
        try:
            await_ports("the endpoint (nginx)", child, self.endpoint_ports, log)
        except Refused as error:
            raise Setup(str(error)) from error

        self.prepare_udp()

    def prepare_udp(self):
        """An endpoint that sends datagrams back, and what will send them."""
        self.udp_ports = [free_port() for _ in range(ENDPOINT_ADDRESSES)]
        if not any(scenario.udp for scenario in self.options.scenarios):
            return
        source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "udp.rs")
        made = subprocess.run(["rustc", "-O", "--edition", "2024", source, "-o", f"{self.work}/udp"], capture_output=True, text=True)
        if made.returncode:
            raise Setup(f"rustc could not build {source}: {made.stderr.strip()}")
        log = f"{self.work}/udp-endpoint.log"
        with open(log, "w") as out:
            child = spawn([f"{self.work}/udp", "echo"] + [str(port) for port in self.udp_ports], self.options.load_core, out, self.work)
        deadline = time.monotonic() + 10
        while "ready" not in read(log):
            if child.poll() is not None or time.monotonic() > deadline:
                raise Setup(f"the endpoint over UDP did not start:\n{tail(log)}")
            time.sleep(0.02)

    def close(self):
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, signal.SIG_IGN)
        for child in reversed(list(CHILDREN)):
            end(child)
        work = getattr(self, "work", None)
        if work and self.options.keep:
            print(f"kept: {work}")
        elif work:
            shutil.rmtree(work, ignore_errors=True)

    def run(self):
        rounds = {scenario.name: 1 if scenario.memory else self.options.rounds for scenario in self.options.scenarios}
        self.total = sum(rounds.values()) * len(self.proxies)
        self.done = 0
        for scenario in self.options.scenarios:
            print(f"\n{scenario.name}: {scenario.title}", flush=True)
            self.results[scenario.name] = {proxy.name: {"runs": []} for proxy in self.proxies}
            self.scenario(scenario, rounds[scenario.name])
            print()
            print(self.table(scenario), flush=True)

    def scenario(self, scenario, rounds):
        """Fresh processes for every scenario: what one leaves in memory must not count in the next."""
        results = self.results[scenario.name]
        ready = []
        for proxy in self.proxies:
            reason = proxy.lacks(scenario)
            if reason:
                results[proxy.name]["absent"] = reason
                print(f"  {proxy.name}: n/a: {reason}")
                self.total -= rounds
                continue
            try:
                proxy.start()
                remarks = verify(proxy, scenario)
                results[proxy.name]["remarks"] = remarks
                print(f"  {proxy.name}: verified" + (f" ({', '.join(remarks)})" if remarks else ""), flush=True)
                if not scenario.memory:
                    measure_load(self, proxy, scenario, self.options.warm_up)
                ready.append(proxy)
            except Refused as error:
                self.failed(scenario, proxy, error, rounds)
        for number in range(1, rounds + 1):
            for proxy in list(ready):
                try:
                    run = measure_memory(self, proxy, scenario) if scenario.memory else measure_load(self, proxy, scenario, self.options.seconds)
                except (Refused, OSError) as error:
                    self.failed(scenario, proxy, error, rounds - number + 1)
                    ready.remove(proxy)
                    continue
                results[proxy.name]["runs"].append(dict(run, round=number))
                self.done += 1
                self.progress(scenario, number, proxy, run)
        for proxy in self.proxies:
            proxy.stop()

    def failed(self, scenario, proxy, error, rounds_left):
        self.results[scenario.name][proxy.name]["failed"] = str(error)
        self.failures.append(f"{scenario.name}: {proxy.name}: {error}")
        self.total -= rounds_left
        print(f"  {proxy.name}: FAILED: {error}", flush=True)
        proxy.stop()

    def progress(self, scenario, number, proxy, run):
        head = f"  [{self.done:{len(str(self.total))}}/{self.total}] round {number}  {proxy.name:<{self.width()}}"
        if scenario.memory:
            print(f"{head}  {run['connections']:,} connections  {run['bytes_at_once']:,.0f} B each, {run['bytes_settled']:,.0f} B after "
                  f"{self.options.idle_wait:g} s  errors {show_errors(run['errors'])}", flush=True)
            return
        noise = f"core {self.options.proxy_core}: {run['core_share']:.0%} its own, {run['others_share']:.0%} others"
        if run["steal_share"] >= 0.005:
            noise += f", {run['steal_share']:.0%} stolen"
        print(f"{head}  {run['requests_per_second']:>9,.0f} req/s  {run['cpu_us']:>7.2f} µs/req  p99 {run['p99_ms']:>7.2f} ms  "
              f"errors {show_errors(run['errors'])}  ({noise})", flush=True)
        if run["log_bytes"] > run["requests"]:
            print(f"      {proxy.name} wrote {run['log_bytes']:,} bytes of log meanwhile: is an access log on?")

    def width(self):
        return max(len(proxy.name) for proxy in self.proxies)

    # ---- figures

    def baselines(self):
        """The rows that others are compared with: our builds, or the first proxy when there is none."""
        return [proxy.name for proxy in self.proxies if proxy.ours] or [self.proxies[0].name]

    def median(self, scenario, name, key):
        values = [run[key] for run in self.results[scenario.name][name]["runs"]]
        return statistics.median(values) if values else None

    def ratios(self, scenario, name, peer):
        """In each round, `name`'s figure divided by that of `peer`."""
        key = "bytes_settled" if scenario.memory else "cpu_us"
        theirs = {run["round"]: run[key] for run in self.results[scenario.name][peer]["runs"]}
        return [run[key] / theirs[run["round"]] for run in self.results[scenario.name][name]["runs"] if theirs.get(run["round"], 0) > 0]

    def ratio(self, scenario, name, peer):
        pairs = self.ratios(scenario, name, peer)
        return statistics.median(pairs) if pairs else None

    def ratio_and_spread(self, scenario, name, peer):
        pairs = self.ratios(scenario, name, peer)
        spread = f" ({min(pairs):.2f}-{max(pairs):.2f})" if len(pairs) > 1 else ""
        return show_ratio(self.ratio(scenario, name, peer)) + spread

    def errors(self, scenario, name):
        return sum(sum(run["errors"].values()) for run in self.results[scenario.name][name]["runs"])

    def noise(self, scenarios):
        """Share of the proxy's core that others had, median over all runs."""
        shares = [run["others_share"] + run["steal_share"] for scenario in scenarios if not scenario.memory
                  for result in self.results[scenario.name].values() for run in result["runs"]]
        return statistics.median(shares) if shares else 0.0

    def table(self, scenario):
        baselines = self.baselines()
        if scenario.memory:
            heads = ["proxy", "B/connection", f"after {self.options.idle_wait:g} s", "RSS before MB", "RSS MB", "errors"]
        else:
            heads = ["proxy", "req/s", "CPU µs/req", "min-max", "core", "others", "p99 ms", "RSS MB", "errors"]
        heads += [f"{name} ÷ it" for name in baselines]
        rows = []
        for proxy in self.proxies:
            result = self.results[scenario.name][proxy.name]
            if not result["runs"]:
                rows.append([proxy.name, "n/a" if "absent" in result else "FAILED"] + [""] * (len(heads) - 2))
                continue
            middle = lambda key: self.median(scenario, proxy.name, key)
            if scenario.memory:
                row = [f"{middle('bytes_at_once'):,.0f}", f"{middle('bytes_settled'):,.0f}", f"{middle('rss_before') / 1e6:.1f}", f"{middle('rss') / 1e6:.1f}"]
            else:
                values = [run["cpu_us"] for run in result["runs"]]
                row = [f"{middle('requests_per_second'):,.0f}", f"{middle('cpu_us'):.2f}", f"{min(values):.2f}-{max(values):.2f}",
                       f"{middle('core_share'):.0%}", f"{middle('others_share'):.0%}", f"{middle('p99_ms'):.2f}", f"{middle('rss') / 1e6:.1f}"]
            row.append(f"{self.errors(scenario, proxy.name):,}" + ("" if "failed" not in result else " FAILED"))
            row += ["" if name == proxy.name else self.ratio_and_spread(scenario, name, proxy.name) for name in baselines]
            rows.append([proxy.name] + row)
        text = aligned(heads, rows)
        notes = [scenario.note] if scenario.note else []
        noise = self.noise([scenario])
        if noise > NOISY:
            notes.append(f"others had {noise:.0%} of the proxy's core: these ratios are not precise; repeat on a quiet machine, "
                         "or with more and shorter rounds")
        return text + "".join(f"\n  ({note})" for note in notes)

    def verdicts(self):
        """What `--check` holds against nuncio: (line, good)."""
        lines = []
        peers = [proxy.name for proxy in self.proxies if not proxy.ours]
        names = [proxy.name for proxy in self.proxies]
        for scenario in self.options.scenarios:
            for name in names:
                count = self.errors(scenario, name)
                if count:
                    lines.append((f"{scenario.name}: {name}: {count:,} errors", False))
            if scenario.name in MEMORY_BUDGET and "nuncio" in names:
                each, most = self.median(scenario, "nuncio", "bytes_settled"), MEMORY_BUDGET[scenario.name]
                lines.append((f"{scenario.name}: nuncio {each or 0:,.0f} bytes, at most {most:,}", each is not None and each <= most))
            if scenario.name not in BUDGET or "nuncio" not in names:
                continue
            held = [peer for peer in peers if peer == PEER.get(scenario.name, peer)]
            costs = {peer: self.median(scenario, peer, "cpu_us") for peer in held}
            costs = {peer: cost for peer, cost in costs.items() if cost}
            if not costs:
                lines.append((f"{scenario.name}: no peer to compare with", False))
                continue
            cheaper = min(costs, key=costs.get)
            ratio, most = self.ratio(scenario, "nuncio", cheaper), BUDGET[scenario.name]
            shown = self.ratio_and_spread(scenario, "nuncio", cheaper)
            good = ratio is not None and ratio <= most
            lines.append((f"{scenario.name}: nuncio ÷ {cheaper} = {shown}, at most {most:.2f}", good))
        return lines + [(failure, False) for failure in self.failures]

    # ---- reports

    def command(self):
        return shlex.join(["benches/compare/compare.py"] + sys.argv[1:])

    def environment(self):
        model = re.search(r"model name\s*:\s*(.*)", read("/proc/cpuinfo"))
        return {
            "cpu": model.group(1) if model else platform.machine(),
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "versions": {proxy.name: version(proxy) for proxy in self.proxies},
        }

    def json(self):
        scenarios = {}
        for scenario in self.options.scenarios:
            key = "bytes_settled" if scenario.memory else "cpu_us"
            entry = {"title": scenario.title, "proxies": {}}
            for proxy in self.proxies:
                result = dict(self.results[scenario.name][proxy.name])
                if result["runs"]:
                    result["median"] = {each: self.median(scenario, proxy.name, each) for each, value in result["runs"][0].items()
                                        if isinstance(value, (int, float)) and each != "round"}
                    result["ratio_of_" + key] = {f"{name} / {proxy.name}": self.ratio(scenario, name, proxy.name)
                                                 for name in self.baselines() if name != proxy.name}
                entry["proxies"][proxy.name] = result
            scenarios[scenario.name] = entry
        return {
            "date": self.started.isoformat(timespec="seconds"),
            "command": self.command(),
            "seconds": self.options.seconds,
            "rounds": self.options.rounds,
            "environment": self.environment(),
            "scenarios": scenarios,
            "verdicts": [{"text": line, "good": good} for line, good in self.verdicts()],
        }

    def markdown(self):
        about, baselines = self.environment(), self.baselines()
        heads = ["scenario"] + [proxy.name for proxy in self.proxies]
        heads += [f"{name} ÷ {proxy.name}" for name in baselines for proxy in self.proxies if proxy.name != name]
        lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
        for scenario in self.options.scenarios:
            key, unit, form = ("bytes_settled", "bytes", ",.0f") if scenario.memory else ("cpu_us", "µs", ".1f")
            cells = []
            for proxy in self.proxies:
                value = self.median(scenario, proxy.name, key)
                errors = self.errors(scenario, proxy.name)
                result = self.results[scenario.name][proxy.name]
                text = "n/a" if "absent" in result else "failed" if value is None else format(value, form)
                cells.append(text + (f" ({errors:,} errors)" if errors else ""))
            cells += [show_ratio(self.ratio(scenario, name, proxy.name)) for name in baselines for proxy in self.proxies if proxy.name != name]
            lines.append(f"| `{scenario.name}`: {scenario.title} ({unit}) | " + " | ".join(cells) + " |")
        versions = ", ".join(f"{name} {text}" for name, text in about["versions"].items())
        memory = any(scenario.memory for scenario in self.options.scenarios)
        noise = self.noise(self.options.scenarios)
        lines += ["", f"CPU time per request of the proxy (user + system){'; memory per connection, one round' if memory else ''}. Each proxy pinned to one "
                  f"core with one worker, median of {self.options.rounds} interleaved rounds of {self.options.seconds} s; ratios are medians of the "
                  "ratios within a round. " + (f"Others had {noise:.0%} of that core meanwhile: not precise. " if noise > NOISY else "") +
                  f"{self.started:%Y-%m-%d}, {about['cpu']}, {about['cores']} cores, Linux {about['kernel']}; {versions}. Command: `{self.command()}`"]
        return "\n".join(lines)


def has_localhost():
    try:
        socket.getaddrinfo("localhost", 0, socket.AF_INET)
        return True
    except OSError:
        return False


def version(proxy):
    flag = {"nginx": "-v", "haproxy": "-v"}.get(proxy.name, "--version")
    try:
        done = subprocess.run([proxy.binary, flag], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    found = re.search(r"\d+\.\d+[\w.+~-]*", done.stdout + done.stderr)
    return found.group(0) if found else "unknown"


def show_errors(errors):
    if not errors:
        return "0"
    return f"{sum(errors.values()):,} ({', '.join(f'{kind} {count:,}' for kind, count in errors.items())})"


def show_ratio(ratio):
    return "-" if ratio is None else f"{ratio:.2f}"


def aligned(heads, rows):
    widths = [max(len(row[i]) for row in [heads] + rows) for i in range(len(heads))]
    lines = []
    for row in [heads, ["-" * width for width in widths]] + rows:
        lines.append("  " + "  ".join(cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))).rstrip())
    return "\n".join(lines)


# --------------------------------------------------------------------------------------------------------- command line


def parse(arguments):
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES + "\nscenarios:\n" + "".join(
        f"  {scenario.name:<16} {scenario.title}\n" for scenario in SCENARIOS), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="LIST", help="scenarios, separated by commas (default: all)")
    parser.add_argument("--proxies", metavar="LIST", default="nginx,haproxy,nuncio", help="contenders, in the order they are measured (default: %(default)s)")
    parser.add_argument("--nuncio", metavar="PATH", help="the nuncio binary (default: target/release/nuncio)")
    parser.add_argument("--extra", metavar="NAME=PATH", action="append", default=[], help="another build of nuncio as a further contender; repeatable")
    parser.add_argument("--seconds", type=int, default=5, help="length of a run (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs per proxy, interleaved; the median counts (default: %(default)s)")
    parser.add_argument("--warm-up", type=int, default=1, metavar="SECONDS", help="run before the first round (default: %(default)s)")
    parser.add_argument("--idle-connections", type=int, default=5000, metavar="N", help="for idle-memory (default: %(default)s)")
    parser.add_argument("--idle-wait", type=float, default=10, metavar="SECONDS", help="how long they idle before the second look (default: %(default)g)")
    parser.add_argument("--proxy-core", type=int, default=1, metavar="CORE", help="core of the proxy (default: %(default)s)")
    parser.add_argument("--load-core", type=int, default=0, metavar="CORE", help="core of load generator and endpoint (default: %(default)s)")
    parser.add_argument("--nginx-stream-module", metavar="PATH", help="nginx's ngx_stream_module.so, if not where nginx looks for it")
    parser.add_argument("--json", metavar="FILE", help="write every figure of every run")
    parser.add_argument("--markdown", metavar="FILE", nargs="?", const="-", help="Markdown table for the README, on the terminal or into FILE")
    parser.add_argument("--check", action="store_true", help="exit with status 1 on errors, or when nuncio needs more CPU than the cheaper peer (tcp and tcp-stream: than HAProxy) times "
                        + ", ".join(f"{most} ({name})" for name, most in BUDGET.items()))
    parser.add_argument("--keep", action="store_true", help="keep the directory with configurations and logs")
    options = parser.parse_args(arguments)

    wanted = options.only.split(",") if options.only else names
    for name in wanted:
        if name not in names:
            parser.error(f"no scenario is called {name!r}; there are {', '.join(names)}")
    options.scenarios = [scenario for scenario in SCENARIOS if scenario.name in wanted]

    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    target = os.environ.get("CARGO_TARGET_DIR") or os.path.join(root, "target")
    ours = os.path.abspath(options.nuncio or os.path.join(target, "release", "nuncio"))
    binaries = {"nginx": "nginx", "haproxy": "haproxy", "nuncio": ours}
    options.contenders = []
    for name in [name for name in options.proxies.split(",") if name]:
        if name not in binaries:
            parser.error(f"no proxy is called {name!r}; there are {', '.join(binaries)}, and --extra NAME=PATH")
        options.contenders.append((name, binaries[name]))
    for extra in options.extra:
        name, _, path = extra.partition("=")
        if not path or not re.fullmatch(r"[\w.-]+", name) or name in (*binaries, "load", "h2load", "endpoint"):
            parser.error(f"--extra wants NAME=PATH with a new name, not {extra!r}")
        options.contenders.append((name, os.path.abspath(path)))
    given = [name for name, _ in options.contenders]
    if not given or len(set(given)) != len(given):
        parser.error("each contender needs a name of its own, and there must be one at least")
    for value, name in ((options.seconds, "--seconds"), (options.rounds, "--rounds"), (options.warm_up, "--warm-up")):
        if value < 1:
            parser.error(f"{name} must be 1 or more")
    return options


def check_machine(options):
    if not sys.platform.startswith("linux"):
        raise Setup("this needs Linux: it reads /proc and pins processes to cores")
    if not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
        raise Setup("this kernel does not list the children of a process (CONFIG_PROC_CHILDREN)")
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    programs = {"nginx", "openssl", "wrk"} | {name for name, _ in options.contenders if name == "haproxy"}
    if any(scenario.alpn == "h2" for scenario in options.scenarios):
        programs |= {"h2load", "nghttp"}
    missing = [program for program in sorted(programs) if not shutil.which(program)]
    if missing:
        packages = sorted({PACKAGES[program] for program in missing})
        raise Setup(f"missing: {', '.join(missing)}. On Debian: apt-get install {' '.join(packages)}")
    for name, binary in options.contenders:
        if os.sep in binary and not os.access(binary, os.X_OK):
            hint = "build it with `cargo build --release`, give --nuncio PATH, or leave it out with --proxies nginx,haproxy"
            raise Setup(f"{name}: no program at {binary}" + (f": {hint}" if name == "nuncio" else ""))
    allowed = os.sched_getaffinity(0)
    if options.proxy_core == options.load_core or not {options.proxy_core, options.load_core} <= allowed:
        raise Setup(f"proxy and load need two different cores of {sorted(allowed)}; choose with --proxy-core and --load-core")


def interrupt(number, _frame):
    raise KeyboardInterrupt(number)


def main():
    if sys.argv[1:2] == ["--fresh-tls-clients"]:
        fresh_tls_clients(int(sys.argv[2]), int(sys.argv[3]))
        return 0
    if sys.argv[1:2] == ["--stream-clients"]:
        stream_clients(int(sys.argv[2]), int(sys.argv[3]))
        return 0
    options = parse(sys.argv[1:])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    bench = None
    try:
        check_machine(options)
        bench = Bench(options)
        bench.prepare()
        bench.run()
        verdicts = bench.verdicts()
        if verdicts:
            print("\nbudgets and errors")
            for line, good in verdicts:
                print(f"  {'ok  ' if good else 'FAIL'}  {line}")
        if options.json:
            with open(options.json, "w") as file:
                json.dump(bench.json(), file, indent=2)
                file.write("\n")
        if options.markdown == "-":
            print("\n" + bench.markdown())
        elif options.markdown:
            with open(options.markdown, "w") as file:
                file.write(bench.markdown() + "\n")
        return 1 if bench.failures or (options.check and not all(good for _, good in verdicts)) else 0
    except Setup as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ncompare: interrupted", file=sys.stderr)
        return 130
    finally:
        if bench:
            bench.close()


if __name__ == "__main__":
    sys.exit(main())
