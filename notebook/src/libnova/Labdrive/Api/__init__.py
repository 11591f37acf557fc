"""LABDRIVE's API by what it is about; every function uses the driver that a `Request` started."""

from libnova.Labdrive.Api import Container, Driver, File, Job, JobMessage

__all__ = ["Container", "Driver", "File", "Job", "JobMessage"]
