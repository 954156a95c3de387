"""Parts of `steer train`."""
