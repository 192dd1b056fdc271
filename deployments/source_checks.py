"""What `quarterdeck doctor` looks at in the sources of work outside."""

from deployments.commands.heartbeat_upkeep import tried
from deployments.doctor import Finding, Patient
from quarterdeck.kernel.words import counted

MEANING = "Work that waits there is not found; a sweep says that it is degraded."


async def multica_can_be_asked(patient: Patient) -> Finding:
    fix = "Fill the block `Quarterdeck Multica` in Prefect, or set MULTICA_WORKSPACE_ID."
    return await _source(patient, "multica", "multica", fix)


async def workboard_can_be_asked(patient: Patient) -> Finding:
    fix = "Fill the block `Quarterdeck OpenClaw program` in Prefect, or set OPENCLAW_CLI."
    return await _source(patient, "openclaw_cli", "workboard", fix)


async def _source(patient: Patient, kind: str, source: str, fix: str) -> Finding:
    house = patient.open_house()
    if not await house.connections.get(kind):
        return Finding("ok", "Not connected; no work waits there.", fix=fix)
    answer = await tried(house, source)
    if answer.trouble is not None:
        todo = f"`quarterdeck heartbeat test {source}` tries again."
        return Finding("fail", f"{answer.trouble.value}: {answer.detail}", MEANING, todo)
    work = counted(len(answer.found), "piece of work that is", "pieces of work that are")
    return Finding("ok", f"{work} not finished.")
