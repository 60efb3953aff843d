"""The one order of expression classes, and the names people write for them (standard library only)."""

from fer_nas.errors import InputError

FACE_CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral", "contempt")
"""Order of every facial data set, artefact and screen; the first seven are FER2013's codes 0 to 6."""

SYNONYMS = {
    "angry": ("anger", "an", "mad"),
    "disgust": ("disgusted", "disgusting", "di"),
    "fear": ("afraid", "fearful", "scared", "fe"),
    "happy": ("happiness", "happines", "joy", "ha"),
    "sad": ("sadness", "sa"),
    "surprise": ("surprised", "suprise", "suprised", "surprize", "su"),
    "neutral": ("neutrality", "normal", "ne"),
    "contempt": ("contemptuous", "co"),
}
_CANONICAL = {name: name for name in FACE_CLASSES} | {s: name for name, many in SYNONYMS.items() for s in many}


def canonical_class(name: str) -> str | None:
    """The canonical name for `name` in any capitalization ('Anger' → 'angry'), or None where it is unknown."""
    return _CANONICAL.get(name.strip().lower())


def require_class(name: str, where: str) -> str:
    """As `canonical_class`, but an unknown name is an error that lists what is known."""
    found = canonical_class(name)
    if found is None:
        raise InputError(f"{where}: unknown expression class {name!r}; known: {', '.join(FACE_CLASSES)}")
    return found


def in_face_order(names: set[str]) -> tuple[str, ...]:
    """The canonical classes of `names`, in the one order."""
    return tuple(name for name in FACE_CLASSES if name in names)
