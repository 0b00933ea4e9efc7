"""What can be said of a token in its text without a model: conditions that hold or not.

A condition is an attribute and a value, `token " is"`. Those of `token_conditions` name tokens and
nothing else; those of `lexical_conditions` also know the word around the token and the words about
it, by two libraries that bring their data with them: TextBlob's tagger (E. Brill's rules and
lexicon) and lemminflect's lemmas.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from bitcodec.extras import import_extra
from bitcodec_naming.excerpts import Excerpt

Conditions = Callable[[Excerpt], frozenset[str]]
"""All conditions that hold of an excerpt."""
EXTRA = "naming"
NEAR = 8
"""Words before a token that count as near."""
_PIECE = re.compile(r"\w+|[^\w\s]")
_TAGGED = 12
"""Pieces of text on either side that the tagger reads."""
_LEMMA_CLASSES = (("NN", "NOUN"), ("VB", "VERB"), ("MD", "VERB"), ("JJ", "ADJ"), ("RB", "ADV"))
"""Beginnings of the Penn Treebank's tags, and the classes that lemminflect knows."""


def condition(attribute: str, value: str) -> str:
    """Write a condition, its value in JSON's quotes.

    >>> condition("token", " is")
    'token " is"'
    """
    return f"{attribute} {json.dumps(value, ensure_ascii=False)}"


def token_conditions(excerpt: Excerpt) -> frozenset[str]:
    """Return which token it is: one condition."""
    return frozenset([condition("token", excerpt.token)])


@functools.lru_cache(maxsize=4096)  # a control asks about the same excerpts again
def lexical_conditions(excerpt: Excerpt) -> frozenset[str]:
    """Return conditions on the token, its word and the words about it.

    `token`, `word`, `lemma`, `tag` (of the Penn Treebank), `shape`, `place` (of the token in its
    word), `ending` and `beginning` of the word, the pieces of text `before` and `after`, the `tag
    before`, and words `near`, up to `NEAR` before it.

    Raises:
        MissingExtraError: textblob or lemminflect is not installed.
    """
    before, word, after = _around(excerpt)
    return frozenset(
        itertools.starmap(
            condition,
            [("token", excerpt.token), *_of_word(before, word, after, excerpt)],
        )
    )


def _of_word(
    before: list[str], word: str, after: list[str], excerpt: Excerpt
) -> Iterator[tuple[str, str]]:
    """Yield attributes and values; a token of spaces has no word."""
    if word:
        read = before[-_TAGGED:]
        tags = tags_of([*read, word, *after[:_TAGGED]])
        yield "word", word.lower()
        yield "tag", tags[len(read)]
        yield "lemma", lemma_of(word.lower(), tags[len(read)])
        yield "ending", word[-3:].lower()
        yield "beginning", word[:3].lower()
        if read:
            yield "tag before", tags[len(read) - 1]
    yield "shape", shape_of(word)
    yield "place", _place(excerpt, word)
    for name, pieces in (("before", before[-1:]), ("after", after[:1])):
        yield from ((name, piece.lower()) for piece in pieces)
    yield from (("near", piece.lower()) for piece in before[-NEAR:] if piece.isalpha())


def _around(excerpt: Excerpt) -> tuple[list[str], str, list[str]]:
    """Return the pieces before a token's first one, that one whole, and those after it.

    >>> _around(Excerpt("the indi", "ces are", " sorted"))
    (['the'], 'indices', ['are', 'sorted'])
    """
    text = excerpt.before + excerpt.token + excerpt.after
    end = len(excerpt.before) + len(excerpt.token)
    start = end - len(excerpt.token.lstrip())
    found = list(_PIECE.finditer(text))
    own = next((piece for piece in found if piece.start() < end and piece.end() > start), None)
    before = [piece.group() for piece in found if piece.end() <= start]
    after = [piece.group() for piece in found if piece.start() >= (own.end() if own else end)]
    return before, own.group() if own else "", after


def shape_of(word: str) -> str:
    """Name the kind of characters of a word or mark.

    >>> [shape_of(word) for word in ("", "3", "None", "ABC", "is", "self_2", "(")]
    ['space', 'number', 'Capitalised', 'CAPITALS', 'letters', 'name', 'mark']
    """
    if not word:
        return "space"
    if word.isnumeric():
        return "number"
    if not word.isalpha():
        return "name" if word[0].isalnum() or word[0] == "_" else "mark"
    if word.isupper() and len(word) > 1:
        return "CAPITALS"
    return "Capitalised" if word[0].isupper() else "letters"


def _place(excerpt: Excerpt, word: str) -> str:
    token = excerpt.token.strip()
    if not word or len(token) >= len(word):
        return "whole word"
    if word.startswith(token) and not _goes_on(excerpt):
        return "begins a word"
    return "in a word"


def _goes_on(excerpt: Excerpt) -> bool:
    """Say whether a token continues the word before it."""
    left, right = excerpt.before[-1:], excerpt.token[:1]
    return bool(left and right) and all(mark.isalnum() or mark == "_" for mark in (left, right))


def tags_of(pieces: list[str]) -> list[str]:
    """Tag words and marks as the Penn Treebank does, one tag each.

    Raises:
        MissingExtraError: textblob is not installed.
    """
    tagged: list[list[str]] = _tagger().find_tags(pieces)
    return [tag for _, tag, *_ in tagged]


def lemma_of(word: str, tag: str) -> str:
    """Return the dictionary form of a word, the word itself where there is none.

    Args:
        word: in lower case.
        tag: of the Penn Treebank.

    Raises:
        MissingExtraError: lemminflect is not installed.
    """
    known = next((kind for start, kind in _LEMMA_CLASSES if tag.startswith(start)), None)
    if known is None:
        return word
    lemmas: tuple[str, ...] = import_extra("lemminflect", extra=EXTRA).getLemma(word, upos=known)
    return lemmas[0].lower() if lemmas else word


@functools.cache
def _tagger() -> Any:
    return import_extra("textblob.en", extra=EXTRA).parser
