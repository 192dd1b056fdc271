"""Who may call, and what each may use in a UTC day: all in memory, because every call asks.

A budget really stops: what is spent and what is held back for calls in flight never passes the limit
together, but for what calls in flight use beyond what was held back for them. Held back is the prompt and
what the answer may use; of the latter only what is left, so that a last call is not refused for an answer
that may never be as long.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from quarterdeck.router.backend import PICO
from quarterdeck.router.door.ask import BudgetHeld, BudgetSpent
from quarterdeck.router.storage.client_store import ClientKey, Spent
from quarterdeck.router.storage.keys import digest

DAY = 86_400
HELD_SECONDS = 5.0
"""After so long it is worth asking again, when calls under way hold what is left."""


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

    @property
    def is_limited(self) -> bool:
        return self.most_tokens is not None or self.most_cost is not None

    def lacks(self, tokens: int, cost: int, *, is_idle: bool = False) -> str:
        """Which budget would be passed, or (`is_idle`) would be without other calls under way; '' = none."""
        held_tokens, held_cost = (0, 0) if is_idle else (self.held_tokens, self.held_cost)
        if _is_passed(self.most_tokens, self.tokens + held_tokens, tokens):
            return f"{self.most_tokens:,} tokens"
        if self.most_cost is not None and _is_passed(self.most_cost, self.cost + held_cost, cost):
            return f"{self.most_cost / PICO:g} USD"
        return ""

    def hold(self, tokens: int, cost: int) -> "Hold":
        """Hold back so much, but no more than there is left."""
        tokens = _at_most(self.most_tokens, self.tokens + self.held_tokens, tokens)
        cost = _at_most(self.most_cost, self.cost + self.held_cost, cost)
        self.held_tokens += tokens
        self.held_cost += cost
        return Hold(self, self.day, tokens, cost)


def _is_passed(limit: int | None, used: int, wanted: int) -> bool:
    return limit is not None and (used >= limit or used + wanted > limit)


def _at_most(limit: int | None, used: int, wanted: int) -> int:
    return wanted if limit is None else min(wanted, limit - used)


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
        """What this call may use, its own part included, as it stands now; None = tokens are no limit."""
        account = self._account
        if self._day != account.day or account.most_tokens is None:
            return None  # yesterday's call: its budget is history
        own = self._tokens if self._is_open else 0
        return max(account.most_tokens - account.tokens - account.held_tokens + own, 0)

    @property
    def left_cost(self) -> int | None:
        """The same in pico-dollars; None = money is no limit."""
        account = self._account
        if self._day != account.day or account.most_cost is None:
            return None
        own = self._cost if self._is_open else 0
        return max(account.most_cost - account.cost - account.held_cost + own, 0)

    def grow(self, tokens: int, cost: int) -> None:
        """Hold at least so much, whether or not there is as much left: it is used already."""
        if not self._is_open or self._day != self._account.day:
            return
        more_tokens, more_cost = max(tokens - self._tokens, 0), max(cost - self._cost, 0)
        self._tokens += more_tokens
        self._cost += more_cost
        self._account.held_tokens += more_tokens
        self._account.held_cost += more_cost

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
        self._seen: dict[str, Client] = {}
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
        self._seen.clear()
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
        """Whose token it is; None = nobody's. Only hashes are compared: time tells nothing of the keys.

        A good token that was seen before is found by Python's own keyed hash, for less than SHA-256 costs.
        """
        if client := self._seen.get(token):
            return client
        if not self.needs_key:
            return NOBODY
        if client := self._by_key.get(digest(token)):
            self._seen[token] = client
        return client

    def is_limited(self, client: Client) -> bool:
        """Whether it has a budget."""
        account = self._accounts.get(client.id)
        return account is not None and account.is_limited

    def reserve(
        self,
        client: Client,
        tokens: int,
        cost: int,
        now: float,
        *,
        answer_tokens: int = 0,
        answer_cost: int = 0,
    ) -> Hold:
        """Hold back what a call will use at least, and what is left of what its answer may use.

        Raises `BudgetSpent` when the former does not fit, `BudgetHeld` when it may as soon as others have
        ended.
        """
        account = self._accounts.get(client.id)
        if account is None:  # the proxy token, nobody, or a client that was deleted just now
            account = Account(day=int(now // DAY))
        account.turn(int(now // DAY))
        if passed := account.lacks(tokens, cost):
            tomorrow = DAY - now % DAY
            if account.lacks(tokens, cost, is_idle=True):
                what = f"The budget of {client.name} for today, {passed}, does not allow this call."
                raise BudgetSpent(what, tomorrow)
            what = f"Calls under way may use what is left of the budget of {client.name} for today, {passed}"
            raise BudgetHeld(f"{what}; ask again when one has ended.", min(HELD_SECONDS, tomorrow))
        return account.hold(tokens + answer_tokens, cost + answer_cost)

    def spent(self, client_id: str, now: float) -> Spent:
        """What a client used today, as far as its calls have ended."""
        account = self._accounts.get(client_id)
        if account is None:
            return Spent()
        account.turn(int(now // DAY))
        return Spent(account.tokens, account.cost)
