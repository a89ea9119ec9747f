#!/bin/sh
# The compiler for our own packages, as RUSTC_WORKSPACE_WRAPPER: with the instrumentation that libFuzzer is guided by.
#
# Dependencies stay as they are, and so are the same files that tests link. All of these options are stable.
rustc=$1
shift
case " $* " in
    *" --crate-name nuncio "* | *" --crate-name fuzz_"*)
        exec "$rustc" "$@" -Cpasses=sancov-module \
            -Cllvm-args=-sanitizer-coverage-level=4 \
            -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
            -Cllvm-args=-sanitizer-coverage-pc-table \
            -Cllvm-args=-sanitizer-coverage-trace-compares \
            -Copt-level=3 -Ccodegen-units=1 -Cdebug-assertions=on -Coverflow-checks=on
        ;;
    *) exec "$rustc" "$@" ;;
esac
