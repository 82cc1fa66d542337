"""Where a step runs: isolated, limited, once.

contract     what a sandbox and its boxes promise: Sandbox, Box, and what goes in and comes out
opening      which sandbox a name means here, and which ones there are: `open_sandbox`, `survey`
bubblewrap   one, with bubblewrap
docker       another, in containers of a Docker engine
fleet        several Docker engines as one
"""

from minitango.sandbox.contract import (
    CHANNELS,
    HELPER,
    LIMITS,
    Box,
    BoxSpec,
    Bundle,
    Calls,
    Channel,
    ChannelClosed,
    CollectBounds,
    Collected,
    End,
    Guarantees,
    Held,
    Mount,
    OnePlace,
    Sandbox,
)
from minitango.sandbox.opening import (
    Survey,
    Surveyed,
    demanded,
    insist,
    join_names,
    kind_asked,
    kind_of,
    open_sandbox,
    survey,
    weak,
)

__all__ = [
    "CHANNELS",
    "HELPER",
    "LIMITS",
    "Box",
    "BoxSpec",
    "Bundle",
    "Calls",
    "Channel",
    "ChannelClosed",
    "CollectBounds",
    "Collected",
    "End",
    "Guarantees",
    "Held",
    "Mount",
    "OnePlace",
    "Sandbox",
    "Survey",
    "Surveyed",
    "demanded",
    "insist",
    "join_names",
    "kind_asked",
    "kind_of",
    "open_sandbox",
    "survey",
    "weak",
]
