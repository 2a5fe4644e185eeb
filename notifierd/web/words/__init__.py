"""What the page says, in both languages."""
