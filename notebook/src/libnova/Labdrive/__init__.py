"""The first generation of LABDRIVE's names, as its documentation shows them."""

from libnova._guard import in_anothers

if _why := in_anothers():  # one installed after ours wrote over libnova/__init__.py, which asks otherwise
    raise ImportError(_why)

from libnova.Labdrive import Api, Filesystem, Nuclio

__all__ = ["Api", "Filesystem", "Nuclio"]
