"""What the geometry is good for: heads, transfer scores, compression."""
