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
