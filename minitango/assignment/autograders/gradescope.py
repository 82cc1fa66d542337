"""A Gradescope autograder: run_autograder, and setup.sh that is run once, into an image.

https://gradescope-autograders.readthedocs.io/en/latest/specs/ and .../manual_docker/. The archive's files are
/autograder/source, run_autograder is /autograder/run_autograder.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from typing import Final

from minitango.archive import File
from minitango.assignment.autograders import Adopted, Wish
from minitango.assignment.autograders.source import Source
from minitango.assignment.checks import BUILT_IMAGE
from minitango.assignment.parts import SubmissionRule
from minitango.group import members
from minitango.job import Lease, Limits

RUN: Final = "run_autograder"
SETUP: Final = "setup.sh"
BASE: Final = "gradescope/autograder-base:ubuntu-22.04"
"""What Gradescope itself runs an autograder in, unless told otherwise."""
HOME: Final = "/autograder"
BUILT: Final = "/opt/minitango/autograder"
"""Where the image keeps what set-up made of HOME: there, a box has an empty directory in memory."""
LIMITS: Final = Limits(wall=600.0, memory=768 << 20, pids=256, disk=512 << 20)
"""Gradescope's own, for its usual containers."""

_DOCKERFILE: Final = f"""\
FROM {{image}}
COPY autograder {HOME}
RUN if command -v apt-get >/dev/null; then apt-get update || true; fi; cd {HOME} && bash {HOME}/source/{SETUP}
RUN mkdir -p {BUILT} && cp -a {HOME}/. {BUILT} && chmod -R a+rX {BUILT} && chmod a+rX /root
"""
_START: Final = f'cp -RP {BUILT}/. {HOME} && exec "$0" "$@"'
_IDLE: Final = re.compile(r"\s*(?:#.*|set [-+]\w+(?: \w+)*|exit 0|:|true|echo\b[^;&|`$<>()]*)?\s*")
"""A line of a set-up script that sets nothing up."""
_NAMED: Final = re.compile(r"""(>\s*)?["']?/?autograder/submission/([\w.-]{1,100}\.\w{1,10})\b""")
"""A file of the submission; with what is before it where it is written, not read."""
_COMMENT: Final = re.compile(r"^\s*#.*$|\s#\s.*$", re.MULTILINE)


def looks(source: Source) -> bool:
    """Whether this is an autograder."""
    return source.has(RUN)


def adopt(source: Source, wish: Wish) -> Adopted:
    """See `autograders.adopt`."""
    own = {file.path: file for file in source.below()}
    for name in (RUN, SETUP):
        if name in own:
            own[name] = File(name, own[name].data.replace(b"\r\n", b"\n"), executable=True)
    files = (*(File(f"source/{f.path}", f.data, f.executable) for f in own.values()), File(RUN, own[RUN].data, True))
    command = wish.command or ((f"./{RUN}",) if own[RUN].data.startswith(b"#!") else ("bash", RUN))
    base = wish.image or BASE
    taken = [f"in Docker its image is {base}" + ("" if wish.image else " (--image names another)")]
    handin = _handin(own)
    if handin:
        taken.append(f"a hand-in of one file becomes {handin}, the only one that {RUN} names")
    image = base
    image_files: tuple[File, ...] = ()
    if SETUP in own and wish.setup and not _is_idle(own[SETUP].data):
        dockerfile = File("Dockerfile", _DOCKERFILE.format(image=base).encode())
        image, image_files = (
            BUILT_IMAGE,
            (dockerfile, *(File(f"autograder/{f.path}", f.data, f.executable) for f in files)),
        )
        files, command = (), ("sh", "-c", _START, *command)
        taken.append(f"{SETUP} has to be run once, into an image")
    elif SETUP in own:
        taken.append(f"{SETUP} is not run" + ("" if wish.setup else ", as was asked"))
    return Adopted(
        layout="gradescope",
        name=source.name,
        command=command,
        files=files,
        home=HOME,
        format="gradescope",
        submission=SubmissionRule(name=handin),
        image=image,
        image_files=image_files,
        limits=LIMITS,
        taken=tuple(taken),
    )


def _is_idle(script: bytes) -> bool:
    return all(_IDLE.fullmatch(line) for line in script.decode("utf-8", "replace").splitlines())


def _handin(own: dict[str, File]) -> str:
    """The hand-in's file, where the scripts at the top name one alone."""
    scripts = [file for path, file in own.items() if path == RUN or ("/" not in path and path.endswith((".sh", ".py")))]
    texts = (_COMMENT.sub("", file.data[: 1 << 20].decode("utf-8", "replace")) for file in scripts)
    names = {name for text in texts for written, name in _NAMED.findall(text) if not written}
    return names.pop() if len(names) == 1 else ""


def metadata(title: str, max_score: float | None, lease: Lease) -> bytes:
    """submission_metadata.json, as Gradescope writes it, of what is known here: handed in in time, and by whom.

    Numbers that are ids there are made from ours.
    """
    at = datetime.fromtimestamp(lease.submitted, UTC).isoformat()
    users = [{"email": name, "id": _number(name), "name": name} for name in members(lease.labels, lease.student)]
    assignment = {
        "due_date": at,
        "group_size": None,
        "group_submission": len(users) > 1,
        "id": _number(title),
        "course_id": 1,
        "late_due_date": None,
        "release_date": at,
        "title": title,
        "total_points": "100.0" if max_score is None else f"{max_score:.1f}",
    }
    return json.dumps(
        {
            "id": _number(lease.job),
            "created_at": at,
            "assignment": assignment,
            "users": users,
            "submission_method": "upload",
            "previous_submissions": [],
        }
    ).encode()


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
