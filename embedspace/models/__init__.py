"""From a model's name to a local folder: packaged models, hub ids, and single tensors by byte range."""

from embedspace.models.hub import (
    download_files,
    download_model,
    explain_hub_error,
    upload_folder,
    with_retries,
)
from embedspace.models.names import cache_folder, hub_id, local_folder, resolve
from embedspace.models.packaged import MANIFEST, PACKAGED, write_manifest
from embedspace.models.remote_tensor import FileChangedError, RemoteFile, RemoteTensor

__all__ = [
    "MANIFEST",
    "PACKAGED",
    "FileChangedError",
    "RemoteFile",
    "RemoteTensor",
    "cache_folder",
    "download_files",
    "download_model",
    "explain_hub_error",
    "hub_id",
    "local_folder",
    "resolve",
    "upload_folder",
    "with_retries",
    "write_manifest",
]
