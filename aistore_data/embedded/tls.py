"""Optional TLS of the embedded server; a cluster has it on all nodes or on none."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from aistore_data.embedded.errors import EmbeddedError


@dataclass(frozen=True)
class Tls:
    """PEM files: a certificate, its key, and the authority of the certificates that clients must have, if any."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Raises EmbeddedError for files that cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.certificate, self.key)
            if self.client_ca:
                context.load_verify_locations(self.client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except OSError as error:  # ssl.SSLError too
            names = f"--tls-cert {self.certificate}, --tls-key {self.key}"
            names += f", --tls-client-ca {self.client_ca}" if self.client_ca else ""
            raise EmbeddedError(f"{names}: these PEM files cannot be used: {error.strerror or error}.") from None
        return context
