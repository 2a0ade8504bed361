"""Zips for tests: made of parts, read again by Python's own reader, and their texts pseudo-translated."""

import io
import re
import zipfile

from engine.markup import marks

ACCENTS = str.maketrans("aceinosuyACEINOSUY", "áćéíńóśúýÁĆÉÍŃÓŚÚÝ")
HOSTILE = '*_`[x](y)<b>&lt;|~~$# &amp; ]]> "q" \0\x0b\ud800\uffff<s999>'
PSEUDO = {
    "accents": lambda run: run.translate(ACCENTS),
    "cjk": lambda run: re.sub("[A-Za-z]+", "译文", run),
    "hostile": lambda run: re.sub("[A-Za-z]+", lambda word: word[0] + HOSTILE, run),
}


def zipped(parts, method=zipfile.ZIP_DEFLATED):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return made.getvalue()


def unzipped(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def changed(data, **parts):
    """The zip with other parts: a name's last word, without its suffix, → a function of its text."""
    new = {}
    for name, content in unzipped(data).items():
        change = parts.get(name.rpartition("/")[2].partition(".")[0])
        new[name] = change(content.decode()).encode() if change else content
    return zipped(new)


def texts(file):
    return [block.text for block in file.blocks]


def pseudo(file, name="accents"):
    """The file saved with every run of every block changed."""
    new = []
    for block in file.blocks:
        runs = marks.apart(block.text, block.tags)
        new.append(marks.together(block.text, block.tags, [PSEUDO[name](run) for run in runs]))
    return file.save(new)
