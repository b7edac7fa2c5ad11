#!/bin/sh
# Runs at each start, beside the server: sees to it that the service and MLflow have a database each, of a user each who
# can do nothing outside of it, with the passwords of today's secrets. What is there already stays.
set -eu

PGPASSWORD=$(cat /run/secrets/postgres_password)
export PGPASSWORD password # by the environment: arguments are seen by whoever lists processes
for name in sweep mlflow; do
    password=$(cat "/run/secrets/${name}_database_password")
    psql -v ON_ERROR_STOP=1 --username postgres --dbname postgres --quiet --no-align --tuples-only --set=name="$name" <<'SQL'
\getenv password password
SELECT format('CREATE ROLE %I', :'name') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'name') \gexec
ALTER ROLE :"name" LOGIN PASSWORD :'password';
SELECT format('CREATE DATABASE %I OWNER %I', :'name', :'name')
    WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
done
