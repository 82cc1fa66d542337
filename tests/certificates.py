"""Certificates for tests, of an authority that lives as long as they do."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.docker_engine import unavailable


def make(folder: Path) -> Path:
    """A directory with ca.pem, and with cert.pem and key.pem that are good for a client, and for a server on 127.0.0.1.

    Skips the test without openssl; fails it where CI=true.
    """
    if shutil.which("openssl") is None:
        unavailable("openssl is not installed (try: apt-get install openssl)")
    folder.mkdir()
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    _openssl(
        *("req", "-x509", *key, "-keyout", f"{folder}/ca-key.pem", "-out", f"{folder}/ca.pem"),
        *("-subj", "/CN=tests", "-days", "1", "-addext", "keyUsage=critical,keyCertSign"),
    )
    _openssl("req", *key, "-keyout", f"{folder}/key.pem", "-out", f"{folder}/request.pem", "-subj", "/CN=engine")
    (folder / "more").write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
    _openssl(
        *("x509", "-req", "-in", f"{folder}/request.pem", "-CA", f"{folder}/ca.pem", "-CAkey", f"{folder}/ca-key.pem"),
        *("-CAcreateserial", "-out", f"{folder}/cert.pem", "-days", "1", "-extfile", f"{folder}/more"),
    )
    return folder


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
