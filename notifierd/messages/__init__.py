"""Render a notice as a mail or a push."""
