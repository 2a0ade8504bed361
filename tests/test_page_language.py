import pytest

from engine.markup.page_language import in_language


@pytest.mark.parametrize(
    ("source", "code", "direction", "expected"),
    [
        ("<!doctype html><html lang='en'><p>x", "fr", "ltr", "<!doctype html><html lang='fr'><p>x"),
        ("<html><p lang=en>x", "fr", "ltr", '<html lang="fr"><p lang=en>x'),
        ("<HTML dir=ltr>", "ar", "rtl", '<HTML lang="ar" dir=rtl>'),
        ("<html>", "ar", "rtl", '<html lang="ar" dir="rtl">'),
        ('<html lang="ar" dir="rtl" class=a>', "en", "ltr", '<html lang="en" dir="ltr" class=a>'),
        ('<html lang="en" xml:lang="en"/>', "fr", "ltr", '<html lang="fr" xml:lang="fr"/>'),
        ("<html lang><p>", "fr", "ltr", "<html lang><p>"),
        ("<!--<html lang=en>--><p>x</p>", "fr", "ltr", "<!--<html lang=en>--><p>x</p>"),
        ("x", "fr", "ltr", "x"),
        ('<html lang="en"><p lang="en-US">a<p lang=de>b', "fr", "ltr", '<html lang="fr"><p lang="fr">a<p lang=de>b'),
    ],
)
def test_a_page_names_its_new_language(source, code, direction, expected):
    assert in_language(source, code, direction) == expected
