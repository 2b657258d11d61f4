"""Imported before the Hub's client, which reads the environment once: it may reach the tests' own
server, and speaks LFS there unless a test switches Xet on."""

import os

os.environ |= {
    "HF_HUB_OFFLINE": "0",
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
