"""unialign: a two-stage offline feature cache and trainer for fine-grained action recognition."""

__version__ = "0.1.0"
