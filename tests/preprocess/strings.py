"""Texts on which our tokens are compared with the original's, the same on every machine.

`parity/record_tokens.py` records the original's ids for them; `digest` ties the record to the list.
Random choices use only `Random.random`, whose sequence Python promises to keep. Characters are none
newer than Unicode 13, so that no library's table of letters is too old for them. Knows nothing of
our package.
"""

import hashlib
import html
import json
from random import Random

# fmt: off
_NOUNS = (
    "cat", "dog", "golden", "retriever", "bicycle", "sailboat", "lighthouse", "teapot",
    "violin", "astronaut", "pineapple", "robot", "snowman", "traffic", "light", "espresso",
    "machine", "rubber", "duck", "grandfather", "clock", "wheelbarrow", "dragonfly",
    "skyscraper", "motorway", "typewriter", "kingfisher", "accordion", "saxophone", "Chihuahua",
)
_COLOURS = (
    "red", "green", "blue", "yellow", "black", "white", "grey", "turquoise", "beige", "magenta",
)
# fmt: on
_TEMPLATES = (
    "a photo of a {c} {n}.",
    "A {c} {n} next to a {d} {m}",
    "{n}",
    "{c} {n}, {d} {m}, oil on canvas, highly detailed",
    "an image of the {n}'s {m} (close-up)",
    "THE {n} AND THE {m}!!!",
    "two {n}s & one {m} - 1920x1080",
    "{n}_{m}_{c}.jpg",
    "itap of my {c} {n}",
    'a "{c} {n}" made of {m}',
)
_PHRASES = (
    "ein schöner Hund läuft über die Straße",
    "un café à la crème, s’il vous plaît",
    "el niño comió piñas en España",
    "Příliš žluťoučký kůň úpěl ďábelské ódy",
    "Zażółć gęślą jaźń",
    "İstanbul'da ılık bir akşam, IĞDIR",
    "Þórður ætlaði að búa til súpu",
    "Ο Αίας ΣΑΣ ΟΔΟΣ Σ ὀδύσσεια",
    "съешь ещё этих мягких французских булок",
    "Їжак і ґава",
    "שָׁלוֹם עולם",
    "مرحبا بالعالم، هذا قطٌّ جميل",
    "گربه‌ای روی دیوار",
    "नमस्ते दुनिया, क्षत्रिय ज्ञान",
    "বাংলা ভাষায় একটি বিড়াল",
    "தமிழ் மொழி அழகானது",
    "తెలుగు లో పిల్లి",
    "ഒരു പൂച്ച",
    "ภาษาไทยไม่มีช่องว่างระหว่างคำ",
    "ພາສາລາວ",
    "ကြောင်လေး",
    "ការសរសេរភាសាខ្មែរ",
    "ქართული ენა ᲥᲐᲠᲗᲣᲚᲘ",
    "Հայերեն լեզու",
    "የአማርኛ ቋንቋ",
    "ᏣᎳᎩ ꮳꮃꭹ",
    "一隻黑色的貓坐在窗邊。",
    "这是一只猫，它在沙发上睡觉！",
    "吾輩は猫である。名前はまだ無い。",
    "ﾊﾝｶｸ ｶﾀｶﾅ と ＦＵＬＬ ＷＩＤＴＨ　１２３",
    "고양이가 창가에 앉아 있다",
    "Tiếng Việt có nhiều dấu: ắ ằ ẳ ẵ ặ",
    "Ẹ kú àárọ̀, báwo ni?",
    "ʻŌlelo Hawaiʻi",
    "ẞ ß SS ﬁ ﬀ ﬆ Ǆ ǅ ĳ ŉ ſ K Å",
    "𝔉𝔯𝔞𝔨𝔱𝔲𝔯 𝓼𝓬𝓻𝓲𝓹𝓽 𝟙𝟚𝟛 ℌ",
    "e\u0301 o\u0308 a\u030a n\u0303 Z\u0335\u0321\u0322\u0330a\u0336l\u0337g\u0338o",
    "α\u0345 ᾳ\u0345β \u0345 x\u0345y",
    "zero\u200bwidth join\u200der non\u200cjoin \ufeffbom soft\u00adhyphen \u2060word",
    "left \u202ertl\u202c \u200emarks\u200f",
    "\u0640\u0640 ـ ٪ ۔ ؟",
    "🏴󠁧󠁢󠁥󠁮󠁧󠁿 🏳️‍🌈 🇨🇭🇯🇵 👨‍👩‍👧‍👦 👍🏽 ❤️ ☃ ☃️ 1️⃣ 🧑🏿‍🚀",
    "a 😀 smile😀y 😀😀😀 🤷🏻‍♀️!",
    "“curly” ‘quotes’ – dash — dash … ellipsis «guillemets» ‹x›",
    "½ ² ³ ₂ Ⅷ ⅷ ① ⑳ ㊿ ௧ ٣ ۴ ४ ๓ 〇 𝟘 ፩ 千 Ⅻ",
    "1,234.56 €  £12 $5 ¥100 50% 3rd 2nd 10:30 2024-02-29 +41 44 123 45 67",
    "x² + y² = z², ∑∫√∞ ≠ ≤ ≥ ± × ÷ → ⇒ ∀∃",
    "C:\\Users\\me\\Pictures\\IMG_0001.JPG /home/me/a b.png ./~$x",
    "https://example.com/a?b=c&d=e#frag mailto:me@example.org www.x.y",
    "def f(x): return {'a': [1, 2], \"b\": x ** 2}  # comment",
    "<p class='x'>Hello&nbsp;<b>World</b></p><br/>",
    "SELECT * FROM t WHERE a<>b AND c LIKE '%d%';",
    "snake_case camelCase kebab-case __dunder__ ALLCAPS x1y2z3",
    "!!! ??? ... --- *** ~~~ ### @@@ ^^^ ||| \\\\ // (( )) [[ ]] {{ }}",
    ":-) ;) :'( <3 >_< ¯\\_(ツ)_/¯ (╯°□°)╯︵ ┻━┻",
    "don't can't won't I'm you're they've she'll he'd it's DON'T I'M WE'LL y'all'd've",
    "rock'n'roll 'tis 'twas o'clock 's 't 're 've 'm 'll 'd ''s '' ' 'S 'ſ x'ſ d’accord it’s",
    "supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis",
    "Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
)
_SPECIALS = (
    "<start_of_text>",
    "<end_of_text>",
    "<START_OF_TEXT>",
    "<End_Of_Text>",
    "<|startoftext|>",
    "<|endoftext|>",
    "<|ENDOFTEXT|>",
    "&lt;end_of_text&gt;",
    "&amp;lt;start_of_text&amp;gt;",
    "<ſtart_of_text>",
    "< end_of_text >",
    "<end_of_text",
    "end_of_text>",
    "<end_of_text></w>",
    "<end_of_text><start_of_text>",
    "</w>",
    "<pad>",
    "[SEP]",
)
_AROUND = (
    "{}",
    "a {} b",
    "a{}b",
    "!!{}",
    "{}!!",
    "{0}{0}",
    "<{}>",
    "cat {} dog {}",
    "'s{}'s",
    "5{}5",
)
_ENTITIES = (
    "&amp;",
    "&lt;",
    "&gt;",
    "&quot;",
    "&#39;",
    "&apos;",
    "&nbsp;",
    "&copy;",
    "&eacute;",
    "&Eacute;",
    "&hearts;",
    "&zwj;",
    "&shy;",
    "&NotEqualTilde;",
    "&#x1F600;",
    "&#128512;",
    "&#0;",
    "&#xD800;",
    "&#x110000;",
    "&#28;",
    "&#133;",
    "&#160;",
    "&#8203;",
    "&amp",
    "&lt",
    "&copy2024",
    "&notit;",
    "&unknown;",
    "&;",
    "&#;",
    "&#x;",
)
_WHITE = (
    "",
    " ",
    "   ",
    "\n",
    "\t\t",
    "\r\n",
    "\x0b\x0c",
    "\x85",
    "\xa0",
    "\u3000",
    "\u2028\u2029",
)
_FRAGMENTS = (*_ENTITIES, *_SPECIALS, *_WHITE, "'s", "'LL", "’t", "Ã©", "â€™", "\u0345", "\x1b[31m")
_BLOCKS = (  # first and last code point, drawn with equal chance
    (0x20, 0x7E),
    (0x00, 0xFF),
    (0x100, 0x24F),
    (0x300, 0x36F),
    (0x391, 0x3A1),
    (0x3A3, 0x3FF),
    (0x400, 0x52F),
    (0x5D0, 0x5EA),
    (0x620, 0x6FF),
    (0x904, 0x939),
    (0xE01, 0xE3A),
    (0x10D0, 0x10FA),
    (0x1E00, 0x1EFF),
    (0x2000, 0x206F),
    (0x2100, 0x218B),
    (0x2200, 0x23FF),
    (0x2460, 0x27BF),
    (0x3000, 0x303F),
    (0x3041, 0x3096),
    (0x4E00, 0x9FA5),
    (0xAC00, 0xD7A3),
    (0xD800, 0xDFFF),
    (0xE000, 0xE0FF),
    (0xFB00, 0xFB06),
    (0xFF01, 0xFF9F),
    (0x1D400, 0x1D454),
    (0x1F300, 0x1F64F),
    (0x20000, 0x2A6D6),
    (0xE0020, 0xE007F),
)


