"""Which of several networks of one name a request goes to: the newest version, or the one its tenant has to itself.

Role: names are what tenants say, keys what core and workers know; a key is the name as long as there is one of it only.
Does not: know versions or workers.
"""

from __future__ import annotations


class Routes:
    """From (tenant, name) to key."""

    def __init__(self) -> None:
        self._own: dict[tuple[str, str], str] = {}
        self._shared: dict[str, str] = {}

    def key(self, tenant: str, name: str) -> str:
        """Where a new request goes."""
        if self._own and (own := self._own.get((tenant, name))) is not None:
            return own
        return self.shared(name)

    def shared(self, name: str) -> str:
        """Where new requests go of tenants that have none of this name to themselves."""
        return self._shared.get(name, name)

    def lead(self, name: str, key: str, tenant: str | None = None) -> None:
        """New requests of this tenant to this name, or of all without one of their own, go there from now on."""
        if tenant is not None:
            self._own[tenant, name] = key
        else:
            self._shared[name] = key

    def close(self, name: str, tenant: str | None = None) -> None:
        """There is no such network any more."""
        if tenant is not None:
            self._own.pop((tenant, name), None)
        else:
            self._shared.pop(name, None)
