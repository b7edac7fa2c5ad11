"""Whether a container does its work, for its health check: exit code 0 or 1. Python's own library alone: it runs often.

``health.py http://HOST:PORT/PATH``  something answers there with 2xx
``health.py tcp://HOST:PORT``        something listens there
``health.py file:PATH?SECONDS``      the file was touched within so many seconds
"""

import socket
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

TIMEOUT_S = 4.0


def is_well(target: str) -> bool:
    """Whether what the target names works. Raises OSError where it cannot be reached, ValueError for no target."""
    parts = urlsplit(target)
    if parts.scheme == "http":
        # Not through a proxy of the environment.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(target, timeout=TIMEOUT_S) as answer:
            return 200 <= answer.status < 300
    if parts.scheme == "tcp":
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=TIMEOUT_S).close()
        return True
    if parts.scheme == "file":
        return time.time() - Path(parts.path).stat().st_mtime < float(parts.query)
    raise ValueError(f"{target!r} is nothing that can be looked at")


if __name__ == "__main__":
    try:
        well = is_well(sys.argv[1])
    except OSError as error:
        sys.stderr.write(f"{sys.argv[1]}: {error}\n")
        well = False
    sys.exit(0 if well else 1)
