"""Which of the 38 languages write a letter, and which have a word among their most frequent ones. Weighs nothing.

Whose a letter is say its name in Unicode, a table below and, of Han, the character sets that have it: GB 2312 was made
for Simplified Chinese, Big5 for Traditional, JIS X 0208 for Japanese. Of 1,072 sentences of FLORES and NTREX in
Traditional Chinese one has a character that only GB 2312 has; by OpenCC's table of characters 4.5 % would have one.
"""

import unicodedata
from functools import lru_cache

from engine.languages import CHINESE, LANGUAGES

_SCRIPTS = {  # the first word of letters' names in Unicode → ISO 15924
    "LATIN": "Latn",
    "FULLWIDTH": "Latn",
    "CYRILLIC": "Cyrl",
    "ARABIC": "Arab",
    "DEVANAGARI": "Deva",
    "HEBREW": "Hebr",
    "HANGUL": "Kore",
    "TIBETAN": "Tibt",
    "THAI": "Thai",
    "KHMER": "Khmr",
    "MYANMAR": "Mymr",
    "GUJARATI": "Gujr",
    "TELUGU": "Telu",
    "TAMIL": "Taml",
    "BENGALI": "Beng",
    "HIRAGANA": "Jpan",
    "KATAKANA": "Jpan",
    "KATAKANA-HIRAGANA": "Jpan",
    "HALFWIDTH": "Jpan",
    "IDEOGRAPHIC": "Jpan",  # 々
}
_WRITERS = {
    name: frozenset(code for code, language in LANGUAGES.items() if language.script == script)
    for name, script in _SCRIPTS.items()
} | {"MONGOLIAN": frozenset({"mn"})}  # the older script of the same language
LATIN = _WRITERS["LATIN"]  # the languages written in it
CANTONESE = frozenset({"yue"})  # what `writers` says of the letters that Mandarin lacks

_LETTERS = {  # those that not every language of their script writes → those that do
    "à": "fr it pt vi",
    "áíú": "cs es pt vi",
    "â": "fr pt tr vi",
    "ãõ": "pt vi",
    "äß": "de",
    "ç": "fr pt tr",
    "èù": "fr it vi",
    "é": "cs es fr it nl pt vi",
    "ê": "fr pt vi",
    "ëï": "fr nl",
    "ìò": "it vi",
    "îœæ": "fr",
    "ñ": "es tl",
    "ó": "cs es pl pt vi",
    "ô": "fr pt vi",
    "ö": "de tr",
    "û": "fr tr",
    "ü": "de es tr",
    "ý": "cs vi",
    "ąęćłńśźż": "pl",
    "čďěňřšťůž": "cs",
    "ğış": "tr",
    "đăơưĩũ": "vi",
    "ыэъё": "kk mn ru",
    "і": "kk uk",
    "їєґ": "uk",
    "әғқңұһ": "kk",
    "өү": "kk mn",
    "پچژگ": "fa ug ur",
    "ٹڈڑےںہۓ": "ur",
    "ھ": "ug ur",
    "ة": "ar",
    "كىي": "ar ug",
    "کی": "fa ur",
    "ۇۆۈۋېەڭ": "ug",
    "إأؤآثحذصضطظع": "ar fa ur",
    "ळऱॲ": "mr",
    # written Cantonese: 咗 is 了, 嘅 is 的, 唔 is 不, 喺 is 在, 佢哋 is 他們
    "嘅咗唔喺嚟冇佢哋啲嘢嗰噉咁乜咩嘥瞓攞諗谂搵揾睇畀喎㗎啱攰": "yue",
}
_WRITERS_OF_LETTER = {letter: frozenset(codes.split()) for letters, codes in _LETTERS.items() for letter in letters}
_CHARACTER_SETS = {  # made for one way to write Chinese: what a set lacks is not written so
    "zh": ("gb2312", b"\xff\xff"),
    "zh-Hant": ("big5", b"\xff\xff"),
    "ja": ("shift_jis", b"\x98\x9f"),  # up to where the kanji in use end and the rare ones begin
}
_TRADITIONAL_TOO = "着裏"  # of Hong Kong; Big5 has 著 and 裡

