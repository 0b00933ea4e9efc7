"""JSON files changed by hand, and sealed again as whoever changes them on purpose would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bitcodec.sealed_json import SEAL, sealed


def edit_json(path: Path, **changes: Any) -> None:
    """Change keys of a sealed JSON file; "-" removes one."""
    content = json.loads(path.read_text()) | changes
    kept = {key: value for key, value in content.items() if value != "-" and key != SEAL}
    path.write_text(json.dumps(sealed(kept)))
