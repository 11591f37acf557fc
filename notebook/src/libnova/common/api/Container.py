"""`libnova.Labdrive.Api.Container` by the name of the second generation."""

from libnova.Labdrive.Api.Container import *  # noqa: F403 - whatever that one has
from libnova.Labdrive.Api.Container import __all__  # noqa: F401
