"""What people look at: `plot` draws a recording with its segments (imports matplotlib, an extra)."""
