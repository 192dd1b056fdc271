"""Clients: a key is needed as soon as there is one, and a budget really stops."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from quarterdeck.kernel.database import Database
from quarterdeck.router import steady
from quarterdeck.router.admin.forms import ClientForm
from quarterdeck.router.call import Caller
from quarterdeck.router.clients import DAY, HELD_SECONDS, Client, Clients, Hold
from quarterdeck.router.door.ask import BudgetHeld, BudgetSpent
from quarterdeck.router.ledger.writer import Ledger
from quarterdeck.router.storage.client_store import ClientKey, Spent
from quarterdeck.router.storage.keys import digest, new_client_key
from tests.fakes.router_parts import call, store

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()
MIDNIGHT = datetime(2026, 11, 23, tzinfo=UTC).timestamp()


def client_key(number: int = 1, key: str = "", **fields: object) -> ClientKey:
    now = datetime(2026, 11, 22, tzinfo=UTC)
    values = {
        "id": f"cli_{number}",
        "name": f"client {number}",
        "agent": "developer",
        "key_hash": digest(key or f"key {number}"),
        "key_hint": "qr_…",
        "enabled": True,
        "tokens_per_day": None,
        "cost_per_day": None,
        "created_at": now,
        "updated_at": now,
    }
    return ClientKey(**values | fields)  # type: ignore[arg-type]


def only(**fields: object) -> tuple[Clients, Client]:
    """One client, and all who know it."""
    clients = Clients()
    clients.adopt([client_key(**fields)])  # type: ignore[arg-type]
    client = clients.who("key 1")
    assert client is not None
    return clients, client


def test_without_any_key_everybody_may_call() -> None:
    clients = Clients()
    assert not clients.needs_key
    assert clients.who("whatever an SDK sends") == Client()


def test_a_proxy_token_or_a_client_makes_keys_necessary() -> None:
    assert Clients("proxy").needs_key
    clients = Clients()
    clients.adopt([client_key()])
    assert clients.needs_key
    assert clients.who("another") is None


def test_to_disable_the_last_client_lets_nobody_in_and_to_delete_it_everybody() -> None:
    clients, _ = only()
    clients.adopt([client_key(enabled=False)])
    assert clients.needs_key
    assert clients.who("key 1") is None
    clients.adopt([])
    assert not clients.needs_key
    assert clients.who("key 1") == Client()


def test_a_token_is_its_clients_and_nobody_elses() -> None:
    clients = Clients("proxy")
    key = new_client_key()
    clients.adopt([client_key(1, key), client_key(2), client_key(3, enabled=False)])
    assert clients.who(key) == Client("cli_1", "client 1", "developer")
    assert clients.who("proxy") == Client()
    for wrong in ("", "proxy ", key[:-1], key.upper(), "key 3", digest(key), "\udcff"):
        assert clients.who(wrong) is None


def test_a_key_that_was_taken_away_is_nobodys_at_once() -> None:
    clients, _ = only()
    clients.adopt([client_key(1, "another")])
    assert clients.who("key 1") is None


@pytest.mark.parametrize(
    ("limits", "words"),
    [({"tokens_per_day": 100}, "100 tokens"), ({"cost_per_day": 100 * 10**12}, "100 USD")],
)
def test_a_spent_budget_refuses_until_the_next_utc_midnight(limits: dict[str, int], words: str) -> None:
    clients, client = only(**limits)
    used = (100, 0) if "tokens_per_day" in limits else (0, 100 * 10**12)
    clients.reserve(client, 1, 1, NOON).settle(*used)
    with pytest.raises(BudgetSpent, match=words) as refused:
        clients.reserve(client, 0, 0, NOON)
    assert refused.value.retry_after == MIDNIGHT - NOON
    with pytest.raises(BudgetSpent):
        clients.reserve(client, 0, 0, MIDNIGHT - 0.001)
    clients.reserve(client, 100, 0, MIDNIGHT)


def test_calls_in_flight_count_before_they_end() -> None:
    clients, client = only(tokens_per_day=100)
    first = clients.reserve(client, 60, 0, NOON)
    with pytest.raises(BudgetHeld) as refused:
        clients.reserve(client, 41, 0, NOON)
    assert refused.value.retry_after == HELD_SECONDS
    first.settle(10, 0)
    second = clients.reserve(client, 90, 0, NOON)
    assert second.left_tokens == 90


def test_a_call_sees_what_others_use_meanwhile() -> None:
    clients, client = only(tokens_per_day=100)
    mine, other = clients.reserve(client, 10, 0, NOON), clients.reserve(client, 20, 0, NOON)
    assert mine.left_tokens == 80
    other.settle(95, 0)
    assert mine.left_tokens == 5


def test_tokens_and_money_are_limits_each_for_itself() -> None:
    clients, client = only(cost_per_day=1_000)
    hold = clients.reserve(client, 10, 20, NOON)
    assert (hold.left_tokens, hold.left_cost) == (None, 1_000)
    clients, client = only(tokens_per_day=1_000)
    hold = clients.reserve(client, 10, 20, NOON)
    assert (hold.left_tokens, hold.left_cost) == (1_000, None)


def test_who_has_a_budget_is_known_before_anything_is_reckoned() -> None:
    for limits in ({"tokens_per_day": 0}, {"cost_per_day": 1}):
        clients, client = only(**limits)
        assert clients.is_limited(client)
    clients, client = only()
    assert not clients.is_limited(client)
    assert not clients.is_limited(Client())


def test_of_an_answer_only_as_much_is_held_as_is_left() -> None:
    clients, client = only(tokens_per_day=100, cost_per_day=1_000)
    first = clients.reserve(client, 10, 100, NOON, answer_tokens=50, answer_cost=500)
    last = clients.reserve(client, 10, 100, NOON, answer_tokens=50, answer_cost=500)
    assert (last.left_tokens, last.left_cost) == (40, 400)
    assert (first.left_tokens, first.left_cost) == (60, 600)
    with pytest.raises(BudgetHeld):
        clients.reserve(client, 1, 1, NOON)
    first.settle(20, 200)
    assert (last.left_tokens, last.left_cost) == (80, 800)
    last.settle(70, 700)
    clients.reserve(client, 10, 100, NOON, answer_tokens=50, answer_cost=500)


def test_a_call_that_uses_more_than_was_held_for_it_takes_it_from_the_others() -> None:
    clients, client = only(tokens_per_day=100, cost_per_day=1_000)
    mine, other = clients.reserve(client, 10, 10, NOON), clients.reserve(client, 10, 10, NOON)
    mine.grow(60, 700)
    assert (other.left_tokens, other.left_cost) == (40, 300)
    mine.grow(5, 5)
    assert (mine.left_tokens, mine.left_cost) == (90, 990)
    other.grow(45, 10)
    assert (mine.left_tokens, other.left_tokens) == (55, 40)
    mine.settle(60, 700)
    mine.grow(90, 900)
    other.settle(30, 10)
    assert clients.spent(client.id, NOON) == Spent(90, 710)
    assert clients.reserve(client, 10, 0, NOON).left_tokens == 10


def test_only_the_first_settlement_counts() -> None:
    clients, client = only(tokens_per_day=100)
    hold = clients.reserve(client, 10, 0, NOON)
    hold.settle(30, 0)
    hold.settle(30, 0)
    assert clients.spent(client.id, NOON) == Spent(30, 0)


def test_a_call_that_crosses_midnight_is_booked_to_the_day_it_began() -> None:
    clients, client = only(tokens_per_day=100)
    hold = clients.reserve(client, 10, 0, MIDNIGHT - 1)
    today = clients.reserve(client, 100, 0, MIDNIGHT + 1)
    hold.settle(1000, 0)
    today.settle(5, 0)
    assert clients.spent(client.id, MIDNIGHT + 2) == Spent(5, 0)


def test_a_new_limit_counts_at_once_and_forgets_nothing() -> None:
    clients, client = only(tokens_per_day=100)
    clients.reserve(client, 10, 0, NOON).settle(50, 0)
    clients.adopt([client_key(tokens_per_day=50)])
    with pytest.raises(BudgetSpent):
        clients.reserve(client, 0, 0, NOON)
    clients.adopt([client_key(tokens_per_day=60)])
    clients.reserve(client, 10, 0, NOON)


def test_a_budget_of_nothing_allows_nothing() -> None:
    clients, client = only(tokens_per_day=0)
    with pytest.raises(BudgetSpent):
        clients.reserve(client, 0, 0, NOON)


async def test_what_was_spent_today_is_known_after_a_restart(database: Database, tmp_path: Path) -> None:
    rooms = store(database)
    kept, key = await rooms.clients.add(ClientForm(name="c", tokens_per_day=100))
    async with Ledger(database, tmp_path, steady.now) as ledger:
        ledger.record(call(at=NOON, caller=Caller(kept.id)))
        ledger.record(call(at=NOON - DAY, caller=Caller(kept.id)))
        await ledger.flush()
    clients = Clients()
    clients.adopt((await rooms.snapshot()).clients)
    clients.load(await rooms.clients.spent(NOON), NOON)
    client = clients.who(key)
    assert client is not None and clients.spent(client.id, NOON) == Spent(15, 1000)
    with pytest.raises(BudgetSpent):
        clients.reserve(client, 86, 0, NOON)


class Budgets(RuleBasedStateMachine):
    """Whatever is reserved, settled and however days pass: the limit holds."""

    holds: Bundle[tuple[Hold, int, int, int]] = Bundle("holds")

    @initialize(tokens=st.none() | st.integers(0, 200), cost=st.none() | st.integers(0, 200))
    def begin(self, tokens: int | None, cost: int | None) -> None:
        self.limits = tokens, cost
        self.clients, self.client = only(tokens_per_day=tokens, cost_per_day=cost)
        self.now = NOON
        self.spent = [0, 0]
        self.held = [0, 0]
        self.beyond = [0, 0]

    @rule(
        target=holds,
        tokens=st.integers(0, 120),
        cost=st.integers(0, 120),
        answer=st.tuples(st.integers(0, 120), st.integers(0, 120)),
    )
    def reserve(self, tokens: int, cost: int, answer: tuple[int, int]) -> tuple[Hold, int, int, int]:
        day = int(self.now // DAY)
        wanted = tokens, cost
        fits = all(
            limit is None or (used + held < limit and used + held + more <= limit)
            for limit, used, held, more in zip(self.limits, self.spent, self.held, wanted, strict=True)
        )
        try:
            hold = self.clients.reserve(
                self.client, tokens, cost, self.now, answer_tokens=answer[0], answer_cost=answer[1]
            )
        except BudgetSpent as refused:
            assert not fits
            assert 0 < refused.retry_after <= DAY
            if isinstance(refused, BudgetHeld):
                assert refused.retry_after <= HELD_SECONDS
                assert any(self.held)
            else:
                assert (self.now + refused.retry_after) % DAY == 0
            return _nothing(day)
        assert fits
        kept = [
            more + beside if limit is None else min(more + beside, limit - used - held)
            for limit, used, held, more, beside in zip(
                self.limits, self.spent, self.held, wanted, answer, strict=True
            )
        ]
        self.held = [held + more for held, more in zip(self.held, kept, strict=True)]
        return hold, day, kept[0], kept[1]

    @rule(held=consumes(holds), tokens=st.integers(0, 150), cost=st.integers(0, 150))
    def settle(self, held: tuple[Hold, int, int, int], tokens: int, cost: int) -> None:
        hold, day, kept_tokens, kept_cost = held
        hold.settle(tokens, cost)
        hold.settle(tokens, cost)
        if day == int(self.now // DAY) and hold._account.name:
            self.spent = [self.spent[0] + tokens, self.spent[1] + cost]
            self.held = [self.held[0] - kept_tokens, self.held[1] - kept_cost]
            self.beyond[0] += max(0, tokens - kept_tokens)
            self.beyond[1] += max(0, cost - kept_cost)

    @rule(seconds=st.sampled_from([1, 3600, DAY // 2, DAY, 3 * DAY]))
    def time_passes(self, seconds: int) -> None:
        before = int(self.now // DAY)
        self.now += seconds
        if int(self.now // DAY) != before:
            self.spent, self.held, self.beyond = [0, 0], [0, 0], [0, 0]
            self.clients.spent(self.client.id, self.now)

    @rule()
    def adopt_again(self) -> None:
        self.clients.adopt([client_key(tokens_per_day=self.limits[0], cost_per_day=self.limits[1])])

    @invariant()
    def what_is_spent_is_what_was_settled(self) -> None:
        if hasattr(self, "clients"):
            assert self.clients.spent(self.client.id, self.now) == Spent(*self.spent)
            account = self.clients._accounts[self.client.id]
            assert [account.held_tokens, account.held_cost] == self.held

    @invariant()
    def the_limit_is_passed_by_calls_in_flight_alone(self) -> None:
        if hasattr(self, "clients"):
            for limit, spent, held, beyond in zip(
                self.limits, self.spent, self.held, self.beyond, strict=True
            ):
                assert limit is None or spent + held <= limit + beyond


def _nothing(day: int) -> tuple[Hold, int, int, int]:
    """A hold of nobody: settling it changes no budget."""
    clients = Clients()
    return clients.reserve(Client(), 0, 0, day * DAY), day, 0, 0


TestBudgets = Budgets.TestCase
