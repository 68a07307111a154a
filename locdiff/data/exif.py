"""Where a picture was taken by its own word: the GPS part of its EXIF data."""

import math

GPS, LAT_REF, LAT, LON_REF, LON = 0x8825, 1, 2, 3, 4  # tags of EXIF


def gps_place(exif):
    """Return (lat, lon) in degrees and "", or (NaN, NaN) and the reason why `exif` (PIL.Image.Exif) gives no place."""
    try:
        gps = exif.get_ifd(GPS)
    except Exception as error:  # whatever damaged data make Pillow raise
        return math.nan, math.nan, f"its EXIF GPS data are damaged ({type(error).__name__}: {error})"
    if LAT not in gps and LON not in gps:
        return math.nan, math.nan, "no GPS in its EXIF data"
    try:
        lat = _degrees(gps, LAT, LAT_REF, "NS", 90)
        lon = _degrees(gps, LON, LON_REF, "EW", 180)
    except ValueError as error:
        return math.nan, math.nan, f"EXIF GPS: {error}"
    if lat == lon == 0:
        return math.nan, math.nan, "EXIF GPS: (0, 0), which cameras write that know no place"
    return lat, lon, ""


def _degrees(gps, tag, ref_tag, hemispheres, limit):
    """Degrees of a coordinate: degrees, minutes and seconds as rationals, negative in the second hemisphere."""
    name = "latitude" if limit == 90 else "longitude"
    ref = gps.get(ref_tag, "")
    ref = (ref.decode("ascii", "replace") if isinstance(ref, bytes) else str(ref)).strip("\0 ").upper()[:1]
    if not ref or ref not in hemispheres:
        raise ValueError(f"the {name} has no hemisphere ({' or '.join(hemispheres)})")
    values = gps.get(tag, ())
    try:
        parts = [float(value) for value in (values if isinstance(values, tuple) else (values,))]
    except (TypeError, ValueError, ZeroDivisionError):
        parts = []
    if not parts or len(parts) > 3 or not all(map(math.isfinite, parts)):
        raise ValueError(f"the {name} {_written(values)} is no number")
    degrees = sum(part / 60**i for i, part in enumerate(parts))
    if min(parts) < 0 or any(part > 60 for part in parts[1:]) or degrees > limit:
        raise ValueError(f"the {name} {_written(values)} is out of range")
    return -degrees if ref == hemispheres[1] else degrees


def _written(values):
    values = values if isinstance(values, tuple) else (values,)
    return "(" + ", ".join(
        f"{v.numerator}/{v.denominator}" if hasattr(v, "denominator") else str(v) for v in values
    ) + ")"  # fmt: skip
