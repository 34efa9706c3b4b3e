"""Watches that the rules do not have any more, as rules beside them. Pure."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace

from unstale.protocol.key_forms import KeyForm
from unstale.protocol.key_watches import KEPT_SIGN, Kept, KeyWatch
from unstale.protocol.messages import PublishedRules
from unstale_worker.rules.identifiers import NameMistake, TableName
from unstale_worker.rules.model import Rules
from unstale_worker.rules.plan import Watch
from unstale_worker.rules.template import Template


def watch_of(known: KeyWatch) -> Watch:
    """Return the watch that was published as ``known``; raises `NameMistake` if its template is none.

    The text of a query is not published, so one with a query invalidates its pattern.
    """
    template = Template.published(known.template)
    needs = () if known.query else tuple(sorted(set(template.columns)))
    table = TableName(known.schema, known.table)
    return Watch(table, (template,), known.columns, None, None, needs, 0, known.purge, known.query)


def removed(rules: Rules, published: PublishedRules, *, now: float) -> dict[KeyWatch, float]:
    """Return the watches that are in force by ``published`` and that ``rules`` lack: each with its time.

    Args:
        rules: The rules file.
        published: The rules in force, with the former watches that are kept beside them.
        now: The time from which ``rules`` lack what the other rules had.
    """
    own = [known for watch in rules.watches for known in watch.key_watches]
    since = dict.fromkeys(published.watches, now) | {kept.watch: kept.since for kept in published.kept}
    return {watch: at for watch, at in since.items() if not any(each.includes(watch) for each in own)}


def with_former(rules: Rules, former: Mapping[KeyWatch, float], forms: Iterable[KeyForm] = ()) -> Rules:
    """Return ``rules`` with former watches beside them, and with a hash that tells both apart.

    Args:
        rules: The rules file.
        former: The watches, each with the time since when the rules lack it. What is not legible is left out.
        forms: The published spelling of keys.
    """
    watches, kept = [], []
    for known, since in sorted(former.items(), key=lambda pair: json.dumps(pair[0])):
        try:
            watches.append(watch_of(known))
        except NameMistake:
            continue
        pattern = watches[-1].keys[0].pattern
        kept.append(Kept(known, "" if pattern in rules.patterns else pattern, since))
    if not kept:
        return rules
    names = json.dumps([each.watch for each in kept])
    alone = {each.alone for each in kept if each.alone}
    return replace(
        rules,
        hash=rules.hash + KEPT_SIGN + hashlib.sha256(names.encode()).hexdigest()[:8],
        watches=(*rules.watches, *watches),
        patterns=tuple(sorted({*rules.patterns, *alone})),
        forms=(*rules.forms, *(form for form in forms if form.pattern in alone)),
        kept=tuple(kept),
        _steps={},
    )
