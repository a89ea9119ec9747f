#!/usr/bin/env python3
"""Each configuration of config/edge as it is, in a network where its addresses and names are. Arguments: the nuncio binary, config/edge.

Runs in namespaces that end with it (network, mounts, processes): tests/network.rs makes them."""
import contextlib, http.client, http.server, os, shutil, socket, ssl, subprocess, sys, tempfile, threading, time

nuncio, configurations = (os.path.abspath(path) for path in sys.argv[1:])
ADDRESSES = ["10.30.0.1", "10.30.0.2", "10.30.0.3", "10.40.0.1", "198.51.100.7", "10.0.0.9"]
HOSTS = {"10.30.0.1": "tasks.web host-1.internal", "10.30.0.2": "tasks.web host-2.internal"}
DEADLINE = 20


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def await_that(what, is_so):
    until = time.monotonic() + DEADLINE
    while not is_so():
        assert time.monotonic() < until, f"not within {DEADLINE} s: {what}"
        time.sleep(0.01)


class App(http.server.ThreadingHTTPServer):
    """Answers with its address, and what it was told of the client."""
    request_queue_size = 128
    daemon_threads = True
    allow_reuse_address = True

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            body = f"{self.server.server_address[0]} {self.headers.get('X-Forwarded-For')}".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    def __init__(self, address, port):
        super().__init__((address, port), self.Handler)
        self.streams = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def process_request(self, stream, peer):
        self.streams.append(stream)
        super().process_request(stream, peer)

    def end(self):
        self.shutdown()
        self.server_close()
        for stream in self.streams:
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def serving(name, directory):
    shutil.copy(f"{configurations}/{name}", f"{directory}/{name}")
    log = open(f"{directory}/log", "w+")
    child = subprocess.Popen([nuncio, "run", name], cwd=directory, stdout=log, stderr=log)
    try:
        await_that(f"{name} is ready", lambda: child.poll() is not None or subprocess.run([nuncio, "health"], capture_output=True).returncode == 0)
        assert child.poll() is None, "it ended"
        yield lambda: open(f"{directory}/log").read()
        child.terminate()
        assert child.wait(DEADLINE) == 0
    except BaseException:
        print(open(f"{directory}/log").read(), file=sys.stderr)
        raise
    finally:
        child.kill()
        child.wait()
    print(f"{name}: served")


def ask(host, path="/", to="127.0.0.1", port=80, source=None, headers={}):
    connection = http.client.HTTPConnection(to, port, timeout=DEADLINE, source_address=(source, 0) if source else None)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Host": host, **headers})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()


def mesh(directory):
    apps = [App(address, 8080) for address in ("10.30.0.1", "10.30.0.2")]
    with serving("mesh.toml", directory):
        servers = [ask("www.example.com")[2].split()[0] for _ in range(40)]
        assert set(servers) == {"10.30.0.1", "10.30.0.2"}, servers
        assert ask("other.example.com")[0] == 404
        apps[1].end()
        # Before and after the checks have noticed.
        assert all(ask("www.example.com")[::2][0] == 200 for _ in range(200))
    apps[0].end()


def sticky_global(directory):
    with open(f"{directory}/sticky.key", "w") as key:
        key.write(os.urandom(32).hex())
    apps = {address: App(address, 10080) for address in ("10.30.0.1", "10.30.0.2")}
    with serving("sticky-global.toml", directory):
        _, headers, body = ask("app.example.com")
        cookie, home = headers["Set-Cookie"].split(";")[0], body.split()[0]
        assert home not in cookie
        at_home = lambda: ask("app.example.com", headers={"Cookie": cookie})[2].split()[0]
        assert all(at_home() == home for _ in range(40))
        apps[home].end()
        assert at_home() != home
        apps[home] = App(home, 10080)
        await_that("the client is back where it was", lambda: at_home() == home)
    for app in apps.values():
        app.end()


def certify(directory, name, host):
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", f"/CN={host}",
        "-addext", f"subjectAltName=DNS:{host}", "-keyout", f"{directory}/{name}.key", "-out", f"{directory}/{name}.pem")


