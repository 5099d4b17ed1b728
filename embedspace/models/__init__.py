"""From a model's name to a local folder: packaged models, hub ids, and single tensors by byte range."""

from embedspace.models.hub import http_error, patiently, refusal, whole_model
from embedspace.models.packaged import MANIFEST, PACKAGED
from embedspace.models.registry import cache_folder, hub_id, local_folder, resolve
from embedspace.models.remote_tensor import ChangedError, RemoteFile, RemoteTensor

__all__ = [
    "MANIFEST",
    "PACKAGED",
    "ChangedError",
    "RemoteFile",
    "RemoteTensor",
    "cache_folder",
    "http_error",
    "hub_id",
    "local_folder",
    "patiently",
    "refusal",
    "resolve",
    "whole_model",
]