_WORDS = {  # articles, pronouns, greetings, … and what tells Malay from Indonesian; shared words stand with each
    "ar": "في من على إلى أن هذا التي الذي عن مع كان ما لا هو هي ذلك بعد كما و لم هذه قد مرحبا شكرا السلام نعم",
    "cs": "a v na se je že s z do i pro o po by který jako jsou bylo byl si ale také před od k u to co za už tak jak "
    "jsem není ve byla která jeho ji mu mi ho své my já le ahoj děkuji prosím ano dobrý den",
    "de": "der die das den dem des und ist in zu mit von für auf ein eine einen einer nicht sich im am es er sie wir "
    "war als auch an nach bei aus dass wird werden hat haben sind ich du so wie was mir um hatte zum zur vom oder "
    "wenn noch nur kann aber über sein mein da waren worden nie will je hallo danke bitte ja guten",
    "en": "the of and to in is was that for with on as at by this are be his her it he not have from has but they you "
    "will were would which their said been an or who what a i we my she me no do so if your can there when had all "
    "about one out up more how why where go come may am over door hello hi thanks thank please yes",
    "es": "el la los las de del y en que un una con por para se no su al lo es más fue como pero sus le ha este esta "
    "son está sin a e o yo me mi te muy tiene él ella cuando qué si sobre entre hay todo eso tu nos ser bien dos era "
    "les he ni sur hola gracias sí",
    "fa": "و در به از که را این است با برای آن می خود یک شده ها هم تا بر کرد او ما من هر یا ای بعد سلام ممنون بله",
    "fr": "le la les des et est un une du dans pour que qui sur pas par avec ce cette ne se il elle ils au aux plus "
    "sont en de son ses nous vous je mais ont a y tout tu mon ma sa suis comme bien fait être cela nos on quand ai me "
    "te moi si sans ou entre lui dit eu non bonjour merci oui salut là",
    "hi": "के में है की और से का को हैं ने पर यह कि भी एक नहीं था लिए इस तो वह हो या ही जो मैं हम कर थे थी यदि नमस्ते धन्यवाद",
    "id": "yang dan di untuk dengan ini itu dari pada dalam akan tidak adalah oleh mereka saya ke ada juga telah dia "
    "kepada lebih tahun orang seperti mengenai sebagai daripada sebelum walaupun bukan kalau siapa para as tak per "
    "anda setelah boleh bahwa karena bisa uang kantor berbeda polisi universitas partai agustus desember jumat kamis "
    "miliar persen mantan coba pria istri perusahaan proyek butuh inggris serikat eropa jawaban terima kasih selamat "
    "yaitu",
    "it": "il lo la i gli le di del della dei delle che e un una per con non in si è da dal sono nel nella alla al ha "
    "più come ma anche questo questa suo sua a o se ho mi ti io lui lei ci quando molto era stato hanno cosa ne tu no "
    "tutto mia su ai qui me po ciao grazie sì buongiorno favore te sa",
    "kk": "және бір үшін бұл мен де да деп бар еді ол осы болып оның өз тек бас ең кейін емес сәлем рақмет жоқ",
    "mn": "нь ба байна гэж бол энэ юм нэг дээр гэсэн тэр болон оны бас хийх тус байсан би ч уу баярлалаа үгүй",
    "mr": "आहे आणि या ते होते आहेत नाही हे त्यांनी की एक असे तर होता व हा ही साठी मध्ये हो मी तो जो पण आम्ही त्याने नमस्कार धन्यवाद",
    "ms": "yang dan di untuk dengan ini itu dari pada dalam akan tidak adalah oleh mereka saya ke ada juga telah dia "
    "kepada lebih tahun orang seperti mengenai sebagai daripada sebelum walaupun bukan kalau siapa para tak anda "
    "setelah boleh bahawa kerana berbeza manakala selepas sahaja universiti ogos julai disember jumaat khamis isnin "
    "peratus bekas isteri bandar syarikat filem muzik projek pelbagai sesetengah terutamanya semasa sekiranya eropah "
    "jawapan soalan dijangka awak polis terima kasih selamat iaitu",
    "nl": "de het een en van in is dat op te zijn voor met niet die aan er om ook als bij maar door over uit nog "
    "wordt werd heeft hij ze we naar was deze worden dit ik je of wat zo hun zei had dan nu geen toch tot zich kan "
    "waren haar na per al werden ben plus hallo dank bedankt ja",
    "pl": "i w na z do się nie to jest że o po za od przez jak ale dla był co są tym już a ten tak czy jego jej ja "
    "mnie mi ma było być go oraz u on ze we cześć dziękuję proszę dzień dobry",
    "pt": "o a os as de do da dos das em no na nos nas que e um uma para com não por se mais foi ao pelo pela ele ela "
    "seu sua são mas como ser está isso eu me você sem muito tem ou quando esta este te já meu minha há era sobre "
    "entre dia todo olá obrigado obrigada sim ano for",
    "ru": "и в не на что с по это как из за от для но он она они к его был была было я у о а же мы вы то ты меня так "
    "все мне бы если или до привет спасибо да нет здравствуйте",
    "tl": "ang ng sa mga na at ay si ni para niya siya nang hindi kanyang ito isang ko mo ka pa rin din kay kung "
    "noong ako niyang may lang kaya sila o pero mas salamat kumusta po ano",
    "tr": "ve bir bu için ile da de olarak daha çok gibi olan ne en kadar sonra ama değil her ki o var yok göre ben "
    "sen mi mı biz ise iki oldu son on su polis merhaba teşekkür ederim evet",
    "uk": "і в на не що з до та це як за від для але він вона вони у й про його був була було я а же ми ви ти мене "
    "так все мені б якщо або є де по о привіт дякую ні",
    "ur": "کے کی میں ہے اور سے کا کو نے پر ہیں یہ کہ اس ایک نہیں تھا بھی وہ جو و ہم یا تا بعد خود ای آن سلام شکریہ",
    "vi": "và của là có không được cho với các một người những này trong đã tôi anh cô ông khi ra sẽ để bạn nó đó con "
    "do ai em sa hay xin chào cảm ơn",
}
_SPEAKERS: dict[str, frozenset[str]] = {}
for _code, _words in _WORDS.items():
    for _word in _words.split():
        _SPEAKERS[_word] = _SPEAKERS.get(_word, frozenset()) | {_code}


@lru_cache(maxsize=16_384)
def writers(letter: str) -> frozenset[str]:
    """The languages that write a small letter, or a character; none for a script that none of them is written in."""
    if letter in _WRITERS_OF_LETTER:
        return _WRITERS_OF_LETTER[letter]
    script = unicodedata.name(letter, "").split(" ", 1)[0]
    if script == "CJK":
        return _writers_of_han(letter)
    if "\u1ea0" <= letter <= "\u1ef9":
        return frozenset({"vi"})
    return _WRITERS.get(script, frozenset())


def speakers(word: str) -> frozenset[str]:
    """The languages that have a word, in small letters, among their most frequent; none for most words."""
    return _SPEAKERS.get(word, frozenset())


def _writers_of_han(character: str) -> frozenset[str]:
    found = {code for code, (name, end) in _CHARACTER_SETS.items() if b"" < _encoded(character, name) < end}
    if character in _TRADITIONAL_TOO:
        found.add("zh-Hant")
    if "zh-Hant" in found:
        found.add("yue")
    return frozenset(found) or CHINESE


def _encoded(character: str, character_set: str) -> bytes:
    return character.encode(character_set, errors="ignore")
