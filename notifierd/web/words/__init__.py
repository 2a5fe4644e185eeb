"""The texts of the page, in both languages."""
