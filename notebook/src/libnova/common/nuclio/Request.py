"""`libnova.Labdrive.Nuclio.Request` by the name of the second generation."""

from libnova.Labdrive.Nuclio.Request import *  # noqa: F403 - whatever that one has
from libnova.Labdrive.Nuclio.Request import __all__  # noqa: F401
