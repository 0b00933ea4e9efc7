"""Tests; what must be set before anything imports torch or a hub client is set here."""

import os
from pathlib import Path

# A test that needs the network must fail, not fetch.
os.environ["HF_HUB_OFFLINE"] = "1"
# Waiting threads that spin would take the cores from each other and from other tests.
os.environ["OMP_WAIT_POLICY"] = "passive"
# Commands that tests start see the checkout too, installed or not.
ROOT = Path(__file__).parent.parent
os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, ROOT / "cli", ROOT / "integrations")))
