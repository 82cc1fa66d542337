"""A Gradescope autograder: run_autograder, and what is run once, into an image: setup.sh, or a Dockerfile of its own.

https://gradescope-autograders.readthedocs.io/en/latest/specs/ and .../manual_docker/. The archive's files are
/autograder/source, run_autograder is /autograder/run_autograder; a Dockerfile of its own puts all where it likes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
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
HARNESS: Final = "harness.py"
"""There are scripts that look for /autograder/harness.py to know that they are on Gradescope."""
SETUP: Final = "setup.sh"
DOCKERFILE: Final = "Dockerfile"
BASE: Final = "gradescope/autograder-base:ubuntu-22.04"
"""What Gradescope itself runs an autograder in, unless told otherwise."""
HOME: Final = "/autograder"
BUILT: Final = "/opt/minitango/autograder"
"""Where the image keeps what set-up made of HOME: there, a box has an empty directory in memory."""
LIMITS: Final = Limits(wall=600.0, memory=768 << 20, pids=256, disk=512 << 20)
"""Gradescope's own, for its usual containers."""

_KEEP: Final = f"""\
RUN mkdir -p {BUILT} && cp -a {HOME}/. {BUILT} && chmod -R a+rX {BUILT} && chmod a+rX /root
RUN for f in /root/.[!.]*; do n=$(basename "$f"); case $n in .cache|.config|.npm|.ssh) ;; \
*) [ ! -e "$f" ] || [ -e "{BUILT}/$n" ] || ln -s "$f" {BUILT}/ ;; esac; done
"""
"""HOME is a step's home, which is root's there: what set-up left in that (`~/.cargo`, `~/.opam`) is found, but for what
programs write to."""
_DOCKERFILE: Final = f"""\
FROM {{image}}
COPY autograder {HOME}
RUN if command -v apt-get >/dev/null; then apt-get update || true; fi; cd / && bash {HOME}/source/{SETUP}
{_KEEP}"""
"""As Gradescope has it, `setup.sh` begins in `/`: there are some that name `autograder/source`."""
_AFTER_ITS_OWN: Final = f"""
USER root
{_KEEP}RUN chmod a+rx {BUILT}/{RUN}
"""
_ON_WHAT_THAT_MADE: Final = f"""\
FROM {{image}}
USER root
COPY autograder /opt/minitango/given
RUN mkdir -p {HOME} && cp -an /opt/minitango/given/. {HOME}
{_KEEP}"""
"""What of the autograder's files that image has not got comes from its folder."""
_START: Final = f'cp -RP {BUILT}/. {HOME} && exec "$0" "$@"'
_IDLE: Final = re.compile(r"\s*+(?:#.*|set [-+]\w+(?: \w+)*|exit 0|:|true|echo\b[^;&|`$<>()]*+)?\s*")
"""A line of a set-up script that sets nothing up."""
_NAMED: Final = re.compile(r"""(>\s*)?["']?/?autograder/submission/([\w.-]{1,100}\.\w{1,10})\b""")
"""A file of the submission; with what is before it where it is written, not read."""
_COMMENT: Final = re.compile(r"^[^\S\n]*+#.*$|\s#(?:[^\S\n].*)?$", re.MULTILINE)
_USERS: Final = re.compile(r"\b(?:runuser|sudo|su(?= +(?:-|\w+ +-)))\b")
_NEW_USERS: Final = re.compile(r"\b(?:useradd|adduser)\b")
_NETWORK: Final = re.compile(
    r"\b(?:git (?:pull|clone|fetch)|apt-get|apt install|pip3? install|npm install|curl|wget|scp)\b"
)


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
    else:
        taken.append(
            f"hand-ins keep their own names, as {RUN} names no single one "
            "(an assignment.toml beside it can: name under [submission])"
        )
    image, image_files = base, _image(own, files, wish)
    once = next((name for name in (SETUP, DOCKERFILE) if name in own), "")
    if image_files:
        if once == SETUP:
            taken.append(f"{SETUP} has to be run once, into an image")
        elif wish.image:
            taken.append(f"{HOME} is as that image has it, and what is missing there comes from its folder")
        else:
            taken[0] = f"in Docker its {DOCKERFILE} is built, once (--image names what you built from it)"
        image, files, command = BUILT_IMAGE, (), ("sh", "-c", _START, *command)
    elif once:
        taken.append(f"{once} is not run" + ("" if wish.setup else ", as was asked"))
    taken += _wants(own[RUN])
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


def _image(own: dict[str, File], files: Iterable[File], wish: Wish) -> tuple[File, ...]:
    """The Dockerfile of the image that has to be made, and what it is made of; nothing where none has to be."""
    beside = [File(f"autograder/{file.path}", file.data, file.executable) for file in files]
    if SETUP in own:
        if not wish.setup or _is_idle(own[SETUP].data):
            return ()
        made = _DOCKERFILE.format(image=wish.image or BASE).encode()
    elif DOCKERFILE not in own or not wish.setup:
        return ()
    elif wish.image:
        made = _ON_WHAT_THAT_MADE.format(image=wish.image).encode()
    else:
        made = own[DOCKERFILE].data + _AFTER_ITS_OWN.encode()
        beside = [file for file in own.values() if file.path != DOCKERFILE]
    return (File(DOCKERFILE, made), *beside)


def _wants(script: File) -> list[str]:
    """What its script does that it cannot do here unless an assignment.toml says so."""
    text = _COMMENT.sub("", script.data[: 1 << 20].decode("utf-8", "replace"))
    told = (
        (_USERS, "changes users ({}), which needs root = true under [[step]], and Docker"),
        (_NEW_USERS, f"makes a user ({{}}), which can only be done in {SETUP}"),
        (_NETWORK, 'asks the network ({}), which needs network = "open" under [[step]]'),
    )
    return [f"{RUN} {words.format(found[0])}" for pattern, words in told if (found := pattern.search(text))]


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
    at = datetime.fromtimestamp(lease.submitted, UTC).isoformat(timespec="microseconds")
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
            "assignment_id": assignment["id"],
            "assignment": assignment,
            "users": users,
            "submission_method": "upload",
            "previous_submissions": [],
        }
    ).encode()


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
