"""A private certificate authority and what it signs, by the openssl command."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Pair:
    """PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates; its own is ``root.certificate``."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        if shutil.which("openssl") is None:
            pytest.skip("needs the openssl command")
        self.folder = folder
        self.root = Pair(folder / f"{name}.crt", folder / f"{name}.key")
        _openssl(
            *(
                "req",
                "-x509",
                *_new_key(self.root),
                "-out",
                self.root.certificate,
                "-days",
                "1",
                "-subj",
                f"/CN={name}",
            ),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),  # Python 3.13 takes no other authority
        )

    def sign(self, name: str, subject: str = "IP:127.0.0.1", days: int = 1) -> Pair:
        """A certificate for a server or a client; it has expired with -1 days."""
        pair = Pair(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={subject}\nauthorityKeyIdentifier=keyid\n")
        _openssl("req", *_new_key(pair), "-out", request, "-subj", f"/CN={name}")
        issuer = ["-CA", self.root.certificate, "-CAkey", self.root.key, "-CAcreateserial"]
        _openssl(
            "x509",
            "-req",
            "-in",
            request,
            *issuer,
            "-days",
            str(days),
            "-extfile",
            extensions,
            "-out",
            pair.certificate,
        )
        return pair


def _new_key(pair: Pair) -> list[str | Path]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", pair.key]


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)
