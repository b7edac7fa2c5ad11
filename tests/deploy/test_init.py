"""deploy/init makes what a first start needs, out of nothing that anybody could know, and never twice."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECRETS = {
    "admin_key",
    "grafana_password",
    "metrics_key",
    "mlflow_database_password",
    "mlflow_database_url",
    "postgres_password",
    "ray_token",
    "sweep_database_password",
    "sweep_database_url",
}


@pytest.fixture
def installation(tmp_path) -> Path:
    (tmp_path / "deploy").mkdir()
    shutil.copy(ROOT / "deploy" / "init", tmp_path / "deploy" / "init")
    return tmp_path


def init(installation: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [installation / "deploy" / "init", *options], capture_output=True, text=True, timeout=60, cwd="/"
    )


def made(installation: Path) -> dict[str, str]:
    return {path.name: path.read_text().strip() for path in (installation / "deploy" / "secrets").iterdir()}


def variables(installation: Path) -> dict[str, str]:
    lines = (installation / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_every_secret_is_made_and_none_is_another_installations(installation, tmp_path_factory):
    second = tmp_path_factory.mktemp("second")
    shutil.copytree(installation, second, dirs_exist_ok=True)
    assert init(installation).returncode == 0
    assert init(second).returncode == 0
    assert set(made(installation)) == SECRETS
    values = [*made(installation).values(), *made(second).values()]
    assert len(set(values)) == 2 * len(SECRETS)
    assert all(len(value) >= 40 for value in values)


def test_the_urls_have_the_passwords_of_their_users(installation):
    init(installation)
    secrets = made(installation)
    for name in ("sweep", "mlflow"):
        password = secrets[f"{name}_database_password"]
        assert secrets[f"{name}_database_url"] == f"postgresql+psycopg://{name}:{password}@postgres:5432/{name}"


def test_others_of_the_machine_cannot_read_what_is_made_and_containers_can(installation):
    init(installation)
    folder = installation / "deploy" / "secrets"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o444}
    assert stat.S_IMODE((installation / ".env").stat().st_mode) == 0o600


def test_the_administrators_key_is_printed_and_no_other_secret(installation):
    output = init(installation).stdout
    secrets = made(installation)
    assert secrets.pop("admin_key") in output
    assert not [name for name, value in secrets.items() if value in output]
    assert re.search(r"swk_[0-9A-HJKMNP-TV-Z]{26}_[A-Za-z0-9_-]{43}\b", output)


@pytest.mark.parametrize("there", [".env", "deploy/secrets"])
def test_what_is_there_is_not_touched(installation, there):
    init(installation)
    before = made(installation), variables(installation)
    kept = installation / ("deploy/secrets" if there == ".env" else ".env")
    aside = installation / "aside"
    kept.rename(aside)  # each of the two alone is enough to refuse
    refused = init(installation)
    aside.rename(kept)
    assert refused.returncode == 2
    assert there in refused.stderr
    assert "nothing was changed" in refused.stderr
    assert (made(installation), variables(installation)) == before
    assert not list(installation.glob("**/*.new"))


def test_without_a_name_it_is_this_machine_alone(installation):
    init(installation)
    found = variables(installation)
    assert found["SWEEP_PUBLISH"] == "127.0.0.1:8080:8080"
    assert found["SWEEP_SITE"] == "http://:8080"
    assert found["SWEEP_ORIGIN"] == "http://127.0.0.1:8080"


def test_a_name_is_served_over_tls(installation):
    init(installation, "--host", "sweeps.example.org", "--tls", "internal")
    found = variables(installation)
    assert found["SWEEP_PUBLISH"] == "0.0.0.0:443:8443"
    assert found["SWEEP_SITE"] == "https://sweeps.example.org:8443"
    assert found["SWEEP_TLS"] == "tls internal"
    assert found["SWEEP_ORIGIN"] == "https://sweeps.example.org"
    assert '"sweeps.example.org"' in found["SWEEP_ALLOWED_HOSTS"]


def test_another_port_is_a_part_of_the_address(installation):
    output = init(installation, "--host", "sweeps.example.org", "--listen", "10.0.0.5:8443").stdout
    assert variables(installation)["SWEEP_ORIGIN"] == "https://sweeps.example.org:8443"
    assert "SWEEP_SERVER=https://sweeps.example.org:8443" in output


BUCKET_CONFIG = "[default]\nendpoint_url = http://store:9000\naws_access_key_id = a\naws_secret_access_key = b\n"


def test_a_bucket_takes_the_place_of_folders(installation, tmp_path_factory):
    config = tmp_path_factory.mktemp("of the store") / "config"
    config.write_text(BUCKET_CONFIG)
    done = init(installation, "--bucket", "s3://sweeps/team/", "--bucket-config", str(config))
    assert done.returncode == 0, done.stderr
    assert variables(installation)["SWEEP_BUCKET"] == "s3://sweeps/team"
    assert variables(installation)["COMPOSE_FILE"] == "docker-compose.yml:deploy/bucket.yml"
    assert made(installation)["bucket"] == made(installation)["artifacts"] == BUCKET_CONFIG.strip()
    assert "aws" not in (installation / ".env").read_text()


def test_mlflow_may_be_another_user_of_the_store_than_trials_are(installation, tmp_path_factory):
    folder = tmp_path_factory.mktemp("of the store")
    (folder / "trials").write_text(BUCKET_CONFIG)
    (folder / "mlflow").write_text(BUCKET_CONFIG.replace("= b", "= c"))
    options = ["--bucket-config", str(folder / "trials"), "--artifacts-config", str(folder / "mlflow")]
    assert init(installation, "--bucket", "s3://sweeps", *options).returncode == 0
    assert made(installation)["bucket"].endswith("aws_secret_access_key = b")
    assert made(installation)["artifacts"].endswith("aws_secret_access_key = c")


def test_without_a_bucket_nothing_is_said_of_one(installation):
    init(installation)
    assert not {"COMPOSE_FILE", "SWEEP_BUCKET"} & set(variables(installation))
    assert set(made(installation)) == SECRETS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[default]\nregion = x\n",
        "[default]\naws_secret_access_key =\n",
        "[default]\r\naws_secret_access_key = \r\n",
    ],
)
def test_a_store_without_credentials_is_refused_and_nothing_is_made(installation, tmp_path_factory, text):
    config = tmp_path_factory.mktemp("of the store") / "config"
    config.write_text(text)
    refused = init(installation, "--bucket", "s3://sweeps", "--bucket-config", str(config))
    assert refused.returncode == 2
    assert "aws_secret_access_key" in refused.stderr
    assert not (installation / ".env").exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--bucket", "sweeps"], "s3://NAME/PREFIX"),
        (["--bucket", "s3://sweeps/$(id)", "--bucket-config", "/dev/null"], "--bucket"),
        (["--bucket", "s3://sweeps"], "--bucket-config"),
        (["--bucket", "s3:///team", "--bucket-config", "/dev/null"], "s3://NAME/PREFIX"),
        (["--bucket-config", "/dev/null"], "need --bucket"),
        (["--artifacts-config", "/dev/null"], "need --bucket"),
        (["--bucket", "s3://sweeps", "--bucket-config", "/nonexistent"], "/nonexistent"),
        (["--host", "https://sweeps.example.org"], "--host"),
        (["--host"], "--host"),
        (["--tls", "internal"], "--host"),
        (["--host", "a.b", "--tls", "yes"], "--tls"),
        (["--listen", "8080"], "--listen"),
        (["--frob"], "--frob"),
    ],
)
def test_options_that_make_no_sense_are_refused_and_nothing_is_made(installation, options, word):
    refused = init(installation, *options)
    assert refused.returncode == 2
    assert word in refused.stderr
    assert not (installation / ".env").exists()
    assert not (installation / "deploy" / "secrets").exists()


@pytest.mark.parametrize("listen", ["0.0.0.0:8080", "[::]:8080"])
def test_an_address_that_is_no_name_for_anybody_needs_one(installation, listen):
    refused = init(installation, "--listen", listen)
    assert refused.returncode == 2
    assert "--host" in refused.stderr
    assert not (installation / ".env").exists()
    assert init(installation, "--listen", listen, "--host", "sweeps.example.org").returncode == 0


def test_what_containers_read_they_may_read_whatever_the_umask_was(installation):
    mounted = installation / "deploy" / "gateway" / "Caddyfile"
    mounted.parent.mkdir(mode=0o700)
    mounted.touch(mode=0o600)
    init(installation)
    assert (stat.S_IMODE(mounted.parent.stat().st_mode), stat.S_IMODE(mounted.stat().st_mode)) == (0o755, 0o644)
