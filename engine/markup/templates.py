"""What template engines replace before a reader sees it: kept as it is, a word among the others. Knows no format."""

import re

_MOST = 500  # characters of one expression
_EXPRESSIONS = (
    rf"\{{\{{(?s:.{{0,{_MOST}}}?)\}}\}}"  # Vue, Jinja, Liquid, Hugo: {{ x }}, {{< x >}}
    rf"|\{{%(?s:.{{0,{_MOST}}}?)%\}}"  # {% if x %}
)
IN_HTML = re.compile(rf"{_EXPRESSIONS}|<%(?s:.{{0,{_MOST}}}?)%>")  # ERB, EJS: <%= x %>
IN_XML = re.compile(  # and what programs fill in, entities, addresses
    rf"{IN_HTML.pattern}|\{{\w{{0,60}}\}}|(?<![\w%])%(?:\d{{1,2}}\$)?(?:\.\d{{1,2}})?l{{0,2}}[sdiuxXfgc@](?![A-Za-z])"
    r"|&[^\W\d][\w.:-]*+;|(?:https?|ftp)://[^\s<>\"]*[^\s<>\".,;:!?)]"
)
_ATTRIBUTE = r"(?:[#.][^\s{}]{1,100}|[\w:-]{1,50}=(?:\"[^\"\n]{0,200}\"|'[^'\n]{0,200}'|[^\s{}\"'=]{1,200}))"
IN_MARKDOWN = re.compile(
    rf"{_EXPRESSIONS}"
    rf"|\{{:?[ ]?{_ATTRIBUTE}(?:[ ]{{1,3}}{_ATTRIBUTE}){{0,20}}[ ]?\}}"  # {#id}, {: .class}, {width=50%}
    r"|\{::?[\w-]{1,50}[ ]?/?\}"  # {:toc}, {::nomarkdown}
)
STARTS_IN_MARKDOWN = r"\{(?=[{%#:.]|[\w-]{1,50}=)"
IS_ATTRIBUTES = re.compile(r"\{(?![{%])")  # of those of Markdown: no word of the text
