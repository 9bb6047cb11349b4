"""Writers of other engines' files."""
