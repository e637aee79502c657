"""Names of regions of interest (ROIs), their label tables, and the groups that people ablate by."""

PRF_VISUAL = ("V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4")
FLOC_BODIES = ("EBA", "FBA-1", "FBA-2", "mTL-bodies")
FLOC_FACES = ("OFA", "FFA-1", "FFA-2", "mTL-faces", "aTL-faces")
FLOC_PLACES = ("OPA", "PPA", "RSC")
FLOC_WORDS = ("OWFA", "VWFA-1", "VWFA-2", "mfs-words", "mTL-words")
STREAMS = ("early", "midventral", "midlateral", "midparietal", "ventral", "lateral", "parietal")

ROI_FAMILIES = {
    "prf-visualrois": PRF_VISUAL,
    "floc-bodies": FLOC_BODIES,
    "floc-faces": FLOC_FACES,
    "floc-places": FLOC_PLACES,
    "floc-words": FLOC_WORDS,
    "streams": tuple(f"{name}-stream" for name in STREAMS),
}
"""The six Algonauts 2023 families: label 1 is the first name, 0 is no ROI (NSD's .ctab tables).

Streams carry the suffix '-stream', so that no ROI shares its name with a group.
"""

ROI_NAMES = tuple(name for family in ROI_FAMILIES.values() for name in family)

LEFT_OUT = "-"
"""Stands before the name of an ROI or a group in a list of ROIs whose vertices are left out of it."""

ROI_GROUPS = {
    "early": PRF_VISUAL,
    "high": FLOC_BODIES + FLOC_FACES + FLOC_PLACES + FLOC_WORDS,
    "faces": FLOC_FACES,
    "bodies": FLOC_BODIES,
    "places": FLOC_PLACES,
    "words": FLOC_WORDS,
    "ventral": ("midventral-stream", "ventral-stream"),
    "lateral": ("midlateral-stream", "lateral-stream"),
    "parietal": ("midparietal-stream", "parietal-stream"),
}
"""Groups that `fusion.rois` and the encoder's metrics name: unions of ROIs over both hemispheres."""
