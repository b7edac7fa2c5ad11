#!/bin/sh
# Every container of ours starts here: it refuses to run with a secret that is empty, then becomes its command.
set -eu
umask 027
for secret in "${SWEEP_SECRETS_DIR:-/run/secrets}"/*; do
    [ -e "$secret" ] || continue
    if ! grep -q '[^[:space:]]' "$secret"; then
        echo "The secret $(basename "$secret") is empty, and nothing here runs without it. Run deploy/init." >&2
        exit 78
    fi
done
exec "$@"
