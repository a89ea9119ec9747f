#!/bin/bash
# Builds the container image: `make image` runs it.
#
#   config/container/build.sh IMAGE PROFILE
set -euo pipefail
cd "$(dirname "$0")/../.."
image=${1:?which image is built} profile=${2:?from which profile}
size_max=$((25 * 1024 * 1024))

# Only the last link differs from that of the profile: what it compiled is not compiled again, and its own binary is left alone.
case $profile in
    dev | test) name=nuncio-static target=(--profile test --test nuncio-static) ;;
    *) name=nuncio target=(--profile "$profile" --bin nuncio) ;;
esac
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
# A static binary moves itself to where it is loaded: packed, what that takes is some 2 MiB less.
link=(-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs)
"${CARGO:-cargo}" rustc --locked "${target[@]}" --message-format=json-render-diagnostics -- "${link[@]}" >"$context/messages"
binary=$(sed -n "/\"name\":\"$name\"/s/.*\"executable\":\"\([^\"]*\)\".*/\1/p" "$context/messages")
rm "$context/messages"
if readelf --program-headers "$binary" | grep -q INTERP; then
    echo "$binary is not static: it needs a dynamic linker" >&2
    exit 1
fi
strip -o "$context/nuncio" "$binary"
cp /etc/ssl/certs/ca-certificates.crt "$context/"

labels=(--label "org.opencontainers.image.version=$("$context/nuncio" --version | cut -d ' ' -f 2)")
if revision=$(git rev-parse HEAD 2>/dev/null); then labels+=(--label "org.opencontainers.image.revision=$revision"); fi
docker build --quiet --tag "$image" --file config/container/Dockerfile "${labels[@]}" "$context" >/dev/null
size=$(docker image inspect --format '{{.Size}}' "$image")
echo "$image: $((size / 1024)) KiB"
if [ "$profile" = release ] && [ "$size" -gt "$size_max" ]; then
    echo "that is more than $((size_max / 1024)) KiB" >&2
    exit 1
fi
