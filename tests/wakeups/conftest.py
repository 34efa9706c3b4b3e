"""A Supabase project without a database: its changes are told by the tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from supabase_double import SupabaseDouble


@pytest.fixture
async def project() -> AsyncIterator[SupabaseDouble]:
    async with SupabaseDouble() as double:
        yield double
