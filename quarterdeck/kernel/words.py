"""How counts are written for people, in English; what is sent to chats has catalogues of its own."""


def counted(count: int, one: str, many: str = "") -> str:
    """`1 backend`, `2 backends`; `many` where an `s` does not do it, or where a verb goes with the word."""
    return f"{count} {one if count == 1 else many or f'{one}s'}"
