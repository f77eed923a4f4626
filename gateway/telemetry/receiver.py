"""The receiver of clients' metrics: subscriptions as they are configured now, clients, and their series.

Keeps: a changed subscription is in effect for the next request of each client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.clock import Clock
from gateway.config.loading import Config
from gateway.kafka_configs.keys import ResourceType
from gateway.kafka_configs.resource_keys import KINDS
from gateway.telemetry.clients import Client, Clients
from gateway.telemetry.points import Read
from gateway.telemetry.series import ClientSeries
from gateway.telemetry.subscriptions import subscription_of

if TYPE_CHECKING:
    from gateway.kafka_configs.resource_configs import ResourceConfigs

_KIND = KINDS[ResourceType.CLIENT_METRICS]


class Telemetry:
    """All about clients' metrics."""

    def __init__(self, config: Config, configs: ResourceConfigs, clock: Clock) -> None:
        self.series = ClientSeries(config.telemetry_series_max)
        self._clients = Clients(config.telemetry_max_bytes, self.series.forget)
        self._configs = configs
        self._clock = clock
        self._version = -1
        self.pushes = 0

    def __repr__(self) -> str:
        return f"<Telemetry {self._clients!r}, {self.series!r}>"

    @property
    def client_count(self) -> int:
        return len(self._clients)

    def clients(self) -> Clients:
        """The clients, who are asked for what is subscribed now."""
        if self._version != self._configs.version:
            self._version = self._configs.version
            found = (subscription_of(texts) for texts in self._configs.all_of(_KIND).values())
            self._clients.subscribe([subscription for subscription in found if subscription is not None])
        return self._clients

    def now_ms(self) -> int:
        return int(self._clock.monotonic_s() * 1_000)

    def take(self, client: Client, found: Read) -> None:
        """Take a push's metrics."""
        self.pushes += 1
        self.series.left_out += found.left_out
        self.series.add(client.instance_id, client.properties, found.points)
