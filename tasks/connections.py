"""Blocks to connections: what people entered in Prefect's forms reaches the rooms of the core."""

from functools import cache
from http.client import INTERNAL_SERVER_ERROR, NOT_FOUND

import structlog
from httpx import HTTPStatusError
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import BlockDocument
from pydantic import ValidationError

from blocks.connection import ConnectionBlock
from blocks.registry import BLOCKS
from quarterdeck.house import House
from quarterdeck.kernel.connections import Source

log = structlog.get_logger(__name__)


async def copy_blocks(house: House) -> list[str]:
    """Copy every block that changed since the last time; returns the kinds whose value is new.

    Cheap when nothing changed: one look per kind, and no secret leaves Prefect. A block that was deleted,
    is incomplete, or opens with no key that Prefect has, leaves its connection as it was.
    `QUARTERDECK_BLOCKS=off`: nothing is looked at.
    """
    if not house.settings.blocks:
        return []
    known = {(info.kind, info.name): info.source_version for info in await house.connections.all()}
    changed = []
    async with get_client() as client:
        for block in BLOCKS:
            for document in await _documents(client, block):
                if known.get((block.kind, document.name or "")) != _version(document):
                    changed += await _copy(house, client, block, document)
    return changed


async def _documents(client: PrefectClient, block: type[ConnectionBlock]) -> list[BlockDocument]:
    try:
        return await client.read_block_documents_by_type(block.get_block_type_slug(), include_secrets=False)
    except HTTPStatusError as error:
        if error.response.status_code == NOT_FOUND:  # `setup` has not registered the form yet
            return []
        if error.response.status_code == INTERNAL_SERVER_ERROR:
            complain_of(block.get_block_type_slug())
            return []
        raise


@cache
def complain_of(slug: str) -> None:
    """Say once in a process what a person has to do: Prefect cannot open what was entered in this form."""
    todo = "put keys/prefect-blocks back as it was; if it is lost, see docs/how-to/back-up.md#keys"
    log.error("block_unreadable", block=slug, todo=todo)


async def _copy(
    house: House, client: PrefectClient, block: type[ConnectionBlock], seen: BlockDocument
) -> list[str]:
    document = await client.read_block_document(seen.id, include_secrets=True)
    name = document.name or ""
    try:
        value = block._from_block_document(document).value()
    except ValidationError as error:
        fields = [".".join(map(str, wrong["loc"])) for wrong in error.errors(include_input=False)]
        log.warning("block_incomplete", block=block.get_block_type_slug(), name=name, fields=fields)
        return []
    async with house.database.command("copy block") as unit:
        is_new = await house.connections.put(unit, block.kind, name, value, Source.BLOCK, _version(document))
    return [block.kind] if is_new else []


def _version(document: BlockDocument) -> str:
    return f"{document.id}@{document.updated.isoformat() if document.updated else ''}"
