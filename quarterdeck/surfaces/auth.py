"""Who has come in. The messenger says who somebody is, the roster whether they may; this only remembers."""

from dataclasses import asdict, replace

from quarterdeck.surfaces.platform import PlatformClient
from quarterdeck.surfaces.protocol import AuthFlow, AuthState
from quarterdeck.surfaces.store import AUTH, StateStore


class AuthManager:
    """Users on their way in."""

    def __init__(self, platform: PlatformClient, store: StateStore) -> None:
        self._platform = platform
        self._store = store

    async def start_flow(self, user_id: str, platform: str) -> AuthFlow:
        """The user's way in, begun when there is none; one that is confirmed stays so."""
        flow = await self.flow(user_id) or AuthFlow(user_id, platform)
        await self._keep(flow)
        return flow

    async def confirm(self, user_id: str, platform: str = "", platform_user_id: str = "") -> AuthFlow:
        """From now on the user is known."""
        flow = await self.flow(user_id) or AuthFlow(user_id, platform)
        known_as = platform_user_id or flow.platform_user_id or f"{flow.platform}:{user_id}"
        flow = replace(flow, state=AuthState.CONFIRMED, platform_user_id=known_as)
        await self._keep(flow)
        return flow

    async def is_authenticated(self, user_id: str) -> bool:
        flow = await self.flow(user_id)
        return flow is not None and flow.state is AuthState.CONFIRMED

    async def flow(self, user_id: str) -> AuthFlow | None:
        kept = await self._store.get(f"{AUTH}:{user_id}")
        return AuthFlow(**kept | {"state": AuthState(kept["state"])}) if kept else None

    async def revoke(self, user_id: str) -> None:
        """The user is not known any more."""
        await self._store.delete(f"{AUTH}:{user_id}")

    async def _keep(self, flow: AuthFlow) -> None:
        await self._store.set(f"{AUTH}:{flow.user_id}", asdict(flow))
