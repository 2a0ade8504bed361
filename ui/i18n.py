"""Every word the page says, in English and Chinese. Knows no component.

`LABELS` go through `gr.I18n`, which follows the reader's browser; `PAGE` goes to the browser as data and is said by
`static/page.js`. A `{name}` in braces is filled in there.
"""

import gradio as gr

_LABELS = {
    "source_language": ("From", "源语言"),
    "target_language": ("To", "目标语言"),
    "detect_language": ("Detect language", "自动检测"),
    "source_text": ("Text to translate", "原文"),
    "source_hint": (
        "Type or paste text. Ctrl+Enter translates, Esc stops.",
        "输入或粘贴文本。Ctrl+Enter 翻译，Esc 停止。",
    ),
    "translate": ("Translate", "翻译"),
    "stop": ("Stop", "停止"),
    "copy": ("Copy", "复制"),
    "context": ("Context", "上下文"),
    "context_text": ("What the text is about, or what comes before it", "文本的主题，或它前面的内容"),
    "context_hint": (
        "Not translated. For example: a menu in a phone’s camera app.",
        "不会被翻译。例如：手机相机应用里的菜单。",
    ),
    "terms": ("Terms", "术语"),
    "terms_table": ("Translate these words this way", "这些词请这样翻译"),
    "add_row": ("Add a row", "添加一行"),
    "document": ("Document", "文档"),
    "translate_document": ("Translate the document", "翻译文档"),
}