def texts() -> list[str]:
    """List all texts, about 2,700 of them."""
    random = Random(20_240_607)
    return [
        *_WHITE,
        *_PHRASES,
        *(phrase.upper() for phrase in _PHRASES),
        *(_caption(random) for _ in range(950)),
        *_mojibake(),
        *_escaped(random),
        *(around.format(special, special) for special in _SPECIALS for around in _AROUND),
        *(f"a{chr(code)}b {chr(code)} c{chr(code)}" for code in (*range(0xA0), 0xAD, 0xFFFE)),
        *_lengths(random),
        *(_mixture(random) for _ in range(300)),
        *(_random_characters(random) for _ in range(500)),
    ]


def digest(items: list[str]) -> str:
    """Name a list of texts by the SHA-256 of its JSON."""
    return hashlib.sha256(json.dumps(items).encode("ascii")).hexdigest()


def _pick(random: Random, items: tuple[str, ...]) -> str:
    return items[int(random.random() * len(items))]


def _caption(random: Random) -> str:
    return _pick(random, _TEMPLATES).format(
        n=_pick(random, _NOUNS),
        m=_pick(random, _NOUNS),
        c=_pick(random, _COLOURS),
        d=_pick(random, _COLOURS),
    )


def _mojibake() -> list[str]:
    """Read UTF-8 as an older encoding, as damaged captions were; some twice."""
    once = [
        phrase.encode("utf-8").decode(wrong, errors="replace")
        for phrase in _PHRASES
        for wrong in ("latin-1", "cp1252", "cp1251", "mac_roman")
        if not phrase.isascii()
    ]
    twice = [text.encode("utf-8").decode("latin-1") for text in once[::5]]
    return [
        *once,
        *twice,
        "schÃ¶n",
        "itâ€™s â€œquotedâ€\x9d",
        "l\u00e2\u0080\u0099humanit\u00c3\u00a9",
    ]


