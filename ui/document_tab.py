"""Documents: sent, followed, read and mended segment by segment. What the tab does is static/documents.js."""

from engine.documents.read import KINDS
from ui.template import template


def document_tab() -> None:
    template("documents", kinds=",".join(KINDS))
