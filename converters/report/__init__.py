"""A conversion told on one HTML page, with charts."""
