"""Trained networks beside the local geometry of their loss."""
