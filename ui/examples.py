"""Texts to try, one click away: several languages, every format. The first line of each is what its button says."""

# title, source language, text; the target is another than the source
EXAMPLES = (
    (
        "English",
        "en",
        "The river is wide here, and the ferry only runs until seven. If we miss it, we sleep in the village.",
    ),
    ("中文", "zh", "春天来了，山上的雪慢慢融化。村里的人都在准备过节，孩子们放学后就去河边放风筝。"),
    ("日本語", "ja", "駅前の小さな店では、毎朝焼きたてのパンを売っています。昼にはたいてい売り切れです。"),
    (
        "Markdown",
        "en",
        "## Opening hours\n\n- **Monday to Friday:** 9 am to 6 pm\n- *Closed on Sundays*\n\n"
        "Please [book a table](https://example.org/book) before you come; see `menu.pdf` for today’s dishes.\n",
    ),
    (
        "HTML",
        "en",
        "<h2>Welcome aboard</h2>\n<p>Your <b>boarding pass</b> is attached. Doors close <em>20 minutes</em> before "
        'departure.<br>Questions? <a href="https://example.org/help" title="Help page">We are here to help</a>.</p>\n',
    ),
    (
        "Français",
        "fr",
        "Le train de nuit arrive à six heures. On boit un café sur le quai, et la journée commence doucement.",
    ),
)
