"""The ways in: the door, the predict call, the admin application."""
