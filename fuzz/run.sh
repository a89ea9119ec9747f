#!/bin/bash
# Builds the fuzz targets and runs each for $FUZZ_SECONDS (60), two at a time. A crash prints the input and how to reproduce it.
#
#   fuzz/run.sh                      all targets
#   fuzz/run.sh rule kv              these
#   fuzz/run.sh rule FILE...         one target on these inputs, once: reproduces a crash
#
# What was learned is kept in fuzz/corpus (not committed) and is where the next run starts, together with fuzz/seeds.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${FUZZ_SECONDS:-60}
export RUST_BACKTRACE=${FUZZ_BACKTRACE:-0}
jobs=${FUZZ_JOBS:-2}
all=$(cd fuzz/fuzz_targets && ls -- *.rs | sed 's/\.rs$//')
binaries=${CARGO_TARGET_DIR:-target}/debug

# Dependencies get the flags, profile and directory that tests use: what has the same features is not built again.
RUSTC_WORKSPACE_WRAPPER=$PWD/fuzz/rustc.sh cargo build --quiet --locked -p nuncio-fuzz --bins

if [ $# -ge 2 ] && [ -f "$2" ]; then
    target=$1
    shift
    exec "$binaries/fuzz_$target" "$@"
fi

run() {
    local target=$1 corpus=fuzz/corpus/$1 artifacts=fuzz/artifacts/$1 log status=0
    local dictionary=fuzz/dictionaries/$target options=()
    mkdir -p "$corpus" "$artifacts"
    log=$(mktemp)
    [ -f "$dictionary" ] && options+=("-dict=$dictionary")
    "$binaries/fuzz_$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=4096 -print_final_stats=1 -verbosity=0 \
        ${options[@]+"${options[@]}"} -artifact_prefix="$artifacts/" "$corpus" "fuzz/seeds/$target" >"$log" 2>&1 || status=$?
    if [ $status = 0 ]; then
        echo "fuzz $target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs in $seconds s"
    else
        local input
        input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
        {
            echo "fuzz $target: FAILED"
            sed -E '/^(stat::|INFO:|NOTE:|note:|MS:|0x|Base64:|artifact_prefix| *Combine| *$)/d' "$log" | cut -c -400 | tail -n 20
            if [ -n "$input" ]; then
                echo "The input (base64): $(base64 -w 0 "$input")"
                echo "To reproduce: fuzz/run.sh $target $input"
            fi
        } >&2
    fi
    rm -f "$log"
    return $status
}

failed=0
for target in "${@:-$all}"; do
    # "$all" is one word of several names: split here.
    for name in $target; do
        [ -f "fuzz/fuzz_targets/$name.rs" ] || { echo "there is no fuzz target $name; there are: $(echo $all)" >&2; exit 2; }
        while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n || failed=1; done
        run "$name" &
    done
done
while [ -n "$(jobs -p)" ]; do wait -n || failed=1; done
exit $failed
