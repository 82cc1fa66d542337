"""Which limits a sandbox has to hold, and whether it does."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

from minitango.errors import ConfigError, SandboxUnavailable
from minitango.sandbox.contract import LIMITS, Guarantees, Sandbox
from minitango.text import one_line


def demanded(names: Iterable[str]) -> tuple[str, ...]:
    """Each once, in the order of LIMITS. ConfigError `require`."""
    wanted = [*names]
    for name in wanted:
        if name not in LIMITS:
            near = difflib.get_close_matches(str(name), LIMITS, 1)
            hint = f"did you mean {near[0]}?" if near else f"use some of: {', '.join(LIMITS)}"
            raise ConfigError(f"{one_line(repr(name), 80)} is no limit that can be required", hint=hint, id="require")
    return tuple(limit for limit in LIMITS if limit in wanted)


def weak(held: Guarantees) -> tuple[str, ...]:
    """The limits that do not hold."""
    return tuple(limit for limit in LIMITS if getattr(held, limit) == "none")


def insist(sandbox: Sandbox, wanted: Collection[str]) -> Guarantees:
    """What holds there. SandboxUnavailable `sandbox_weak` where something that is wanted does not."""
    held = sandbox.probe()
    missing = [limit for limit in weak(held) if limit in wanted]
    if not missing:
        return held
    words = f"the limit on {missing[0]} does" if len(missing) == 1 else f"the limits on {', '.join(missing)} do"
    hint = "; ".join(held.notes) or "minitango doctor --canary shows what holds here"
    raise SandboxUnavailable(
        f"in {sandbox.name} here {words} not hold, and require says that it must",
        hint=f"{hint}; or grade in another sandbox (--sandbox NAME), or leave it out of require",
        id="sandbox_weak",
    )
