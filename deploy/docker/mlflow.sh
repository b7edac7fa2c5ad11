#!/bin/sh
# MLflow's server. Its database's URL has a password, so it comes from a file, and no list of processes shows it.
set -eu
MLFLOW_BACKEND_STORE_URI=$(cat "${SWEEP_SECRETS_DIR:-/run/secrets}/mlflow_database_url")
export MLFLOW_BACKEND_STORE_URI
# After an upgrade, or from an older backup, the tables may be of an MLflow before: the server would refuse them.
python -m sweep_service.tracking.mlflow_database
exec python -m mlflow server --host 0.0.0.0 --port 5000 --workers "${MLFLOW_WORKERS:-1}" \
    --serve-artifacts --artifacts-destination "${MLFLOW_ARTIFACTS:-/var/lib/sweep/artifacts}" \
    --allowed-hosts "${MLFLOW_HOSTS:?}" --cors-allowed-origins "${MLFLOW_ORIGINS:?}"