_PAGE = {
    "swap": ("Swap languages and texts", "交换语言和文本"),
    "tagline": ("Translation studio", "翻译工作室"),
    "output": ("Translation", "译文"),
    "output_hint": ("The translation appears here.", "译文会显示在这里。"),
    "private": ("Your text stays on this machine.", "您的文本不会离开这台机器。"),
    "model": ("Model", "模型"),
    "licence": ("Licence", "许可证"),
    "characters": ("{count} characters", "{count} 个字符"),
    "characters_one": ("1 character", "1 个字符"),
    "tokens": ("{count} tokens", "{count} 个词元"),
    "tokens_one": ("1 token", "1 个词元"),
    "starting": ("Starting…", "正在开始…"),
    "queued": ("{ahead} ahead of you", "前面还有 {ahead} 个请求"),
    "next": ("You are next", "马上轮到您"),
    "translating": ("Translating…", "正在翻译…"),
    "segment": ("Translating segment {number} of {total}", "正在翻译第 {number} 段，共 {total} 段"),
    "rate": ("{rate} tok/s", "{rate} 词元/秒"),
    "done": ("Done: {tokens} in {seconds} s", "完成：{tokens}，用时 {seconds} 秒"),
    "detected": ("detected {language}", "检测到{language}"),
    "taken_for": ("taken for {language}", "按{language}处理"),
    "uncertain": (
        "The language is not certain: {languages}. If it was taken for the wrong one, choose it and translate again.",
        "原文的语言不能确定：{languages}。如果判断有误，请选择语言后重新翻译。",
    ),
    "share": ("{language} {share}%", "{language} {share}%"),
    "or": (" or ", " 或 "),
    "more": ("And {count} more.", "另有 {count} 项。"),
    "stopped": ("Stopped. The translation so far is kept.", "已停止，已完成的译文已保留。"),
    "stopped_empty": ("Stopped.", "已停止。"),
    "failed": ("Not translated", "未能翻译"),
    "copied": ("Copied", "已复制"),
    "copy_empty": ("There is nothing to copy yet.", "还没有可复制的内容。"),
    "copy_refused": (
        "The browser did not allow copying; select the text instead.",
        "浏览器不允许复制，请手动选择文本。",
    ),
    "swap_unknown": (
        "Translate once, or choose the language of your text, then swap.",
        "请先翻译一次，或选择原文的语言，再交换。",
    ),
    "lost": (
        "The connection broke off before the translation was complete; press Translate to start it again.",
        "翻译完成前连接中断，请再按一次“翻译”。",
    ),
    "unreachable": (
        "The server cannot be reached; check that it is running, then press Translate again.",
        "无法连接服务器，请确认它正在运行，然后再按一次“翻译”。",
    ),
    "format": ("Format of the text", "文本格式"),
    "format_auto": ("Any format", "自动识别格式"),
    "format_text": ("Plain text", "纯文本"),
    "format_html": ("HTML", "HTML"),
    "format_markdown": ("Markdown", "Markdown"),
    "document_hint": ("Choose a file, or drop it here", "选择文件，或拖放到此处"),
    "document_missing": ("Choose a file first, or drop it here", "请先选择文件，或拖放到此处"),
    "document_sending": ("Sending…", "正在发送…"),
    "document_refused": ("The file was refused (HTTP {status}).", "文件被拒绝（HTTP {status}）。"),
    "document_queued": ("Waiting…", "等待中…"),
    "document_progress": ("{done} of {total} segments", "已完成 {done}/{total} 段"),
    "document_done": ("Done. Segments: {segments}", "完成，共 {segments} 段"),
    "document_warnings": ("Warnings: {count}", "提醒：{count}"),
    "glossary": ("Glossary", "术语表"),
    "glossary_none": ("No glossary", "不使用术语表"),
    "glossary_option": ("{title} · {from} → {to} · {count}", "{title} · {from} → {to} · {count}"),
    "glossary_hint": (
        "Import a glossary: choose a CSV, TSV, XLSX, JSON, TBX or TMX file, or drop it here",
        "导入术语表：选择 CSV、TSV、XLSX、JSON、TBX 或 TMX 文件，或拖放到此处",
    ),
    "glossary_kept": ("{title} is ready. Terms: {count}", "{title}已可使用，共 {count} 条术语"),
    "glossary_gone": (
        "The glossary that was chosen is no longer there, so none is used.",
        "所选的术语表已不存在，现在不使用术语表。",
    ),
    "keep_hint": (
        "Leave the translation empty to keep a term as it is.",
        "译文留空，该术语就会原样保留。",
    ),
    "glossary_from": (
        "The file does not say its languages: choose the language of the terms under “From” first.",
        "文件没有注明语言：请先在“源语言”中选择术语的语言。",
    ),
    "glossary_remove": ("Remove the glossary {title} from the server?", "从服务器移除术语表 {title}？"),
    "glossary_problems": ("Rows left out or doubtful: {count}", "未采用或有疑问的行：{count}"),
    "glossary_row": ("Row {row}: {message}", "第 {row} 行：{message}"),
    "download": ("Download", "下载"),
    "remove": ("Remove", "移除"),
    "cancel": ("Cancel", "取消"),
    "term": ("Term", "术语"),
    "term_translation": ("Translation", "译文"),
    "term_applied": ("used {applied} of {count}", "已使用 {applied}/{count}"),
    "term_kept": ("kept {applied} of {count}", "已保留 {applied}/{count}"),
    "process": ("Memory", "内存"),
    "weights": ("Weights", "权重"),
    "kv_cache": ("KV cache", "KV 缓存"),
    "gpu": ("GPU", "显存"),
    "speed": ("Speed", "速度"),
    "running": ("Running", "运行中"),
}

CHINESE_LOCALES = ("zh-CN", "zh-TW")  # those gradio knows; under any other tag it would say half in English
_CHINESE = {key: chinese for key, (_, chinese) in _LABELS.items()}
I18N = gr.I18n(
    en={key: english for key, (english, _) in _LABELS.items()},
    **dict.fromkeys(CHINESE_LOCALES, _CHINESE),
)
PAGE = {
    "en": {key: english for key, (english, _) in _PAGE.items()},
    "zh": {key: chinese for key, (_, chinese) in _PAGE.items()},
}


def label(key: str) -> str:
    """A component's label in the reader's language."""
    if key not in _LABELS:
        raise KeyError(f"No label {key!r}; add it to ui/i18n.py.")
    # Gradio's own annotations take str where they accept this object; it turns into the translation in the browser.
    return I18N(key)  # type: ignore[return-value]
