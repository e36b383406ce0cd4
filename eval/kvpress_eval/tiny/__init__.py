"""The bundled model under the name that README shows; all of it is in `models.bundled`."""

from ..models.bundled import load, weights_path

__all__ = ["load", "weights_path"]
