#!/bin/sh
# Programs that the tests run: PostgreSQL's, which they start themselves, and those of the documentation's examples.
set -eu
wanted=""
if [ -z "${SWEEP_TEST_POSTGRES_URL:-}" ] && ! command -v initdb >/dev/null 2>&1 &&
    ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then
    wanted="postgresql"
fi
for program in curl jq; do
    command -v "$program" >/dev/null 2>&1 || wanted="$wanted $program"
done
[ -z "$wanted" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing for the tests: $wanted"
    apt-get update -qq
    # shellcheck disable=SC2086 # a word a package
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $wanted >/dev/null
    exit 0
fi
echo "The tests need: $wanted (Debian: apt-get install $wanted). SWEEP_TEST_POSTGRES_URL can name a server instead." >&2
exit 1
