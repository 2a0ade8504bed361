"""The templates word for word, as in the READMEs of HY-MT (1.5) and Hy-MT2."""

import pytest

from engine import prompts
from engine.types import Term

ONE, TWO = Term("HunYuan", "混元"), Term("model", "模型")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (
            prompts.with_style("hy-mt2", "zh", "en", "formal", "你好"),
            "请将以下文本翻译为英语。\n注意翻译的风格要严格符合【正式、礼貌（使用敬称）】\n\n你好",
        ),
        (
            prompts.with_style("hy-mt2", "en", "de", "informal", "Hi"),
            "Please translate the following text into German. Note that the translation style must strictly conform to "
            "[informal and casual (informal forms of address)]:\n\nHi",
        ),
        (
            prompts.plain("hy-mt1.5", "zh", "en", "你好"),
            "将以下文本翻译为英语，注意只需要输出翻译后的结果，不要额外解释：\n\n你好",
        ),
        (
            prompts.plain("hy-mt1.5", "en", "fr", "Hi"),
            "Translate the following segment into French, without additional explanation.\n\nHi",
        ),
        (
            prompts.with_terms("hy-mt1.5", "zh", [ONE], "HunYuan"),
            "参考下面的翻译：\nHunYuan 翻译成 混元\n\n"
            "将以下文本翻译为中文，注意只需要输出翻译后的结果，不要额外解释：\nHunYuan",
        ),
        (
            prompts.with_context("hy-mt1.5", "de", "A tale.", "Hi"),
            "A tale.\n参考上面的信息，把下面的文本翻译成德语，注意不需要翻译上文，也不要额外解释：\nHi",
        ),
        (
            prompts.with_marks("hy-mt1.5", "zh", "<s1>Hi</s1>"),
            "将以下<source></source>之间的文本翻译为中文，注意只需要输出翻译后的结果，不要额外解释，原文中的<sn></sn>"
            "标签表示标签内文本包含格式信息，需要在译文中相应的位置尽量保留该标签。输出格式为：<target>str</target>\n\n"
            "<source><s1>Hi</s1></source>",
        ),
        (
            prompts.plain("hy-mt2", "zh", "en", "你好"),
            "将以下文本翻译为英语，注意只需要输出翻译后的结果，不要额外解释：\n\n你好",
        ),
        (
            prompts.plain("hy-mt2", "en", "fr", "Hi"),
            "Translate the following text into French. Note that you should only output the translated result without "
            "any additional explanation:\n\nHi",
        ),
        (
            prompts.with_terms("hy-mt2", "zh", [ONE, TWO], "HunYuan"),
            "参考下面的翻译：\nHunYuan 翻译成 混元\nmodel 翻译成 模型\n"
            "将以下文本翻译为中文，注意只需要输出翻译后的结果，不要额外解释：\n\nHunYuan",
        ),
        (
            prompts.with_context("hy-mt2", "de", "A tale.", "Hi"),
            "【背景信息】\nA tale.\n\n请结合背景信息将以下文本翻译为德语。\n\n【待翻译文本】\nHi",
        ),
    ],
)
def test_a_prompt_is_the_published_one(prompt, expected):
    assert prompt == expected


@pytest.mark.parametrize(
    ("source", "target", "chinese"),
    [("zh", "en", True), ("ja", "zh-Hant", True), ("yue", "fr", True), ("en", "ja", False), ("und", "fr", False)],
)
def test_the_prompt_is_chinese_when_either_side_is(source, target, chinese):
    assert prompts.plain("hy-mt1.5", source, target, "x").startswith("将以下文本") is chinese


def test_braces_in_a_text_are_text():
    assert prompts.plain("hy-mt1.5", "en", "fr", "{english} {0} {{").endswith("\n\n{english} {0} {{")
