"""Where checkpoints lie, by their names alone."""

from __future__ import annotations

from sweep_service.checkpoint_port import CheckpointFiles


def checkpoint_files(location: str) -> CheckpointFiles:
    """What reads and writes there: an absolute path, or ``s3://bucket/prefix``. Nothing is asked of it yet."""
    if location.startswith("s3://"):
        from sweep_service.checkpoint_files.bucket import BucketFiles  # boto3 takes a moment, and most need it not

        return BucketFiles()
    from sweep_service.checkpoint_files.folder import FolderFiles

    return FolderFiles()
