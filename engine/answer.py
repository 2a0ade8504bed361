"""What a model says of a segment, as it comes: without the white space and the wrapper around it. Knows no prompt."""

from dataclasses import dataclass

from engine.types import FinishReason, TokenChunk

WRAPPER = ("<target>", "</target>")  # in which the marks template asks for its answer


@dataclass(slots=True)
class Answer:
    """`wrapped` answers are read without `WRAPPER`, where the model does say it; the white space around is never its
    own, since gaps are ours."""

    wrapped: bool = False
    text: str = ""
    tokens: int = 0
    finish: FinishReason | None = None
    _held: str = ""  # what belongs to the answer only if more comes: white space, the beginning of a wrapper
    _unwrapped: bool = False  # its opening has been read, or is known not to come
    _ended: bool = False  # its closing has been read

    def take(self, chunk: TokenChunk) -> str:
        """The text that `chunk` makes certain."""
        self.tokens += chunk.tokens
        self.finish = chunk.finish
        new = self._held + chunk.text
        if self.wrapped:
            new, self._held = self._inside(new)
        else:
            self._held = ""
        if not self.text:
            new = new.lstrip()
        certain = new.rstrip()
        self._held = new[len(certain) :] + self._held
        self.text += certain
        return certain

    def _inside(self, new: str) -> tuple[str, str]:
        """What stands in the wrapper for certain, and what may be a part of it."""
        opening, closing = WRAPPER
        if not self._unwrapped:
            start = new.lstrip()
            if opening.startswith(start) and self.finish is None:
                return "", new
            self._unwrapped = True
            new = start.removeprefix(opening)
        text, ended, _ = new.partition(closing)
        if self._ended:
            return "", ""
        self._ended = bool(ended)
        begun = next((size for size in range(len(closing) - 1, 0, -1) if text.endswith(closing[:size])), 0)
        if self._ended or self.finish is not None or not begun:
            return text, ""
        return text[:-begun], text[-begun:]
