"""The first generation of LABDRIVE's names, as its documentation shows them."""

from libnova.Labdrive import Api, Filesystem, Nuclio

__all__ = ["Api", "Filesystem", "Nuclio"]
