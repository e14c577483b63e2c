"""TLS of the gRPC port: the same files as the other port's, looked at when a client connects."""

from __future__ import annotations

import logging
from typing import Any

import grpc

from mdslite.errors import MdsliteError
from mdslite.http.tls import TlsFiles

logger = logging.getLogger(__name__)


class Certificates:
    """`credentials` are of the files as they are, or as they were when they last fitted. Threads of gRPC's
    own ask."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._stamp = files.stamp()

    def credentials(self) -> Any:
        """:raises InvalidRequest: the files do not fit each other"""
        return grpc.dynamic_ssl_server_credentials(
            self._read(),
            self._renew,
            require_client_authentication=self._files.client_ca is not None,
        )

    def _renew(self) -> Any:
        """The files' configuration if it is another one than before."""
        stamp = self._files.stamp()
        if stamp == self._stamp:
            return None
        self._stamp = stamp
        try:
            found = self._read()
        except (MdsliteError, OSError) as exc:
            logger.error("TLS of gRPC: the former certificate stays in use: %s", exc)
            return None
        logger.warning("TLS of gRPC: new connections use the renewed %s", self._files.cert)
        return found

    def _read(self) -> Any:
        files = self._files
        files.context()  # gRPC would take a pair that does not fit, and fail each handshake
        pair = (files.key.read_bytes(), files.cert.read_bytes())
        authorities = None if files.client_ca is None else files.client_ca.read_bytes()
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=authorities)
