#!/bin/bash
# Runs once, when the database's volume is empty: a database each for the service and for MLflow, of a user each, who
# can do nothing outside of it.
set -euo pipefail

make_database() { # NAME
    local name=$1 password
    password=$(cat "/run/secrets/${name}_database_password")
    [ -n "$password" ] || { echo "The secret ${name}_database_password is empty. Run deploy/init." >&2; exit 78; }
    psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres --quiet \
        --set=name="$name" --set=password="$password" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
}

make_database sweep
make_database mlflow
