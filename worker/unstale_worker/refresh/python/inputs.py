"""Reads the inputs of a loader, and returns their fingerprint."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from unstale.protocol.fingerprints import digest

if TYPE_CHECKING:
    from unstale.companion.pools import ConnectionPool

_NUMBER: Final = re.compile(r"\$(\d+)")
_ROWS: Final = 'select pg_catalog.row_to_json("unstale inputs")::text from ({query}) as "unstale inputs"'


async def fingerprint(pool: "ConnectionPool", key: str, inputs: Mapping[str, Any]) -> str:
    """Return the fingerprint of names, types and values of all columns, in the order of the rows.

    The values of the key's fields are bound as texts of the types that Postgres infers. Raises what Postgres
    and the pool raise.
    """
    query, values = inputs["query"], inputs["values"]
    postgres = await pool.postgres()
    async with postgres.acquire() as connection, connection.transaction(readonly=True):
        await connection.execute("set local time zone 'UTC'")
        types = (await connection.prepare(query)).get_parameters()
        names = [f'"{each.schema}"."{each.name}"' for each in types]
        typed = _NUMBER.sub(lambda number: f"(${number[1]}::text)::{names[int(number[1]) - 1]}", query)
        prepared = await connection.prepare(typed)
        columns = [[each.name, each.type.schema, each.type.name] for each in prepared.get_attributes()]
        rows = await connection.fetch(_ROWS.format(query=typed), *values)
    return digest(key, [query, columns, [row[0] for row in rows]])
