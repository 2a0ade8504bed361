"""What template engines replace before a reader sees it: kept as it is, a word among the others. Knows no format."""

import re

_MOST = 500  # characters of one expression
_EXPRESSIONS = (
    rf"\{{\{{(?s:.{{0,{_MOST}}}?)\}}\}}"  # Vue, Jinja, Liquid, Hugo: {{ x }}, {{< x >}}
    rf"|\{{%(?s:.{{0,{_MOST}}}?)%\}}"  # {% if x %}
)
IN_HTML = re.compile(rf"{_EXPRESSIONS}|<%(?s:.{{0,{_MOST}}}?)%>")  # ERB, EJS: <%= x %>
IN_MARKDOWN = re.compile(
    rf"{_EXPRESSIONS}"
    rf"|\{{[#:.][^{{}}\n]{{0,{_MOST}}}\}}"  # {#id}, {: .class}
    rf"|\{{[\w-]{{1,50}}=[^{{}}\n]{{0,{_MOST}}}\}}"  # {width=50%}
)
STARTS_IN_MARKDOWN = r"\{(?=[{%#:.]|[\w-]{1,50}=)"
IS_ATTRIBUTES = re.compile(r"\{(?![{%])")  # of those of Markdown: no word of the text
