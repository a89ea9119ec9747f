#!/bin/bash
# A client, nuncio and an endpoint, each in a network namespace of its own, as docs/transparent.md has them. Run in namespaces that end with
# it: unshare --net --mount --pid --fork --kill-child. Arguments: the nuncio binary, the directory of the configuration.
set -euo pipefail
nuncio=$1 config=$2
mount -t tmpfs tmpfs /run
ip link set lo up
for side in client endpoint; do
    ip netns add "$side"
    ip link add "to-$side" type veth peer name eth0 netns "$side"
    ip link set "to-$side" up
    ip -n "$side" link set lo up
    ip -n "$side" link set eth0 up
done
ip address add 10.10.0.1/24 dev to-client
ip address add 10.20.0.1/24 dev to-endpoint
ip -n client address add 10.10.0.2/24 dev eth0
ip -n client route add default via 10.10.0.1
ip -n endpoint address add 10.20.0.2/24 dev eth0
ip -n endpoint route add default via 10.20.0.1

# Says to each who it takes it for.
ip netns exec endpoint python3 - <<'PYTHON' &
import http.server, socket, threading

class Web(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = f"{self.client_address[0]} {self.headers['X-Forwarded-For']}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass

def tcp():
    with socket.create_server(("10.20.0.2", 5432)) as server:
        while True:
            stream, peer = server.accept()
            with stream:
                stream.sendall(f"{peer[0]}\n".encode())

def udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("10.20.0.2", 53))
        while True:
            _, peer = server.recvfrom(2048)
            server.sendto(f"{peer[0]}\n".encode(), peer)

for serve in (tcp, udp):
    threading.Thread(target=serve, daemon=True).start()
http.server.ThreadingHTTPServer(("10.20.0.2", 80), Web).serve_forever()
PYTHON

ask() { ip netns exec client python3 - "$@" <<'PYTHON'
import socket, sys, time, urllib.request

def web():
    return urllib.request.urlopen("http://10.10.0.1/", timeout=5).read().decode()

def tcp():
    with socket.create_connection(("10.10.0.1", 5432), 5) as stream:
        return stream.makefile().read()

def udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        client.sendto(b"?", ("10.10.0.1", 53))
        return client.recv(2048).decode()

expected = {"web": "10.10.0.2 10.10.0.2\n", "tcp": "10.10.0.2\n", "udp": "10.10.0.2\n"}
until = time.monotonic() + 20
for name, ask in (("web", web), ("tcp", tcp), ("udp", udp)):
    while True:
        try:
            answer = ask()
        except OSError as error:
            answer = f"{error}"
        if answer == expected[name]:
            break
        if time.monotonic() > until:
            sys.exit(f"{name}: {answer!r} instead of {expected[name]!r}")
        time.sleep(0.05)
PYTHON
}

"$nuncio" run "$config/nuncio.toml" --admin off &
"$config/route.sh" up to-endpoint 80 5432 53
ask
"$config/route.sh" down to-endpoint 80 5432 53
[ -z "$(ip rule | grep -v 'local\|main\|default')" ] || { echo "rules are left:"; ip rule; exit 1; }
echo "transparent: seen"
