"""LABDRIVE's API; see `libnova.Labdrive.Api`."""

from libnova.common.api import Container, Driver, File, Job, JobMessage

__all__ = ["Container", "Driver", "File", "Job", "JobMessage"]
