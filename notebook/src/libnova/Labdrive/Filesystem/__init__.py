"""Where the bytes of files are."""

from libnova.Labdrive.Filesystem import S3

__all__ = ["S3"]
