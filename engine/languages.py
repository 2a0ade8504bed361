"""The 38 languages of HY-MT: code, names, direction, and how their sentences are joined. Knows no model.

The table is the one at the end of Tencent's READMEs (the same for HY-MT1.5 and Hy-MT2); own names are CLDR's.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from engine.errors import UnknownLanguage


@dataclass(frozen=True, slots=True)
class Language:
    code: str  # ours: BCP-47, as short as it can be
    english: str
    chinese: str
    own: str
    direction: Literal["ltr", "rtl"] = "ltr"
    spaced: bool = True  # words and sentences are parted by spaces


_TABLE = (
    Language("zh", "Chinese", "中文", "中文", spaced=False),
    Language("en", "English", "英语", "English"),
    Language("fr", "French", "法语", "Français"),
    Language("pt", "Portuguese", "葡萄牙语", "Português"),
    Language("es", "Spanish", "西班牙语", "Español"),
    Language("ja", "Japanese", "日语", "日本語", spaced=False),
    Language("tr", "Turkish", "土耳其语", "Türkçe"),
    Language("ru", "Russian", "俄语", "Русский"),
    Language("ar", "Arabic", "阿拉伯语", "العربية", "rtl"),
    Language("ko", "Korean", "韩语", "한국어"),
    Language("th", "Thai", "泰语", "ไทย", spaced=False),
    Language("it", "Italian", "意大利语", "Italiano"),
    Language("de", "German", "德语", "Deutsch"),
    Language("vi", "Vietnamese", "越南语", "Tiếng Việt"),
    Language("ms", "Malay", "马来语", "Bahasa Melayu"),
    Language("id", "Indonesian", "印尼语", "Bahasa Indonesia"),
    Language("tl", "Filipino", "菲律宾语", "Filipino"),
    Language("hi", "Hindi", "印地语", "हिन्दी"),
    Language("zh-Hant", "Traditional Chinese", "繁体中文", "繁體中文", spaced=False),
    Language("pl", "Polish", "波兰语", "Polski"),
    Language("cs", "Czech", "捷克语", "Čeština"),
    Language("nl", "Dutch", "荷兰语", "Nederlands"),
    Language("km", "Khmer", "高棉语", "ខ្មែរ", spaced=False),
    Language("my", "Burmese", "缅甸语", "မြန်မာ", spaced=False),
    Language("fa", "Persian", "波斯语", "فارسی", "rtl"),
    Language("gu", "Gujarati", "古吉拉特语", "ગુજરાતી"),
    Language("ur", "Urdu", "乌尔都语", "اردو", "rtl"),
    Language("te", "Telugu", "泰卢固语", "తెలుగు"),
    Language("mr", "Marathi", "马拉地语", "मराठी"),
    Language("he", "Hebrew", "希伯来语", "עברית", "rtl"),
    Language("bn", "Bengali", "孟加拉语", "বাংলা"),
    Language("ta", "Tamil", "泰米尔语", "தமிழ்"),
    Language("uk", "Ukrainian", "乌克兰语", "Українська"),
    Language("bo", "Tibetan", "藏语", "བོད་སྐད་", spaced=False),
    Language("kk", "Kazakh", "哈萨克语", "Қазақ тілі"),
    Language("mn", "Mongolian", "蒙古语", "Монгол"),
    Language("ug", "Uyghur", "维吾尔语", "ئۇيغۇرچە", "rtl"),
    Language("yue", "Cantonese", "粤语", "粵語", spaced=False),
)
LANGUAGES: dict[str, Language] = {language.code: language for language in _TABLE}
ADDS_ENDINGS = frozenset({"ko", "tr", "kk", "mn", "ug", "te", "ta", "mr", "gu", "bn"})  # to words that stay whole
CHINESE = frozenset({"zh", "zh-Hant", "yue"})  # either side among these: HY-MT's Chinese prompt
# for a character class: letters of scripts that do not part words with spaces, of which Han and kana come first
CJK_LETTERS = r"\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
UNSPACED_LETTERS = rf"{CJK_LETTERS}\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Tibetan, Burmese, Khmer
_BY_FOLDED_CODE = {code.casefold(): code for code in LANGUAGES}


def resolve(code: str, known: Iterable[str]) -> str:
    """Our code for `code` in any letter case, if it is among the `known` ones.

    Raises `UnknownLanguage`, which lists what there is.
    """
    known = tuple(known)
    ours = _BY_FOLDED_CODE.get(code.strip().casefold())
    if ours not in known:
        which = f"{LANGUAGES[ours].english} ({ours})" if ours else repr(code[:40])
        raise UnknownLanguage(f"This model does not speak {which}; choose one of: {', '.join(known)}.")
    return ours
