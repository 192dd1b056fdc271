"""A deeper pass of `tests/unit/test_web_rubbish.py`: every operation for itself, by everybody."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from deployments.web import create_app
from tests.fakes.company import ANNA, OWNER, VIKTOR, company
from tests.fakes.knocking import Knocking, furnish

pytestmark = [
    pytest.mark.services,
    pytest.mark.timeout(900),
    # Said of strategies, but here it is Prefect's threads, left by the tests before, that use it meanwhile.
    pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies"),
]

EXAMPLES = int(os.environ.get("QUARTERDECK_FUZZ_EXAMPLES", "400"))
DEEP = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[*HealthCheck],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)


@pytest.fixture(params=[OWNER, ANNA, VIKTOR, ""], ids=["owner", "member", "viewer", "nobody"])
async def knocking(
    request: pytest.FixtureRequest, tmp_path: Path, database_url: str
) -> AsyncIterator[Knocking]:
    async with company(tmp_path, database_url) as house:
        await furnish(house)
        yield Knocking(create_app(house), request.param)


@DEEP
@given(data=st.data())
async def test_whoever_sends_whatever_gets_what_the_document_promises(
    knocking: Knocking, data: st.DataObject
) -> None:
    operations = knocking.operations()
    case = data.draw(operations[data.draw(st.sampled_from(sorted(operations)))])
    answer = await knocking.knock(case)
    is_ours = case.operation.path.startswith("/api/")
    if is_ours and not knocking.token:
        assert answer.status_code >= 400
        assert "Enduro" not in answer.text
    if is_ours and knocking.token == VIKTOR and case.method != "GET":
        assert answer.status_code >= 400, "a viewer changes nothing"
