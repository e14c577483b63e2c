"""Tokens as they are issued, without a registry that keeps them."""

from __future__ import annotations

from typing import Any

from mdslite.store.tokens import Token, digest_of, mint


def make_token(*scopes: Any, **fields: Any) -> tuple[Token, str]:
    """A token, for predictions unless other scopes are named, and the text that shows it."""
    token_id, text = mint()
    usual = {
        "name": "ci",
        "project": None,
        "model": None,
        "rate": None,
        "created_at": 0.0,
        "created_by": "ann",
    }
    fields = {**usual, **fields}
    token = Token(id=token_id, digest=digest_of(text.encode()), scopes=scopes or ("predict",), **fields)
    return token, text


def bearer(text: str) -> list[tuple[str, str]]:
    """The header that shows it."""
    return [("authorization", f"Bearer {text}")]
