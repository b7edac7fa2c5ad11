#!/bin/sh
# The store's tests run on a real PostgreSQL, which they start themselves; its programs must be on the machine.
set -eu
[ -n "${SWEEP_TEST_POSTGRES_URL:-}" ] && exit 0
command -v initdb >/dev/null 2>&1 && exit 0
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing PostgreSQL for the tests ..."
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql >/dev/null
    exit 0
fi
echo "The tests need PostgreSQL's programs (Debian: apt-get install postgresql), or SWEEP_TEST_POSTGRES_URL." >&2
exit 1
