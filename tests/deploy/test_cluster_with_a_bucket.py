"""docker-compose.yml with deploy/bucket.yml, for real: a store that speaks S3 in place of folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cluster_sweeps import SPEC, check_each_trial_once, num_ended
from compose_cluster import Cluster, await_that, has_engine, running_cluster

pytestmark = [
    pytest.mark.long,
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(not has_engine(), reason="needs a Docker engine with Compose"),
]
CONFIG = """[default]
endpoint_url = http://store:9000
region = us-east-1
aws_access_key_id = test
aws_secret_access_key = test-secret
"""
STAND_IN = "tests/deploy/bucket-stand-in/store.yml"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    config = tmp_path_factory.mktemp("bucket") / "config"
    config.write_text(CONFIG)
    options = ["--bucket", "s3://sweeps/team", "--bucket-config", str(config)]
    with running_cluster(tmp_path_factory.mktemp("installation"), *options, before_start=make_bucket) as running:
        yield running


def make_bucket(cluster: Cluster) -> None:
    """The store is a service of the same project, so that the others reach it by its name."""
    env = cluster.folder / ".env"
    env.write_text(env.read_text().replace("deploy/bucket.yml", f"deploy/bucket.yml:{STAND_IN}"))
    cluster.compose("up", "--detach", "--build", "store", timeout=600)
    await_that(lambda: in_bucket(cluster, "client.create_bucket(Bucket='sweeps')"))


def in_bucket(cluster: Cluster, statement: str) -> str:
    """What a program prints that has the credentials of the store."""
    program = f"from boto3 import client; client = client('s3'); print({statement})"
    run = ("run", "--rm", "--no-deps", "-T", "--entrypoint", "", "dispatcher", "python", "-c", program)
    return cluster.compose(*run).stdout


def names_in_bucket(cluster: Cluster) -> list[str]:
    listed = in_bucket(cluster, "*(o['Key'] for o in client.list_objects_v2(Bucket='sweeps')['Contents']), sep='\\n'")
    return listed.split()


def test_checkpoints_and_artifacts_are_in_the_bucket_and_trials_go_on_from_there(cluster: Cluster, tmp_path: Path):
    with cluster.client() as client:
        await_that(client.trainables)
        sweep_id = client.submit({**SPEC, "name": "bucket", "budget": {"trials": 8}})["id"]
        await_that(lambda: num_ended(client, sweep_id) >= 1)
        cluster.kill("ray-worker")
        cluster.up()
        check_each_trial_once(client, sweep_id, 8)
        best = client.best(sweep_id)["best"]["id"]
    names = names_in_bucket(cluster)
    assert "team/checkpoints/.cluster.json" in names
    kept = [name for name in names if name.startswith(f"team/checkpoints/{sweep_id}/")]
    assert [name.split("/")[3] for name in kept] == [best]
    assert any(name.startswith("team/artifacts/") and name.endswith("/model/MLmodel") for name in names)
    in_folder = cluster.compose("exec", "-T", "ray-worker", "find", "/var/lib/sweep/checkpoints", "-type", "f").stdout
    assert in_folder == ""
    cluster.run("deploy/backup", tmp_path / "saved", timeout=600)
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {
        "sweep.dump",
        "mlflow.dump",
        "bucket.txt",
        "images.txt",
        "sha256sums.txt",
    }
    cluster.run("deploy/restore", tmp_path / "saved", "--replace", timeout=600)
    with cluster.client() as client:
        sweep = await_that(lambda: client.get(sweep_id))
    assert sweep["state"] == "completed"
    listed = httpx.get(
        f"{cluster.url}/mlflow/ajax-api/2.0/mlflow/artifacts/list",
        params={"run_id": sweep["tracking_ref"], "path": "model"},
        auth=("x", cluster.secret("admin_key")),
        timeout=60,
    ).json()
    assert "model/MLmodel" in {file["path"] for file in listed["files"]}
