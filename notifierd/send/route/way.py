"""The way that calls go: directly, or through the proxy of [network]."""

import os

from notifierd.config.network import Route, read_route
from notifierd.config.settings import NetworkSettings
from notifierd.model.errors import ConfigError


def way_of(network: NetworkSettings) -> Route:
    """Return the way that *network* names.

    Raises:
        ConfigError: the proxy cannot be used.
    """
    try:
        return read_route(network.proxy, network.no_proxy, os.environ)
    except ValueError as error:
        raise ConfigError((f"network.proxy: {error}",)) from None
