"""Tasks of a prefork worker with a cache for each of its processes."""

import os

import psycopg
from celery import Celery
from psycopg.rows import class_row
from pydantic import BaseModel

from unstale.sync import Cache

app = Celery("tasks")  # broker and results: CELERY_BROKER_URL and CELERY_RESULT_BACKEND
cache = Cache.from_env()
"""Each forked process opens its own on first use."""


class Profile(BaseModel):
    id: int
    name: str
    plan: str


@cache.cached("user:{user_id}:profile")
def profile(user_id: int) -> Profile | None:
    with psycopg.connect(os.environ["DATABASE_URL"]) as db, db.cursor(row_factory=class_row(Profile)) as rows:
        return rows.execute("select id, name, plan from profiles where id = %s", [user_id]).fetchone()


@app.task
def greet(user_id: int) -> dict[str, object]:
    found = profile(user_id)
    return {"text": f"Hello {found.name if found else 'stranger'}", "process": os.getpid()}
