"""Fixtures of all tests."""

from __future__ import annotations

import pytest

import bcenet._dispatch


@pytest.fixture(params=bcenet._dispatch.available())
def isa(request):
    """Runs a test once with each instruction set that the processor has."""
    with bcenet._dispatch.use(request.param):
        yield request.param
