"""A service in several processes, which all see a change of the database."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import asyncpg
from fastapi import Depends, FastAPI, Header, HTTPException, Response
from pydantic import BaseModel

from unstale import Cache, WaitTimeout

cache = Cache.from_env()
"""One for each process. The lifespan opens it."""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with cache, asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=1) as app.state.db:
        yield


app = FastAPI(lifespan=lifespan)


class Profile(BaseModel):
    id: int
    name: str
    plan: str


@cache.cached("user:{user_id}:profile")
async def profile(user_id: int) -> Profile | None:
    row = await app.state.db.fetchrow("select id, name, plan from profiles where id = $1", user_id)
    return None if row is None else Profile(**row)


async def after_own_write(response: Response, x_token: Annotated[str | None, Header()] = None) -> None:
    """Wait until this process has processed the write that the client's token names."""
    response.headers["X-Process"] = str(os.getpid())
    if x_token is not None:
        try:
            await cache.wait_for(x_token)
        except ValueError as error:
            raise HTTPException(400, f"X-Token: {error}") from error
        except WaitTimeout as error:
            raise HTTPException(503, str(error)) from error


@app.get("/users/{user_id}", dependencies=[Depends(after_own_write)])
async def read(user_id: int) -> Profile:
    found = await profile(user_id)
    if found is None:
        raise HTTPException(404, f"There is no user {user_id}.")
    return found


class Rename(BaseModel):
    name: str


@app.patch("/users/{user_id}", status_code=204)
async def rename(user_id: int, change: Rename, response: Response) -> None:
    async with app.state.db.acquire() as db, db.transaction():
        await db.execute("update profiles set name = $2 where id = $1", user_id, change.name)
        response.headers["X-Token"] = await db.fetchval("select unstale.token()")
