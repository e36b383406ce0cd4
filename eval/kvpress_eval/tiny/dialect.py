"""The bundled model's language under the name that README shows; all of it is in `models.bundled.dialect`."""

from ..models.bundled.dialect import KINDS, TOKEN_ID, VOCAB, Document, Question, decode, document, encode

__all__ = ["KINDS", "TOKEN_ID", "VOCAB", "Document", "Question", "decode", "document", "encode"]
