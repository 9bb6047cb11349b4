"""SHA-256 from Python's own code: hashlib would load OpenSSL, 4 MB on a small board."""

try:
    from _sha2 import sha256  # type: ignore[import-not-found] # Python 3.12 and newer
except ImportError:
    try:
        from _sha256 import sha256  # type: ignore[import-not-found]
    except ImportError:
        from hashlib import sha256

__all__ = ["sha256"]
