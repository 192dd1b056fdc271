"""Who may call, and what each may use in a UTC day: all in memory, because every call asks.

A budget really stops: what is spent and what is held back for calls in flight never passes the limit
together, but for what calls in flight use beyond what was held back for them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from quarterdeck.router.backend import PICO
from quarterdeck.router.door.ask import BudgetSpent
from quarterdeck.router.storage.client_store import ClientKey, Spent
from quarterdeck.router.storage.keys import digest

DAY = 86_400


@dataclass(frozen=True, slots=True)
class Client:
    """Whom a token belongs to; `id` is '' for the proxy token, and for nobody when no key is needed."""

    id: str = ""
    name: str = ""
    agent: str = ""


NOBODY = Client()


@dataclass(slots=True)
class Account:
    """One client's day. Money in pico-dollars; a limit of None is none."""

    name: str = ""
    most_tokens: int | None = None
    most_cost: int | None = None
    day: int = 0
    tokens: int = 0
    cost: int = 0
    held_tokens: int = 0
    held_cost: int = 0

    def turn(self, day: int) -> None:
        """A new day begins with nothing spent; calls of the old one are booked to the old one."""
        if day > self.day:
            self.day = day
            self.tokens = self.cost = self.held_tokens = self.held_cost = 0

    def lacks(self, tokens: int, cost: int) -> str:
        """Which budget would be passed; '' = none."""
        if _is_passed(self.most_tokens, self.tokens + self.held_tokens, tokens):
            return f"{self.most_tokens:,} tokens"
        if self.most_cost is not None and _is_passed(self.most_cost, self.cost + self.held_cost, cost):
            return f"{self.most_cost / PICO:g} USD"
        return ""


def _is_passed(limit: int | None, used: int, wanted: int) -> bool:
    return limit is not None and (used >= limit or used + wanted > limit)


@dataclass(slots=True)
class Hold:
    """A part of a budget that is kept for one call."""

    _account: Account
    _day: int
    _tokens: int
    _cost: int
    _is_open: bool = field(default=True)

    @property
    def left_tokens(self) -> int | None:
        """What this call may use, its own part included, as it stands now; None = there is no limit.

        Where money is the limit, it is what the rest buys at the price that was held back for the call.
        """
        account = self._account
        if self._day != account.day:
            return None  # yesterday's call: its budget is history
        own_tokens, own_cost = (self._tokens, self._cost) if self._is_open else (0, 0)
        left = []
        if account.most_tokens is not None:
            left.append(account.most_tokens - account.tokens - account.held_tokens + own_tokens)
        if account.most_cost is not None and self._cost and self._tokens:
            rest = account.most_cost - account.cost - account.held_cost + own_cost
            left.append(rest * self._tokens // self._cost)
        return max(min(left), 0) if left else None

    @property
    def left_cost(self) -> int | None:
        """The same in pico-dollars; None = money is no limit."""
        account = self._account
        if self._day != account.day or account.most_cost is None:
            return None
        own = self._cost if self._is_open else 0
        return max(account.most_cost - account.cost - account.held_cost + own, 0)

    def settle(self, tokens: int, cost: int) -> None:
        """What was really used; only the first time counts."""
        if not self._is_open:
            return
        self._is_open = False
        account = self._account
        if self._day == account.day:
            account.held_tokens -= self._tokens
            account.held_cost -= self._cost
            account.tokens += max(tokens, 0)
            account.cost += max(cost, 0)


class Clients:
    """All who may call; `adopt` takes in what is stored, again and again."""

    def __init__(self, proxy_token: str = "") -> None:
        self._proxy = {digest(proxy_token): NOBODY} if proxy_token else {}
        self._by_key: dict[str, Client] = dict(self._proxy)
        self._accounts: dict[str, Account] = {}

    @property
    def needs_key(self) -> bool:
        """As soon as there is a proxy token, or any client: one that is disabled opens the door to nobody."""
        return bool(self._proxy or self._accounts)

    def adopt(self, keys: Sequence[ClientKey]) -> None:
        """What is stored now. What was spent and held goes on."""
        self._by_key = self._proxy | {
            key.key_hash: Client(key.id, key.name, key.agent) for key in keys if key.enabled
        }
        self._accounts = {key.id: self._accounts.get(key.id, Account()) for key in keys}
        for key in keys:
            account = self._accounts[key.id]
            account.name, account.most_tokens = key.name, key.tokens_per_day
            account.most_cost = key.cost_per_day

    def load(self, spent: Mapping[str, Spent], now: float) -> None:
        """What was spent today before this process began."""
        for client_id, used in spent.items():
            if account := self._accounts.get(client_id):
                account.turn(int(now // DAY))
                account.tokens, account.cost = used.tokens, used.cost

    def who(self, token: str) -> Client | None:
        """Whose token it is; None = nobody's. Only hashes are compared: time tells nothing of the keys."""
        return self._by_key.get(digest(token)) if self.needs_key else NOBODY

    def reserve(self, client: Client, tokens: int, cost: int, now: float) -> Hold:
        """Hold back what a call will use at least. Raises `BudgetSpent`."""
        account = self._accounts.get(client.id)
        if account is None:  # the proxy token, nobody, or a client that was deleted just now
            account = Account(day=int(now // DAY))
        account.turn(int(now // DAY))
        if passed := account.lacks(tokens, cost):
            raise BudgetSpent(
                f"The budget of {client.name} for today, {passed}, does not allow this call.", DAY - now % DAY
            )
        account.held_tokens += tokens
        account.held_cost += cost
        return Hold(account, account.day, tokens, cost)

    def spent(self, client_id: str, now: float) -> Spent:
        """What a client used today, as far as its calls have ended."""
        account = self._accounts.get(client_id)
        if account is None:
            return Spent()
        account.turn(int(now // DAY))
        return Spent(account.tokens, account.cost)
