"""What a function is called with."""

from libnova.Labdrive.Nuclio import Request

__all__ = ["Request"]
