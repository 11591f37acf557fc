"""What a function is called with; see `libnova.Labdrive.Nuclio`."""

from libnova.common.nuclio import Request

__all__ = ["Request"]
