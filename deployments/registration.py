"""What Prefect's server must know: deployments, block types, the rule for dead runs. All repeatable.

Every function returns whether something had to be done.
"""

import hashlib
import json
from collections.abc import Collection
from contextlib import suppress
from datetime import timedelta
from http.client import INTERNAL_SERVER_ERROR
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.automations import Automation, EventTrigger, Posture
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.objects import (
    ConcurrencyLimitConfig,
    ConcurrencyLimitStrategy,
    StateType,
    VersionInfo,
)
from prefect.deployments.runner import RunnerDeployment
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.schedules import Schedule
from prefect.types.entrypoint import EntrypointType

from blocks.connection import DEFAULT, ConnectionBlock
from blocks.registry import BLOCKS
from deployments.catalogue import SWEEP, Entry
from deployments.prefect_server import SILENCE
from quarterdeck.kernel.settings import Settings
from tasks.connections import complain_of

ZOMBIES = "Quarterdeck: close runs whose process is gone"


class CatalogueDeployment(RunnerDeployment):
    """A deployment that is written only when its entry changed: each writing throws scheduled runs away."""

    async def aapply(self, *args: Any, **kwargs: Any) -> UUID:
        async with get_client() as client:
            try:
                known = await client.read_deployment_by_name(self.full_name)
            except ObjectNotFound:
                known = None
        if known is not None and known.version == self.version:
            return known.id
        kwargs.setdefault("version_info", VersionInfo(type="prefect:simple", version=self.version or ""))
        return await super().aapply(*args, **kwargs)


def deployment_of(entry: Entry) -> CatalogueDeployment:
    """An entry as Prefect takes it. Its version is a fingerprint of everything that it says."""
    deployment = CatalogueDeployment.from_flow(
        entry.load(),
        name=entry.name,
        description=entry.description,
        parameters=dict(entry.parameters),
        schedule=_schedule(entry),
        concurrency_limit=_limit(entry),
        tags=list(entry.tags),
        version="unversioned",
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    assert isinstance(deployment, CatalogueDeployment)
    deployment.version = _fingerprint(deployment)
    return deployment


def _schedule(entry: Entry) -> Schedule | None:
    if entry.schedule is None:
        return None
    return Schedule(cron=entry.schedule.cron, timezone=entry.schedule.timezone, slug=entry.name)


def _limit(entry: Entry) -> ConcurrencyLimitConfig | None:
    if entry.limit is None:
        return None
    return ConcurrencyLimitConfig(
        limit=entry.limit, collision_strategy=ConcurrencyLimitStrategy(entry.when_full)
    )


def _fingerprint(deployment: RunnerDeployment) -> str:
    said = deployment.model_dump(mode="json", exclude={"version", "triggers"})
    said["schema"] = deployment._parameter_openapi_schema.model_dump(mode="json")
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


async def register_deployment(entry: Entry) -> bool:
    """Make the entry known; False = it was, as it is."""
    deployment = deployment_of(entry)
    async with get_client() as client:
        try:
            known = await client.read_deployment_by_name(deployment.full_name)
            if known.version == deployment.version:
                return False
        except ObjectNotFound:
            pass
    await deployment.aapply()
    return True


async def forget_sweeps(wanted: Collection[str]) -> list[str]:
    """Take away the deployments of agents that are no longer swept by Prefect; returns their names."""
    async with get_client() as client:
        known = await client.read_deployments(
            deployment_filter=DeploymentFilter(name=DeploymentFilterName(like_=SWEEP))
        )
        gone = [one for one in known if one.name.startswith(SWEEP) and one.name not in wanted]
        for one in gone:
            with suppress(ObjectNotFound):  # the runner, or another set-up, was first
                await client.delete_deployment(one.id)
    return [one.name for one in gone]


async def register_block_types() -> bool:
    """Put the forms of all our blocks into the UI; False = they were there, as they are."""
    changed = False
    for block in BLOCKS:
        before = await _known_block(block)
        await block.aregister_type_and_schema()
        changed = changed or before != await _known_block(block)
    return changed


async def _known_block(block: type[ConnectionBlock]) -> tuple[Any, ...] | None:
    async with get_client() as client:
        try:
            known = await client.read_block_type_by_slug(block.get_block_type_slug())
            schema = await client.get_most_recent_block_schema_for_block_type(known.id)
        except ObjectNotFound:
            return None
    return known.description, known.code_example, schema.checksum if schema else None


async def fill_blocks(settings: Settings) -> list[str]:
    """Fill blocks that nobody filled yet from the environment; returns the kinds that were filled."""
    filled = []
    for block in BLOCKS:
        given = block.from_environment(settings)
        if given is not None and not await _is_filled(block):
            await given.asave(DEFAULT)
            filled.append(block.kind)
    return filled


async def _is_filled(block: type[ConnectionBlock]) -> bool:
    async with get_client() as client:
        try:
            await client.read_block_document_by_name(
                DEFAULT, block.get_block_type_slug(), include_secrets=False
            )
        except ObjectNotFound:
            return False
        except PrefectHTTPStatusError as error:
            if error.response.status_code != INTERNAL_SERVER_ERROR:
                raise
            complain_of(block.get_block_type_slug())  # it is filled, and no key opens it
    return True


async def create_zombie_rule() -> bool:
    """Have the server close runs that fell silent: their process is gone, or cut off for good.

    Any later event of the run counts as a sign of life, so one that waits with a form is left alone.
    """
    async with get_client() as client:
        known = await client.read_automations_by_name(ZOMBIES)
    if known:
        return False
    await _zombie_rule().acreate()
    return True


def _zombie_rule() -> Automation:
    trigger = EventTrigger(
        posture=Posture.Proactive,
        after={"prefect.flow-run.heartbeat"},
        expect={"prefect.flow-run.*"},
        match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
        for_each={"prefect.resource.id"},
        threshold=1,
        within=timedelta(seconds=SILENCE),
    )
    message = f"No sign of life for {SILENCE} seconds: the process of this run is gone."
    action = ChangeFlowRunState(state=StateType.CRASHED, name="Zombie", message=message)
    return Automation(
        name=ZOMBIES,
        description="Made by `quarterdeck setup`. Runs whose process died would stay Running for ever.",
        trigger=trigger,
        actions=[action],
    )
