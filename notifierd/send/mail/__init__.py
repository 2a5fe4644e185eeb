"""The mail providers, one module each, and what several of them share."""
