"""Loaders with SQLAlchemy's asyncio extension: one value, many values, and a write that is read at once."""

import asyncio
import os
from collections.abc import Sequence

import asyncpg
from pydantic import BaseModel, ConfigDict
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from unstale import Cache

# asyncpg reads the URL as psql does, `sslmode` included; SQLAlchemy's own URLs do not know that.
engine = create_async_engine(
    "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(os.environ["DATABASE_URL"])
)
new_session = async_sessionmaker(engine, expire_on_commit=False)
cache = Cache.from_env()


class Base(DeclarativeBase):
    pass


class ProfileRow(Base):
    __tablename__ = "profiles"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    plan: Mapped[str]


class Profile(BaseModel):
    """A cached value is plain data: an object of the ORM belongs to its session and is not JSON."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    name: str
    plan: str


@cache.cached("user:{user_id}:profile")
async def profile(user_id: int) -> Profile | None:
    async with new_session() as session:  # the load's own: other readers may wait for it
        row = await session.get(ProfileRow, user_id)
        return None if row is None else Profile.model_validate(row)


async def profiles(user_ids: Sequence[int]) -> dict[int, Profile]:
    """Read many by one trip to Redis, and those that are missing by one query."""
    keys = {profile.key(user_id): user_id for user_id in user_ids}

    async def load(missing: Sequence[str]) -> dict[str, Profile]:
        wanted = select(ProfileRow).where(ProfileRow.id.in_([keys[key] for key in missing]))
        async with new_session() as session:
            rows = await session.scalars(wanted)
            return {profile.key(row.id): Profile.model_validate(row) for row in rows}

    found = await cache.get_many(list(keys), load, model=Profile)
    return {keys[key]: value for key, value in found.items() if value is not None}


async def rename(user_id: int, name: str) -> None:
    async with new_session.begin() as session:
        row = await session.get_one(ProfileRow, user_id)
        row.name = name
        await session.flush()
        token = await session.scalar(select(func.unstale.token()))
    await cache.wait_for(token or "")  # this process serves nothing older from here on


async def main() -> None:
    async with cache:
        print(*(await profiles([1, 2, 99])).values(), sep="\n")
        await rename(1, "Countess")
        print(await profile(1))
        print(cache.counters().loads, "loads")
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
