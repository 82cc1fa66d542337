"""Containers from their making to their end: opened, closed, swept when nobody owns them any more.

A container removes itself once its supervisor leaves, which it does when its line ends: nothing waits for that, and
nothing is left where this process dies. A thread looks whether it came true, and sweeps every 30 s.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import secrets
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import msgspec
from msgspec import Struct

from minitango.errors import SandboxFailed, SandboxUnavailable
from minitango.sandbox import _frames
from minitango.sandbox._docker_box import DockerBox
from minitango.sandbox._docker_carry import Carrier
from minitango.sandbox._docker_death import died
from minitango.sandbox._docker_engine import Engine, Missing, Refused
from minitango.sandbox._docker_line import Bell, Line, LineLost
from minitango.sandbox._docker_owner import OWNER, PREFIX, TOKEN, Owner
from minitango.sandbox._docker_profile import BUNDLE, HELPER_FILES, Features, container, memory, with_helper
from minitango.sandbox._frames import BadFrame, Hello
from minitango.sandbox._seccomp import build_filter
from minitango.sandbox._spec import UIDS
from minitango.sandbox.contract import HELPER, BoxSpec
from minitango.text import one_line
from minitango.threads import begin

log = logging.getLogger("minitango")

_SWEEP: Final = 30.0
"""Seconds between sweeps."""
_GONE: Final = 3.0
"""Seconds that the engine has to remove a container by itself."""
_LOOK: Final = 1.0
_ALIVE: Final = 3.0
"""Seconds in which an engine answers that does not hang."""
_CONFLICT: Final = 409


class _Listed(Struct):
    """A container or an image in a list."""

    id: str = msgspec.field(name="Id")
    names: list[str] | None = msgspec.field(name="Names", default=None)
    tags: list[str] | None = msgspec.field(name="RepoTags", default=None)
    labels: dict[str, str] | None = msgspec.field(name="Labels", default=None)

    @property
    def name(self) -> str:
        return self.names[0].removeprefix("/") if self.names else ""


class _Created(Struct):
    id: str = msgspec.field(name="Id")


class Containers:
    """Those of one sandbox. Thread-safe."""

    def __init__(self, engine: Engine, owner: Owner, carrier: Carrier, features: Features) -> None:
        self.features = features
        self.enlarges = True
        """Whether the engine can give a running container more memory: true until it turns out otherwise."""
        self._engine = engine
        self._owner = owner
        self._carrier = carrier
        self._filter = build_filter(count_memory=False, machine=carrier.machine) or b""
        self._numbers = itertools.count(1)
        self._uids = itertools.cycle(UIDS)
        for _ in range(secrets.randbelow(len(UIDS))):
            next(self._uids)
        self._lock = threading.Lock()
        self._open: dict[str, DockerBox | None] = {}
        """By name; None while it is being made."""
        self._doubtful = False
        """Whether the engine once gave no answer: it may have made afterwards what it was asked for then."""
        self._ending: dict[str, float] = {}
        """By name, when to remove what the engine has not removed by itself."""
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    # --- making ------------------------------------------------------------------------------------

    def open(
        self, spec: BoxSpec, digest: str, own: dict[str, str], volumes: Sequence[str] = ()
    ) -> tuple[DockerBox, Hello]:
        """A box in a fresh container of this image, whose environment is `own`, and what its supervisor sees.

        `volumes` are those that the image declares.
        """
        spec = with_helper(spec)
        name = f"{PREFIX}{self._owner.name}-{next(self._numbers)}"
        with self._lock:
            self._check_open()
            self._start_thread()
            self._open[name] = None
        bell = Bell()
        line: Line | None = None
        try:
            opened = self._create(name, spec, digest, volumes)
            line = Line(self._engine.call(partial(_attach, name=name)), bell)
            self._engine.call(lambda api: api.start(name))
            hello = self._hello(line, name, opened)
            box = DockerBox(
                spec,
                line,
                bell,
                own=own,
                filter=self._filter,
                died=partial(died, self._engine, name, opened),
                enlarge=partial(self._enlarge, name),
                closed=partial(self._box_closed, name),
                patience=self._engine.patience,
            )
            with self._lock:
                self._open[name] = box
        except BaseException as error:
            if line is not None:
                line.close()
            bell.close()
            self._end(name, well=False)
            if isinstance(error, Refused):
                self._engine.call(lambda api: api.ping())  # one that is going down is not the container's trouble
                raise SandboxFailed(f"a container could not be started: {error}", id="sandbox_start") from error
            raise
        try:
            self._check_network(spec, hello)
            places = {HELPER: HELPER_FILES} if spec.helper else {}
            if spec.bundle is not None:
                places[spec.bundle.mount] = BUNDLE
            if places:
                box.lay(places)
            self._check_open()  # who closed it did not know of this one
        except BaseException:
            box.close()
            raise
        return box, hello

    def _check_open(self) -> None:
        if self._closed:
            raise SandboxFailed("the sandbox is closed")

    def _check_network(self, spec: BoxSpec, hello: Hello) -> None:
        if spec.network == "open" and not hello.other_interface:
            raise SandboxUnavailable(
                f"containers of {self._engine} have no network, and this step asks for one",
                hint="give the engine a network (dockerd without --bridge=none), or drop network from the step",
                id="sandbox_network",
            )

    def _create(self, name: str, spec: BoxSpec, digest: str, volumes: Sequence[str]) -> str:
        for last in (False, True):
            image = ""
            try:
                image = self._carrier.image(digest, spec.bundle, root=spec.root)
                config = container(
                    spec,
                    self.features,
                    image=image,
                    binds=self._carrier.binds(spec.network, spec.bundle, root=spec.root),
                    volumes=volumes,
                    uid=0 if spec.root else next(self._uids),
                    labels={**self._owner.labels(), TOKEN: spec.token},
                )
                made = self._engine.ask(partial(_create, config=config, name=name), _Created, again=False)
            except Missing as error:
                self._carrier.forget(digest)
                if last or image == digest:
                    raise SandboxUnavailable(
                        f"the image {digest} is not there any more", hint="it is fetched again", id="sandbox_image_gone"
                    ) from error
                continue
            return made.id
        raise AssertionError

    def _hello(self, line: Line, name: str, id: str) -> Hello:
        try:
            frame = line.next(self._engine.patience)
            hello = _frames.hello(frame.body) if frame is not None and frame.kind == "h" else None
        except LineLost as error:
            found = died(self._engine, name, id)
            if isinstance(found, SandboxUnavailable):  # the engine went, and the container may be well
                raise found from error
            raise self._not_up(name, line, str(error)) from error
        except BadFrame as error:
            raise self._not_up(name, line, str(error)) from error
        if frame is None:
            raise SandboxUnavailable(
                f"the supervisor in {name} has said nothing for {self._engine.patience:g} s",
                hint="look at the Docker engine: docker info",
                id="sandbox_hangs",
            )
        if hello is None:
            raise self._not_up(name, line, "it makes no sense")
        if hello.version != _frames.VERSION:
            raise self._not_up(name, line, f"it speaks version {hello.version} of the protocol")
        return hello

    def _not_up(self, name: str, line: Line, why: str) -> SandboxFailed:
        said = one_line(line.said.decode("utf-8", "replace"), 300)
        return SandboxFailed(f"the supervisor in {name} did not come up: {said or why}", id="sandbox_start")

    def _enlarge(self, name: str, most: int) -> None:
        if self.features.limits and self.enlarges:
            try:
                self._engine.call(partial(_update, name=name, limits=memory(most)), again=True)
            except Missing as error:  # the call itself, as with Podman 4.3; or the container, which its line will tell
                if "o such container" not in error.message:
                    self.enlarges = False

    # --- its end -------------------------------------------------------------------------------------

    def _box_closed(self, name: str, _: DockerBox, well: bool) -> None:
        self._end(name, well=well)

    def _end(self, name: str, *, well: bool) -> None:
        with self._lock:
            self._open.pop(name, None)
            self._ending[name] = time.monotonic() + (_GONE if well else 0.0)
        if not well:
            self._wake.set()

    # --- sweeping --------------------------------------------------------------------------------------

    def sweep(self) -> int:
        """See `Sandbox.sweep`."""
        removed = sum(self._remove(name) for name in self._left())
        for image in self._engine.ask(_list_images, list[_Listed]):
            if self._owner.is_dead(image.labels or {}) and not _is_tagged(image):  # as ours never are
                with contextlib.suppress(Missing, Refused):  # gone already, or in use
                    self._engine.call(partial(_remove_image, id=image.id))
        self._owner.clear()
        return removed

    def orphans(self) -> int:
        """See `Sandbox.orphans`."""
        return len(self._left())

    def _left(self) -> list[str]:
        """Ids of containers that nobody owns any more."""
        left = []
        for found in self._engine.ask(partial(_list, label=OWNER), list[_Listed]):
            labels = found.labels or {}
            if not found.name.startswith(f"{PREFIX}{labels.get(OWNER)}-"):
                continue  # labels come with an image, too, whoever runs it; names do not
            stray = labels.get(OWNER) == self._owner.name and not self._known(found.name)
            if stray or self._owner.is_dead(labels):
                left.append(found.id)
        return left

    def _known(self, name: str) -> bool:
        with self._lock:
            return name in self._open or name in self._ending or name == self._carrier.making

    def _remove(self, name: str) -> bool:
        """Whether it was there to be removed. What is being removed already is left to that."""
        try:
            self._engine.call(lambda api: api.remove_container(name, force=True, v=True))
        except Missing:
            return False
        except Refused as error:
            if error.status != _CONFLICT:
                log.warning("a container could not be removed: %s", error)
            return False
        return True

    def _start_thread(self) -> None:
        if self._thread is None:
            self._thread = begin("docker", self._look_after)

    def _look_after(self) -> None:
        next_sweep = time.monotonic() + _SWEEP
        trouble = False
        while not self._closed:
            self._wake.wait(_LOOK if self._ending else max(0.0, next_sweep - time.monotonic()))
            self._wake.clear()
            try:
                self._finish()
                if time.monotonic() >= next_sweep and not self._closed:
                    self.sweep()
                trouble = False
            except Exception as error:  # nobody else would hear of it, and this thread is needed
                if not trouble:
                    log.warning("containers cannot be swept now: %s", error)
                trouble = self._doubtful = True
            if time.monotonic() >= next_sweep:
                next_sweep = time.monotonic() + _SWEEP

    def _finish(self) -> None:
        """Forget what is gone of those that ended, and remove what is late."""
        with self._lock:
            ending = dict(self._ending)
        if not ending:
            return
        found = self._engine.ask(partial(_list, label=f"{OWNER}={self._owner.name}"), list[_Listed])
        there = {one.name for one in found}
        now = time.monotonic()
        for name, late in ending.items():
            if name in there and now < late:
                continue
            if name in there and self._remove(name):
                continue  # looked for once more
            if name not in there:
                with self._lock:
                    self._ending.pop(name, None)

    def close(self) -> None:
        """Close every box, and wait until their containers are gone, as far as the engine lets us: of one that hangs
        nothing more is asked, and the supervisors leave by themselves."""
        with self._lock:
            self._closed = True
            boxes = [box for box in self._open.values() if box is not None]
        for box in boxes:
            box.kill()  # all at once, before each is waited for
        self._hurry_if_it_hangs()
        for box in boxes:
            box.close()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        try:
            self.settle()
            if self._doubtful:
                self.sweep()
        except (SandboxFailed, SandboxUnavailable) as error:
            left = len(self._ending)
            log.warning("%d container%s may be left: %s", left, "" if left == 1 else "s", error)

    def _hurry_if_it_hangs(self) -> None:
        try:
            self._engine.call(lambda api: api.ping(), again=True, patience=min(_ALIVE, self._engine.patience))
        except SandboxUnavailable as error:
            if error.id == "sandbox_hangs":
                self._engine.hurry(0.0)
        except SandboxFailed:
            pass  # it answered

    def settle(self) -> None:
        """Wait until the containers of boxes that were closed are gone, or until the engine's patience is over."""
        deadline = time.monotonic() + self._engine.patience
        while self._ending and time.monotonic() < deadline:
            self._finish()
            if self._ending:
                time.sleep(0.02)


def _attach(api: Any, *, name: str) -> Any:
    return api.attach_socket(name, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})


def _create(api: Any, *, config: dict[str, Any], name: str) -> Any:
    return api.create_container_from_config(config, name)


def _update(api: Any, *, name: str, limits: dict[str, int]) -> Any:
    return api.update_container(name, mem_limit=limits["Memory"], memswap_limit=limits["MemorySwap"])


def _list(api: Any, *, label: str) -> Any:
    return api.containers(all=True, filters={"label": [label]})


def _list_images(api: Any) -> Any:
    return api.images(filters={"label": [OWNER]})


def _is_tagged(image: _Listed) -> bool:
    return any(tag != "<none>:<none>" for tag in image.tags or ())


def _remove_image(api: Any, *, id: str) -> None:
    api.remove_image(id, force=True)
