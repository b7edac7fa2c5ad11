"""Makes a database ready for a service: ``python -m sweep_service.setup``.

It migrates the database, waiting up to a minute for it to answer, and stores the first admin key, whose text is in the
file that ``SWEEP_ADMIN_KEY_FILE`` names, if it does; likewise a viewer's key for Prometheus, of
``SWEEP_METRICS_KEY_FILE``. It may be run at every start: a key that is there stays as it is, and one that has been
revoked is never revived.

``--new-key`` prints a text for that file and does nothing else. What makes one without Python writes, from
``/dev/urandom`` say, in one line:

    swk_  a digit from 0 to 7 and 25 of 0123456789ABCDEFGHJKMNPQRSTVWXYZ  _  43 of A-Z a-z 0-9 _ -

Exit codes: 0 done; 2 the file holds no key, or a setting is wrong; 3 the database does not answer, or is of a newer
version.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path

from sweep_service.clock import SystemClock
from sweep_service.domain.errors import KeyNameTakenError, SchemaOutdatedError, StoreUnavailableError
from sweep_service.domain.keys import SETUP, ApiKey, KeyRole, KeyText, new_key_text, parse_key
from sweep_service.logs import configure_logging
from sweep_service.ports import Clock, SweepStore
from sweep_service.settings import Settings
from sweep_service.storage.schema import migrate
from sweep_service.storage.sql import open_sql_store

PATIENCE_SECONDS = 60.0
PAUSE_SECONDS = 1.0
NAME, METRICS_NAME = "admin", "metrics"
WRONG, NO_DATABASE = 2, 3

logger = logging.getLogger(__name__)


class SetupError(Exception):
    """It cannot be done; says what is wrong and the way out."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def main(arguments: Sequence[str] | None = None) -> int:
    """The process. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m sweep_service.setup", description="Make a database ready.")
    parser.add_argument("--new-key", action="store_true", help="print the text of a new key, and do nothing else")
    options = parser.parse_args(arguments)
    if options.new_key:
        sys.stdout.write(new_key_text(now=SystemClock().now()).text + "\n")
        return 0
    settings = Settings()
    configure_logging(settings, "setup")
    try:
        run(settings)
    except SetupError as error:
        sys.stderr.write(f"{error}\n")
        return error.code
    return 0


def run(
    settings: Settings,
    *,
    clock: Clock | None = None,
    sleep: Callable[[float], None] = time.sleep,
    timer: Callable[[], float] = time.monotonic,
) -> None:
    """Migrate the settings' database and store the settings' keys. Raises SetupError."""
    wanted = [
        (read_key(path, variable), name, role)
        for path, variable, name, role in (
            (settings.admin_key_file, "SWEEP_ADMIN_KEY_FILE", NAME, KeyRole.ADMIN),
            (settings.metrics_key_file, "SWEEP_METRICS_KEY_FILE", METRICS_NAME, KeyRole.VIEWER),
        )
        if path is not None
    ]
    until = timer() + PATIENCE_SECONDS
    while True:
        try:
            migrate(settings.store_url)
            with closing(open_sql_store(settings.store_url)) as store:
                for text, name, role in wanted:
                    logger.info(store_key(store, text, name, role, clock=clock or SystemClock()))
            return
        except StoreUnavailableError as error:
            if timer() >= until:
                raise SetupError(f"The database has not answered for a minute. {error}", NO_DATABASE) from error
            logger.info("The database does not answer yet; it is waited for.")
        except SchemaOutdatedError as error:
            raise SetupError(str(error), NO_DATABASE) from error
        except ValueError as error:  # of the URL
            raise SetupError(str(error), WRONG) from error
        sleep(PAUSE_SECONDS)


def read_key(path: Path, variable: str) -> KeyText:
    """The key in that file, which the variable names. Raises SetupError, which does not say what is in it."""
    text = None
    with suppress(OSError, UnicodeDecodeError):
        text = parse_key(path.read_text(encoding="ascii").strip())
    if text is None:
        raise SetupError(f"{path} ({variable}) holds no key; run deploy/init, which makes one.", WRONG)
    return text


def store_key(store: SweepStore, text: KeyText, name: str, role: KeyRole, *, clock: Clock) -> str:
    """Store it as one of that name and role, unless a key of its id has been stored before, revoked or not.
    Says what was done.

    Where another key has the name, it gets one of its own: whoever has the file of a service has the service, and must
    come in again when all other keys are lost.
    """
    if store.find_key(text.id) is not None:
        return f"The {role} key {text.id} is known already."
    for free_name in (name, f"{name}-{text.id[-8:].lower()}"):
        key = ApiKey(id=text.id, name=free_name, role=role, created_at=clock.now(), created_by=SETUP.name)
        try:
            store.add_key(key, digest=text.digest, by=SETUP)
        except KeyNameTakenError:
            continue
        except ValueError:  # another process has stored it a moment ago
            return f"The {role} key {text.id} is known already."
        return f"The {role} key {text.id} is stored, as {free_name!r}."
    raise SetupError(f"Other keys have the names that {text.id} could have; revoke one of them.", WRONG)


if __name__ == "__main__":
    sys.exit(main())
