"""Glossaries: chosen, imported, looked through, edited. What the tab does is static/terms.js."""

from ui.template import template


def terms_tab() -> None:
    template("terms")
