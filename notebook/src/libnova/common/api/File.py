"""`libnova.Labdrive.Api.File` by the name of the second generation."""

from libnova.Labdrive.Api.File import *  # noqa: F403 - whatever that one has
from libnova.Labdrive.Api.File import __all__  # noqa: F401
