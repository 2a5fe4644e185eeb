"""One command each: it does or looks, and answers with a value."""
