"""Compare two metrics folders: the same keys, and numbers as near as another machine's arithmetic allows.

python .ci/compare_metrics.py metrics build/demo/metrics
"""

import json
import sys
from pathlib import Path
from typing import Any

TOLERANCE = {"encoder": 0.05, "encoder_ood": 0.1, "geometry": 0.1, "humans": 0.1, "classification": 8.0}
"""Largest difference: of a correlation, and of an accuracy in percent points."""
IN_PERCENT = {"encoder.algonauts2023.mean": 5.0, "encoder.algonauts2023.median": 5.0}
"""The same for values in percent in a file of correlations."""


def flat(record: Any, key: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    if not isinstance(record, dict):
        return {key: record}
    return {name: value for part, inner in record.items() for name, value in flat(inner, f"{key}.{part}").items()}


def main(committed: Path, fresh: Path) -> int:
    """Print every difference; the number of those that are too large."""
    faults = 0
    for name, tolerance in TOLERANCE.items():
        ours, theirs = (flat(json.loads((folder / f"{name}.json").read_text())) for folder in (committed, fresh))
        for key in sorted({*ours, *theirs}):
            one, other = ours.get(key), theirs.get(key)
            if one == other:
                continue
            most = IN_PERCENT.get(name + key, tolerance)
            close = isinstance(one, float) and isinstance(other, float) and abs(one - other) <= most
            faults += not close
            print(f"{'' if close else 'TOO FAR '}{name}{key}: committed {one}, now {other}")
        print(f"{name}.json: {len(ours)} values compared")
    return faults


if __name__ == "__main__":
    sys.exit(min(main(Path(sys.argv[1]), Path(sys.argv[2])), 1))
