#!/bin/bash
# A listener on an address that is not there yet, comes, goes and comes again. Run in a network namespace of its own; arguments: the nuncio
# binary, and a directory for its configuration.
set -euo pipefail
nuncio=$1 directory=$2
ip link set lo up
ip link add uplink type veth peer name other
ip link set uplink up
cat > "$directory/nuncio.toml" <<'TOML'
[listeners.vip]
address = "192.0.2.10:8080"
freebind = true

[routes.all]
match = 'PathPrefix("/")'
upstream = "nobody"

[upstreams.nobody]
TOML
"$nuncio" run "$directory/nuncio.toml" --admin 127.0.0.1:8182 &
until "$nuncio" health >/dev/null 2>&1; do kill -0 $!; done
for _ in 1 2; do
    ! curl --silent --max-time 0.2 http://192.0.2.10:8080/ || { echo "it answers without its address"; exit 1; }
    ip address add 192.0.2.10/32 dev uplink
    # No upstream: 503 is the answer of nuncio itself.
    [ "$(curl --silent --max-time 5 --output /dev/null --write-out '%{http_code}' http://192.0.2.10:8080/)" = 503 ]
    ip address del 192.0.2.10/32 dev uplink
done
kill %1
wait %1
echo "virtual address: seen"
