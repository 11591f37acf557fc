"""
An independent double of LABDRIVE: state, faults on request, and a page to look at it.

Written from the public documents, not from the client. It imports nothing else of the house, so that it stays a
second witness: a mistake in the client cannot be repeated here by sharing code.
"""

from hashmill.sandbox.config import (
    ContainerConfig,
    FunctionConfig,
    IntakeConfig,
    SandboxConfig,
    SandboxConfigInvalid,
    StorageConfig,
    UserConfig,
    load_config,
)
from hashmill.sandbox.faults import FaultAction, FaultRule
from hashmill.sandbox.records import CallRecord, ContainerRecord, FileRecord, JobRecord, MessageRecord, StatusChange
from hashmill.sandbox.server import RunningSandbox, run_sandbox, start

__all__ = [
    "CallRecord",
    "ContainerConfig",
    "ContainerRecord",
    "FaultAction",
    "FaultRule",
    "FileRecord",
    "FunctionConfig",
    "IntakeConfig",
    "JobRecord",
    "MessageRecord",
    "RunningSandbox",
    "SandboxConfig",
    "SandboxConfigInvalid",
    "StatusChange",
    "StorageConfig",
    "UserConfig",
    "load_config",
    "run_sandbox",
    "start",
]
