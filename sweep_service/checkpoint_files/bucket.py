"""Checkpoints in a bucket of an object store that speaks S3. Credentials, region and endpoint come from where every
program of AWS looks for them: ``AWS_*`` variables, or the file that ``AWS_CONFIG_FILE`` names.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

import botocore.exceptions as faults
import urllib3.exceptions
from boto3.session import Session
from botocore.config import Config

from sweep_service.domain.errors import CheckpointsUnavailableError

if TYPE_CHECKING:
    from trainables.checkpoint import Checkpoint

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0
MOST_TRIES = 4  # of one request, within some seconds; those who call have more patience
MOST_CONNECTIONS = 100  # several checkpoints are sent at once, each in parts that are sent at once
_FOR_NOW = frozenset({"NoSuchUpload", "RequestLimitExceeded", "RequestTimeout", "RequestTimeTooSkewed", "SlowDown"})
_STATUS_FOR_NOW = frozenset({408, 425, 429})
_SERVER_ERROR = 500


class BucketFiles:
    """Implements :class:`sweep_service.checkpoint_port.CheckpointFiles`; names are ``s3://bucket/key``.

    An object comes into being as a whole, or not at all, so that nothing more is needed for :meth:`save`.
    """

    def save(self, checkpoint: Checkpoint, name: str) -> None:
        content = io.BytesIO()
        checkpoint.write(content)
        content.seek(0)
        bucket, key = _bucket_and_key(name)
        with _answer(name):  # in parts, where it is large
            self._client.upload_fileobj(content, bucket, key)

    def load(self, name: str) -> Checkpoint:
        from trainables.checkpoint import Checkpoint

        return Checkpoint.read(io.BytesIO(self._read(name)), name)

    def is_missing(self, name: str) -> bool:
        return False

    def remove(self, name: str) -> None:
        bucket, key = _bucket_and_key(name)
        with _answer(name):
            self._client.delete_object(Bucket=bucket, Key=key)

    def remove_folder(self, name: str) -> None:
        bucket, key = _bucket_and_key(name)
        with suppress(OSError, CheckpointsUnavailableError):
            for page in self._pages(name, Bucket=bucket, Prefix=f"{key}/"):
                for found in page.get("Contents", ()):
                    # One by one: not every store takes the request that removes many.
                    with suppress(OSError):
                        self.remove(f"s3://{bucket}/{found['Key']}")

    def folders(self, name: str) -> Sequence[str]:
        bucket, key = _bucket_and_key(name)
        pages = self._pages(name, Bucket=bucket, Prefix=f"{key}/", Delimiter="/")
        prefixes = [found["Prefix"] for page in pages for found in page.get("CommonPrefixes", ())]
        return [prefix.rstrip("/").rpartition("/")[2] for prefix in prefixes]

    def write_text(self, text: str, name: str) -> None:
        bucket, key = _bucket_and_key(name)
        with _answer(name):
            self._client.put_object(Bucket=bucket, Key=key, Body=text.encode())

    def read_text(self, name: str) -> str:
        return self._read(name).decode()

    def _read(self, name: str) -> bytes:
        bucket, key = _bucket_and_key(name)
        with _answer(name):
            return self._client.get_object(Bucket=bucket, Key=key)["Body"].read()

    def _pages(self, name: str, **request: str) -> Iterator[Any]:
        with _answer(name):
            yield from self._client.get_paginator("list_objects_v2").paginate(**request)

    @cached_property
    def _client(self) -> Any:
        """Made late: credentials that are missing are an error of the first call, which says so."""
        logging.getLogger("botocore").setLevel(logging.WARNING)  # a line, in a trial's log, of where credentials are
        config = Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"mode": "standard", "total_max_attempts": MOST_TRIES},
            max_pool_connections=MOST_CONNECTIONS,
        )
        # Of a session of its own: the one that boto3 has for all is not to be used by several threads.
        return Session().client("s3", config=config)


def _bucket_and_key(name: str) -> tuple[str, str]:
    bucket, _, key = name.removeprefix("s3://").partition("/")
    return bucket, key


@contextmanager
def _answer(name: str) -> Iterator[None]:
    """Errors of the libraries in the words of the port."""
    try:
        yield
    except faults.ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code == "NoSuchKey":  # by a body: a bare 404 may be that of anybody on the way
            raise FileNotFoundError(f"There is no {name}") from error
        if _passes(code, status):
            raise CheckpointsUnavailableError(f"the object store does not serve {name} for now: {error}") from error
        raise PermissionError(f"The object store refuses {name}: {error}") from error
    except _NO_ANSWER as error:
        raise CheckpointsUnavailableError(f"the object store of {name} does not answer: {error}") from error
    except (faults.BotoCoreError, ValueError) as error:  # no credentials, no region, an endpoint that is no URL
        raise PermissionError(f"The object store of {name} cannot be asked: {error}") from error


_NO_ANSWER = (
    faults.ConnectionError,
    faults.HTTPClientError,
    faults.IncompleteReadError,
    faults.FlexibleChecksumError,  # what has come is not what was sent
    urllib3.exceptions.HTTPError,  # while a body is read, some come as they are
)


def _passes(code: str, status: int) -> bool:
    return code in _FOR_NOW or "Throttl" in code or status in _STATUS_FOR_NOW or status >= _SERVER_ERROR
