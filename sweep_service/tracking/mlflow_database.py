"""Migrates MLflow's database to the MLflow that is installed: ``python -m sweep_service.tracking.mlflow_database``.

It is run before MLflow's server starts, which of itself brings up only a database that lacks some of its tables, as an
empty one does, and refuses one that has them all in an earlier version: after an upgrade of MLflow, or where an older
backup has been restored. It may be run at every start: a database of the installed version stays as it is, and one of
a newer version is left alone.

The database is that of ``MLFLOW_BACKEND_STORE_URI``, the server's own setting: runs and registered models are in one.
Its URL has a password, which arguments would show to whoever lists processes.

Exit codes: 0 done; anything else it is not, and the error is in the log.
"""

from __future__ import annotations

import os

from mlflow.db import commands

URL_VARIABLE = "MLFLOW_BACKEND_STORE_URI"


def migrate(url: str) -> None:
    """Give that database the tables of the installed MLflow, and raise whatever prevents that.

    A database that does not answer is asked again for nearly two minutes, as by MLflow's server.
    """
    # The command `mlflow db upgrade`, inside of this process. Outside of its standalone mode it raises.
    commands.main(["upgrade", url], standalone_mode=False)


if __name__ == "__main__":
    migrate(os.environ[URL_VARIABLE])
