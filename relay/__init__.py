"""The relay: one ordered log per session, followed by every viewer."""

__version__ = "0.1.0"
