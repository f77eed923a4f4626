#!/bin/sh
# What the load generator is built from: a C compiler and librdkafka's header. Debian and Ubuntu.
set -eu
if [ -e /usr/include/librdkafka/rdkafka.h ] && command -v gcc >/dev/null; then
    exit 0
fi
as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo"
$as_root apt-get update -qq
$as_root apt-get install -y -qq --no-install-recommends gcc libc6-dev librdkafka-dev
