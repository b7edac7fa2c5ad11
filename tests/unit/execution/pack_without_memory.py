"""Orders 64 lanes at once of a process that may not take so much memory, and prints what it tells its conductor."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from test_packs import Listening, alone, replace, toy_lane

from sweep_service.execution.packs import train_pack

MORE_BYTES = 400_000_000


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        lanes = [toy_lane(Path(folder), number) for number in range(64)]
        wide = {"rows": 3000, "hidden": [512, 512], "batch_size": 1500}
        lanes = [replace(lane, params={**lane.params, **wide}) for lane in lanes]
        first = Listening()
        train_pack(replace(alone(lanes[0]), lanes=(lanes[0],)), first)  # all that is loaded and read for the first time
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MORE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        link = Listening()
        train_pack(replace(alone(lanes[0]), lanes=tuple(lanes), places=64), link)
        print(json.dumps([link.split_up, [m.trial_id for m in link.reported if m.ending is not None]]))  # noqa: T201


if __name__ == "__main__":
    main()
