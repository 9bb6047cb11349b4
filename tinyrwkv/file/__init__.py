"""The bytes of a .trwkv file: written, checked, mapped, verified, quantised, and what they cost in memory."""
