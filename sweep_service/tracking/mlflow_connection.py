"""A way to an MLflow server or database, and what goes wrong on it, under two names.

Only ``MlflowClient`` is used, with explicit ids: no active run, nothing global.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from sweep_service.domain.errors import TrackingRefusedError, TrackingUnavailableError

# Sending the same again would be refused again. Anything else may pass: the server is down, busy or being upgraded.
# BAD_REQUEST among it: so MLflow calls trouble of its database that is no OperationalError, such as a pool without a
# free connection.
REFUSALS = frozenset({"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"})


class MlflowConnection:
    """The client of one MLflow, opened at its first use."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    @cached_property
    def client(self) -> MlflowClient:
        """Made at the first use, inside ``calls``: a database is opened here, and migrated if it is new."""
        if self._uri.startswith("sqlite:///"):
            # SQLite makes a missing file but not a missing folder, and MLflow would try that again for minutes.
            Path(self._uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        return MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)

    @contextmanager
    def calls(self) -> Iterator[None]:
        """Around calls of MLflow.

        Raises:
            TrackingUnavailableError: it does not answer, or not well; the same call may do later.
            TrackingRefusedError: it will not take it; the same call will never do.
        """
        try:
            yield
        except (MlflowException, SQLAlchemyError, OSError) as error:
            fact = _without_password(f"MLflow at {self._uri}: {first_line(error)}")
            if isinstance(error, MlflowException) and error.error_code in REFUSALS:
                raise TrackingRefusedError(fact) from error
            raise TrackingUnavailableError(fact) from error


def first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _without_password(text: str) -> str:
    """MLflow's own messages repeat the URI that it was given; these end in events that many may read."""
    return re.sub(r"://[^/@\s]+@", "://…@", text)
