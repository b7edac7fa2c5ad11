"""Engines: how the lanes of a pack are trained. ``eager`` takes any module, one lane after another."""
