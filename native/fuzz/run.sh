#!/bin/sh
# Fuzz for SECONDS: sh native/fuzz/run.sh SEEDS SECONDS [libFuzzer's options]
# clang is needed, and LIBJPEG_TURBO, a prefix with libjpeg-turbo, best built with the same sanitizers.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
seeds=$1 seconds=$2
shift 2
mkdir -p "$here/build/corpus"
clang -std=c11 -O2 -g -ffp-contract=off -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined \
    -I"${LIBJPEG_TURBO:-/usr}/include" "$here"/fuzz_sample.c \
    -DHAVE_LIBJPEG_TURBO $(ls "$here"/../src/*.c | grep -v -e augment -e module) ${LIBJPEG_TURBO:+-L"$LIBJPEG_TURBO/lib"} -ljpeg -lm -o "$here/build/fuzz_sample"
exec "$here/build/fuzz_sample" -artifact_prefix="$here/build/" -max_total_time="$seconds" "$@" \
    "$here/build/corpus" "$seeds"
