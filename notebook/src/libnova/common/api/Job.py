"""`libnova.Labdrive.Api.Job` by the name of the second generation."""

from libnova.Labdrive.Api.Job import *  # noqa: F403 - whatever that one has
from libnova.Labdrive.Api.Job import __all__  # noqa: F401
