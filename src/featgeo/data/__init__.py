"""Streams of data and their moments."""
