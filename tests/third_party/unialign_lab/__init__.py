"""Plug-ins for unialign: a dataset of signals, an extractor of their rhythm, a system that learns from it, an
encoder that counts letters."""
