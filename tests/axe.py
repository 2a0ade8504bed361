"""What axe-core finds wrong with a page for those who read it with a screen reader, a keyboard or weak eyes."""

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

GRAVE = {"serious", "critical"}  # axe's two upper impacts of four


def violations(page: Page) -> list[str]:
    """A line for each grave finding: rule, impact, where it is, and what axe measured there."""
    found = Axe().run(page).response["violations"]
    return [
        f"{rule['id']} ({rule['impact']}): {' '.join(map(str, node['target']))}: {_said(node)}"
        for rule in found
        if rule["impact"] in GRAVE
        for node in rule["nodes"]
    ]


def _said(node: dict[str, list[dict[str, str]]]) -> str:
    """The first of what would each mend it, or must all be mended."""
    return next((check["message"] for kind in ("any", "all", "none") for check in node[kind]), "")