def _escaped(random: Random) -> list[str]:
    once = [html.escape(f"{_pick(random, _PHRASES)} <b>&</b> 'q'")[:60] for _ in range(60)]
    entities = [f"salt {entity} pepper{entity}x" for entity in _ENTITIES]
    again = [html.escape(text) for text in (*once[:30], *entities)]
    return [*once, *entities, *again, *(html.escape(text) for text in again[::3])]


def _lengths(random: Random) -> list[str]:
    """Texts of exactly as many tokens as fit, one fewer, one more, and far too many."""
    exact = [" ".join(["cat"] * num_words) for num_words in (*range(28, 34), *range(68, 78))]
    special = [f"{'cat ' * num_words}<end_of_text>" for num_words in (29, 30, 31, 70, 75, 76)]
    long = [" ".join(_pick(random, _NOUNS) for _ in range(200)) for _ in range(12)]
    return [*exact, *special, *long, "é" * 300, "😀" * 100, "!" * 500, "7" * 90, "ab" * 400]


def _mixture(random: Random) -> str:
    num_parts = 1 + int(random.random() * 6)
    parts = [
        _pick(random, _FRAGMENTS) if random.random() < 0.6 else _pick(random, _NOUNS)
        for _ in range(num_parts)
    ]
    return _pick(random, ("", " ")).join(parts)


def _random_characters(random: Random) -> str:
    characters = []
    for _ in range(1 + int(random.random() * 14)):
        first, last = _BLOCKS[int(random.random() * len(_BLOCKS))]
        characters.append(chr(first + int(random.random() * (last - first + 1))))
    return "".join(characters)
