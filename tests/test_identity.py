"""What decides on a grade beside the hand-in."""

from __future__ import annotations

from minitango.identity import grader

MET = ("sha256:a", "sha256:a")
MOVED = ("sha256:a", "sha256:b")


def test_only_images_that_moved_count() -> None:
    assert grader("plan", "docker", ["gcc:14", "", "gcc:14"], {}) == ("plan", "docker")
    assert grader("plan", "docker", ["gcc:14"], {"gcc:14": MET, "other": MOVED}) == ("plan", "docker")
    moved = {"gcc:14": MOVED, "": MOVED}
    assert grader("plan", "docker", ["gcc:14"], moved) == ("plan", "docker", "gcc:14=sha256:b")
    assert grader("plan", "docker", ["", "gcc:14"], moved) == ("plan", "docker", "=sha256:b", "gcc:14=sha256:b")


def test_an_image_that_is_built_is_known_by_its_files() -> None:
    """They are in the plan; what another assignment's folder of that name was built to says nothing."""
    folders = {"docker/": MOVED, "./image": MOVED}
    assert grader("plan", "docker", ["docker/", "./image"], folders) == ("plan", "docker")
