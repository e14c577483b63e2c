"""Versions that are served elsewhere: where, by which of several endpoints, and how each is asked."""
