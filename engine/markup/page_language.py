"""The language that a page of HTML names: `lang` and `dir` of its `<html>`. Edits these values and nothing else."""

from engine.markup.lexer import attributes, lex


def in_language(source: str, code: str, direction: str) -> str:
    """The page with `lang` (and `xml:lang`, where it has one) of `code`, and `dir` where it has one or needs it."""
    html = next((token for token in lex(source) if token.kind == "start"), None)
    if html is None or html.tag != "html":
        return source
    new = {"lang": code, "xml:lang": code, "dir": direction}
    said = {attribute.name: attribute for attribute in attributes(source, html) if attribute.name in new}
    for attribute in sorted(said.values(), key=lambda attribute: attribute.start, reverse=True):
        if attribute.start < attribute.end:
            source = source[: attribute.start] + new[attribute.name] + source[attribute.end :]
    missing = {"lang": code} | ({"dir": direction} if direction == "rtl" else {})
    added = "".join(f' {name}="{value}"' for name, value in missing.items() if name not in said)
    end = html.start + len("<html")
    return source[:end] + added + source[end:]
