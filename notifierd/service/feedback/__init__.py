"""Asks providers what became of the mails after a run, and acts upon what they tell."""
