"""The parity certificate: that text and its embeddings are the same thing to a model and to a server."""

from embedspace.verification.certificate import Certificate, Check
from embedspace.verification.model import verify

__all__ = ["Certificate", "Check", "verify"]
