"""The parity certificate: a model and its server treat text and its embeddings alike."""

from embedspace.verification.certificate import Certificate, Check
from embedspace.verification.model import verify

__all__ = ["Certificate", "Check", "verify"]
