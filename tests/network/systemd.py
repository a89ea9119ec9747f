#!/usr/bin/env python3
"""Does as systemd does: opens sockets, starts nuncio with them, and waits to hear that it is ready. Arguments: the binary, a directory."""
import http.server, os, socket, subprocess, sys, threading, time, urllib.request

nuncio, directory = sys.argv[1:]
web = socket.create_server(("127.0.0.1", 0), backlog=16)
dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
dns.bind(("127.0.0.1", 0))
behind = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
behind.bind(("127.0.0.1", 0))
local = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
local.bind(f"{directory}/local.sock")
local.listen(16)
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(f"{directory}/notify.sock")
notify.settimeout(20)

class Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"here")
    def log_message(self, *_):
        pass

site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
threading.Thread(target=site.serve_forever, daemon=True).start()

def config(listening):
    with open(f"{directory}/new", "w") as file:
        file.write(f"""
{listening}
[listeners.dns]
address = "systemd:dns"
protocol = "udp"
[udp_routes.dns]
listener = "dns"
upstream = "dns"
[upstreams.dns]
endpoints = ["127.0.0.1:{behind.getsockname()[1]}"]
[listeners.other]
address = "127.0.0.1:0"
[routes.all]
match = 'PathPrefix("/")'
upstream = "web"
[upstreams.web]
endpoints = ["127.0.0.1:{site.server_port}"]
""")
    os.rename(f"{directory}/new", f"{directory}/nuncio.toml")

WEB = '[listeners.web]\naddress = "systemd:web"\n[listeners.local]\naddress = "systemd:local"\n'
config(WEB)
sockets = [web, dns, local]

def start():
    for number, opened in enumerate(sockets):
        os.dup2(opened.fileno(), 103 + number)
    for number in range(len(sockets)):
        os.dup2(103 + number, 3 + number)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(sockets)), LISTEN_FDNAMES="web:dns:local", NOTIFY_SOCKET=notify.getsockname())

# A connection that was there before we were is served, too.
early = socket.create_connection(web.getsockname())
early.sendall(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
child = subprocess.Popen([nuncio, "run", f"{directory}/nuncio.toml", "--admin", "off", "--workers", "2"], preexec_fn=start, close_fds=False)
try:
    assert notify.recv(100) == b"READY=1\n", "it is ready"
    early.settimeout(20)
    assert b"here" in early.makefile("rb").read(), "early"
    get = lambda: urllib.request.urlopen(f"http://127.0.0.1:{web.getsockname()[1]}/", timeout=20).read()
    assert get() == b"here"
    over_unix = subprocess.run(["curl", "--silent", "--max-time", "20", "--unix-socket", f"{directory}/local.sock", "http://a.test/"], capture_output=True)
    assert over_unix.stdout == b"here", over_unix
    asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asker.connect(dns.getsockname())
    asker.send(b"question")
    behind.settimeout(20)
    question, peer = behind.recvfrom(100)
    behind.sendto(b"answer", peer)
    asker.settimeout(20)
    assert (question, asker.recv(100)) == (b"question", b"answer")

    # A listener that goes leaves its socket open: who connects meanwhile is served by the next one.
    config("")
    until = time.monotonic() + 20
    while True:
        waiting = socket.create_connection(web.getsockname())
        waiting.sendall(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
        waiting.settimeout(0.3)
        try:
            assert waiting.recv(1000)
        except TimeoutError:
            break
        assert time.monotonic() < until, "the listener stays"
    config(WEB)
    waiting.settimeout(20)
    assert b"here" in waiting.makefile("rb").read(), "waiting"
    child.terminate()
    assert notify.recv(100) == b"STOPPING=1\n", "it ends"
    assert child.wait(20) == 0
finally:
    child.kill()
    child.wait()
print("systemd: seen")
