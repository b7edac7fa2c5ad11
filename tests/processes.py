"""Python processes that do something at the same moment."""

from __future__ import annotations

import subprocess
import sys

_SECONDS = 120


def processes_at_once(script: str, *arguments: str, num: int) -> list[str]:
    """The last line that each process printed; all ended well.

    The script prints "ready" and then reads a line, which it gets when all the others are ready too.
    """
    command = [sys.executable, "-c", script, *arguments]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(num)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        outputs = [process.communicate(timeout=_SECONDS)[0] for process in processes]
        assert [process.returncode for process in processes] == [0] * num
        return [output.strip().rpartition("\n")[2] for output in outputs]
    finally:
        for process in processes:
            process.kill()
            process.wait()
