"""A group that became a supergroup has another id: its chats, with their conversations, are there now."""

from sqlalchemy import text

from quarterdeck.kernel.database import Unit
from quarterdeck.surfaces.store import CHAT
from quarterdeck.surfaces.telegram.converter import PLATFORM
from quarterdeck.surfaces.telegram.rooms import PENDING, PLACE, ROOM

_OVERTAKEN = text(
    """
    delete from surface_states here using surface_states there
    where here.key ~ :key and there.key = regexp_replace(here.key, :key, :new)
    """
)
"""Somebody wrote in the new chat before we knew of it: what began there is its present chat."""

_KEYS = text(
    "update surface_states set key = regexp_replace(key, :key, :new), updated_at = :now where key ~ :key"
)
_REFS = text(
    """
    update surface_states
    set value = value || jsonb_build_object(
          'surface_ref', regexp_replace(value ->> 'surface_ref', :ref, :new)),
        updated_at = :now
    where key like :chats and value ->> 'platform' = :platform and value ->> 'surface_ref' ~ :ref
    """
)


async def follow(unit: Unit, old: int, new: int) -> None:
    """See `quarterdeck.telegram.moves.Follower`. A place is `agent:chat:thread:user`."""
    connection = await unit.session.connection()
    keys = {
        "key": rf"^((?:{PLACE}|{ROOM}|{PENDING}):.+):{old}:(\d+:\d+(?:/.*)?)$",
        "new": rf"\1:{new}:\2",
    }
    await connection.execute(_OVERTAKEN, keys)
    await connection.execute(_KEYS, keys | {"now": unit.now})
    refs = {"ref": rf"^(.+):{old}:(\d+:\d+/)", "new": rf"\1:{new}:\2"}
    chats = {"chats": f"{CHAT}:%", "platform": PLATFORM}
    await connection.execute(_REFS, refs | chats | {"now": unit.now})
