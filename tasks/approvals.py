"""A request for a decision, and its form in the Prefect UI. The decision itself is the engine's."""

from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed

from quarterdeck.house import House
from quarterdeck.kernel.identity import owner
from quarterdeck.pipeline.model import Approval
from tasks.step import step

DOOR = "prefect"
DEPLOYMENT = "approval"

_MOST_FORMS = 20
"""How often a form that Prefect lost is put up again."""


@step("decide", seconds=60, retries=5)
async def decide(house: House, key: str, *, approved: bool, comment: str, by: str, asked: UUID) -> str:
    """Answer this request through the engine; returns who it counts for. Raises as `Engine.decide` does."""
    decided = await house.engine.decide(
        key, owner(DOOR), approved=approved, comment=comment, by=by, asked=asked
    )
    return decided.decided_by or ""


def form_name(approval: Approval) -> str:
    """The flow run's name: the same whether the flow or we give it."""
    return f"{approval.item_key} · approval · {approval.stage} · {approval.round}"


async def open_form(approval: Approval) -> UUID:
    """Put the form of a request up in the Prefect UI; repeatable. Returns its flow run.

    A form whose run ended without a decision (crashed, cancelled by mistake) is put up anew.
    """
    async with get_client() as client:
        deployment = await client.read_deployment_by_name(f"{DEPLOYMENT}/{DEPLOYMENT}")
        for attempt in range(1, _MOST_FORMS):
            run = await client.create_flow_run_from_deployment(
                deployment.id,
                name=form_name(approval),
                parameters={
                    "item": approval.item_key,
                    "stage": approval.stage,
                    "round": approval.round,
                    "approval": str(approval.id),
                },
                idempotency_key=f"approval-{approval.id}-{attempt}",
            )
            if not _has_ended(run):
                break
        return run.id


async def close_form(flow_run_id: UUID | str, message: str) -> bool:
    """End the form of a request that another door decided. False: it is at work just now, ask again."""
    async with get_client() as client:
        run = await _read(client, UUID(str(flow_run_id)))
        if run is None or _has_ended(run):
            return True
        if run.state is not None and run.state.is_running():
            return False
        await client.set_flow_run_state(run.id, Completed(name="Closed", message=message), force=True)
        return True


async def is_open(flow_run_id: UUID | str) -> bool:
    """Does the form still stand?"""
    async with get_client() as client:
        run = await _read(client, UUID(str(flow_run_id)))
        return run is not None and not _has_ended(run)


async def _read(client: PrefectClient, flow_run_id: UUID) -> FlowRun | None:
    try:
        return await client.read_flow_run(flow_run_id)
    except ObjectNotFound:
        return None


def _has_ended(run: FlowRun) -> bool:
    return run.state is not None and run.state.is_final()
