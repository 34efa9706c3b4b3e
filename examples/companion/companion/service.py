"""The companion over HTTP."""

import json
import logging

import openai
from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from companion.agent import Companion
from companion.knowledge import MEMORIES, Session

logger = logging.getLogger("companion")

COMPANION = web.AppKey("companion", Companion)
SESSION = TypeAdapter(Session)


class Opening(BaseModel):
    """Body of ``POST /session``."""

    model_config = ConfigDict(extra="forbid")
    user_id: int = Field(gt=0)


class Said(Opening):
    """Body of ``POST /message``."""

    text: str = Field(min_length=1, max_length=4_000)


class Search(Opening):
    """Body of ``POST /search``."""

    query: str = Field(min_length=1, max_length=100)


def application(companion: Companion) -> web.Application:
    """The routes; whoever runs it opens and closes the companion's cache and pool."""
    app = web.Application(middlewares=[errors_as_sentences])
    app[COMPANION] = companion
    app.router.add_post("/session", session)
    app.router.add_post("/message", message)
    app.router.add_post("/search", search)
    app.router.add_get("/stats", stats)
    return app


async def session(request: web.Request) -> web.Response:
    """Begin a conversation: the greeting, what is known, and where each part came from."""
    opening = Opening.model_validate_json(await request.read())
    found = await request.app[COMPANION].session(opening.user_id)
    if found is None:
        raise web.HTTPNotFound(text=f"There is no user {opening.user_id}.")
    return web.Response(body=SESSION.dump_json(found), content_type="application/json")


async def message(request: web.Request) -> web.Response:
    """Answer what the user said."""
    said = Said.model_validate_json(await request.read())
    reply = await request.app[COMPANION].reply(said.user_id, said.text)
    if reply is None:
        raise web.HTTPNotFound(text=f"There is no user {said.user_id}.")
    return web.json_response({"reply": reply})


async def search(request: web.Request) -> web.Response:
    """The user's memories that hold a text."""
    asked = Search.model_validate_json(await request.read())
    found = await request.app[COMPANION].knowledge.search(asked.user_id, asked.query)
    return web.Response(body=MEMORIES.dump_json(found), content_type="application/json")


async def stats(request: web.Request) -> web.Response:
    """How cache and connections do."""
    companion = request.app[COMPANION]
    return web.json_response(
        {
            "cache": await companion.cache.get_stats(),
            "pool": await companion.pool.get_stats(),
            "greetings_written": companion.loaders.greetings_written,
        }
    )


@web.middleware
async def errors_as_sentences(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Whoever asked wrongly is told how to ask; what is our own fault is logged and not told."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _error(error.status, error.text or error.reason)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        where = [f"{'.'.join(map(str, item['loc'])) or 'the body'}: {item['msg']}" for item in found]
        return _error(400, "; ".join(where))
    except openai.OpenAIError as error:
        logger.warning("the model did not answer: %s", type(error).__name__)
        return _error(502, f"The language model did not answer ({type(error).__name__}). Try again later.")


def _error(status: int, sentence: str) -> web.Response:
    return web.Response(status=status, text=json.dumps({"error": sentence}), content_type="application/json")
