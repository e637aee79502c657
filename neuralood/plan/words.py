"""Sizes, rates and durations as a person reads them."""

UNKNOWN = "?"


def bytes_text(nbytes: float) -> str:
    """12.3 GB: decimal units, as disks are sold."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= size:
            return f"{nbytes / size:.{_digits(nbytes / size)}f} {unit}"
    return f"{nbytes:.0f} B"


def images_text(images: int | None) -> str:
    """1,281,167 images."""
    return f"{UNKNOWN if images is None else format(images, ',')} images"


def rate_text(seconds: float | None) -> str:
    """Images a second, from seconds an image."""
    if not seconds:
        return ""
    return f"{1 / seconds:,.{_digits(1 / seconds)}f} images/s"


def duration_text(seconds: float | None) -> str:
    """3 h 20 min: two units at the most."""
    if seconds is None:
        return UNKNOWN
    if 0 < seconds < 1:
        return "< 1 s"
    whole = round(seconds) if seconds < 60 else 60 * round(seconds / 60)
    whole = whole if whole < 24 * 3600 else 3600 * round(whole / 3600)
    parts = []
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, whole = divmod(whole, size)
        if count:
            parts.append(f"{count:,} {unit}")
    return " ".join(parts) or "0 s"


def _digits(value: float) -> int:
    """Digits behind the point that make three in all."""
    return 0 if value >= 100 else 1 if value >= 10 else 2
