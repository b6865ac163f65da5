"""A core with one network on a made-up board, and who looks after the board's clock."""

from __future__ import annotations

import dataclasses
from concurrent.futures import wait
from functools import cache
from pathlib import Path

from msgspec.structs import replace

from delen.clients.info import NetworkInfo
from delen.daemon import hosting
from delen.daemon.clock_watch import ClockWatch, Known
from delen.daemon.config import Config
from delen.daemon.journal import Journal
from delen.daemon.recorded import core, setup_of
from delen.daemon.server import Server
from delen.exits.bundle import Bundle, load_bundle
from delen.policies.view import Run, Served
from delen.profiles.clocked import at_clock, scaled
from delen.profiles.schema import Profile
from delen.tests.jetson_tree import GPU, jetson_tree, put
from delen.tests.sample_profile import sample_profile

TOP_KHZ, LOW_KHZ = 1_300_500, 420_750
SECOND_US = 1_000_000


def taken(bundle: Bundle, khz: int, mode: str = "MAXN") -> Profile:
    """As if measured at this clock: slower in proportion, and for less energy."""
    profile = sample_profile(bundle=bundle.digest)
    profile = scaled(profile, TOP_KHZ / khz, 0.5 + 0.5 * khz / TOP_KHZ)
    return replace(profile, device=at_clock(replace(profile.device, power_mode=mode), khz))


@cache
def _view(directory: Path) -> Served:
    """Certificates take a second to tabulate, and no test here looks at them."""
    bundle = load_bundle(directory)
    return hosting.served(bundle, taken(bundle, TOP_KHZ), 8)


class Watched:
    """A core with one network on a made-up board, and who looks after its clock."""

    def __init__(
        self, tmp_path: Path, bundle: Bundle, *, policy: str = "stage-edf", clocks: str = "read", journal: bool = False
    ) -> None:
        self.root, self.state = jetson_tree(tmp_path / "root"), tmp_path / "state"
        self.config = Config(policy=policy, clocks="may-set" if clocks == "may-set" else "read")
        self.notes: list[str] = []
        self.profile = taken(bundle, TOP_KHZ)
        self.profiles = {"digits": self.profile}
        self.path = tmp_path / "journal"
        kept = Journal(self.path, bytes_max=10**7, note=self.notes.append) if journal else None
        self.journal = kept
        self.server: Server = core(setup_of(self.config), kept, lambda _name: None, now_us=0, wall="")
        view = dataclasses.replace(_view(bundle.directory), costs=hosting.costs_of(bundle, self.profile, 8))
        view.correction = hosting.follows(self.config, self.profile)
        self.server.networks["digits"] = view
        self.server.worker_ready(0)
        self.told: dict[str, NetworkInfo] = {"digits": hosting.info(bundle, self.profile, view)}
        self.bundle = bundle
        self.watch = ClockWatch(self.config, self.state, self._note, root=self.root)  # type: ignore[arg-type]
        self.now_us = 0

    def _note(self, text: str, **_fields: object) -> None:
        self.notes.append(text)

    def look(self) -> None:
        """As the loop's turns in a second."""
        for _ in range(2):
            self.now_us += 500_000
            self.turn()
            if self.watch._reading is not None:
                self.watch._reading.result(5)

    def hold(self, khz: int) -> None:
        """A run says this clock, and what comes of it is seen."""
        self.watch.hold(Run(1, "digits", 0, (), 0, (), 100, khz))
        self.settle()

    def settle(self) -> None:
        """What is under way comes back, and is seen."""
        while (job := self.watch._hold._under_way) is not None:
            wait([job], 5)
            self.turn()

    def turn(self) -> None:
        self.watch.turn(self.now_us, self.server, lambda key: Known(self.bundle, self.profiles[key]), self.told)

    def swap(self, profile: Profile) -> None:
        """As a hot swap leaves it: new requests go to another worker, and the old one finishes what it has."""
        server = self.server
        view = dataclasses.replace(server.networks["digits"], key="digits#2")
        self.profiles["digits#2"] = profile
        view.costs = hosting.costs_of(self.bundle, profile, 8)
        server.networks["digits#2"] = view
        server.routes.lead("digits", "digits#2")
        self.told["digits"] = hosting.info(self.bundle, profile, view)
        server.worker_ready(self.now_us, ["digits#2"])

    def path_us(self) -> float:
        return self.server.networks["digits"].costs.path_us(0, 2, 1)

    def limit(self, khz: int) -> None:
        put(self.root, f"{GPU}/max_freq", str(1000 * khz))
