"""Any bytes at all in ``unstale.toml``: rules, or an error that says what is wrong."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from unstale.errors import ConfigurationError
from unstale_worker.rules import Plan, Rules

SOUND = b"""
[[watch]]
table = "public.profiles"
columns = ["name"]
keys = ["user:{id}:profile"]
query = "select id from public.members where org = {org}"

[ttl]
"user:*" = "5m"

[refresh."user:{user}:profile"]
loader = "row"
table = "profiles"
key = "id"
serve_stale = "5s"
"""


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A sound file with a few pieces replaced by anything."""
    text = SOUND
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        piece = draw(
            st.binary(max_size=5) | st.text(max_size=4).map(lambda t: t.encode("utf-8", "surrogatepass"))
        )
        text = text[:at] + piece + text[at + draw(st.integers(0, 6)) :]
    return text


@settings(max_examples=150, deadline=None)
@given(damaged() | st.binary(max_size=60))
def test_any_file_is_rules_or_a_clear_mistake(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "unstale.toml"
        path.write_bytes(content)
        complaint, rules = "", None
        try:
            rules = Rules.load(path)
        except ConfigurationError as error:
            complaint = str(error)
    if rules is None:
        assert complaint
        return
    plan = Plan()
    rules.plan("public", "profiles", ["id", "org"], ["1", None, "*", "{"], plan)
    for schema, table in rules.tables:
        rules.plan(schema, table, ["id"], None, plan)
    assert rules.hash
    key = "user:1:profile"
    spec = rules.refresh_of(key)
    assert spec is None or set(spec.fields(key)) == set(spec.template.columns)
