"""What a box costs on Docker beside the bare calls: pairs in one run, so that a busy machine burdens both alike.

    DOCKER_HOST=... python -m bench.containers IMAGE [pairs]

IMAGE must be there, and have `true` and `sh`. Prints, for each way, the median and the 10th and 90th percentile of the
wall time in milliseconds, and what it takes more than the bare calls, pair by pair:

    bare    create, start, wait, remove, with `network_disabled`
    box     open, put a file, run, collect, close: what a step of a job does
    1 MB    the same with 1 MB of files put in
    sdk     what the SDK's own verbs take for the 1 MB: create, put_archive, start, wait, logs, remove
"""

from __future__ import annotations

import io
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable

import docker

from minitango.archive import File
from minitango.sandbox import BoxSpec, Mount
from minitango.sandbox.docker import DockerSandbox

SPEC = BoxSpec((Mount("/job", writable=True), Mount("/tests")), "/job")
MEGABYTE = [File(f"f{n}", os.urandom(1 << 16)) for n in range(16)]


def bare(api: docker.APIClient, image: str) -> None:
    made = api.create_container(image, ["true"], network_disabled=True)
    api.start(made)
    api.wait(made)
    api.remove_container(made)


def by_the_sdk(api: docker.APIClient, image: str) -> None:
    made = api.create_container(image, ["true"], network_disabled=True)
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as out:
        for file in MEGABYTE:
            info = tarfile.TarInfo(file.path)
            info.size = len(file.data)
            out.addfile(info, io.BytesIO(file.data))
    api.put_archive(made, "/tmp", tar.getvalue())
    api.start(made)
    api.wait(made)
    api.logs(made)
    api.remove_container(made)


def box(sandbox: DockerSandbox, files: list[File]) -> None:
    opened = sandbox.open(SPEC)
    try:
        opened.put("/job", files)
        end = opened.run(["true"], env={}, output=lambda _: None)
        assert end.exit_status == 0, end
        opened.collect("/job", ["report.json"])
    finally:
        opened.close()


def spread(values: list[float]) -> str:
    values = sorted(values)
    return "  ".join(f"{values[int((len(values) - 1) * at)]:8.1f}" for at in (0.5, 0.1, 0.9))


def main() -> None:
    image = sys.argv[1]
    pairs = int(sys.argv[2]) if len(sys.argv) > 2 else 30
    api = docker.APIClient(base_url=os.environ.get("DOCKER_HOST"), version="auto")
    with tempfile.TemporaryDirectory() as state:
        sandbox = DockerSandbox(state, image=image)
        ways: dict[str, Callable[[], None]] = {
            "bare": lambda: bare(api, image),
            "box": lambda: box(sandbox, MEGABYTE[:1]),
            "box, 1 MB": lambda: box(sandbox, MEGABYTE),
            "sdk, 1 MB": lambda: by_the_sdk(api, image),
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for way in ways.values():
            way()
        for _ in range(pairs):
            for name, way in ways.items():
                began = time.perf_counter()
                way()
                taken[name].append((time.perf_counter() - began) * 1000)
                time.sleep(0.2)  # what a container leaves to be done is not the next one's burden
        sandbox.close()
    api.close()
    print(f"{'':12}{'median':>8}  {'p10':>8}  {'p90':>8}      more than bare: median, p10, p90")
    for name, values in taken.items():
        more = [a - b for a, b in zip(values, taken["bare"], strict=True)]
        print(f"{name:12}{spread(values)}      {spread(more)}")


if __name__ == "__main__":
    main()
