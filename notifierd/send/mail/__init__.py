"""The providers of mail, a module each, and what several of them need."""
