"""Certificates for tests, of an authority that lives as long as they do."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.docker_engine import unavailable


def make(folder: Path, *, name: str = "IP:127.0.0.1", days: int = 1) -> Path:
    """A directory with ca.pem, and with cert.pem and key.pem that are good for a client, and for a server of this name.
    `days`: for how long; a negative number: until so long ago.

    Skips the test without openssl; fails it where CI=true.
    """
    if shutil.which("openssl") is None:
        unavailable("openssl is not installed (try: apt-get install openssl)")
    folder.mkdir()
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    run(
        "openssl",
        *("req", "-x509", *key, "-keyout", f"{folder}/ca-key.pem", "-out", f"{folder}/ca.pem"),
        *("-subj", "/CN=tests", "-days", "1", "-addext", "keyUsage=critical,keyCertSign"),
    )
    run("openssl", "req", *key, "-keyout", f"{folder}/key.pem", "-out", f"{folder}/request.pem", "-subj", "/CN=engine")
    (folder / "more").write_text(f"subjectAltName={name}\nextendedKeyUsage=serverAuth,clientAuth\n")
    run(
        "openssl",
        *("x509", "-req", "-in", f"{folder}/request.pem", "-CA", f"{folder}/ca.pem", "-CAkey", f"{folder}/ca-key.pem"),
        *("-CAcreateserial", "-out", f"{folder}/cert.pem", "-days", str(days), "-extfile", f"{folder}/more"),
    )
    return folder


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
