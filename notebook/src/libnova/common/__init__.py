"""The second generation of names (`libnova.common.nuclio`, `libnova.common.api`), seen in third-party code."""

from libnova.common import api, nuclio

__all__ = ["api", "nuclio"]
