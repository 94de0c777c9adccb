from collections.abc import Callable
from typing import Any

SUPPORTED: dict[str, bool]

class Exclusive:
    def __init__(self, name: str) -> None: ...

def exclusively(held: list[Exclusive], function: Callable[[], Any]) -> Any: ...