def shown(host):
    """The certificate that a client of this name is shown, and its connection."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    stream = context.wrap_socket(socket.create_connection(("127.0.0.1", 443), DEADLINE), server_hostname=host)
    return stream.getpeercert(True), stream


def over(stream, host, path="/"):
    stream.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    answer = http.client.HTTPResponse(stream)
    answer.begin()
    return answer.status, answer.read().decode()


def balancer(directory):
    os.mkdir(f"{directory}/pki")
    certify(f"{directory}/pki", "www", "www.example.com")
    certify(f"{directory}/pki", "shop", "shop.example.com")
    apps = [App(address, 8080) for address in ("10.30.0.1", "10.30.0.2", "10.30.0.3")]
    of = lambda path: ssl.PEM_cert_to_DER_cert(open(path).read())
    with serving("balancer.toml", directory) as log:
        status, headers, _ = ask("www.example.com", "/a?b")
        assert (status, headers["Location"]) == (308, "https://www.example.com/a?b"), (status, headers["Location"])
        seen, stream = shown("www.example.com")
        assert seen == of(f"{directory}/pki/www.pem")
        shop, shop_stream = shown("shop.example.com")
        assert shop == of(f"{directory}/pki/shop.pem")
        assert over(shop_stream, "shop.example.com")[1].split()[0] == "10.30.0.3"
        assert over(shop_stream, "shop.example.com", "/admin/users")[0] == 403
        # Renewed: key and certificate are two files, so they do not fit for a moment.
        os.mkdir(f"{directory}/new")
        certify(f"{directory}/new", "www", "www.example.com")
        os.rename(f"{directory}/new/www.pem", f"{directory}/pki/www.pem")
        await_that("the pair that does not fit is reported", lambda: "www" in subprocess.run([nuncio, "problems"], capture_output=True, text=True).stdout)
        assert shown("www.example.com")[0] == seen
        os.rename(f"{directory}/new/www.key", f"{directory}/pki/www.key")
        await_that("the new one is shown", lambda: shown("www.example.com")[0] == of(f"{directory}/pki/www.pem"))
        assert shown("shop.example.com")[0] == shop
        assert over(stream, "www.example.com")[0] == 200, "a connection of the time before goes on"
    for app in apps:
        app.end()


def behind(directory):
    app = App("10.30.0.1", 8080)
    with serving("behind.toml", directory):
        told = lambda source: ask("a.test", source=source, headers={"X-Forwarded-For": "203.0.113.5"})[2].split(" ", 1)[1]
        assert told("10.40.0.1") == "203.0.113.5, 10.40.0.1"
        assert told("198.51.100.7") == "198.51.100.7"

        def proxied(source):
            stream = socket.create_connection(("127.0.0.1", 8443), DEADLINE, (source, 0))
            stream.sendall(b"PROXY TCP4 203.0.113.5 192.0.2.1 4711 80\r\n")
            return over(stream, "a.test")[1].split(" ", 1)[1]

        assert proxied("10.40.0.1") == "203.0.113.5"
        try:
            proxied("198.51.100.7")
            raise AssertionError("a stranger's PROXY header was believed")
        except (ConnectionError, http.client.HTTPException):
            pass
    app.end()


def virtual_ip(directory):
    apps = [App(address, 8080) for address in ("10.30.0.1", "10.30.0.2")]
    with serving("virtual-ip.toml", directory):
        for _ in range(2):
            run("ip", "address", "add", "192.0.2.10/32", "dev", "lo")
            assert ask("a.test", to="192.0.2.10")[0] == 200
            run("ip", "address", "del", "192.0.2.10/32", "dev", "lo")
            try:
                socket.create_connection(("192.0.2.10", 80), 0.2).close()
                raise AssertionError("it accepts without its address")
            except OSError:
                pass
    for app in apps:
        app.end()


run("ip", "link", "set", "lo", "up")
for address in ADDRESSES:
    run("ip", "address", "add", f"{address}/32", "dev", "lo")
with tempfile.TemporaryDirectory() as scratch:
    with open(f"{scratch}/hosts", "w") as hosts:
        hosts.write("127.0.0.1 localhost\n" + "".join(f"{address} {names}\n" for address, names in HOSTS.items()))
    run("mount", "--bind", f"{scratch}/hosts", "/etc/hosts")
    patterns = {"mesh.toml": mesh, "sticky-global.toml": sticky_global, "balancer.toml": balancer, "behind.toml": behind, "virtual-ip.toml": virtual_ip}
    assert sorted(patterns) == sorted(os.listdir(configurations)), "each file has its test"
    for number, pattern in enumerate(patterns.values()):
        os.mkdir(directory := f"{scratch}/{number}")
        pattern(directory)
    run("umount", "/etc/hosts")
print("edge: seen")
