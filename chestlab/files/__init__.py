"""Files that survive a crash, one-line errors, progress; needs nothing but the standard library."""
