"""What every handler of the door has at hand."""

from dataclasses import dataclass

from aiohttp import web

from hashmill.flow.tools import DoorTools
from hashmill.intake.broker import BrokerWatch
from hashmill.intake.config import IntakeConfig
from hashmill.intake.metrics import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    tools: DoorTools
    config: IntakeConfig
    metrics: Metrics
    broker: BrokerWatch


DOOR = web.AppKey("door", Door)
