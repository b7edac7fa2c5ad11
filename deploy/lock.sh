#!/bin/sh
# Writes constraints.txt: name and version of every installed package, and no address that it came from.
set -eu
python=${1:?usage: lock.sh PYTHON}
{
    echo "# Every package that a fresh environment gets, at the version that the tests ran with. Refresh with: make lock"
    "$python" - <<'PY'
from importlib.metadata import distributions

skipped = {"pip", "setuptools", "gradnorm-sweeps"}
versions = {d.metadata["Name"].lower().replace("_", "-"): d.version.split("+")[0] for d in distributions()}
print("\n".join(f"{name}=={version}" for name, version in sorted(versions.items()) if name not in skipped))
PY
} > constraints.txt.new
mv constraints.txt.new constraints.txt
