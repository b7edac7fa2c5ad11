"""The process: reads the settings, opens the store, serves."""

from __future__ import annotations

import contextlib
import sys

import uvicorn

from api.access import OpenToOthersError
from api.app import create_app
from api.server import Server
from sweep_service.logs import configure_logging
from sweep_service.settings import Settings
from sweep_service.storage.sql import open_sql_store

_GRACE_SECONDS = 5
_KEEP_ALIVE_SECONDS = 30  # longer than clients keep an idle connection: a request on one that is being closed is lost
_NOT_STARTED = 3
_WRONG_SETTINGS = 2


def main() -> None:
    """Serve until SIGTERM or SIGINT. The database must have been migrated already: /readyz says whether it has."""
    settings = Settings()
    configure_logging(settings, "api")
    try:
        app = create_app(settings, open_sql_store(settings.store_url))
    except OpenToOthersError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(_WRONG_SETTINGS)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        log_config=None,  # one format for all of this process
        access_log=False,  # whoever watches a sweep asks twice a second, which would bury everything else
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    server = Server(config, on_shutdown=app.state.feed.close)
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(_NOT_STARTED)
