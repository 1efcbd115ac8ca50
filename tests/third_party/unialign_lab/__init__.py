"""Plug-ins for unialign: a dataset of signals, an extractor of their rhythm, an encoder that counts letters."""
