"""French sentences about amounts, dates and times, and their English translations.

Names, and the order of what a date or an amount is made of, are those of the Unicode CLDR (Babel);
numbers in words are those of num2words. The languages differ in the order of words (mardi 2 mars
2021 - Tuesday, March 2, 2021; il y a trois jours - three days ago) and in their number
(quatre-vingt-dix-neuf - ninety-nine).
"""

import re
from datetime import date, time, timedelta
from functools import cache
from random import Random

from babel.dates import format_date, format_time, format_timedelta
from babel.numbers import format_currency
from babel.units import format_unit
from num2words import num2words

Pair = tuple[str, str]

LANGUAGES = ("fr", "en")
UNITS = [
    "mass-kilogram",
    "mass-gram",
    "mass-tonne",
    "length-kilometer",
    "length-meter",
    "length-centimeter",
    "volume-liter",
    "volume-cubic-meter",
    "area-square-meter",
    "energy-kilowatt-hour",
    "digital-megabyte",
    "duration-minute",
    "duration-hour",
    "duration-week",
]
CURRENCIES = ["EUR", "USD", "GBP", "JPY", "CHF", "CAD", "AUD", "NOK", "PLN", "BRL"]
FEMININE = {"mass-tonne", "duration-minute", "duration-hour", "duration-week", "GBP", "NOK"}
SUBJECTS = [
    ("il", "a", "he"),
    ("elle", "a", "she"),
    ("nous", "avons", "we"),
    ("ils", "ont", "they"),
]
OBJECTS = [("lui", "him"), ("leur", "them"), ("vous", "you")]
VERBS = [
    ("vendu", "sold", "sell"),
    ("envoyé", "sent", "send"),
    ("donné", "gave", "give"),
    ("promis", "promised", "promise"),
    ("prêté", "lent", "lend"),
]
JOINTS = [
    (", ", ", "),
    (" et ", " and "),
    (", puis ", ", then "),
    (", mais ", ", but "),
    (" ou ", " or "),
]


def tokens(text: str) -> list[str]:
    """Lower-case words, numbers and punctuation marks; an apostrophe ends the word it elides."""
    return re.findall(r"[^\W\d_]+['’]?|\d+|[^\w\s]|_", text.lower())


def sentence_pairs(items: int) -> list[Pair]:
    """4000 times `items` different sentences of 1 to `items` amounts, dates and times each.

    They are the same ones in every call.
    """
    random, pairs = Random(0), dict[str, str]()
    while len(pairs) < 4000 * items:
        pairs.update([sentence(random, random.randint(1, items))])
    return list(pairs.items())


def sentence(random: Random, items: int) -> Pair:
    """Clauses of one to three items."""
    parts: list[Pair] = []
    while items > 0:
        size = random.randint(1, min(3, items))
        parts += [random.choice(JOINTS), clause(random, size)]
        items -= size
    french, english = ("".join(texts) for texts in zip(*parts[1:], strict=True))
    return french, english


def clause(random: Random, items: int) -> Pair:
    """An amount, half of the time after who gave it to whom, and when; or only when."""
    if items == 1 and random.random() < 0.5:
        return when(random)
    parts = [deed(random)] if random.random() < 0.5 else []
    parts += [amount(random), *(when(random) for _ in range(items - 1))]
    return " ".join(french for french, _ in parts), " ".join(english for _, english in parts)


def deed(random: Random) -> Pair:
    """il vous a vendu - he sold you; il ne vous a pas vendu - he did not sell you."""
    il, a, he = random.choice(SUBJECTS)
    vous, you = random.choice(OBJECTS)
    vendu, sold, sell = random.choice(VERBS)
    if random.random() < 0.3:
        return f"{il} ne {vous} {a} pas {vendu}", f"{he} did not {sell} {you}"
    return f"{il} {vous} {a} {vendu}", f"{he} {sold} {you}"


def amount(random: Random) -> Pair:
    """deux cents dollars des États-Unis - two hundred US dollars."""
    number = random.randint(1, random.choice([20, 999, 9999]))
    what = random.choice(random.choice([UNITS, CURRENCIES]))
    french, english = (measured(number, what, language) for language in LANGUAGES)
    return spelt(french, "fr", what in FEMININE), spelt(english, "en")


def measured(number: int, what: str, language: str) -> str:
    """12 euros, 1,200 kilograms."""
    if what in UNITS:
        return format_unit(number, what, length="long", locale=language)
    return format_currency(number, what, locale=language, format_type="name", currency_digits=False)


