#!/bin/sh
# The libjpeg-turbo that the wheels link statically, into $IMAGENET_AIS_LIBJPEG_TURBO; for cibuildwheel's containers.
# It needs git, cmake, a C compiler and, on x86-64, nasm.
set -eu
url=${LIBJPEG_TURBO_URL:-https://github.com/libjpeg-turbo/libjpeg-turbo}
commit=c85e6b905bf237038faa936dab160ebfc5da0344 # 3.2.0
prefix=${IMAGENET_AIS_LIBJPEG_TURBO:?names the folder to install to}

if command -v dnf > /dev/null; then dnf install -y -q nasm; elif command -v apk > /dev/null; then apk add -q nasm cmake; fi
source=$(mktemp -d)
trap 'rm -rf "$source"' EXIT
git init -q "$source"
git -C "$source" fetch -q --depth 1 "$url" "$commit"
git -C "$source" checkout -q FETCH_HEAD
cmake -S "$source" -B "$source/build" -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$prefix" \
    -DCMAKE_POSITION_INDEPENDENT_CODE=ON -DENABLE_SHARED=OFF -DWITH_TURBOJPEG=OFF
cmake --build "$source/build" --parallel 2
cmake --install "$source/build"
