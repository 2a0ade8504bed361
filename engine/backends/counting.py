"""Tokens of a text as a tokenizer elsewhere would count them, from those of a few sentences. Knows no server.

To ask for every sentence would take as long as to translate; so each script is counted once, and then characters are.
"""

from collections import Counter
from collections.abc import Callable
from math import ceil

from engine.types import CountTokens

MARGIN = 1.1  # a text may be stranger than the sample, and an answer that was counted short is cut off
BYTES = 3  # of a token, where nobody counts
# The first article of the Universal Declaration of Human Rights
SAMPLES = (
    "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience.",
    "Все люди рождаются свободными и равными в своём достоинстве и правах.",
    "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.",
    "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "人人生而自由，在尊严和权利上一律平等。",
    "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে।",
    "પ્રતિષ્ઠા અને અધિકારોની દૃષ્ટિએ સર્વ માનવો જન્મથી સ્વતંત્ર અને સમાન હોય છે.",
    "மனிதப் பிறிவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்.",
    "ప్రతిపత్తిస్వత్వముల విషయమున మానవులెల్లరును జన్మతః స్వతంత్రులును సమానులును నగుదురు.",
    "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "འགྲོ་བ་མིའི་རིགས་རྒྱུད་ཡོངས་ལ་སྐྱེས་ཙམ་ཉིད་ནས་ཆེ་མཐོངས་དང་ཐོབ་ཐངགི་རང་དབང་འདྲ་མཉམ་དུ་ཡོད།",
    "လူတိုင်းသည် တူညီ လွတ်လပ်သော ဂုဏ်သိက္ခာဖြင့် မွေးဖွားလာသူများ ဖြစ်သည်။",
    "មនុស្សទាំងអស់ កើតមកមានសេរីភាព និងសមភាព ក្នុងផ្នែកសេចក្ដីថ្លៃថ្នូរនិងសិទ្ធិ។",
)


def counter(tokens_of: Callable[[str], int]) -> CountTokens:
    """`tokens_of` a sample, as it is really counted; 0 where that cannot be told, and then all goes by bytes."""
    rates: dict[int, float] = {}  # tokens a character
    for sample in SAMPLES:
        if not (tokens := tokens_of(sample)):
            rates = {}
            break
        own = sample if sample.isascii() else [char for char in sample if not char.isascii()]  # others' spaces are free
        script, _ = Counter(map(_script, own)).most_common(1)[0]
        rates[script] = MARGIN * tokens / len(own)

    def rate(char: str) -> float:
        return rates.get(_script(char)) or len(char.encode(errors="replace")) / BYTES

    def count(text: str) -> int:
        return ceil(sum(times * rate(char) for char, times in Counter(text).items()))

    return count


def _script(char: str) -> int:
    """A number for each: Unicode gives every script blocks of 128 characters, and few of them many."""
    block = ord(char) >> 7
    if 0x3400 >> 7 <= block < 0xA000 >> 7:
        return 0x4E00 >> 7  # Han
    if 0xAC00 >> 7 <= block < 0xD800 >> 7:
        return 0xAC00 >> 7  # Hangul
    return block & ~1 if 0x0400 >> 7 <= block < 0x0580 >> 7 or block in (0x3000 >> 7, 0x3080 >> 7) else block
