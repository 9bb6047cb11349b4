"""The bytes of a .trwkv file: written, checked, mapped, quantised; what they cost in memory."""
