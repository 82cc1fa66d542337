"""Which sandbox a name means here, and what `auto` takes: found by trying, and kept to."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection

from minitango.errors import MinitangoError, SandboxUnavailable
from minitango.sandbox._demand import insist
from minitango.sandbox._named import KINDS, Named, parse
from minitango.sandbox.contract import Sandbox

Tell = Callable[[str], None]
Rests = Callable[[bool, str], None]


def kind_of(name: str, last: str) -> str:
    """See `minitango.sandbox.opening.kind_of`."""
    kind = parse(name).kind
    if kind != "auto":
        return kind
    return last if last in KINDS else "docker" if _answers() else "bubblewrap"


def open_named(
    name: str, *, state: str | None, image: str | None, last: str, require: Collection[str], tell: Tell, rests: Rests
) -> Sandbox:
    """See `minitango.sandbox.opening.open_sandbox`."""
    named = parse(name)
    if named.counted:
        return _probed(_make_fleet(named, state=state, image=image, require=require, tell=tell, rests=rests))
    if named.kind != "auto":
        return _probed(_make(named.kind, state=state, url=named.engines[0].url, image=image, tell=tell), require)
    if last in KINDS:
        return _as_before(last, state=state, image=image, require=require, tell=tell)
    try:
        sandbox = _probed(_make("docker", state=state, url="", image=image, tell=tell), require)
        if image is not None:
            sandbox = _with_image(sandbox)
        tell("grading in docker")
        return sandbox
    except MinitangoError as error:
        docker = error
    if image:
        docker.hint = f"{docker.hint}; or leave --image out: without Docker there are no images"
        raise docker
    try:
        sandbox = _probed(_make("bubblewrap", state=state, url="", image=image, tell=tell), require)
    except SandboxUnavailable as error:
        raise SandboxUnavailable(
            f"neither Docker nor bubblewrap can be used here. {docker.message}. {error.message}",
            hint=f"for Docker: {docker.hint}; or for bubblewrap: {error.hint}",
            id=error.id,
        ) from error
    if docker.id == "sandbox_gone" and not _is_named():
        tell("grading in bubblewrap")
    else:
        tell(f"Docker is not used, but bubblewrap: {docker.message}; for Docker: {docker.hint}")
    return sandbox


def _is_named() -> bool:
    """Whether somebody said which Docker engine is meant, and so expects it to be used."""
    return bool(os.environ.get("DOCKER_HOST") or os.environ.get("DOCKER_CONTEXT"))


def _as_before(last: str, *, state: str | None, image: str | None, require: Collection[str], tell: Tell) -> Sandbox:
    """The kind that this course is graded in already: other grades beside those would not be comparable."""
    try:
        return _probed(_make(last, state=state, url="", image=image, tell=tell), require)
    except SandboxUnavailable as error:
        other = next(kind for kind in KINDS if kind != last)
        raise SandboxUnavailable(
            f"{error.message}; what is here was graded in {last}, and nothing else is taken for it unasked",
            hint=f"{error.hint}; or, to grade in the other from now on: --sandbox {other}",
            id=error.id,
        ) from error


def _make(kind: str, *, state: str | None, url: str, image: str | None, tell: Tell) -> Sandbox:
    if kind == "docker":
        from minitango.sandbox.docker import DEFAULT_IMAGE, DockerSandbox

        return DockerSandbox(state, url=url, image=image or DEFAULT_IMAGE, tell=tell)
    from minitango.sandbox.bubblewrap import BubblewrapSandbox

    return BubblewrapSandbox(state=state)


def _make_fleet(
    named: Named, *, state: str | None, image: str | None, require: Collection[str], tell: Tell, rests: Rests
) -> Sandbox:
    from minitango.sandbox.docker import DEFAULT_IMAGE, DockerSandbox
    from minitango.sandbox.fleet import Fleet, Member

    def member(label: str, url: str, slots: int | None) -> Member:
        sandbox = DockerSandbox(
            state, url=url, image=image or DEFAULT_IMAGE, tell=lambda text: tell(f"{text} ({label})")
        )
        return Member(label, sandbox, slots)

    return Fleet([member(one.label, one.url, one.slots) for one in named.engines], require=require, rests=rests)


def _probed(sandbox: Sandbox, require: Collection[str] = ()) -> Sandbox:
    try:
        insist(sandbox, require)
    except BaseException:
        sandbox.close()
        raise
    return sandbox


def _with_image(sandbox: Sandbox) -> Sandbox:
    """One that has the image for steps that name none: without it, most assignments could not be graded."""
    try:
        sandbox.prepare("")
    except BaseException:
        sandbox.close()
        raise
    return sandbox


def _answers() -> bool:
    """Whether a Docker engine answers."""
    from minitango.sandbox._docker_engine import Engine
    from minitango.sandbox._docker_place import find

    try:
        engine = Engine(find(), patience=5)
        try:
            engine.call(lambda api: api.ping())
        finally:
            engine.close()
    except MinitangoError:
        return False
    return True
