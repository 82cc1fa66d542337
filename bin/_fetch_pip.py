"""Fetch the newest wheel of pip from the package index into a directory, and print its path.

For a Python that has neither pip nor ensurepip. The wheel is not installed: it runs as it is. It is held to
the SHA-256 that the index names.
"""

import hashlib
import html
import os
import re
import sys
import urllib.parse
import urllib.request
from pathlib import Path

LINK = re.compile(r"<a\s([^>]*)>\s*(pip-(\d+(?:\.\d+)*)-py3-none-any\.whl)\s*</a>", re.IGNORECASE)
HREF = re.compile(r'href\s*=\s*"([^"]*)"', re.IGNORECASE)
OLDEST = re.compile(r'data-requires-python\s*=\s*"[^"]*>=\s*3\.(\d+)', re.IGNORECASE)


def main(directory: Path) -> None:
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/") + "/pip/"
    page = get(index).decode()
    wheels = []
    for attributes, name, version in LINK.findall(page):
        attributes = html.unescape(attributes)
        href, oldest = HREF.search(attributes), OLDEST.search(attributes)
        if href is None or "data-yanked" in attributes or (oldest and int(oldest[1]) > sys.version_info.minor):
            continue
        wheels.append(([int(part) for part in version.split(".")], name, urllib.parse.urljoin(index, href[1])))
    if not wheels:
        sys.exit(f"{index} lists no wheel of pip")
    _, name, url = max(wheels)
    url, fragment = urllib.parse.urldefrag(url)
    data = get(url)
    digest = fragment.removeprefix("sha256=")
    if digest and digest != hashlib.sha256(data).hexdigest():
        sys.exit(f"{url} is not what the index says: its SHA-256 differs")
    wheel = directory / name
    wheel.write_bytes(data)
    print(wheel)  # noqa: T201 the answer to the script


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 the index is the user's own choice
        body: bytes = answer.read()
        return body


if __name__ == "__main__":
    main(Path(sys.argv[1]))
