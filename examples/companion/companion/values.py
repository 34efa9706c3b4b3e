"""What the companion caches of a user: one model for each key."""

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    """A cached value; nobody changes it, a newer one takes its place."""

    model_config = ConfigDict(frozen=True)


class Profile(Value):
    """``user:{user_id}:profile``: who the user is."""

    user_id: int
    name: str
    mood: str
    version: int


class Preferences(Value):
    """``user:{user_id}:settings``: what the user chose, and what their organization pays for."""

    user_id: int
    language: str
    voice: str
    version: int
    plan: str
    organization_id: int
    plan_version: int


class State(Value):
    """``user:{user_id}:state``: where the conversation stands."""

    user_id: int
    stage: int
    topic: str
    version: int


class Memory(Value):
    """One result of ``search:{user_id}:{query}``, under the tag ``user:{user_id}:memories``."""

    id: int
    content: str
    importance: int
    version: int


class Greeting(Value):
    """``user:{user_id}:greeting_instructions``: what a model made of profile and memories.

    Attributes:
        text: How the companion begins.
        model: Who wrote it, as the API named it.
        profile_version: Of the profile it was made of.
        memories_version: The newest of the three memories it was made of.
    """

    text: str
    model: str
    profile_version: int
    memories_version: int
