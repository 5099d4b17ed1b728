"""Forked processes: they compute with one thread, and find no lock held. PyTorch's and the tokenizers' threads do not
survive a fork, and work that waits for them never ends.

Imported wherever PyTorch computes here; PyTorch's DataLoader does the same in its own workers.
"""

from __future__ import annotations

import os
import sys
import threading


def lock_across_forks() -> threading.Lock:
    """A lock that no forked process finds held: a fork waits for it."""
    lock = threading.Lock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock


def _compute_with_one_thread() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and getattr(torch, "get_num_threads", int)() > 1:
        torch.set_num_threads(1)
    if "tokenizers" in sys.modules:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_compute_with_one_thread)
