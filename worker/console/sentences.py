"""Sentences of pages."""


def as_sentence(text: str) -> str:
    """The text of an error, which begins and ends like a part of a sentence, as a whole one."""
    return f"{text[:1].upper()}{text[1:]}."
