#!/bin/sh
# Brings to this machine what endpoints send to clients in whose name nuncio has connected (`transparent = true`): routing says where to.
#
#   route.sh up|down INTERFACE PORT...
#
# INTERFACE is where the endpoints are, PORT where they listen, for TCP and UDP. Needs root, and iproute2 4.17 or later; see docs/transparent.md.
set -eu
usage() { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -ge 3 ] || usage
action=$1 interface=$2
shift 2
table=${NUNCIO_TABLE:-4177}

case $action in
    up) verb=add ;;
    down) verb=del ;;
    *) usage ;;
esac

families=-4
[ ! -e /proc/sys/net/ipv6 ] || families='-4 -6'
for family in $families; do
    # Whatever this table is asked for is for this machine.
    if [ "$action" = up ]; then ip "$family" route replace local default dev lo table "$table"; fi
    for port; do
        for protocol in tcp udp; do
            ip "$family" rule "$verb" iif "$interface" ipproto "$protocol" sport "$port" lookup "$table"
        done
    done
    if [ "$action" = down ]; then ip "$family" route flush table "$table"; fi
done