def spelt(text: str, language: str, feminine: bool = False) -> str:
    """The text, its whole number in words."""
    number = re.search(r"\d+(?:[\s,]\d{3})*", text)
    assert number is not None
    spoken = words(int(re.sub(r"\D", "", number[0])), language)
    return text.replace(number[0], re.sub(r"\bun$", "une", spoken) if feminine else spoken)


@cache
def words(number: int, language: str, to: str = "cardinal") -> str:
    """twenty-one, vingt et un."""
    return num2words(number, lang=language, to=to)


def when(random: Random) -> Pair:
    """A date, a time, how long ago or how often."""
    return random.choice(WHENS)(random)


def some_day(random: Random) -> date:
    return date(1950, 1, 1) + timedelta(days=random.randrange(36_525))


def day(random: Random) -> Pair:
    """le mardi 2 mars 2021 - on Tuesday, March 2, 2021."""
    value = some_day(random)
    french, english = (format_date(value, "full", language) for language in LANGUAGES)
    return f"le {french}", f"on {english}"


def day_in_words(random: Random) -> Pair:
    """le deux mars deux mille vingt et un - on March second, twenty twenty-one."""
    value = some_day(random)
    number = words(value.day, "fr") if value.day > 1 else "premier"
    french = f"{number} {format_date(value, 'MMMM', 'fr')} {words(value.year, 'fr')}"
    english = f"{format_date(value, 'MMMM', 'en')} {words(value.day, 'en', 'ordinal')}"
    return f"le {french}", f"on {english}, {words(value.year, 'en', 'year')}"


def month(random: Random) -> Pair:
    """en mars 2021 - in March 2021."""
    value = some_day(random)
    french, english = (format_date(value, "MMMM y", language) for language in LANGUAGES)
    return f"en {french}", f"in {english}"


def clock(random: Random) -> Pair:
    """à 14:30 - at 2:30 PM."""
    value = time(random.randrange(24), random.randrange(60))
    french, english = (format_time(value, "short", locale=language) for language in LANGUAGES)
    return f"à {french}", f"at {english}"


def clock_in_words(random: Random) -> Pair:
    """à trois heures moins le quart - at a quarter to three."""
    hour = random.randint(1, 11)
    past, to = f"past {words(hour, 'en')}", f"to {words(hour, 'en')}"
    french, english = random.choice(
        [
            ("", f"{words(hour, 'en')} o'clock"),
            (" et quart", f"a quarter {past}"),
            (" et demie", f"half {past}"),
            (" moins le quart", f"a quarter {to}"),
            (" dix", f"ten {past}"),
            (" moins dix", f"ten {to}"),
            (" vingt", f"twenty {past}"),
            (" moins vingt", f"twenty {to}"),
        ]
    )
    heures = spelt(measured(hour, "duration-hour", "fr"), "fr", feminine=True)
    return f"à {heures}{french}", f"at {english}"


def distance(random: Random) -> Pair:
    """il y a trois jours - three days ago; dans deux ans - in two years."""
    step, most, feminine = random.choice(
        [
            (timedelta(minutes=1), 59, True),
            (timedelta(hours=1), 23, True),
            (timedelta(days=1), 6, False),
            (timedelta(days=365), 99, False),
        ]
    )
    value = step * random.randint(1, most) * random.choice([1, -1])
    french, english = (
        format_timedelta(value, threshold=1, add_direction=True, locale=language)
        for language in LANGUAGES
    )
    return spelt(french, "fr", feminine), spelt(english, "en")


def weekday(random: Random) -> Pair:
    """le troisième lundi d'avril - on the third Monday of April."""
    value, number = some_day(random), random.randint(1, 4)
    french, april = (format_date(value, form, "fr") for form in ("EEEE", "MMMM"))
    de = "d'" if april[0] in "ao" else "de "
    english = format_date(value, "EEEE 'of' MMMM", "en")
    nth = [words(number, language, "ordinal") for language in LANGUAGES]
    return f"le {nth[0]} {french} {de}{april}", f"on the {nth[1]} {english}"


def time_of_many(random: Random) -> Pair:
    """pour la vingt et unième fois - for the twenty-first time."""
    number = random.randint(2, 999)
    french, english = (words(number, language, "ordinal") for language in LANGUAGES)
    return f"pour la {french} fois", f"for the {english} time"


WHENS = [day, day_in_words, month, clock, clock_in_words, distance, weekday, time_of_many]
