"""What providers tell of sent mails: the APIs that notifierd asks, with a state that tests and the demo fill."""
