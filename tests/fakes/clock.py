"""A clock that stands still until a test moves it."""

from datetime import UTC, datetime, timedelta


class ManualClock:
    """Begins at noon of a winter's day in UTC."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 5, 12, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def go(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)

    def go_to(self, moment: datetime) -> None:
        """Forward to a moment; never back."""
        self.time = max(self.time, moment)
