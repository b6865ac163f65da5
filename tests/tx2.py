"""ResNet-50 on a Jetson TX2, by published figures, with all its clocks: as tests of clocks serve it."""

from __future__ import annotations

from delen.policies.view import Guard, Served
from delen.profiles.boards import clocked
from delen.profiles.costs import Costs

TOP_KHZ, BEST_KHZ = 1_300_500, 726_750


def tx2(network: str = "resnet50") -> Served:
    """Without guard or hop, so that times are the figures themselves."""
    known = clocked("jetson-tx2", network)
    at_khz = {khz: Costs.of(known.at(khz), 4) for khz in known.steps()}
    return Served(network, "1", at_khz[TOP_KHZ], None, 4, 0.0, guard=Guard(0, 0.0, 1.0), at_khz=at_khz)
