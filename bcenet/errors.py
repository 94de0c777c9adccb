"""Every exception that bcenet defines; all other bad input is a ValueError or TypeError."""


class NonFiniteError(ArithmeticError):
    """Training left the finite numbers; the network holds the weights before the bad step.

    Attributes: ``epoch`` (from 1), ``batch`` (from 0) and ``layer`` (from 0, the first layer
    in which an infinity or a NaN appeared).
    """

    def __init__(self, message: str, *, epoch: int, batch: int, layer: int) -> None:
        super().__init__(message)
        self.epoch = epoch
        self.batch = batch
        self.layer = layer

    def __reduce__(self):
        return _rebuild_non_finite_error, (self.args[0], self.epoch, self.batch, self.layer)


def _rebuild_non_finite_error(message, epoch, batch, layer):
    return NonFiniteError(message, epoch=epoch, batch=batch, layer=layer)


class ModelFormatError(ValueError):
    """A file is not a whole, unchanged bcenet model file; the message says what is wrong."""


class DataFormatError(ValueError):
    """A data file cannot be read as a table; the message names the file, line and column."""


class DataChangedError(ValueError):
    """A file, or what gives batches, changed while it was read; the message names it."""


class CellError(ValueError):
    """A cell of a table that is not what its column must hold.

    Attributes: column: its name. row: from 0. what: the rest of the message.
    """

    def __init__(self, column: str, row: int, what: str) -> None:
        super().__init__(f"column {column!r}, row {row} (from 0): {what}")
        self.column, self.row, self.what = column, row, what

    def __reduce__(self) -> tuple[type, tuple[str, int, str]]:
        return CellError, (self.column, self.row, self.what)
