"""The 38 languages of HY-MT: code, names, script, direction, how their sentences are joined, what else they are called.

Knows no model. The table is the one at the end of Tencent's READMEs (the same for HY-MT1.5 and Hy-MT2); own names are
CLDR's.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from engine.errors import UnknownLanguage


@dataclass(frozen=True, slots=True)
class Language:
    code: str  # ours: BCP-47, as short as it can be
    english: str
    chinese: str
    own: str
    script: str  # what HY-MT writes it in, by ISO 15924
    direction: Literal["ltr", "rtl"] = "ltr"
    spaced: bool = True  # words and sentences are parted by spaces
    aliases: tuple[str, ...] = ()  # what else it is called: codes, then names


_TABLE = (
    Language("zh", "Chinese", "中文", "中文", "Hans", spaced=False),
    Language("en", "English", "英语", "English", "Latn"),
    Language("fr", "French", "法语", "Français", "Latn"),
    Language("pt", "Portuguese", "葡萄牙语", "Português", "Latn"),
    Language("es", "Spanish", "西班牙语", "Español", "Latn"),
    Language("ja", "Japanese", "日语", "日本語", "Jpan", spaced=False),
    Language("tr", "Turkish", "土耳其语", "Türkçe", "Latn"),
    Language("ru", "Russian", "俄语", "Русский", "Cyrl"),
    Language("ar", "Arabic", "阿拉伯语", "العربية", "Arab", "rtl"),
    Language("ko", "Korean", "韩语", "한국어", "Kore"),
    Language("th", "Thai", "泰语", "ไทย", "Thai", spaced=False),
    Language("it", "Italian", "意大利语", "Italiano", "Latn"),
    Language("de", "German", "德语", "Deutsch", "Latn"),
    Language("vi", "Vietnamese", "越南语", "Tiếng Việt", "Latn"),
    Language("ms", "Malay", "马来语", "Bahasa Melayu", "Latn"),
    Language("id", "Indonesian", "印尼语", "Bahasa Indonesia", "Latn"),
    Language("tl", "Filipino", "菲律宾语", "Filipino", "Latn"),
    Language("hi", "Hindi", "印地语", "हिन्दी", "Deva"),
    Language("zh-Hant", "Traditional Chinese", "繁体中文", "繁體中文", "Hant", spaced=False),
    Language("pl", "Polish", "波兰语", "Polski", "Latn"),
    Language("cs", "Czech", "捷克语", "Čeština", "Latn"),
    Language("nl", "Dutch", "荷兰语", "Nederlands", "Latn"),
    Language("km", "Khmer", "高棉语", "ខ្មែរ", "Khmr", spaced=False),
    Language("my", "Burmese", "缅甸语", "မြန်မာ", "Mymr", spaced=False),
    Language("fa", "Persian", "波斯语", "فارسی", "Arab", "rtl"),
    Language("gu", "Gujarati", "古吉拉特语", "ગુજરાતી", "Gujr"),
    Language("ur", "Urdu", "乌尔都语", "اردو", "Arab", "rtl"),
    Language("te", "Telugu", "泰卢固语", "తెలుగు", "Telu"),
    Language("mr", "Marathi", "马拉地语", "मराठी", "Deva"),
    Language("he", "Hebrew", "希伯来语", "עברית", "Hebr", "rtl"),
    Language("bn", "Bengali", "孟加拉语", "বাংলা", "Beng"),
    Language("ta", "Tamil", "泰米尔语", "தமிழ்", "Taml"),
    Language("uk", "Ukrainian", "乌克兰语", "Українська", "Cyrl"),
    Language("bo", "Tibetan", "藏语", "བོད་སྐད་", "Tibt", spaced=False),
    Language("kk", "Kazakh", "哈萨克语", "Қазақ тілі", "Cyrl"),
    Language("mn", "Mongolian", "蒙古语", "Монгол", "Cyrl"),
    Language("ug", "Uyghur", "维吾尔语", "ئۇيغۇرچە", "Arab", "rtl"),
    Language("yue", "Cantonese", "粤语", "粵語", "Hant", spaced=False),
)
_ALIASES = {  # codes of ISO 639-2 and -3, of DeepL, LibreTranslate and older standards, mistaken ones; then names
    "zh": "zho, chi, cmn, chs, zh-chs, cn, Simplified Chinese, Chinese (Simplified), Mandarin, Mandarin Chinese, "
    "Standard Chinese, Putonghua, 汉语, 漢語, 华语, 華語, 普通话, 普通話, 简体, 簡體, 简中, 简体中文, 簡體中文, "
    "中文（简体）, 中文（簡體）",
    "en": "eng, American English, English (American), English (US), British English, English (British), English (UK)",
    "fr": "fra, fre",
    "pt": "por, pb, Brazilian Portuguese, Portuguese (Brazilian), Portuguese (Brazil), European Portuguese, "
    "Portuguese (European), Portuguese (Portugal), Português do Brasil, Português (Brasil), 葡语, 巴西葡萄牙语",
    "es": "spa, Castilian, Castellano, Latin American Spanish, Spanish (Latin American), 西语",
    "ja": "jpn, jp, 日本语",
    "tr": "tur",
    "ru": "rus",
    "ar": "ara, arb, Modern Standard Arabic",
    "ko": "kor, 韓語, 韩国语, 韓國語, 朝鲜语, 朝鮮語, 한국말",
    "th": "tha, ภาษาไทย",
    "it": "ita, 義大利語",
    "de": "deu, ger",
    "vi": "vie, vn, 越语",
    "ms": "msa, may, zsm, Malaysian, Bahasa Malaysia, 馬來語",
    "id": "ind, in, 印度尼西亚语, 印度尼西亞語",
    "tl": "tgl, fil, Tagalog, Pilipino, 菲律賓語, 他加禄语, 他加祿語",
    "hi": "hin, 北印度语",
    "zh-Hant": "zt, cht, zht, zh-cht, Chinese (Traditional), 繁体, 繁體, 繁中, 正体中文, 正體中文, "
    "中文（繁体）, 中文（繁體）",
    "pl": "pol, 波蘭語",
    "cs": "ces, cze, cz",
    "nl": "nld, dut, Flemish, 荷蘭語",
    "km": "khm, Cambodian, 柬埔寨语, ភាសាខ្មែរ",
    "my": "mya, bur, Myanmar, 緬甸語, မြန်မာဘာသာ",
    "fa": "fas, per, pes, Farsi",
    "gu": "guj",
    "ur": "urd, 烏爾都語",
    "te": "tel, 泰盧固語",
    "mr": "mar, 馬拉地語",
    "he": "heb, iw, 希伯來語",
    "bn": "ben, Bangla",
    "ta": "tam, 泰米爾語",
    "uk": "ukr, ua, 烏克蘭語",
    "bo": "bod, tib, བོད་ཡིག",
    "kk": "kaz, Kazak, Қазақша, 哈薩克語",
    "mn": "mon, khk, Khalkha Mongolian, Монгол хэл",
    "ug": "uig, Uighur, Uygur, 維吾爾語, 维语, ئۇيغۇر تىلى",
    "yue": "Yue Chinese, 广东话, 廣東話, 广州话, 廣州話",
}
LANGUAGES: dict[str, Language] = {
    language.code: replace(language, aliases=tuple(_ALIASES[language.code].split(", "))) for language in _TABLE
}
ADDS_ENDINGS = frozenset({"ko", "tr", "kk", "mn", "ug", "te", "ta", "mr", "gu", "bn"})  # to words that stay whole
CHINESE = frozenset({"zh", "zh-Hant", "yue"})  # either side among these: HY-MT's Chinese prompt
# for a character class: letters of scripts that do not part words with spaces, of which Han and kana come first
CJK_LETTERS = r"\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
UNSPACED_LETTERS = rf"{CJK_LETTERS}\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Tibetan, Burmese, Khmer

LONGEST_ALIAS = 80  # characters; any well-formed tag or name is shorter
_TAG = re.compile(  # RFC 5646, in small letters; variants and extensions change nothing for us
    r"(?P<language>[a-z]{2,3})(?:-(?P<extended>[a-z]{3}))?(?:-(?P<script>[a-z]{4}))?(?:-(?P<region>[a-z]{2}|\d{3}))?"
    r"(?:-(?:[a-z\d]{5,8}|\d[a-z\d]{3}))*(?:-[a-z\d](?:-[a-z\d]{2,8})+)*"
)
_EXTENDED = {"cmn": "zh", "yue": "yue"}  # zh-yue is an older way to write yue
_HANT_REGIONS = frozenset({"tw", "hk", "mo"})  # Chinese of no stated script is Traditional there
_SAME_SCRIPT = {"hang": "kore"}  # NLLB's kor_Hang


def resolve(code: str, known: Iterable[str]) -> str:
    """Our code for a language as others call it (see `resolve_any`), if it is among the `known` ones.

    Raises `UnknownLanguage`, which lists what there is.
    """
    known = tuple(known)
    ours = resolve_any(code)
    if ours is None or ours not in known:
        which = f"{LANGUAGES[ours].english} ({ours})" if ours else repr(code[:40])
        raise UnknownLanguage(f"This model does not speak {which}; choose one of: {', '.join(known)}.")
    return ours


def resolve_any(code: str) -> str | None:
    """Our code for a code of any standard, or for a name in English, Chinese or the language itself; None for others.

    Letter case does not matter, nor whether - or _ joins the parts. A region is dropped, and so is the script that the
    language has anyway; any other script makes a language of it that we do not know.
    """
    return None if len(code) > LONGEST_ALIAS else _resolved(code)


@lru_cache(1024)
def _resolved(code: str) -> str | None:
    return _BY_ALIAS.get(_folded(code)) or _by_tag(code.strip().casefold().replace("_", "-"))


def _by_tag(tag: str) -> str | None:
    match = _TAG.fullmatch(tag)
    ours = _BY_ALIAS.get(match["language"]) if match else None
    if not match or not ours:
        return None
    if match["extended"]:
        ours = _EXTENDED.get(match["extended"]) if ours == "zh" else None
    script = _SAME_SCRIPT.get(match["script"], match["script"])
    if ours == "zh" and (script == "hant" or (not script and match["region"] in _HANT_REGIONS)):
        return "zh-Hant"
    return ours if ours and script in (None, LANGUAGES[ours].script.casefold()) else None


def _folded(name: str) -> str:
    """A name without letter case, accents and brackets, its words parted by one space."""
    bare = "".join(char for char in unicodedata.normalize("NFKD", name.casefold()) if not unicodedata.combining(char))
    return re.sub(r"[\s_,()-]+", " ", bare).strip()


def _names(language: Language) -> Iterator[str]:
    for name in (language.code, language.english, language.chinese, language.own, *language.aliases):
        yield name
        if name.endswith(("语", "語")):  # 英语, 英語 and 英文 are one
            yield from (name[:-1] + ending for ending in "语語文")


_BY_ALIAS = {_folded(name): language.code for language in LANGUAGES.values() for name in _names(language)}
