#!/bin/sh
# Fuzz for SECONDS: sh native/fuzz/run.sh SEEDS SECONDS [libFuzzer's options]
# With clang by libFuzzer, else with gcc by plain_fuzzer.c, whose seed SEED gives. LIBJPEG_TURBO names a prefix with
# libjpeg-turbo, best built with the same sanitizers.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
seeds=$1 seconds=$2
shift 2
mkdir -p "$here/build/corpus"
sources=$(ls "$here"/../src/*.c | grep -v -e augment -e module -e kept)
flags="-std=c11 -O2 -g -ffp-contract=off -fno-sanitize-recover=undefined -DHAVE_LIBJPEG_TURBO -I${LIBJPEG_TURBO:-/usr}/include"
libraries="${LIBJPEG_TURBO:+-L$LIBJPEG_TURBO/lib} -ljpeg -lm"
if command -v clang > /dev/null; then
    clang $flags -fsanitize=fuzzer,address,undefined "$here"/fuzz_sample.c $sources $libraries -o "$here/build/fuzz_sample"
    exec "$here/build/fuzz_sample" -artifact_prefix="$here/build/" -max_total_time="$seconds" "$@" \
        "$here/build/corpus" "$seeds"
fi
gcc $flags -fsanitize=address,undefined "$here"/fuzz_sample.c "$here"/plain_fuzzer.c $sources $libraries \
    -o "$here/build/plain_fuzzer"
cd "$here/build"
exec ./plain_fuzzer "$seconds" "${SEED:-0}" "$seeds"/*
