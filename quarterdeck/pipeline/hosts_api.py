"""Hosts that have agents at work. `app.state.hosts` is the service."""

from typing import Annotated

from fastapi import Depends, Path, Request

from quarterdeck.kernel.paging import Page
from quarterdeck.kernel.web import Known, problems, room
from quarterdeck.pipeline.hosts import GoneHost, HostCard, Hosts

router = room("Crew")


def _hosts(request: Request) -> Hosts:
    hosts: Hosts = request.app.state.hosts
    return hosts


TheHosts = Annotated[Hosts, Depends(_hosts)]
HostName = Annotated[
    str, Path(max_length=300, description="As the list names it.", examples=["desk-1-5f0c2a9b"])
]


@router.get("/hosts", summary="List the hosts that have open runs")
async def list_hosts(hosts: TheHosts) -> Page[HostCard]:
    """Whose runs they are, since when, and whether anybody looks after them."""
    return Page(items=await hosts.all())


@router.post("/hosts/{host}/gone", summary="Declare a host gone for good", responses=problems(403, 404, 409))
async def declare_gone(hosts: TheHosts, caller: Known, host: HostName) -> GoneHost:
    """The owner's right. Its open runs end as lost, give back their slots, and their items go on.

    404: it has no open run. 409: it is the host of this desk.
    """
    return await hosts.declare_gone(caller, host)
