"""Names of container images as people write them: `gcc:14`, `ghcr.io/course/grader:2@sha256:...`, an image's id; and
which of them are folders instead."""

from __future__ import annotations

import re
from typing import Final

MAX_NAME: Final = 255
"""Characters of a name without tag and digest, as registries have it."""

_LABEL: Final = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST: Final = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_PART: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME: Final = re.compile(
    rf"(?P<name>(?:(?P<host>{_HOST})/)?{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?:@(?P<digest>[a-z0-9]+:[a-f0-9]{32,128}))?"
)
_ID: Final = re.compile(r"(?:sha256:)?[0-9a-f]{64}")


def is_folder(image: str) -> bool:
    """Whether it names a folder of the assignment with a Dockerfile: it begins with `./` or ends with `/`."""
    return image.startswith("./") or image.endswith("/")


def is_id(image: str) -> bool:
    """Whether it is an image's own id, which no registry knows."""
    return _ID.fullmatch(image) is not None


def registry(image: str) -> str:
    """The host that a valid name is pulled from; empty: Docker Hub."""
    found = _NAME.fullmatch(image)
    host = (found["host"] if found else None) or ""
    return host if "." in host or ":" in host or host == "localhost" else ""


def problem(image: str) -> str:
    """Why this is no image's name; empty if it is one."""
    if is_id(image):
        return ""
    found = _NAME.fullmatch(image) if len(image) < 1000 else None
    if found is not None and not _is_cased(found["host"] or ""):
        return f"its name is longer than {MAX_NAME} characters" if len(found["name"]) > MAX_NAME else ""
    if "://" in image:
        return f"it has a scheme: leave {image.partition('://')[0]}:// out"
    if image.strip() != image or " " in image:
        return "it has a blank"
    if _NAME.fullmatch(image.lower()):
        return "only its tag may have capital letters"
    return "it is not of the form [REGISTRY/]NAME[:TAG][@DIGEST]"


def _is_cased(host: str) -> bool:
    """Whether what stands in a host's place is no host, but a part of the name with a capital letter."""
    return host != host.lower() and "." not in host and ":" not in host
