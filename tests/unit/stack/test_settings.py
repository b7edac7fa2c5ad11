"""Where settings are read from."""

from __future__ import annotations

import pytest

from sweep_service.settings import Settings


def test_a_setting_may_be_a_file_in_the_folder_of_secrets(tmp_path, monkeypatch):
    (tmp_path / "sweep_database_url").write_text("postgresql+psycopg://sweep:secret@postgres/sweep\n")
    monkeypatch.delenv("SWEEP_DATABASE_URL", raising=False)
    monkeypatch.setenv("SWEEP_SECRETS_DIR", str(tmp_path))
    assert Settings().store_url == "postgresql+psycopg://sweep:secret@postgres/sweep"
    monkeypatch.delenv("SWEEP_SECRETS_DIR")
    assert Settings().store_url.startswith("sqlite:")


def test_the_environment_goes_before_the_folder_of_secrets(tmp_path, monkeypatch):
    (tmp_path / "sweep_database_url").write_text("sqlite:///from-a-file.db")
    monkeypatch.setenv("SWEEP_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("SWEEP_DATABASE_URL", "sqlite:///from-the-environment.db")
    assert Settings().store_url == "sqlite:///from-the-environment.db"


@pytest.mark.parametrize(
    ("given", "root"),
    [("s3://bucket/some/prefix/", "s3://bucket/some/prefix"), ("s3://bucket", "s3://bucket"), ("/shared/", "/shared")],
)
def test_checkpoints_are_in_a_folder_or_a_bucket(given, root):
    assert Settings(checkpoints=given).checkpoint_root == root


def test_checkpoints_are_in_a_folder_of_its_own_where_nothing_is_said(tmp_path):
    assert Settings(home=tmp_path).checkpoint_root == str(tmp_path / "checkpoints")


@pytest.mark.parametrize("given", ["gs://bucket/prefix", "s3://", "s3:///", "s3:///prefix", "file:///shared"])
def test_other_places_for_checkpoints_are_refused_with_those_that_there_are(given, monkeypatch):
    monkeypatch.setenv("SWEEP_CHECKPOINTS", given)
    with pytest.raises(ValueError, match="neither a folder nor s3://bucket/prefix"):
        Settings()
