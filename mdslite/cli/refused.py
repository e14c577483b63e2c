"""What `mdslite ls` says below its table of versions that refuse much of what they are asked: how much, why,
and what helps. The errors' share leaves such requests out, so that without this nothing would tell of them.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mdslite.cli.options import addressed_to
from mdslite.errors import MdsliteError

if TYPE_CHECKING:
    from mdslite.client import Client

Json = Mapping[str, Any]

_NOTABLE = 0.05  # of a version's requests
_LEAST = 10  # fewer are nobody's trouble
_CODES = 3  # that are named
_HELPS = {
    "queue_full": "more is asked than it can answer: callers that wait as long as Retry-After says, or more "
    "replicas, help",
    "rate_limited": "mdslite token limit lists what is allowed",
}


def refusal_lines(client: Client, models: Sequence[Json], url: str) -> Iterator[str]:
    """A line for each version that refused a notable share of its requests, with another on what to do."""
    for model in models:
        for version in model["versions"]:
            requests, refused = version.get("requests") or 0, version.get("refused") or 0
            if refused < max(_LEAST, _NOTABLE * requests):
                continue
            names = {"project": model["project"], "model": model["model"], "version": version["version"]}
            filter = " ".join(f"{name}={value}" for name, value in names.items()) + " status>=400 status<500"
            codes = _codes(client, f"{filter} since={max(1, round(version.get('window_s') or 60))}s")
            why = ", ".join(f"{one['count']:,} {one['value']}" for one in codes)
            yield (
                f"{model['project']}/{model['model']}@{version['version']} refused "
                f"{100 * refused / requests:.0f} % of its requests{f': {why}' if why else ''}"
            )
            look = f"mdslite logs {shlex.quote(filter)} shows them"
            helps = _HELPS.get(codes[0]["value"]) if codes else None
            yield addressed_to(url, f"hint: {look if helps is None else helps}")


def _codes(client: Client, filter: str) -> list[Json]:
    """The most frequent codes; none where the log cannot say."""
    try:
        return list(client.top("code", filter, limit=_CODES)["values"])
    except MdsliteError:
        return []
