"""Named values that belong together."""

from __future__ import annotations

from typing import Any


def plain(value: Any) -> Any:
    """A value as JSON can hold it: records as dicts, arrays as lists, what is not finite as text.

    Example:
        >>> plain({"loss": float("nan"), "steps": (1, 2)})
        {'loss': 'nan', 'steps': [1, 2]}
    """
    if isinstance(value, Record):
        return plain(value.__dict__)
    if isinstance(value, dict):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if hasattr(value, "tolist"):  # NumPy's arrays and numbers
        return plain(value.tolist())
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if abs(value) < float("inf") else str(value)
    return str(value)


class Record:
    """A class of named values, listed by its annotations, in order or by name.

    What dataclasses and named tuples do too; those cost 5 ms of import, these nothing.

    Example:
        >>> class Point(Record):
        ...     x: float
        ...     y: float
        >>> Point(1.0, y=2.0)
        Point(x=1.0, y=2.0)
    """

    def __init__(self, *values: Any, **named: Any) -> None:
        names = type(self).__annotations__
        if len(values) == len(names) and not named:  # the usual call, once a step of a Trainer
            self.__dict__.update(zip(names, values, strict=True))
            return
        given = dict(zip(names, values, strict=False)) | named
        if len(values) + len(named) != len(names) or given.keys() != names.keys():
            raise TypeError(f"{type(self).__name__} takes {', '.join(names)}")
        self.__dict__.update(given)

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({values})"
