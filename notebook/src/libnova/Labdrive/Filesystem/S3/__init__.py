"""Files in an S3 server."""

from libnova.Labdrive.Filesystem.S3 import File, Storage

__all__ = ["File", "Storage"]
