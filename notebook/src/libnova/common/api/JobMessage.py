"""`libnova.Labdrive.Api.JobMessage` by the name of the second generation."""

from libnova.Labdrive.Api.JobMessage import *  # noqa: F403 - whatever that one has
from libnova.Labdrive.Api.JobMessage import __all__  # noqa: F401
