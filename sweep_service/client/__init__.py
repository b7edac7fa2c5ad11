"""The Python client of the REST API."""

from sweep_service.client.connection import UnencryptedKeyWarning
from sweep_service.client.errors import (
    ApiError,
    ClientError,
    ConflictError,
    ForbiddenError,
    InvalidRequestError,
    LimitedError,
    MissingError,
    UnauthorizedError,
    UnavailableError,
    UnreachableError,
    WaitTimeoutError,
)
from sweep_service.client.sweep_client import ENDED_STATES, SweepClient

__all__ = [
    "ENDED_STATES",
    "ApiError",
    "ClientError",
    "ConflictError",
    "ForbiddenError",
    "InvalidRequestError",
    "LimitedError",
    "MissingError",
    "SweepClient",
    "UnauthorizedError",
    "UnavailableError",
    "UnencryptedKeyWarning",
    "UnreachableError",
    "WaitTimeoutError",
]
