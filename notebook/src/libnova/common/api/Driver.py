"""`libnova.Labdrive.Api.Driver` by the name of the second generation."""

from libnova.Labdrive.Api.Driver import *  # noqa: F403 - whatever that one has
from libnova.Labdrive.Api.Driver import __all__  # noqa: F401
