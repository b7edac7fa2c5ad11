"""Where settings are read from."""

from __future__ import annotations

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
